//! Checks of how a file is written: they need no values.

use super::{Findings, Rule};
use crate::dockerfile::{Base, CommandLine, Dockerfile, Instruction, Span, Spanned, Stage, Statement};
use std::collections::BTreeSet;

/// Names of stages that mean something else.
const RESERVED: [&str; 2] = ["context", "scratch"];
/// A name that has one of these as a word likely holds a secret,
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// unless it has one of these.
const OPEN: [&str; 3] = ["public", "file", "version"];

pub(super) fn check(file: &Dockerfile, findings: &mut Findings) {
    for span in &file.empty_lines {
        findings.add(Rule::NoEmptyContinuation, *span, "Empty continuation line".to_owned());
    }
    keywords(file, findings);
    let mut names = BTreeSet::new();
    for stage in &file.stages {
        from(&stage.from, &mut names, findings);
        once(stage, findings);
    }
    for arg in &file.arguments {
        let named: Vec<_> = arg.node.arguments.iter().map(|one| &one.name).collect();
        described("ARG", named.iter().map(|name| name.raw.as_str()), &arg.comments, arg.span, findings);
        named.into_iter().for_each(|name| secret("ARG", &name.raw, name.span, findings));
    }
    for step in file.stages.iter().flat_map(|stage| &stage.steps) {
        instruction(step, findings);
    }
}

/// Whether a word is all capitals (`Some(true)`) or has none; `None` if it is mixed.
fn capitals(word: &str) -> Option<bool> {
    if word.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Some(true);
    }
    word.bytes().all(|byte| byte.is_ascii_lowercase()).then_some(false)
}

fn keywords(file: &Dockerfile, findings: &mut Findings) {
    let mut keywords: Vec<&Spanned<String>> = file.arguments.iter().map(|arg| &arg.keyword).collect();
    for stage in &file.stages {
        keywords.push(&stage.from.keyword);
        keywords.extend(stage.steps.iter().map(|step| &step.keyword));
    }
    let count = |kind| keywords.iter().filter(|keyword| capitals(&keyword.value) == Some(kind)).count();
    let most_are_upper = count(false) <= count(true);
    let majority = if most_are_upper { "uppercase" } else { "lowercase" };
    for keyword in keywords.iter().filter(|keyword| capitals(&keyword.value) != Some(most_are_upper)) {
        let detail = format!("Command '{}' should match the case of the command majority ({majority})", keyword.value);
        findings.add(Rule::ConsistentInstructionCasing, keyword.span, detail);
    }
}

fn from(from: &Statement<Base>, names: &mut BTreeSet<String>, findings: &mut Findings) {
    if let Some(keyword) = &from.node.keyword
        && let Some(upper) = capitals(&from.keyword.value)
        && capitals(&keyword.value) != Some(upper)
    {
        let detail = format!("'{}' and '{}' keywords' casing do not match", keyword.value, from.keyword.value);
        findings.add(Rule::FromAsCasing, keyword.span, detail);
    }
    let Some(name) = &from.node.name else { return };
    let lower = name.value.to_ascii_lowercase();
    if name.value != lower {
        findings.add(Rule::StageNameCasing, name.span, format!("Stage name '{}' should be lowercase", name.value));
    }
    if RESERVED.contains(&lower.as_str()) {
        let detail = format!("Stage name should not use the same name as reserved stage {lower:?}");
        findings.add(Rule::ReservedStageName, name.span, detail);
    }
    described("FROM", [lower.as_str()], &from.comments, from.span, findings);
    if names.contains(&lower) {
        let detail = format!("Duplicate stage name {lower:?}, stage names should be unique");
        findings.add(Rule::DuplicateStageName, name.span, detail);
    }
    names.insert(lower);
}

/// All but the last of instructions of which only the last counts.
fn once(stage: &Stage, findings: &mut Findings) {
    for name in ["CMD", "ENTRYPOINT", "HEALTHCHECK"] {
        let all: Vec<_> = stage.steps.iter().filter(|step| step.node.name() == name).collect();
        for step in all.iter().rev().skip(1).rev() {
            let detail = format!(
                "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
            );
            findings.add(Rule::MultipleInstructionsDisallowed, step.span, detail);
        }
    }
}

fn instruction(step: &Statement<Instruction>, findings: &mut Findings) {
    let mut legacy = |name: &str, legacy: bool| {
        if legacy {
            let detail = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
            findings.add(Rule::LegacyKeyValueFormat, step.span, detail);
        }
    };
    match &step.node {
        Instruction::Maintainer(_) => {
            let detail = "Maintainer instruction is deprecated in favor of using label".to_owned();
            findings.add(Rule::MaintainerDeprecated, step.span, detail);
        }
        Instruction::Label(label) => legacy("LABEL", label.legacy),
        Instruction::Env(env) => {
            legacy("ENV", env.legacy);
            env.pairs.iter().for_each(|pair| secret("ENV", &pair.name.raw, pair.name.span, findings));
        }
        Instruction::Arg(arg) => {
            let names = arg.arguments.iter().map(|one| one.name.raw.as_str());
            described("ARG", names, &step.comments, step.span, findings);
            arg.arguments.iter().for_each(|one| secret("ARG", &one.name.raw, one.name.span, findings));
        }
        _ => {}
    }
}

/// Whether a variable is called as one that holds a secret.
pub(crate) fn looks_secret(name: &str) -> bool {
    let has = |words: &[&str]| {
        let lower = name.to_ascii_lowercase();
        lower.split('_').any(|word| words.contains(&word))
    };
    has(&SECRET) && !has(&OPEN)
}

fn secret(instruction: &str, name: &str, span: Span, findings: &mut Findings) {
    if looks_secret(name) {
        let detail = format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
        findings.add(Rule::SecretsUsedInArgOrEnv, span, detail);
    }
}

/// The comment above begins with one of the names.
fn described<'a>(
    instruction: &str,
    names: impl IntoIterator<Item = &'a str>,
    comments: &[String],
    span: Span,
    findings: &mut Findings,
) {
    let Some(word) = comments.last().and_then(|comment| comment.split_whitespace().next()) else { return };
    let names: Vec<_> = names.into_iter().collect();
    if names.contains(&word) {
        return;
    }
    let example = if let [name] = names[..] { name } else { "<arg_key>" };
    let detail = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
    findings.add(Rule::InvalidDefinitionDescription, span, detail);
}

/// Says that a shell would get the signals, unless the stage chose its own.
pub(super) fn json_recommended(
    step: &Statement<Instruction>,
    command: &CommandLine,
    has_shell: bool,
    findings: &mut Findings,
) {
    if has_shell || matches!(command, CommandLine::Exec(_)) {
        return;
    }
    let detail = format!(
        "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
        step.node.name()
    );
    findings.add(Rule::JsonArgsRecommended, step.span, detail);
}
