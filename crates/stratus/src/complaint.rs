//! What is said of a command line that makes no sense, where that is more than clap says.

use std::error::Error as _;
use std::ffi::OsString;
use std::num::ParseIntError;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};

use crate::client;

/// Says what is wrong, and gives the exit status: clap's 2, or 125 of a command whose others are a container's. Help and the
/// version are no mistakes.
pub(crate) fn complain(error: &clap::Error, cli: &clap::Command, arguments: &[OsString]) -> ExitCode {
    match client::hint(error).or_else(|| no_number(error)) {
        Some(text) => eprintln!("error: {text}"),
        // A pipe that nobody reads is not told of.
        None => drop(without_detour(error, cli, arguments).as_ref().unwrap_or(error).print()),
    }
    match error.use_stderr() {
        true if runs(cli, arguments) => ExitCode::from(125),
        true => ExitCode::from(2),
        false => ExitCode::SUCCESS,
    }
}

/// Whether a command line that makes no sense is one of `run` or `exec`, as far as it can be read.
fn runs(cli: &clap::Command, arguments: &[OsString]) -> bool {
    let Ok(matches) = cli.clone().ignore_errors(true).try_get_matches_from(arguments) else { return false };
    match matches.subcommand() {
        Some(("run" | "exec", _)) => true,
        Some(("container", group)) => matches!(group.subcommand_name(), Some("run" | "exec")),
        _ => false,
    }
}

/// The same without the advice to write `--` before what looks like a flag and is none: that ends the flags, so what comes after it would be
/// taken for an image's name.
fn without_detour(error: &clap::Error, cli: &clap::Command, arguments: &[OsString]) -> Option<clap::Error> {
    if error.kind() != ErrorKind::UnknownArgument || error.get(ContextKind::Suggested).is_none() {
        return None;
    }
    let mut again = cli.clone().try_get_matches_from(arguments).err()?;
    again.remove(ContextKind::Suggested);
    Some(again)
}

/// Of a number that is none, the library tells which digit is wrong, and not what it was to be.
fn no_number(error: &clap::Error) -> Option<String> {
    error.source()?.downcast_ref::<ParseIntError>()?;
    let (flag, value) = (error.get(ContextKind::InvalidArg)?, error.get(ContextKind::InvalidValue)?);
    Some(format!("invalid value '{value}' for '{flag}': give a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_to_the_end_of_the_flags() {
        let cli = clap::Command::new("stratus")
            .arg(clap::Arg::new("memory").short('m').value_name("BYTES"))
            .arg(clap::Arg::new("image").num_args(0..));
        for (line, wrong) in
            [(&["stratus", "-m", "-5", "busybox"][..], "'-5'"), (&["stratus", "--nosuch"], "'--nosuch'")]
        {
            let arguments: Vec<OsString> = line.iter().map(OsString::from).collect();
            let error = cli.clone().try_get_matches_from(&arguments).expect_err("it makes no sense");
            let shown = without_detour(&error, &cli, &arguments).unwrap_or(error).to_string();
            assert!(!shown.contains("-- ") && shown.contains(wrong), "{shown}");
        }
    }

    #[test]
    fn a_number_that_is_none_is_told_as_that() {
        let flag = clap::Arg::new("many").long("many").value_name("NUMBER").value_parser(clap::value_parser!(u16));
        let said = |value: &str| {
            let cli = clap::Command::new("stratus").arg(flag.clone());
            no_number(&cli.try_get_matches_from(["stratus", "--many", value]).expect_err(value))
        };
        assert_eq!(said("x").as_deref(), Some("invalid value 'x' for '--many <NUMBER>': give a whole number"));
        // What it may be, clap says itself.
        assert_eq!(said("70000"), None);
    }
}
