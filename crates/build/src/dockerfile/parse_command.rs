//! Instructions that say what is executed: `RUN`, `CMD`, `ENTRYPOINT`, `HEALTHCHECK`, `SHELL`.

use super::flags::{Flags, Place};
use super::heredoc::{self, Heredoc, Marker, Unclosed};
use super::instruction::*;
use super::mount::MountSpec;
use super::parse::Reader;
use super::source::{Mistake, Spanned};
use super::words::json;
use crate::suggest::nearest;
use std::time::Duration;

pub(super) fn run(reader: &mut Reader<'_, '_, '_>, mut flags: Flags<'_>) -> Result<Run, Mistake> {
    let source = reader.place.source;
    let mounts = flags.many("mount")?.into_iter().map(|flag| MountSpec::parse(&flag.value, flag.span, source));
    let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
    let network = match flags.one("network")? {
        None => Network::default(),
        Some(flag) => choice(
            reader.place,
            &flag,
            "network mode",
            &[("default", Network::Default), ("none", Network::None), ("host", Network::Host)],
        )?,
    };
    let security = match flags.one("security")? {
        None => Security::default(),
        Some(flag) => choice(
            reader.place,
            &flag,
            "security mode",
            &[("sandbox", Security::Sandbox), ("insecure", Security::Insecure)],
        )?,
    };
    let devices = flags.many("device")?.into_iter().map(|flag| device(reader.place, &flag));
    let devices = devices.collect::<Result<Vec<_>, _>>()?;
    let at = flags.end()?;
    Ok(Run { mounts, network, security, devices, command: with_heredocs(reader, at)? })
}

/// The one of a flag's values that was given.
fn choice<T: Clone>(
    place: Place<'_>,
    flag: &Spanned<String>,
    what: &str,
    known: &[(&'static str, T)],
) -> Result<T, Mistake> {
    match known.iter().find(|(name, _)| *name == flag.value) {
        Some((_, value)) => Ok(value.clone()),
        None => {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            let message = format!("invalid {what}: {:?}: there are {}", flag.value, names.join(", "));
            Err(place.source.mistake(flag.span, message).meant(nearest(&flag.value, names)))
        }
    }
}

/// `[name=]NAME[,required[=BOOL]]`
fn device(place: Place<'_>, flag: &Spanned<String>) -> Result<Device, Mistake> {
    let mut device = Device { name: String::new(), required: false, span: flag.span };
    for (index, field) in flag.value.split(',').enumerate() {
        match field.split_once('=') {
            Some(("name", name)) => device.name = name.to_owned(),
            Some(("required", value)) if matches!(value, "true" | "false") => device.required = value == "true",
            None if field == "required" => device.required = true,
            // A device's own name has an equals sign.
            _ if index == 0 => device.name = field.to_owned(),
            _ => {
                let message = format!("unexpected key {field:?} of --device: there are name and required");
                return Err(place.source.mistake(flag.span, message));
            }
        }
    }
    if device.name.is_empty() {
        return Err(place.source.mistake(flag.span, "--device needs a name, as vendor.com/class=name"));
    }
    Ok(device)
}

/// A command without heredocs.
pub(super) fn plain(reader: &Reader<'_, '_, '_>, at: usize) -> Result<CommandLine, Mistake> {
    let range = reader.place.rest(at);
    if range.is_empty() {
        return Err(reader.none_given());
    }
    match json(reader.place, range.clone())? {
        Some(words) => Ok(CommandLine::Exec(words)),
        None => Ok(CommandLine::Shell(reader.place.logical.text[range].to_owned())),
    }
}

fn with_heredocs(reader: &mut Reader<'_, '_, '_>, at: usize) -> Result<CommandLine, Mistake> {
    let mut text = match plain(reader, at)? {
        CommandLine::Shell(text) => text,
        other => return Ok(other),
    };
    let markers = markers(reader.place, at, true)?;
    let alone =
        matches!(markers.as_slice(), [only] if only.range == reader.place.rest(at) && only.descriptor.is_none());
    for marker in &markers {
        let (heredoc, raw) = body(reader, marker)?;
        if alone {
            return Ok(CommandLine::Script(heredoc));
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&raw);
        text.push_str(&heredoc.name);
        text.push('\n');
    }
    Ok(CommandLine::Shell(text))
}

/// What asks for heredocs from a place on.
pub(super) fn markers(place: Place<'_>, at: usize, shell: bool) -> Result<Vec<Marker>, Mistake> {
    heredoc::find(&place.logical.text, at, shell)
        .map_err(|Unclosed(range)| place.mistake(range, "the delimiter of this heredoc has a quote that is not closed"))
}

/// Reads a heredoc's lines; also as they are in the file.
pub(super) fn body(reader: &mut Reader<'_, '_, '_>, marker: &Marker) -> Result<(Heredoc, String), Mistake> {
    let span = reader.place.span(marker.range.clone());
    let Some(body) = marker.read(reader.lines) else {
        let message = format!("unterminated heredoc: no line is {:?}", marker.name);
        return Err(reader.place.mistake(marker.range.clone(), message));
    };
    reader.last = body.last;
    let Marker { name, expand, descriptor, .. } = marker.clone();
    Ok((Heredoc { name, body: body.stripped, expand, descriptor, span }, body.raw))
}

pub(super) fn shell(reader: &Reader<'_, '_, '_>, at: usize) -> Result<Shell, Mistake> {
    match plain(reader, at)? {
        CommandLine::Exec(shell) if shell.is_empty() => Err(reader.none_given()),
        CommandLine::Exec(shell) => Ok(Shell { shell }),
        _ => {
            let words: Vec<_> = reader.place.logical.text[reader.place.rest(at)].split_whitespace().collect();
            let meant = serde_json::to_string(&words).map(|json| format!("SHELL {json}")).ok();
            let range = reader.place.rest(at);
            Err(reader.place.mistake(range, "SHELL requires the arguments to be in JSON form").meant(meant))
        }
    }
}

pub(super) fn healthcheck(reader: &mut Reader<'_, '_, '_>, mut flags: Flags<'_>) -> Result<Healthcheck, Mistake> {
    let mut time = |name| flags.one(name).and_then(|flag| interval(reader.place, name, flag));
    let [interval, timeout, start_period, start_interval] =
        [time("interval")?, time("timeout")?, time("start-period")?, time("start-interval")?];
    let retries = retries(reader.place, flags.one("retries")?)?;
    let rest = reader.place.rest(flags.end()?);
    if rest.is_empty() {
        return Err(reader.none_given());
    }
    let text = &reader.place.logical.text[rest.clone()];
    let kind = &text[..text.find(char::is_whitespace).unwrap_or(text.len())];
    let range = rest.start..rest.start + kind.len();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if kind.len() == text.len() => Ok(Healthcheck::None),
        "NONE" => Err(reader.place.mistake(rest, "HEALTHCHECK NONE takes no arguments")),
        "CMD" if kind.len() == text.len() => Err(reader.place.mistake(range, "Missing command after HEALTHCHECK CMD")),
        "CMD" => {
            let command = plain(reader, range.end)?;
            if command == CommandLine::Exec(Vec::new()) {
                return Err(reader.place.mistake(rest, "Missing command after HEALTHCHECK CMD"));
            }
            Ok(Healthcheck::Command(HealthCommand {
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
                command,
            }))
        }
        other => {
            let message = format!("Unknown type {other:?} in HEALTHCHECK (try CMD)");
            Err(reader.place.mistake(range, message))
        }
    }
}

/// A time of at least a millisecond; none is the default.
fn interval(place: Place<'_>, name: &str, flag: Option<Spanned<String>>) -> Result<Option<Duration>, Mistake> {
    let Some(flag) = flag else { return Ok(None) };
    match flag.value.as_str() {
        "" | "0" => return Ok(None),
        _ => {}
    }
    let Some(nanos) = image::go_duration(&flag.value) else {
        let message = format!("invalid duration {:?} of --{name}: expected one as 30s, 1m30s or 500ms", flag.value);
        return Err(place.source.mistake(flag.span, message));
    };
    match Duration::from_nanos(nanos) {
        Duration::ZERO => Ok(None),
        time if time < Duration::from_millis(1) => {
            Err(place.source.mistake(flag.span, format!("Interval {name:?} cannot be less than 1ms")))
        }
        time => Ok(Some(time)),
    }
}

fn retries(place: Place<'_>, flag: Option<Spanned<String>>) -> Result<Option<u32>, Mistake> {
    let Some(flag) = flag.filter(|flag| !flag.value.is_empty()) else { return Ok(None) };
    match flag.value.parse::<i32>() {
        Ok(retries) if retries < 0 => {
            Err(place.source.mistake(flag.span, format!("--retries cannot be negative ({retries})")))
        }
        Ok(0) => Ok(None),
        Ok(retries) => Ok(Some(retries.unsigned_abs())),
        Err(_) => Err(place.source.mistake(flag.span, format!("--retries is to be a number, not {:?}", flag.value))),
    }
}
