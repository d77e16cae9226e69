//! `stratus images`, `stratus pull`, `stratus push`, `stratus image …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use image::Reference;
use serde::Deserialize;
use serde_json::Value;

use super::connect::Daemon;
use super::error::{Error, Result};
use super::inspect::{self, Kind};
use super::output::{self, Format};
use super::progress::{self, Said, Show};
use super::request::{Filter, Request, segment};
use super::table::Table;
use super::{Context, archives, attestations, bootstrap, credentials, human, prune};

/// Images.
#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Build an image from a Dockerfile
    Build(Box<super::build::BuildArgs>),
    /// List what is said of an image: by what it was made (provenance), what is in it (a list of packages)
    Attestations(attestations::AttestationsArgs),
    /// Make a base image, from a distribution's packages
    Bootstrap(bootstrap::BootstrapArgs),
    /// Show what an image was made by
    History(HistoryArgs),
    /// Make an image of a root file system's archive
    Import(archives::ImportArgs),
    /// Show everything about images
    Inspect(inspect::NamesArgs),
    /// Take images out of an archive
    Load(archives::LoadArgs),
    /// List images
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove images that nothing needs
    Prune(prune::PruneImagesArgs),
    /// List the packages of an image's distribution; with --output json as a document of SPDX
    Packages(PackagesArgs),
    /// Bring an image from a registry
    Pull(PullArgs),
    /// Bring an image to a registry
    Push(PushArgs),
    /// Remove images
    #[command(alias = "remove")]
    Rm(RmArgs),
    /// Write images into an archive
    Save(archives::SaveArgs),
    /// Give an image another name
    Tag(TagArgs),
}

/// List images
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Also the steps between
    #[arg(long, short)]
    all: bool,
    /// With digests
    #[arg(long)]
    digests: bool,
    /// Only those that fit: reference=…, label=…, dangling=…, before=…, since=…; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// Don't cut ids
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(long, short)]
    quiet: bool,
    /// Only those of such a name, which may have wildcards
    name: Option<String>,
}

/// Bring an image from a registry
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// All images of that name
    #[arg(long, short)]
    all_tags: bool,
    /// Platform of the image, where it has several, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Show no steps
    #[arg(long, short)]
    quiet: bool,
    /// Image, NAME[:TAG|@DIGEST]
    image: String,
}

/// Bring an image to a registry
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// All images of that name
    #[arg(long, short)]
    all_tags: bool,
    /// Only for this platform, where it has several, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Show no steps
    #[arg(long, short)]
    quiet: bool,
    /// Image, NAME[:TAG]
    image: String,
}

/// Remove images
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Also what stopped containers use
    #[arg(long, short)]
    force: bool,
    /// Leave those that it was made of
    #[arg(long)]
    no_prune: bool,
    /// Only where it is for this platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Images, by name or id
    #[arg(required = true)]
    images: Vec<String>,
}

/// Give an image another name
#[derive(Args, Debug)]
pub(crate) struct TagArgs {
    /// Image, by name or id
    image: String,
    /// Its further name, NAME[:TAG]
    name: String,
}

/// Show what an image was made by
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Sizes and times for people; without it, bytes and dates
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    human: bool,
    /// Don't cut long fields
    #[arg(long)]
    no_trunc: bool,
    /// Platform of the image, where it has several, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<String>,
    /// Only ids
    #[arg(long, short)]
    quiet: bool,
    /// Image, by name or id
    image: String,
}

/// List the packages of an image's distribution; with --output json as a document of SPDX
#[derive(Args, Debug)]
pub(crate) struct PackagesArgs {
    /// Image, by name or id
    image: String,
}

/// A platform as the API has it, in a document.
pub(super) fn platform(text: &str) -> Result<String, String> {
    let platform: image::Platform = text.parse().map_err(|error: image::PlatformError| error.to_string())?;
    serde_json::to_string(&platform).map_err(|error| error.to_string())
}

/// `stratus image …`
pub(super) async fn dispatch(context: &Context, command: ImageCommand) -> Result<ExitCode> {
    match command {
        ImageCommand::Attestations(args) => attestations::attestations(context, args).await,
        ImageCommand::Build(args) => super::build::build(context, &args).await,
        ImageCommand::Bootstrap(args) => bootstrap::bootstrap(context, args).await,
        ImageCommand::History(args) => history(context, args).await,
        ImageCommand::Import(args) => archives::import(context, args).await,
        ImageCommand::Inspect(args) => inspect::of_kind(context, args, Kind::Image).await,
        ImageCommand::Load(args) => archives::load(context, args).await,
        ImageCommand::Ls(args) => list(context, args).await,
        ImageCommand::Prune(args) => prune::images(context, args).await,
        ImageCommand::Packages(args) => packages(context, args).await,
        ImageCommand::Pull(args) => pull(context, args).await,
        ImageCommand::Push(args) => push(context, args).await,
        ImageCommand::Rm(args) => remove(context, args).await,
        ImageCommand::Save(args) => archives::save(context, args).await,
        ImageCommand::Tag(args) => tag(context, args).await,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    created: i64,
    size: u64,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
}

/// `stratus images`
pub(super) async fn list(context: &Context, args: ListArgs) -> Result<ExitCode> {
    let mut filters = args.filter.clone();
    if let Some(name) = &args.name {
        filters.push(format!("reference={name}").parse().map_err(Error::Usage)?);
    }
    let request = Request::get("/images/json").flag("all", args.all).filters(&filters);
    let document =
        context.daemon.document(request).await.map_err(|error| error.with_filters(&engine::IMAGE_FILTERS))?;
    if args.quiet {
        let listed = Vec::<Listed>::deserialize(&document)?.into_iter();
        let id = |one: Listed| if args.no_trunc { one.id } else { human::short(&one.id).to_owned() };
        return context.names(&listed.map(id).collect::<Vec<_>>());
    }
    context.show(&document, |document| table(document, &args))
}

/// One row for each name of each image.
fn table(document: &Value, args: &ListArgs) -> Result<Table> {
    let titles = ["NAME", "TAG", "ID", "CREATED", "SIZE"];
    let mut table = Table::new(titles.into_iter().chain(args.digests.then_some("DIGEST")));
    for image in Vec::<Listed>::deserialize(document)? {
        let digests = image.repo_digests.unwrap_or_default();
        let mut names: Vec<(String, String)> =
            image.repo_tags.unwrap_or_default().iter().filter_map(|name| name.rsplit_once(':')).map(owned).collect();
        if names.is_empty() {
            let name = digests.first().and_then(|name| name.split_once('@')).map_or("<none>", |(name, _)| name);
            names.push((name.into(), "<none>".into()));
        }
        for (name, tag) in names {
            let digest = || {
                let of_name = digests.iter().filter_map(|one| one.split_once('@')).find(|(other, _)| *other == name);
                of_name.map_or("<none>", |(_, digest)| digest).to_owned()
            };
            let id = if args.no_trunc { &image.id } else { human::short(&image.id) };
            let size = human::decimal(image.size);
            let digest = args.digests.then(|| digest().into());
            let cells = [name.clone().into(), tag.into(), id.into(), human::ago(image.created).into(), size.into()];
            table.row(cells.into_iter().chain(digest));
        }
    }
    Ok(table)
}

fn owned((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// A name as a pull or a push takes it apart.
fn parse(name: &str) -> Result<Reference> {
    Reference::parse(name).map_err(|error| Error::Usage(format!("{name:?} is no image's name: {error}")))
}

impl Context {
    /// How a progress stream is shown.
    pub(super) fn shown(&self, quiet: bool) -> Show {
        match self.format {
            Format::Json => Show::Documents,
            Format::Table if quiet => Show::Nothing,
            Format::Table => Show::Steps,
        }
    }

    /// Prints what a progress stream said, for people.
    pub(super) fn print_said(&self, said: &[String]) -> Result<ExitCode> {
        if self.format == Format::Table {
            said.iter().try_for_each(output::line)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `stratus pull`
pub(super) async fn pull(context: &Context, args: PullArgs) -> Result<ExitCode> {
    let reference = parse(&args.image)?;
    if args.all_tags && !reference.is_name_only() {
        return Err(Error::Usage("--all-tags takes a name without a tag".into()));
    }
    let show = context.shown(args.quiet);
    let platform = args.platform.as_deref();
    let said = match args.all_tags {
        true => pull_named(&context.daemon, &reference, None, platform, show).await,
        false => pull_one(&context.daemon, &args.image, platform, show).await,
    };
    let said = said.map_err(|error| explain_pull(error, &args.image))?;
    if !args.quiet {
        context.print_said(&said)?;
    }
    // With the registry, which a short name does not say.
    if context.format == Format::Table {
        output::line(if args.all_tags { reference.name() } else { reference.with_default_tag().canonical() })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Pulls one image.
pub(super) async fn pull_one(daemon: &Daemon, name: &str, platform: Option<&str>, show: Show) -> Result<Said> {
    let reference = parse(name)?.with_default_tag();
    let version = reference.digest().or(reference.tag()).map(str::to_owned);
    pull_named(daemon, &reference, version, platform, show).await
}

async fn pull_named(
    daemon: &Daemon,
    reference: &Reference,
    version: Option<String>,
    platform: Option<&str>,
    show: Show,
) -> Result<Said> {
    let request = Request::post("/images/create")
        .query("fromImage", reference.familiar_name())
        .maybe("tag", version)
        .maybe("platform", platform);
    let request = authorized(request, reference)?;
    progress::follow(daemon.documents(request).await?, show).await
}

/// Adds what the user's configuration knows of the registry.
fn authorized(request: Request, reference: &Reference) -> Result<Request> {
    Ok(match credentials::of(reference.domain())? {
        Some(header) => request.header("x-registry-auth", header),
        None => request,
    })
}

/// What is said of a registry that wants to know who asks, and was not told.
const NO_CREDENTIALS: &str = "no basic auth credentials";

fn log_in(text: &str, domain: &str) -> Error {
    Error::Failed(format!("{text}\nThe registry wants to know who asks. Log in with: stratus login {domain}"))
}

/// What to do where an image can't be pulled.
pub(super) fn explain_pull(error: Error, name: &str) -> Error {
    let text = error.to_string();
    let domain = || Reference::parse(name).map(|reference| reference.domain().to_owned()).unwrap_or_default();
    match error {
        Error::Failed(_) | Error::Refused { .. } if text.contains(NO_CREDENTIALS) => log_in(&text, &domain()),
        Error::Failed(_) | Error::Refused { .. } if is_unreachable(&text) => {
            // What a registry of one's own has is nowhere else.
            let domain = domain();
            if domain != "docker.io" {
                return Error::Failed(format!("{text}\nThe registry {domain} can't be reached."));
            }
            Error::Failed(format!(
                "{text}\nThe registry of {name} can't be reached. Without one, make a base image with \"stratus image bootstrap \
                 debian:bookworm\" (or busybox), or load one with \"stratus load -i FILE\"."
            ))
        }
        error => error,
    }
}

/// `stratus push`
pub(super) async fn push(context: &Context, args: PushArgs) -> Result<ExitCode> {
    let reference = parse(&args.image)?;
    if args.all_tags && !reference.is_name_only() {
        return Err(Error::Usage("--all-tags takes a name without a tag".into()));
    }
    let reference = if args.all_tags { reference } else { reference.with_default_tag() };
    let tag = reference.tag().map(str::to_owned);
    let request = Request::post(format!("/images/{}/push", segment(&reference.familiar_name())))
        .maybe("tag", tag)
        .maybe("platform", args.platform);
    // The API wants the header even where nothing is known.
    let request = match credentials::of(reference.domain())? {
        Some(header) => request.header("x-registry-auth", header),
        None => request.header("x-registry-auth", credentials::none()),
    };
    let said = progress::follow(context.daemon.documents(request).await?, context.shown(args.quiet)).await;
    context.print_said(&said.map_err(|error| explain_push(error, &reference))?)
}

/// What to do where an image can't be pushed: without a registry in its name, it goes to Docker Hub.
fn explain_push(error: Error, reference: &Reference) -> Error {
    let name = reference.familiar_name();
    match error {
        Error::Failed(text) if is_unreachable(&text) && reference.domain() == "docker.io" => Error::Failed(format!(
            "{text}\nDocker Hub can't be reached. For a registry of one's own, name it: stratus tag {name} HOST:PORT/{name}, then \
             stratus push HOST:PORT/{name}"
        )),
        Error::Failed(text) if is_unreachable(&text) => {
            Error::Failed(format!("{text}\nThe registry {} can't be reached.", reference.domain()))
        }
        Error::Failed(text) if text.contains(NO_CREDENTIALS) => log_in(&text, reference.domain()),
        error => error,
    }
}

/// Whether that is said of a registry that does not answer.
fn is_unreachable(text: &str) -> bool {
    let words = ["dial tcp", "lookup", "no such host", "connection refused", "can't be reached", "timed out"];
    let text = text.to_lowercase();
    words.iter().any(|words| text.contains(words))
}

/// `stratus image rm`
pub(super) async fn remove(context: &Context, args: RmArgs) -> Result<ExitCode> {
    let (mut all, mut outcome) = (Vec::new(), ExitCode::SUCCESS);
    for name in &args.images {
        let request = Request::delete(format!("/images/{}", segment(name)))
            .flag("force", args.force)
            .flag("noprune", args.no_prune)
            .maybe("platforms", args.platform.as_ref());
        match context.daemon.document(request).await {
            Ok(Value::Array(removed)) => all.extend(removed),
            Ok(_) => {}
            Err(error) => {
                output::error(&error);
                outcome = error.exit_code();
            }
        }
    }
    print_removed(context, &all)?;
    Ok(outcome)
}

/// Prints what was removed of images.
pub(super) fn print_removed(context: &Context, removed: &[Value]) -> Result<()> {
    if context.format == Format::Json {
        return output::document(&removed);
    }
    for one in removed {
        if let Some(name) = one["Untagged"].as_str() {
            output::line(format!("Untagged: {name}"))?;
        }
        if let Some(id) = one["Deleted"].as_str() {
            output::line(format!("Deleted: {id}"))?;
        }
    }
    Ok(())
}

/// `stratus image tag`
pub(super) async fn tag(context: &Context, args: TagArgs) -> Result<ExitCode> {
    let reference = parse(&args.name)?.with_default_tag();
    let request = Request::post(format!("/images/{}/tag", segment(&args.image)))
        .query("repo", reference.familiar_name())
        .maybe("tag", reference.tag());
    context.daemon.done(request).await?;
    Ok(ExitCode::SUCCESS)
}

/// `stratus image packages`: the table is for people, the document for programs.
async fn packages(context: &Context, args: PackagesArgs) -> Result<ExitCode> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        packages: Vec<Package>,
        creation_info: Creation,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Package {
        name: String,
        #[serde(default)]
        version_info: String,
        #[serde(default)]
        source_info: String,
        primary_package_purpose: Option<String>,
    }
    #[derive(Deserialize)]
    struct Creation {
        comment: Option<String>,
    }
    let request = Request::get(format!("/stratus/images/{}/packages", segment(&args.image)));
    let document = context.daemon.document(request).await?;
    context.show(&document, |document| {
        let read = Document::deserialize(document)?;
        let mut table = Table::new(["PACKAGE", "VERSION", "SOURCE"]);
        // The image itself is one of them.
        for package in read.packages.iter().filter(|package| package.primary_package_purpose.is_none()) {
            let source = package.source_info.strip_prefix("built from ").unwrap_or_default();
            table.row([package.name.as_str().into(), package.version_info.as_str().into(), source.into()]);
        }
        if let Some(comment) = &read.creation_info.comment {
            output::warning(comment);
        }
        Ok(table)
    })
}

/// `stratus image history`
pub(super) async fn history(context: &Context, args: HistoryArgs) -> Result<ExitCode> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Step {
        id: String,
        created: i64,
        created_by: String,
        size: u64,
        #[serde(default)]
        comment: String,
    }
    let request = Request::get(format!("/images/{}/history", segment(&args.image))).maybe("platform", args.platform);
    let document = context.daemon.document(request).await?;
    if args.quiet && context.format == Format::Table {
        for step in Vec::<Step>::deserialize(&document)? {
            output::line(if args.no_trunc { &step.id } else { human::short(&step.id) })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    context.show(&document, |document| {
        let mut table = Table::new(["ID", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
        for step in Vec::<Step>::deserialize(document)? {
            let by = if args.no_trunc { step.created_by } else { human::cut(&step.created_by, 45) };
            let id = if args.no_trunc { &step.id } else { human::short(&step.id) };
            let (size, created) = match args.human {
                true => (human::decimal(step.size), human::ago(step.created)),
                false => (step.size.to_string(), human::moment(step.created)),
            };
            table.row([id.into(), created.into(), by.into(), size.into(), step.comment.into()]);
        }
        Ok(table)
    })
}
