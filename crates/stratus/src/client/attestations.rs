//! `stratus image attestations`: what is said of an image, by what it was made and what is in it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use image::{Platform, Reference};
use serde::Deserialize;
use serde_json::Value;

use super::error::{Error, Result};
use super::output;
use super::request::{Request, segment};
use super::table::Table;
use super::{Context, credentials, human};

/// List what is said of an image: by what it was made (provenance), what is in it (a list of packages)
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct AttestationsArgs {
    #[command(subcommand)]
    command: Option<AttestationsCommand>,
    /// Ask the image's registry, whether the image is here or not
    #[arg(long)]
    registry: bool,
    /// Only of this kind: provenance, sbom, or a predicate's type
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    kind: Option<String>,
    /// Only print the predicates, one a line
    #[arg(long)]
    predicate: bool,
    /// Image, by name or id; with --registry NAME[:TAG|@DIGEST]. One that is called rm has a tag, too: rm:latest
    #[arg(required = true)]
    image: Option<String>,
}

/// What is done to it.
#[derive(Subcommand, Debug)]
enum AttestationsCommand {
    /// Take off an image here what is said of it, so that no later push says it; what a registry has stays there
    #[command(alias = "remove")]
    Rm(RemoveArgs),
}

#[derive(Args, Debug)]
struct RemoveArgs {
    /// Only of this kind: provenance, sbom, or a predicate's type
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    kind: Option<String>,
    /// Image, by name or id
    image: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attestation {
    #[serde(default)]
    predicate_type: String,
    #[serde(default)]
    digest: String,
    size: Option<u64>,
    subject: Option<String>,
    platform: Option<Platform>,
    problem: Option<String>,
}

/// Whether a predicate is of the kind that somebody means.
fn is_of(predicate_type: &str, kind: &str) -> bool {
    match kind {
        "provenance" => predicate_type.starts_with("https://slsa.dev/provenance/"),
        "sbom" | "spdx" => predicate_type.starts_with("https://spdx.dev/Document"),
        whole => predicate_type == whole,
    }
}

/// The kinds that have a short name, and addresses, which all others are known by.
fn kind(text: &str) -> std::result::Result<String, String> {
    match text {
        "provenance" | "sbom" | "spdx" => Ok(text.to_owned()),
        address if address.contains(':') => Ok(address.to_owned()),
        _ => Err("there are provenance, sbom, and the addresses of others".to_owned()),
    }
}

/// `stratus image attestations`
pub(super) async fn attestations(context: &Context, args: AttestationsArgs) -> Result<ExitCode> {
    if let Some(AttestationsCommand::Rm(args)) = &args.command {
        return remove(context, args).await;
    }
    let image = args.image.as_deref().unwrap_or_default();
    let mut request = Request::get(path(image));
    if args.registry {
        let reference = Reference::parse(image)
            .map_err(|error| Error::Usage(format!("{image:?} is no name of an image: {error}")))?;
        request = request.query("registry", "1");
        if let Some(header) = credentials::of(reference.domain())? {
            request = request.header("x-registry-auth", header);
        }
    }
    let mut document = context.daemon.document(request).await?;
    if let (Some(kind), Value::Array(all)) = (&args.kind, &mut document) {
        all.retain(|one| is_of(one["predicateType"].as_str().unwrap_or_default(), kind));
    }
    if args.predicate {
        for one in document.as_array().into_iter().flatten().filter(|one| one.get("predicate").is_some()) {
            output::line(one["predicate"].to_string())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    context.show(&document, |document| {
        let all = Vec::<Attestation>::deserialize(document)?;
        match args.registry {
            true => Ok(of_registry(&all)),
            false => Ok(kept(&all)),
        }
    })
}

fn path(image: &str) -> String {
    format!("/stratus/images/{}/attestations", segment(image))
}

/// `stratus image attestations rm`
async fn remove(context: &Context, args: &RemoveArgs) -> Result<ExitCode> {
    let mut gone = Vec::new();
    match &args.kind {
        None => gone.push(context.daemon.document(Request::delete(path(&args.image))).await?),
        // A short name stands for each version of a kind.
        Some(kind) => {
            let there = context.daemon.document(Request::get(path(&args.image))).await?;
            let there = Vec::<Attestation>::deserialize(&there)?;
            for one in there.iter().filter(|one| is_of(&one.predicate_type, kind)) {
                let request = Request::delete(path(&args.image)).query("type", &one.predicate_type);
                gone.push(context.daemon.document(request).await?);
            }
        }
    }
    let gone: Vec<Value> = gone.into_iter().filter_map(|gone| gone.as_array().cloned()).flatten().collect();
    context.show(&Value::Array(gone), |gone| Ok(kept(&Vec::<Attestation>::deserialize(gone)?)))
}

fn kept(all: &[Attestation]) -> Table {
    let mut table = Table::new(["PREDICATE", "DIGEST", "SIZE"]);
    for one in all {
        let size = one.size.map(human::decimal).unwrap_or_default();
        table.row([one.predicate_type.as_str().into(), human::short(&one.digest).into(), size.into()]);
    }
    table
}

fn of_registry(all: &[Attestation]) -> Table {
    let mut table = Table::new(["PREDICATE", "MANIFEST", "OF", "PLATFORM"]);
    for one in all {
        if let Some(more) = one.problem.as_ref().filter(|_| one.digest.is_empty()) {
            output::warning(&format!("{}: {more}", one.subject.as_deref().unwrap_or("the image")));
            continue;
        }
        if let Some(problem) = &one.problem {
            output::warning(&format!("{} says nothing of the image: {problem}", one.digest));
            continue;
        }
        let subject = one.subject.as_deref().map(human::short).unwrap_or_default();
        let platform = one.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let digest = human::short(&one.digest);
        table.row([one.predicate_type.as_str().into(), digest.into(), subject.into(), platform.into()]);
    }
    table
}
