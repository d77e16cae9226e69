//! Checks that need the values of variables: each stage is carried out as far as its variables go.

use super::written::json_recommended;
use super::{Findings, Inputs, Rule};
use crate::dockerfile::{
    AddSource, Base, Dockerfile, Expansion, FileSource, Files, Given, Globals, Instruction, Kind, Mistake, Origin,
    Plan, Ports, Run, Scope, Span, Spanned, Statement, Variables, Word, expand,
};
use crate::ignore::clean;
use crate::suggest::nearest;
use image::{Platform, Reference};
use std::collections::BTreeMap;

/// The environment that every image has that says nothing of it.
const PATH: &str = "PATH";

/// Checks what each `FROM` says.
pub(super) fn check_bases(file: &Dockerfile, inputs: &Inputs<'_>, globals: &Globals, findings: &mut Findings) {
    let defaults = Given { arguments: BTreeMap::new(), ..inputs.given.clone() };
    let defaults = Globals::new(file, &defaults);
    let escape = file.directives.escape;
    for (index, stage) in file.stages.iter().enumerate() {
        let Base { image, platform, name, .. } = &stage.from.node;
        for word in platform.iter().chain([image]) {
            let Ok(expansion) = word.expand(&file.source, escape, globals) else { continue };
            for unset in expansion.unset.iter().filter(|unset| is_name(unset) && !globals.declares(unset)) {
                let meant = nearest(unset, globals.names()).map(|meant| format!(" (did you mean {meant}?)"));
                let detail = format!("FROM argument '{unset}' is not declared{}", meant.unwrap_or_default());
                findings.add(Rule::UndefinedArgInFrom, word.span, detail);
            }
        }
        if let Some(platform) = platform {
            platform_flag(file, globals, platform, name.as_ref(), findings);
        }
        if let Ok(defaults) = &defaults
            && image.raw.contains('$')
            && let Ok(base) = defaults.expand(image, &file.source)
            && !file.stages[..index].iter().any(|stage| stage.name().is_some_and(|own| own.eq_ignore_ascii_case(&base)))
            && Reference::parse(&base).is_err()
        {
            let detail = format!("Default value for ARG {} results in empty or invalid base image name", image.raw);
            findings.add(Rule::InvalidDefaultArgInFrom, image.span, detail);
        }
    }
}

fn platform_flag(
    file: &Dockerfile,
    globals: &Globals,
    word: &Word,
    stage: Option<&Spanned<String>>,
    findings: &mut Findings,
) {
    let Ok(expansion) = word.expand(&file.source, file.directives.escape, globals) else { return };
    let only_target = expansion.read.len() == 1 && expansion.read.contains("TARGETPLATFORM");
    if only_target && globals.value("TARGETPLATFORM").as_deref() == Some(expansion.text.as_str()) {
        let detail =
            format!("Setting platform to predefined {} in FROM is redundant as this is the default behavior", word.raw);
        findings.add(Rule::RedundantTargetPlatform, word.span, detail);
    }
    if expansion.read.is_empty()
        && expansion.unset.is_empty()
        && let Ok(platform) = expansion.text.parse::<Platform>()
    {
        // A stage that is named for its platform is there for it.
        let stage = stage.map(|name| name.value.to_ascii_lowercase()).unwrap_or_default();
        if !stage.contains(&platform.os) && !stage.contains(&platform.architecture) {
            let detail = format!("FROM --platform flag should not use constant value {:?}", expansion.text);
            findings.add(Rule::FromPlatformFlagConstDisallowed, word.span, detail);
        }
    }
}

/// What is known of a stage at a place.
#[derive(Clone)]
struct State<'a> {
    scope: Scope<'a>,
    /// Whether all that the base image sets is known.
    known: bool,
    has_shell: bool,
    has_workdir: bool,
}

/// Checks stages.
pub(super) fn check(
    file: &Dockerfile,
    inputs: &Inputs<'_>,
    globals: &Globals,
    plan: &Plan,
    stages: &[usize],
    findings: &mut Findings,
) {
    let mut ends: BTreeMap<usize, State<'_>> = BTreeMap::new();
    for index in stages {
        let stage = &file.stages[*index];
        let inherited = match &plan.stages[*index].base {
            Origin::Stage(base) => ends.get(base).cloned(),
            Origin::Scratch => Some(State {
                scope: Scope::new(globals, Vec::new()),
                known: true,
                has_shell: false,
                has_workdir: false,
            }),
            Origin::Named { name, .. } => {
                let expected = plan.stages[*index].platform.as_ref().unwrap_or(&inputs.given.target_platform);
                on_image(name, expected, &stage.from, inputs, globals, findings)
            }
        };
        let mut state = inherited.unwrap_or_else(|| State {
            scope: Scope::new(globals, Vec::new()),
            known: false,
            has_shell: false,
            has_workdir: false,
        });
        for step in &stage.steps {
            let mut visit = Visit { file, inputs, state: &mut state, findings };
            if let Err(mistake) = visit.step(step) {
                findings.report.mistakes.push(mistake);
            }
        }
        ends.insert(*index, state);
    }
}

fn on_image<'a>(
    name: &str,
    expected: &Platform,
    from: &Statement<Base>,
    inputs: &Inputs<'_>,
    globals: &'a Globals,
    findings: &mut Findings,
) -> Option<State<'a>> {
    let base = (inputs.base)(name)?;
    if !base.platform.matches(expected) {
        let detail = format!(
            "Base image {name} was pulled with platform \"{}\", expected \"{expected}\" for current build",
            base.platform
        );
        findings.add(Rule::InvalidBaseImagePlatform, from.node.image.span, detail);
    }
    let scope = Scope::new(globals, base.environment);
    Some(State { scope, known: true, has_shell: base.has_shell, has_workdir: false })
}

/// A visit of one instruction.
struct Visit<'v, 'a> {
    file: &'v Dockerfile,
    inputs: &'v Inputs<'v>,
    state: &'v mut State<'a>,
    findings: &'v mut Findings,
}

impl Visit<'_, '_> {
    fn step(&mut self, step: &Statement<Instruction>) -> Result<(), Mistake> {
        let source = &self.file.source;
        match &step.node {
            // What an argument or a variable is counts from the next one on.
            Instruction::Arg(arg) => {
                for argument in &arg.arguments {
                    let name = self.expand(&argument.name)?.text;
                    if let Some(default) = argument.default.as_ref().filter(|_| !self.state.scope.is_given(&name)) {
                        self.expand(default)?;
                    }
                    self.state.scope.declare(argument, source)?;
                }
                return Ok(());
            }
            Instruction::Env(env) => {
                let mut pairs = Vec::with_capacity(env.pairs.len());
                for pair in &env.pairs {
                    pairs.push((self.expand(&pair.name)?.text, self.expand(&pair.value)?.text));
                }
                pairs.into_iter().for_each(|(name, value)| self.state.scope.set(name, value));
                return Ok(());
            }
            Instruction::Copy(copy) => self.files(&copy.files, "Copy", copy.from.is_none())?,
            Instruction::Add(add) => self.files(&add.files, "Add", true)?,
            Instruction::Run(run) => self.mounts(run)?,
            Instruction::Expose(expose) => {
                for port in &expose.ports {
                    self.port(port)?;
                }
                return Ok(());
            }
            Instruction::Workdir(workdir) => {
                let path = self.expand(&workdir.path)?.text;
                if !std::mem::replace(&mut self.state.has_workdir, true) && !path.starts_with('/') {
                    let detail =
                        format!("Relative workdir {path:?} can have unexpected results if the base image changes");
                    self.findings.add(Rule::WorkdirRelativePath, step.span, detail);
                }
                return Ok(());
            }
            Instruction::Cmd(cmd) => json_recommended(step, &cmd.command, self.state.has_shell, self.findings),
            Instruction::Entrypoint(entry) => {
                json_recommended(step, &entry.command, self.state.has_shell, self.findings);
            }
            Instruction::Shell(_) => self.state.has_shell = true,
            _ => {}
        }
        for word in step.node.words() {
            self.expand(word)?;
        }
        Ok(())
    }

    /// What a word means; variables in it that nothing sets are told.
    fn expand(&mut self, word: &Word) -> Result<Expansion, Mistake> {
        let expansion = word.expand(&self.file.source, self.file.directives.escape, &self.state.scope)?;
        self.undefined(&expansion, word.span);
        Ok(expansion)
    }

    fn undefined(&mut self, expansion: &Expansion, span: Span) {
        let scope = &self.state.scope;
        for name in expansion.missing.iter().filter(|name| is_name(name) && *name != PATH && !scope.declares(name)) {
            let meant = nearest(name, scope.names().chain([PATH]));
            // The base image may set it.
            if meant.is_none() && !self.state.known {
                continue;
            }
            let meant = meant.map(|meant| format!(" (did you mean ${meant}?)")).unwrap_or_default();
            self.findings.add(Rule::UndefinedVar, span, format!("Usage of undefined variable '${name}'{meant}"));
        }
    }

    fn mounts(&mut self, run: &Run) -> Result<(), Mistake> {
        for mount in &run.mounts {
            for word in mount.words() {
                self.expand(word)?;
            }
            let scope = &self.state.scope;
            mount.resolve(&self.file.source, |word| scope.expand(word, &self.file.source))?;
        }
        Ok(())
    }

    fn files(&mut self, files: &Files, verb: &str, of_context: bool) -> Result<(), Mistake> {
        for heredoc in files.heredocs().filter(|heredoc| heredoc.expand) {
            let escape = self.file.directives.escape;
            let expansion = expand(&heredoc.body, Kind::Heredoc, escape, &self.state.scope).map_err(|why| {
                self.file.source.mistake(heredoc.span, format!("failed to process the heredoc: {why}"))
            })?;
            self.undefined(&expansion, heredoc.span);
        }
        if !of_context {
            return Ok(());
        }
        for source in &files.sources {
            let FileSource::Path(word) = source else { continue };
            let path = self.state.scope.expand(word, &self.file.source)?;
            if verb == "Add" && !matches!(AddSource::parse(&path), AddSource::Path(_)) {
                continue;
            }
            let path = clean(&path);
            let path = path.trim_start_matches('/');
            let ignore = self.inputs.ignore;
            if ignore.ignores(path) && !ignore.enters(path) {
                let detail = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.findings.add(Rule::CopyIgnoredFile, word.span, detail);
            }
        }
        Ok(())
    }

    fn port(&mut self, word: &Word) -> Result<(), Mistake> {
        for port in self.expand(word)?.words {
            if port.contains(':') {
                let detail =
                    format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'");
                self.findings.add(Rule::ExposeInvalidFormat, word.span, detail);
            }
            if port.split_once('/').is_some_and(|(_, protocol)| protocol.bytes().any(|byte| byte.is_ascii_uppercase()))
            {
                let detail = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                self.findings.add(Rule::ExposeProtoCasing, word.span, detail);
            }
            Ports::parse(&port).map_err(|why| self.file.source.mistake(word.span, why.to_string()))?;
        }
        Ok(())
    }
}

/// Whether it is the name of a variable, and not one of a shell's own.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
