//! Instructions that change what an image says of itself, and no file.

use crate::dockerfile::{
    CommandLine, Expansion, HealthCommand, Healthcheck, Instruction, Mistake, Pair, Scope, Source, Statement, Word,
};
use crate::state::State;
use image::changes;
use std::time::Duration;

/// The shell of the shell forms, unless `SHELL` says.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What a stage remembers of its instructions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// It has a `CMD` of its own, which a later `ENTRYPOINT` leaves alone.
    pub(crate) has_cmd: bool,
}

/// Carries out an instruction that makes no layer and asks for nothing.
pub(crate) fn configure(
    statement: &Statement<Instruction>,
    state: &mut State,
    scope: &mut Scope<'_>,
    memory: &mut Memory,
    source: &Source,
) -> Result<(), Mistake> {
    let refused = |word: &Word, e: changes::ChangeError| source.mistake(word.span, e.to_string());
    match &statement.node {
        Instruction::Arg(arg) => arg.arguments.iter().try_for_each(|argument| scope.declare(argument, source))?,
        Instruction::Env(env) => {
            // All of an instruction's values are of before it.
            for (name, value) in pairs(&env.pairs, scope, source)? {
                scope.set(name, value);
            }
            let variable = |(name, value): &(String, String)| format!("{name}={value}");
            state.config.config.env = scope.environment().iter().map(variable).collect();
        }
        Instruction::Label(label) => state.config.config.labels.extend(pairs(&label.pairs, scope, source)?),
        Instruction::Cmd(cmd) => {
            memory.has_cmd = true;
            state.config.config.cmd = Some(argv(&cmd.command, &state.config.config.shell));
        }
        Instruction::Entrypoint(entrypoint) => {
            state.config.config.entrypoint = Some(argv(&entrypoint.command, &state.config.config.shell));
            if !memory.has_cmd {
                state.config.config.cmd = None;
            }
        }
        Instruction::Expose(expose) => {
            for word in &expose.ports {
                for text in expanded(word, scope, source)?.words {
                    for port in changes::ports(&text).map_err(|e| refused(word, e))? {
                        insert(&mut state.config.config.exposed_ports, port);
                    }
                }
            }
        }
        Instruction::Volume(volume) => {
            for word in &volume.paths {
                let path = scope.expand(word, source)?;
                if path.is_empty() {
                    return Err(source.mistake(word.span, "VOLUME specified can not be an empty string"));
                }
                insert(&mut state.config.config.volumes, path);
            }
        }
        Instruction::User(user) => state.config.config.user = scope.expand(&user.user, source)?,
        Instruction::StopSignal(stop) => {
            let signal = scope.expand(&stop.signal, source)?;
            state.config.config.stop_signal = changes::signal(&signal).map_err(|e| refused(&stop.signal, e))?;
        }
        Instruction::Shell(shell) => state.config.config.shell.clone_from(&shell.shell),
        Instruction::Healthcheck(check) => state.config.config.healthcheck = Some(health(check)),
        Instruction::Maintainer(maintainer) => state.config.author.clone_from(&maintainer.author),
        Instruction::OnBuild(trigger) => state.config.config.on_build.push(trigger.text.clone()),
        Instruction::Add(_) | Instruction::Copy(_) | Instruction::Run(_) | Instruction::Workdir(_) => {}
    }
    Ok(())
}

/// What is executed, with the shell where one is asked for.
pub(crate) fn argv(command: &CommandLine, shell: &[String]) -> Vec<String> {
    let with_shell = |line: &str| {
        let own = shell.iter().cloned();
        let shell: Vec<String> = if shell.is_empty() { SHELL.map(str::to_owned).into() } else { own.collect() };
        shell.into_iter().chain([line.to_owned()]).collect()
    };
    match command {
        CommandLine::Exec(argv) => argv.clone(),
        CommandLine::Shell(line) => with_shell(line),
        CommandLine::Script(script) => with_shell(&script.body),
    }
}

fn health(check: &Healthcheck) -> image::Healthcheck {
    let Healthcheck::Command(HealthCommand { interval, timeout, start_period, start_interval, retries, command }) =
        check
    else {
        return image::Healthcheck { test: vec!["NONE".into()], ..image::Healthcheck::default() };
    };
    let nanoseconds = |duration: &Option<Duration>| {
        duration.map_or(0, |duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    };
    let test = match command {
        CommandLine::Exec(argv) => std::iter::once("CMD".to_owned()).chain(argv.iter().cloned()).collect(),
        CommandLine::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        CommandLine::Script(script) => vec!["CMD-SHELL".to_owned(), script.body.clone()],
    };
    image::Healthcheck {
        test,
        interval: nanoseconds(interval),
        timeout: nanoseconds(timeout),
        start_period: nanoseconds(start_period),
        start_interval: nanoseconds(start_interval),
        retries: i64::from(retries.unwrap_or(0)),
    }
}

fn pairs(pairs: &[Pair], scope: &Scope<'_>, source: &Source) -> Result<Vec<(String, String)>, Mistake> {
    let expand = |pair: &Pair| {
        let name = scope.expand(&pair.name, source)?;
        if name.is_empty() {
            return Err(source.mistake(pair.name.span, "a name can not be blank"));
        }
        Ok((name, scope.expand(&pair.value, source)?))
    };
    pairs.iter().map(expand).collect()
}

/// A word that may become several.
pub(crate) fn expanded(word: &Word, scope: &Scope<'_>, source: &Source) -> Result<Expansion, Mistake> {
    word.expand(source, scope.escape(), scope)
}

fn insert(sorted: &mut Vec<String>, value: String) {
    if let Err(at) = sorted.binary_search(&value) {
        sorted.insert(at, value);
    }
}
