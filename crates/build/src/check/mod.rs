//! Build checks: what is allowed in a Dockerfile, and yet likely not meant.
//!
//! They are those of Docker's documentation, by their names. `check=skip=…` in the file leaves some out, `check=error=true`
//! makes mistakes of them; whoever asks may say otherwise.

mod rule;
mod stages;
mod written;

pub(crate) use written::looks_secret;

#[cfg(test)]
mod tests;

pub use rule::Rule;

use crate::dockerfile::{Builtin, CheckOptions, Checks, Dockerfile, Given, Globals, Mistake, Need, Origin, Plan, Span};
use crate::ignore::Ignore;
use crate::suggest::nearest;
use image::Platform;
use serde::{Deserialize, Serialize};

/// The build argument that says which checks are made, before what the file says.
pub const ARGUMENT: &str = Builtin::DockerfileCheck.name();

/// Something that is likely not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The check that found it.
    pub rule: Rule,
    /// What was found.
    pub detail: String,
    /// Where.
    pub span: Span,
}

/// What is known of an image that a stage builds upon.
#[derive(Clone, Debug)]
pub struct BaseImage {
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// Whether it has a shell of its own (`SHELL`).
    pub has_shell: bool,
    /// What it is for.
    pub platform: Platform,
}

/// What a file is checked with.
pub struct Inputs<'a> {
    /// What the build is asked for. Only what its target needs is checked, if it has one.
    pub given: &'a Given,
    /// What is no part of the context.
    pub ignore: &'a Ignore,
    /// What is known of an image. Of one that nothing is known of, no variable is taken for undefined, unless it is likely
    /// misspelt.
    pub base: &'a dyn Fn(&str) -> Option<BaseImage>,
}

/// What checking a file gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was found, in the order of the file.
    pub warnings: Vec<Warning>,
    /// What keeps it from being built at all.
    pub mistakes: Vec<Mistake>,
    /// What may be meant, and may not: nothing follows from it.
    pub notes: Vec<Mistake>,
    /// Whether warnings are to end a build.
    pub warnings_are_errors: bool,
}

impl Report {
    /// Why warnings end the build, if they do, and where the first of them stands.
    pub fn violation(&self) -> Option<(Span, String)> {
        let first = self.warnings.first().filter(|_| self.warnings_are_errors)?;
        let mut names: Vec<_> = self.warnings.iter().map(|warning| warning.rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        Some((first.span, format!("lint violation found for rules: {}", names.join(", "))))
    }
}

/// Collects what is found, but for checks that are not made.
struct Findings {
    options: CheckOptions,
    report: Report,
}

impl Findings {
    fn add(&mut self, rule: Rule, span: Span, detail: String) {
        let asked = self.options.experimental.contains(rule.name());
        let made = if rule.experimental() { asked } else { asked || !self.options.skip.contains(rule.name()) };
        if made {
            self.report.warnings.push(Warning { rule, detail, span });
        }
    }
}

/// Checks a file.
pub fn check(file: &Dockerfile, inputs: &Inputs<'_>) -> Report {
    let mut findings = Findings { options: CheckOptions::default(), report: Report::default() };
    match inputs.given.arguments.get(ARGUMENT).map(|text| CheckOptions::parse(text)) {
        Some(Ok(options)) => findings.options = options,
        Some(Err(why)) => {
            findings
                .report
                .mistakes
                .push(file.source.mistake(Span::line(1), format!("build argument {ARGUMENT}: {why}")));
        }
        None => findings.options = file.directives.check.clone().map(|check| check.value).unwrap_or_default(),
    }
    findings.report.notes.extend(unknown_checks(file));
    written::check(file, &mut findings);
    if let Err(mistake) = evaluated(file, inputs, &mut findings) {
        findings.report.mistakes.push(mistake);
    }
    let mut report = findings.report;
    report.warnings.sort_by(|a, b| {
        let key = |warning: &Warning| (warning.span.start.line, warning.rule.name(), warning.span.start.column);
        key(a).cmp(&key(b)).then_with(|| a.detail.cmp(&b.detail))
    });
    // A variable that a word has twice is told once.
    report.warnings.dedup();
    report.warnings_are_errors = findings.options.error;
    report
}

/// What to say of names in `check=` that no check has.
fn unknown_checks(file: &Dockerfile) -> Vec<Mistake> {
    let Some(check) = &file.directives.check else { return Vec::new() };
    let named = |checks: &Checks| match checks {
        Checks::All => Vec::new(),
        Checks::Named(names) => names.iter().filter(|name| !name.is_empty()).cloned().collect(),
    };
    let names = [named(&check.value.skip), named(&check.value.experimental)].concat();
    let known = || Rule::ALL.iter().map(|rule| rule.name());
    let unknown = names.iter().filter(|name| !known().any(|known| known.eq_ignore_ascii_case(name)));
    let note = |name: &String| {
        file.source.mistake(check.span, format!("no check is called {name:?}")).meant(nearest(name, known()))
    };
    unknown.map(note).collect()
}

/// What needs the values of variables.
fn evaluated(file: &Dockerfile, inputs: &Inputs<'_>, findings: &mut Findings) -> Result<(), Mistake> {
    let globals = Globals::new(file, inputs.given)?;
    stages::check_bases(file, inputs, &globals, findings);
    let plan = Plan::new(file, &globals)?;
    let stages: Vec<usize> = match &inputs.given.target {
        None => (0..file.stages.len()).collect(),
        target => {
            let target = file.target(target.as_deref()).map_err(|why| file.source.mistake(Span::line(1), why))?;
            plan.order(target)
        }
    };
    for need in stages.iter().flat_map(|stage| &plan.stages[*stage].from) {
        findings.report.notes.extend(misspelt(file, need));
    }
    stages::check(file, inputs, &globals, &plan, &stages, findings);
    Ok(())
}

/// What to say of a name that is no stage's, and nearly one.
fn misspelt(file: &Dockerfile, need: &Need) -> Option<Mistake> {
    let Origin::Named { name, meant: Some(meant) } = &need.origin else { return None };
    // With a registry, a tag or a digest it was not meant as a stage.
    if name.contains(['/', ':', '@', '.']) {
        return None;
    }
    let message = format!("no stage is called {name:?}: an image of that name will be looked for");
    Some(file.source.mistake(need.span, message).meant(Some(meant)))
}
