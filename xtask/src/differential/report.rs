//! What is told at the end: each difference, and how many there are.

use super::accepted::Accepted;
use super::compare::{Difference, differences};
use super::normalise::Normaliser;
use super::side::{Answer, Transcript};
use anyhow::{Result, bail};

/// Numbers of a whole run.
#[derive(Debug, Default)]
pub(super) struct Totals {
    scenarios: usize,
    commands: usize,
    accepted: usize,
    pub(super) refused: usize,
}

/// Compares what the two sides said, prints what differs and is not accepted, or all that differs, and counts.
pub(super) fn compare(
    dockerd: (&[Transcript], &Normaliser),
    stratus: (&[Transcript], &Normaliser),
    accepted: &Accepted,
    all: bool,
) -> Result<Totals> {
    let mut totals = Totals::default();
    for (theirs, ours) in dockerd.0.iter().zip(stratus.0) {
        if theirs.scenario != ours.scenario || theirs.answers.len() != ours.answers.len() {
            bail!("the two sides did not play the same scenarios");
        }
        totals.scenarios += 1;
        for (their, our) in theirs.answers.iter().zip(&ours.answers) {
            totals.commands += 1;
            let judged: Vec<_> = differences((their, dockerd.1), (our, stratus.1))
                .into_iter()
                .map(|found| (accepted.reason(&theirs.scenario, &their.command, &found), found))
                .collect();
            let kept = judged.iter().filter(|(reason, _)| reason.is_some()).count();
            totals.accepted += kept;
            totals.refused += judged.len() - kept;
            let told: Vec<_> = judged.into_iter().filter(|(reason, _)| all || reason.is_none()).collect();
            if !told.is_empty() {
                print(&theirs.scenario, our, &told);
            }
        }
    }
    Ok(totals)
}

/// Prints scenarios as they look at a terminal.
pub(super) fn show(transcripts: &[Transcript]) {
    for Answer { command, code, stdout, stderr, .. } in transcripts.iter().flat_map(|transcript| &transcript.answers) {
        println!("$ {command}\n{stdout}{stderr}[{code}]");
    }
}

fn print(scenario: &str, answer: &Answer, judged: &[(Option<&str>, Difference)]) {
    println!("\n{scenario}.sh:{}\n    $ {}", answer.line, answer.command.replace('\n', "\n    "));
    for (reason, difference) in judged {
        match reason {
            Some(reason) => println!("  {} (accepted: {reason})", difference.place),
            None => println!("  {}", difference.place),
        }
        for (sign, text) in [('-', &difference.dockerd), ('+', &difference.stratus)] {
            for line in text.iter().flat_map(|text| text.lines()) {
                println!("    {sign} {line}");
            }
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scenarios, commands, accepted, refused } = self;
        write!(out, "{commands} commands in {scenarios} scenarios: {accepted} differences accepted, {refused} not")
    }
}
