//! `stratus build`: a directory and its Dockerfile go to the daemon, which makes an image of them.

mod check;
mod follow;
mod settings;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use api_build::{Client, Source};
use clap::Args;
use image::{Platform, Reference};
use serde_json::{Value, json};

use super::attach::asked_to_end;
use super::error::{Error, Result};
use super::output::{self, Format};
use super::request::Request;
use super::transfer::blocking;
use super::{Context, terminal};
use follow::Show;

/// Build an image from a Dockerfile
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Say what is wrong with the Dockerfile and what is likely not meant, and build nothing
    #[arg(long)]
    check: bool,
    /// The Dockerfile; - for standard input [default: PATH/Dockerfile]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name of the image, NAME[:TAG]; repeats
    #[arg(long, short, value_name = "NAME")]
    tag: Vec<String>,
    /// Argument of the build, NAME=VALUE, or NAME for the value it has here; repeats
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Stage that is built, with what it needs [default: the last one; with --check, all]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// What is built for, as linux/arm64 [default: the daemon's machine]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Label of the image; repeats
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Do everything again, whatever was done before
    #[arg(long)]
    no_cache: bool,
    /// Do stages again, by their names or numbers; repeats
    #[arg(long, value_name = "STAGE,…", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Pull base images even where they are here
    #[arg(long)]
    pull: bool,
    /// Only print the image's id
    #[arg(long, short)]
    quiet: bool,
    /// How to show what is done: plain prints the daemon's messages as they come, json its documents, one a line; auto is plain
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    progress: Progress,
    /// File to write the image's id into
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// The directory whose files are copied; the address of a git repository, an archive or a Dockerfile; - for a Dockerfile, or an archive of
    /// a directory, on standard input
    path: PathBuf,
    #[command(flatten)]
    running: settings::Running,
    #[command(flatten)]
    later: settings::Later,
}

/// How what is done is shown. (The variants have no docstrings: clap would make long lists of every help.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Progress {
    Auto,
    Plain,
    Json,
}

impl BuildArgs {
    /// Arguments of the build. One whose value is this environment's may have none.
    fn arguments(&self) -> Result<BTreeMap<String, Option<String>>> {
        let argument = |text: &String| match text.split_once('=') {
            Some(("", _)) => Err(Error::Usage(format!("--build-arg {text:?} has no name: give NAME=VALUE"))),
            None if text.is_empty() => Err(Error::Usage("--build-arg \"\" has no name: give NAME=VALUE".to_owned())),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((text.clone(), std::env::var(text).ok())),
        };
        self.build_arg.iter().map(argument).collect()
    }

    /// Names of the image.
    fn names(&self) -> Result<Vec<Reference>> {
        let name = |text: &String| match Reference::parse(text) {
            Ok(name) if name.digest().is_none() => Ok(name.with_default_tag()),
            Ok(_) => Err(Error::Usage(format!("--tag {text:?} has a digest, which only follows from what is built"))),
            Err(error) => Err(Error::Usage(format!("--tag {text:?} is no image's name: {error}"))),
        };
        self.tag.iter().map(name).collect()
    }

    fn shown(&self, context: &Context) -> Show {
        match (context.format, self.progress) {
            (Format::Json, _) | (_, Progress::Json) => Show::Documents,
            _ if self.quiet => Show::Nothing,
            _ => Show::Text { colours: terminal::colours(&std::io::stdout()) },
        }
    }
}

/// `stratus build`
pub(super) async fn build(context: &Context, args: &BuildArgs) -> Result<ExitCode> {
    args.later.refused()?;
    if args.check {
        return check::checked(context, args).await;
    }
    // Who goes away gives the build up: the daemon sees the connection end.
    tokio::select! {
        made = make(context, args) => made,
        signal = asked_to_end() => Err(Error::Signal(signal?)),
    }
}

async fn make(context: &Context, args: &BuildArgs) -> Result<ExitCode> {
    let names = args.names()?;
    // What makes no sense is told before standard input is read.
    let mut ask = settings::ask(args, &names, Source::default())?;
    if let Some(path) = &args.iidfile {
        forget_id(path)?;
    }
    let (path, file) = (args.path.clone(), args.file.clone());
    let found = blocking(move || source::find(&path, file.as_deref())).await?;
    ask.source = found.source;
    let stream = context.daemon.upgrade(Request::post(api_build::PATH), api_build::PROTOCOL).await?;
    let begun = Client::begin(stream, &ask, found.offers).await;
    let mut client = begun.map_err(|error| Error::Broken(error.to_string()))?;
    let show = args.shown(context);
    let built = follow::follow(&mut client, show).await?;
    let id = built.id.to_string();
    if let Some(path) = &args.iidfile {
        std::fs::write(path, &id).map_err(Error::io(format!("writing the image's id {id} into {}", path.display())))?;
    }
    match show {
        Show::Documents => output::document_line(&document(&id, &names))?,
        Show::Nothing => output::line(&id)?,
        Show::Text { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// What came of it, for programs.
fn document(id: &str, names: &[Reference]) -> Value {
    json!({ "ID": id, "Names": names.iter().map(|name| name.familiar()).collect::<Vec<_>>() })
}

/// Takes the id of an earlier build away, which is none of this one where it fails.
fn forget_id(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        std::fs::remove_file(path).map_err(Error::io(format!("removing {} of an earlier build", path.display())))?;
    }
    Ok(())
}
