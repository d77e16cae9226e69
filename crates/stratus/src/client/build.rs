//! `stratus build`: a directory and its Dockerfile go to the daemon, which makes an image of them.

mod attest;
mod caches;
mod check;
mod follow;
mod habits;
mod keys;
mod lend;
mod metadata;
mod outputs;
mod print;
mod recipe;
mod settings;
mod show;
mod source;
mod wanted;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use api_build::{Client, Source};
use clap::{ArgAction, Args, Parser};
use image::{Platform, Reference};
use tokio_util::task::TaskTracker;

use super::Context;
use super::attach::asked_to_end;
use super::error::{Error, Result};
use super::output::{self, Format};
use super::request::Request;
use super::transfer::blocking;
use follow::End;
pub(crate) use recipe::Recipe;
use show::How;
use wanted::Wanted;

/// How long it may take to take away what is there of an export that came to nothing.
const TAKEN_AWAY: Duration = Duration::from_secs(10);

/// Build an image from a Dockerfile
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    recipe: Recipe,
    /// Say what is wrong with the Dockerfile and what is likely not meant, and build nothing
    #[arg(long)]
    check: bool,
    /// Name of the image, NAME[:TAG]; repeats
    #[arg(long, short, value_name = "NAME")]
    tag: Vec<String>,
    /// What is built for, as linux/arm64; repeats, or several with commas [default: the daemon's machine]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',', value_parser = platform)]
    platform: Vec<Platform>,
    /// Only print the image's id
    #[arg(long, short)]
    quiet: bool,
    /// Say what there is to do for each step and what is in the cache, and build nothing: for people, or as json or dot
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "check", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    print: Option<print::Form>,
    /// Where the image goes: a directory or - for its files, or type=local|tar|oci|docker|image|registry with dest=PATH, name=NAME,
    /// push=true; json prints documents instead; repeats [default: the daemon's images]
    #[arg(long, short, value_name = "OUTPUT", alias = "format")]
    output: Vec<String>,
    /// Push the image once it is built: --output type=registry
    #[arg(long, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_value = "false",
          default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    push: bool,
    /// Keep the image among the daemon's, which is so without this: --output type=docker
    #[arg(long, num_args = 0..=1, require_equals = true, action = ArgAction::Set, default_value = "false",
          default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL")]
    load: bool,
    /// Make one layer of all that the build adds to its base
    #[arg(long)]
    squash: bool,
    /// File to write the image's id into
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// File to write into what was made, as JSON: digests, names, platforms
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    #[command(flatten)]
    attests: attest::Attests,
    #[command(flatten)]
    running: settings::Running,
    #[command(flatten)]
    _habits: habits::Habits,
    /// Who builds says itself what came of it.
    #[arg(skip)]
    is_part: bool,
}

/// What something may be built for.
fn platform(text: &str) -> std::result::Result<Platform, String> {
    text.parse::<Platform>().map_err(|error| error.to_string())?.known()
}

impl BuildArgs {
    /// Names of the image.
    fn names(&self) -> Result<Vec<Reference>> {
        let name = |text: &String| match Reference::parse(text) {
            Ok(name) if name.digest().is_none() => Ok(name.with_default_tag()),
            Ok(_) => Err(Error::Usage(format!("--tag {text:?} has a digest, which only follows from what is built"))),
            Err(error) => Err(Error::Usage(format!("--tag {text:?} is no image's name: {error}"))),
        };
        let mut names: Vec<Reference> = self.tag.iter().map(name).collect::<Result<_>>()?;
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Ok(names)
    }

    /// What it is built for, each once.
    fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in &self.platform {
            if !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        platforms
    }

    /// Where it goes, but for what says for whom to print.
    fn outputs(&self) -> Vec<String> {
        let is_format = |text: &&String| matches!(text.as_str(), "json" | "table");
        let named = self.output.iter().filter(|text| !is_format(text)).cloned();
        let pushed = self.push.then(|| "type=registry".to_owned());
        named.chain(pushed).chain(self.load.then(|| "type=docker".to_owned())).collect()
    }

    fn how(&self, context: &Context) -> Result<How> {
        let documents = context.format == Format::Json || self.output.iter().any(|text| text == "json");
        match self.recipe.progress {
            _ if documents => Ok(How::Json),
            _ if self.quiet => Ok(How::Quiet),
            progress => progress.resolved(),
        }
    }

    /// What is built, in few words.
    fn what(&self, names: &[Reference]) -> String {
        match names {
            [] => self.recipe.path.display().to_string(),
            names => names.iter().map(|name| name.familiar()).collect::<Vec<_>>().join(", "),
        }
    }
}

/// Builds what a recipe says, for somebody who goes on with the image, and gives its identifier. `names` are the image's, `network` is that of the build's commands.
pub(super) async fn part(
    context: &Context,
    recipe: Recipe,
    names: &[String],
    network: Option<String>,
) -> Result<String> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BuildArgs,
    }
    let failed = || "keep the image's id".to_owned();
    let place = tempfile::tempdir().map_err(Error::io(failed()))?;
    let file = place.path().join("id");
    // All that is not said here is as where nobody says anything.
    let line = Line::try_parse_from(["build", "."]).map_err(|error| Error::Usage(error.to_string()))?;
    let mut args = BuildArgs { recipe, tag: names.to_vec(), iidfile: Some(file.clone()), is_part: true, ..line.args };
    args.running.on(network);
    build(context, &args).await?;
    std::fs::read_to_string(&file).map(|id| id.trim().to_owned()).map_err(Error::io(failed()))
}

/// `stratus build`
pub(super) async fn build(context: &Context, args: &BuildArgs) -> Result<ExitCode> {
    if args.check {
        return check::checked(context, args).await;
    }
    let keeping = TaskTracker::new();
    // Who goes away gives the build up: the daemon sees the connection end.
    let made = tokio::select! {
        made = make(context, args, &keeping) => made,
        signal = asked_to_end() => Err(Error::Signal(signal?)),
    };
    // With the connection whatever comes through it has ended, and who keeps that takes away what is not complete.
    keeping.close();
    let _ = tokio::time::timeout(TAKEN_AWAY, keeping.wait()).await;
    if let Err(Error::Signal(_)) = made {
        eprintln!("\nThe build was given up. What was whole of it is found again by the next one.");
    }
    made
}

async fn make(context: &Context, args: &BuildArgs, keeping: &TaskTracker) -> Result<ExitCode> {
    let names = args.names()?;
    // What makes no sense is told before standard input is read.
    let mut ask = settings::ask(args, &names, Source::default())?;
    let mut exports = outputs::exports(&args.outputs())?;
    outputs::tagged(&mut exports, &names);
    let layouts = args.recipe.caches.add_to(&mut ask)?;
    let how = args.how(context)?;
    let takes_stdout = exports.iter().any(outputs::Export::is_stdout);
    if takes_stdout && how == How::Json {
        return Err(Error::Usage("documents and an archive can't both go to standard output: name a file".to_owned()));
    }
    wanted::apart(args.iidfile.as_deref(), args.metadata_file.as_deref())?;
    let id_file = args.iidfile.as_deref().map(|path| Wanted::new("--iidfile", path)).transpose()?;
    let metadata_file = args.metadata_file.as_deref().map(|path| Wanted::new("--metadata-file", path)).transpose()?;
    let (path, file) = (args.recipe.path.clone(), args.recipe.file.clone());
    let mut found = blocking(move || source::find(&path, file.as_deref())).await?;
    ask.source = found.source;
    ask.outputs = exports.iter().map(|export| export.asked.clone()).collect();
    attest::unheard(&ask.attest, &ask.outputs);
    found.offers.exports = exports.into_iter().filter_map(|export| export.keep(keeping)).collect();
    let mut offers = found.offers;
    offers.layouts.extend(layouts);
    offers.keeping = Some(keeping.token());
    let _agents = args.recipe.lend.add_to(&mut ask, &mut offers).await?;
    let stream = context.daemon.upgrade(Request::post(api_build::PATH), api_build::PROTOCOL).await?;
    let begun = Client::begin(stream, &ask, offers).await;
    let mut client = begun.map_err(|error| Error::Broken(error.to_string()))?;
    let built = match follow::follow(&mut client, how, args.what(&names)).await? {
        End::Looked(graph) => {
            let documents = if how == How::Json { print::Form::Json } else { print::Form::Text };
            print::print(&graph, args.print.filter(|form| *form != print::Form::Text).unwrap_or(documents))?;
            return Ok(ExitCode::SUCCESS);
        }
        End::Built(built) => built,
    };
    if let Some(file) = id_file {
        file.write(metadata::digest(&built)).await?;
    }
    if let Some(file) = metadata_file {
        file.write(format!("{:#}\n", metadata::document(&built, &names))).await?;
    }
    if how == How::Quiet && !takes_stdout && !args.is_part {
        output::line(metadata::digest(&built))?;
    }
    Ok(ExitCode::SUCCESS)
}
