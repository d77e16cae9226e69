//! `stratus search`

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::error::Result;
use super::request::{Filter, Request};
use super::table::{Cell, Table};
use super::terminal::Style;
use super::{Context, credentials, human};

/// Columns of a description that is cut.
const DESCRIPTION: usize = 45;

/// Search a registry for images
#[derive(Args, Debug)]
pub(crate) struct SearchArgs {
    /// Only those that fit: is-official=…, stars=…; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// Most results
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,
    /// Don't cut descriptions
    #[arg(long)]
    no_trunc: bool,
    /// What to look for; HOST/TERM in another registry than Docker Hub
    term: String,
}

#[derive(Deserialize)]
struct Found {
    name: String,
    description: String,
    star_count: i64,
    is_official: bool,
}

/// `stratus search`
pub(super) async fn search(context: &Context, args: SearchArgs) -> Result<ExitCode> {
    let registry = args
        .term
        .split_once('/')
        .map(|(host, _)| host)
        .filter(|host| host.contains(['.', ':']) || *host == "localhost");
    let request = Request::get("/images/search")
        .query("term", &args.term)
        .maybe("limit", args.limit.map(|limit| limit.to_string()))
        .filters(&args.filter);
    let request = match credentials::of(registry.unwrap_or("docker.io"))? {
        Some(header) => request.header("x-registry-auth", header),
        None => request,
    };
    let document = context.daemon.document(request).await?;
    context.show(&document, |document| {
        let mut table = Table::new(["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]);
        for found in Vec::<Found>::deserialize(document)? {
            let description = found.description.replace(['\n', '\r'], " ");
            let description = if args.no_trunc { description } else { human::cut(&description, DESCRIPTION) };
            let official = if found.is_official { Cell::styled("yes", Style::Good) } else { "".into() };
            table.row([found.name.into(), description.into(), found.star_count.to_string().into(), official]);
        }
        Ok(table)
    })
}
