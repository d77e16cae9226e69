//! `stratus completions`, `stratus man`

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::error::{Error, Result};
use super::output::written;

/// Print the completions of a shell
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Shell that they are for
    #[arg(value_enum)]
    shell: Shell,
}

/// Write the manual pages
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Directory to write them to, such as /usr/local/share/man/man1
    directory: PathBuf,
}

/// `stratus completions`
pub(super) fn completions(args: &CompletionsArgs, mut cli: clap::Command) -> Result<ExitCode> {
    // Through a buffer, as the generator panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "stratus", &mut script);
    io::stdout().lock().write_all(&script).map_err(written)?;
    Ok(ExitCode::SUCCESS)
}

/// `stratus man`
pub(super) fn man(args: &ManArgs, cli: clap::Command) -> Result<ExitCode> {
    let directory = args.directory.display();
    // What it is to be in has to be there: a path with a slip in it is not made up.
    match std::fs::create_dir(&args.directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("creating {directory}"))(error));
        }
        _ => {}
    }
    clap_mangen::generate_to(cli, &args.directory)
        .map_err(Error::io(format!("writing manual pages to {directory}")))?;
    Ok(ExitCode::SUCCESS)
}
