//! What is built, and what it is given: for `stratus build`, and for whoever builds an image to go on with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::super::error::{Error, Result};
use super::show::How;
use super::{caches, lend, settings};

/// The variable and the argument that say of what time is what has none of its own, in seconds since 1970.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What is built, and what it is given
#[derive(Args, Debug)]
pub(crate) struct Recipe {
    /// The Dockerfile; - for standard input [default: PATH/Dockerfile]
    #[arg(long, short, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Argument of the build, NAME=VALUE, or NAME for the value it has here; repeats
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,
    /// Stage that is built, with what it needs [default: the last one; with --check, all]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Label of the image; repeats
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) label: Vec<String>,
    /// Do everything again, whatever was done before
    #[arg(long, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_value = "false",
          default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) no_cache: bool,
    /// Do stages again, by their names or numbers; repeats
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,
    /// Pull base images even where they are here
    #[arg(long, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_value = "false",
          default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    pub(super) pull: bool,
    /// How to show what is done: tty draws on the terminal, plain writes lines, json documents, quiet only the image's id; auto is tty
    /// where somebody watches, else plain
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub(super) progress: How,
    /// The directory whose files are copied; the address of a git repository, an archive or a Dockerfile; - for a Dockerfile, or an archive of
    /// a directory, on standard input
    pub(super) path: PathBuf,
    #[command(flatten)]
    pub(super) caches: caches::Caches,
    #[command(flatten)]
    pub(super) lend: lend::Lend,
    #[command(flatten)]
    pub(super) steps: settings::Steps,
}

impl Recipe {
    /// Arguments of the build. One whose value is this environment's may have none; as with buildx, the time of what is built is one.
    pub(super) fn arguments(&self) -> Result<BTreeMap<String, Option<String>>> {
        let argument = |text: &String| match text.split_once('=') {
            Some(("", _)) => Err(Error::Usage(format!("--build-arg {text:?} has no name: give NAME=VALUE"))),
            None if text.is_empty() => Err(Error::Usage("--build-arg \"\" has no name: give NAME=VALUE".to_owned())),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((text.clone(), std::env::var(text).ok())),
        };
        let mut arguments: BTreeMap<_, _> = self.build_arg.iter().map(argument).collect::<Result<_>>()?;
        if let Some(time) = std::env::var(EPOCH).ok().filter(|time| !time.is_empty()) {
            arguments.entry(EPOCH.to_owned()).or_insert(Some(time));
        }
        Ok(arguments)
    }
}
