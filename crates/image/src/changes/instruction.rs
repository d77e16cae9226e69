//! What each instruction does to a configuration.

use super::ChangeError;
use super::words::{self, Environment};
use crate::{Healthcheck, RunConfig};

type Result<T> = std::result::Result<T, ChangeError>;

/// What instructions before say to those that follow.
#[derive(Default)]
pub(super) struct State {
    /// A `CMD` was given: an `ENTRYPOINT` does not reset it.
    has_command: bool,
}

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(ChangeError(reason.into()))
}

pub(super) fn apply(config: &mut RunConfig, state: &mut State, line: &str) -> Result<()> {
    let line = line.trim();
    let (name, rest) = line.split_once(|c: char| c.is_whitespace()).unwrap_or((line, ""));
    let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
    let name = name.as_str();
    let known = matches!(
        name,
        "CMD"
            | "ENTRYPOINT"
            | "ENV"
            | "EXPOSE"
            | "HEALTHCHECK"
            | "LABEL"
            | "ONBUILD"
            | "SHELL"
            | "STOPSIGNAL"
            | "USER"
            | "VOLUME"
            | "WORKDIR"
    );
    if !known {
        return refuse(format!("{} is not a valid change command", name.to_ascii_lowercase()));
    }
    if rest.is_empty() && !matches!(name, "CMD" | "ENTRYPOINT" | "SHELL") {
        return refuse(match name {
            "STOPSIGNAL" | "USER" | "WORKDIR" => format!("{name} requires exactly one argument"),
            _ => format!("{name} requires at least one argument"),
        });
    }
    match name {
        "CMD" => {
            config.cmd = Some(command(config, rest));
            config.args_escaped = false;
            state.has_command = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(config, rest)).filter(|words| !words.is_empty());
            if !state.has_command {
                config.cmd = None;
            }
        }
        "ENV" => {
            for (key, value) in pairs(config, name, rest)? {
                let mine = |entry: &String| entry.split('=').next() == Some(key.as_str());
                let new = format!("{key}={value}");
                match config.env.iter_mut().find(|entry| mine(entry)) {
                    Some(entry) => *entry = new,
                    None => config.env.push(new),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(config, name, rest)?),
        "EXPOSE" => {
            for word in expanded(config, rest)? {
                config.exposed_ports.extend(ports(&word)?);
            }
            config.exposed_ports.sort_unstable();
            config.exposed_ports.dedup();
        }
        "VOLUME" => {
            let volumes = match words::json_list(rest) {
                Some(list) => list,
                None => expanded(config, rest)?,
            };
            if volumes.iter().any(|volume| volume.trim().is_empty()) {
                return refuse("VOLUME specified can not be an empty string");
            }
            config.volumes.extend(volumes.into_iter().map(|volume| volume.trim().to_owned()));
            config.volumes.sort_unstable();
            config.volumes.dedup();
        }
        "USER" => config.user = one(config, name, rest)?,
        "WORKDIR" => config.working_dir = directory(&config.working_dir, &one(config, name, rest)?),
        "STOPSIGNAL" => config.stop_signal = signal(&one(config, name, rest)?)?,
        "ONBUILD" => config.on_build.push(trigger(rest)?),
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        _ => {
            let list = words::json_list(rest).filter(|list| !list.is_empty());
            config.shell = list.ok_or_else(|| ChangeError("SHELL requires the arguments to be in JSON form".into()))?;
        }
    }
    Ok(())
}

fn environment(config: &RunConfig) -> Environment<'_> {
    Environment(&config.env)
}

/// All words, with variables.
fn expanded(config: &RunConfig, rest: &str) -> Result<Vec<String>> {
    let words = words::split(rest).into_iter().map(|word| words::expand(&word, &environment(config)));
    words.collect::<Result<Vec<_>>>()
}

/// The whole rest as one word, with variables.
fn one(config: &RunConfig, name: &str, rest: &str) -> Result<String> {
    // A word in brackets is a list of one, as anywhere.
    let word = match words::json_list(rest) {
        Some(list) if list.len() != 1 => return refuse(format!("{name} requires exactly one argument")),
        Some(list) => list.concat(),
        None => rest.to_owned(),
    };
    words::expand(&word, &environment(config))
}

/// JSON is the program and its arguments, anything else a line for the shell.
fn command(config: &RunConfig, rest: &str) -> Vec<String> {
    if let Some(list) = words::json_list(rest) {
        return list;
    }
    if rest.is_empty() {
        return Vec::new();
    }
    let shell = if config.shell.is_empty() { vec!["/bin/sh".into(), "-c".into()] } else { config.shell.clone() };
    shell.into_iter().chain([rest.to_owned()]).collect()
}

/// `KEY=VALUE …`, or in the old form `KEY VALUE WITH BLANKS`.
fn pairs(config: &RunConfig, name: &str, rest: &str) -> Result<Vec<(String, String)>> {
    let words = words::split(rest);
    let old = words.first().is_none_or(|first| !first.contains('='));
    let environment = environment(config);
    let expand = |word: &str| words::expand(word, &environment);
    if old {
        let Some((key, value)) = rest.split_once(|c: char| c.is_whitespace()) else {
            return refuse(format!("{name} must have two arguments"));
        };
        return Ok(vec![(expand(key)?, expand(value.trim_start())?)]);
    }
    let mut pairs = Vec::new();
    for word in &words {
        let Some((key, value)) = word.split_once('=') else {
            return refuse(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"));
        };
        let key = expand(key)?;
        if key.is_empty() {
            return refuse(format!("{name} names can not be blank"));
        }
        pairs.push((key, expand(value)?));
    }
    Ok(pairs)
}

/// `PORT[-PORT][/PROTOCOL]`, as the ports that it means.
///
/// # Errors
/// Where it means none.
pub fn ports(word: &str) -> Result<Vec<String>> {
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return refuse(format!("invalid proto: {protocol}"));
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().or_else(|_| refuse(format!("invalid containerPort: {range}")));
    let (from, to) = (port(from)?, port(to)?);
    if from > to {
        return refuse(format!("invalid range specified for port: {range}"));
    }
    Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

/// A directory, as seen from another.
pub fn directory(from: &str, to: &str) -> String {
    let whole = if to.starts_with('/') { to.to_owned() } else { format!("/{from}/{to}") };
    let mut names: Vec<&str> = Vec::new();
    for name in whole.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// A signal's name or number, if there is one.
///
/// # Errors
/// Where there is none.
pub fn signal(word: &str) -> Result<String> {
    const NAMES: [&str; 34] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
        "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
        "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
    ];
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    // From the lowest upwards, and from the highest downwards: 31 of them.
    let counted = |from: &str, sign: char| {
        let offset = |n: &str| n.strip_prefix(sign).is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 30));
        name.strip_prefix(from).is_some_and(|n| n.is_empty() || offset(n))
    };
    let real_time = counted("RTMIN", '+') || counted("RTMAX", '-');
    if word.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n)) || NAMES.contains(&name) || real_time {
        return Ok(word.to_owned());
    }
    refuse(format!("invalid signal: {word}"))
}

fn trigger(rest: &str) -> Result<String> {
    let first = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match first.as_str() {
        "ONBUILD" => refuse("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        "MAINTAINER" | "FROM" => refuse(format!("{first} isn't allowed as an ONBUILD trigger")),
        _ => Ok(rest.to_owned()),
    }
}

/// `NONE`, or `[--OPTION=…] CMD …`.
fn healthcheck(rest: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(|c: char| c.is_whitespace()).unwrap_or((option, ""));
        rest = after.trim_start();
        let Some((name, value)) = option.split_once('=') else {
            return refuse(format!("Missing a value on flag: {option}"));
        };
        match name {
            "interval" => check.interval = duration(name, value)?,
            "timeout" => check.timeout = duration(name, value)?,
            "start-period" => check.start_period = duration(name, value)?,
            "start-interval" => check.start_interval = duration(name, value)?,
            "retries" => {
                let retries = value.parse::<i32>().or_else(|_| refuse(format!("invalid --retries: {value:?}")))?;
                if retries < 0 {
                    return refuse("--retries cannot be negative");
                }
                check.retries = i64::from(retries);
            }
            _ => return refuse(format!("Unknown flag: {name}")),
        }
    }
    let (kind, rest) = rest.split_once(|c: char| c.is_whitespace()).unwrap_or((rest, ""));
    let rest = rest.trim();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() && check == Healthcheck::default() => check.test = vec!["NONE".into()],
        "NONE" => return refuse("HEALTHCHECK NONE takes no arguments"),
        "CMD" => {
            check.test = match words::json_list(rest) {
                Some(list) => [vec!["CMD".into()], list].concat(),
                None => vec!["CMD-SHELL".into(), rest.to_owned()],
            };
            let given: usize = check.test[1..].iter().map(|word| word.trim().len()).sum();
            if given == 0 {
                return refuse("Missing command after HEALTHCHECK CMD");
            }
        }
        other => return refuse(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    }
    Ok(check)
}

/// A duration as Go writes it (`1m30s`, `1.5h`), in nanoseconds: 0, or a millisecond at least.
fn duration(name: &str, text: &str) -> Result<i64> {
    let bad = || ChangeError(format!("time: invalid duration {text:?}"));
    if text == "0" {
        return Ok(0);
    }
    let nanoseconds = crate::go_duration(text).and_then(|span| i64::try_from(span).ok()).ok_or_else(bad)?;
    if nanoseconds != 0 && nanoseconds < 1_000_000 {
        return refuse(format!("Interval {name:?} cannot be less than 1ms"));
    }
    Ok(nanoseconds)
}
