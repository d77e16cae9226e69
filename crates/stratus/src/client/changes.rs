//! `stratus diff`, `stratus commit`: what a container did to its image's files, and an image of that.

use std::process::ExitCode;

use clap::Args;
use image::Reference;
use serde::Deserialize;
use serde_json::Value;

use super::error::{Error, Result};
use super::output::{self, Format};
use super::request::Request;
use super::{Context, containers};

/// Show which files a container added, changed and removed
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// Container, by name or id
    container: String,
}

/// Make an image of a container's files
#[derive(Args, Debug)]
pub(crate) struct CommitArgs {
    /// Who made it, such as "Ada <ada@example.org>"
    #[arg(long, short, value_name = "TEXT")]
    author: Option<String>,
    /// Change of the image's settings, as in 'CMD ["sh"]'; repeats
    #[arg(long, short, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What is said about it in its history
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// Freeze the container meanwhile, so that its files are of one moment
    #[arg(long, short, value_name = "YES", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pause: bool,
    /// Container, by name or id
    container: String,
    /// Name of the image, NAME[:TAG]
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    kind: u8,
    path: String,
}

/// `stratus diff`
pub(super) async fn diff(context: &Context, args: DiffArgs) -> Result<ExitCode> {
    let document = context.daemon.document(Request::get(containers::path(&args.container, "changes"))).await?;
    // Nothing is `null` in the API.
    let document = if document.is_null() { Value::Array(Vec::new()) } else { document };
    if context.format == Format::Json {
        output::document(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in Vec::<Change>::deserialize(&document)? {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            2 => 'D',
            _ => '?',
        };
        output::line(format!("{letter} {}", change.path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `stratus commit`
pub(super) async fn commit(context: &Context, args: CommitArgs) -> Result<ExitCode> {
    let name = args.name.as_deref().map(|name| {
        let parsed = Reference::parse(name);
        parsed.map_err(|error| Error::Usage(format!("{name:?} is no image's name: {error}")))
    });
    let name = name.transpose()?;
    let mut request = Request::post("/commit")
        .query("container", &args.container)
        .maybe("repo", name.as_ref().map(Reference::familiar_name))
        .maybe("tag", name.as_ref().and_then(Reference::tag))
        .maybe("author", args.author.as_ref())
        .maybe("comment", args.message.as_ref());
    if !args.pause {
        request = request.query("pause", "0");
    }
    for change in &args.change {
        request = request.query("changes", change);
    }
    let document = context.daemon.document(request).await?;
    match context.format {
        Format::Json => output::document(&document)?,
        Format::Table => output::line(document["Id"].as_str().unwrap_or_default())?,
    }
    Ok(ExitCode::SUCCESS)
}
