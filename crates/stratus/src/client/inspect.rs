//! `stratus inspect`

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::connect::Daemon;
use super::error::{Error, Result};
use super::request::{Request, segment};
use super::{Context, output};

/// Show everything about containers, images, networks and volumes
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// What the names are of [default: whatever has such a name]
    #[arg(long = "type", value_enum, value_name = "KIND")]
    kind: Option<Kind>,
    /// Also what containers take on the disk
    #[arg(long, short)]
    size: bool,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// Names of one kind
#[derive(Args, Debug)]
pub(crate) struct NamesArgs {
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

/// What can be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    // A container
    Container,
    // An image
    Image,
    // A network
    Network,
    // A volume
    Volume,
}

impl Kind {
    fn request(self, name: &str, size: bool) -> Request {
        let name = segment(name);
        match self {
            Kind::Container => Request::get(format!("/containers/{name}/json")).flag("size", size),
            Kind::Image => Request::get(format!("/images/{name}/json")),
            Kind::Network => Request::get(format!("/networks/{name}")),
            Kind::Volume => Request::get(format!("/volumes/{name}")),
        }
    }
}

/// `stratus inspect`
pub(super) async fn inspect(context: &Context, args: InspectArgs) -> Result<ExitCode> {
    let kinds = match args.kind {
        Some(kind) => vec![kind],
        None => Kind::value_variants().to_vec(),
    };
    documents(&context.daemon, &args.names, &kinds, args.size).await
}

/// `stratus image inspect` and its like
pub(super) async fn of_kind(context: &Context, args: NamesArgs, kind: Kind) -> Result<ExitCode> {
    documents(&context.daemon, &args.names, &[kind], false).await
}

/// Prints the documents of all that are there; the others are told.
async fn documents(daemon: &Daemon, names: &[String], kinds: &[Kind], size: bool) -> Result<ExitCode> {
    let (mut found, mut outcome) = (Vec::new(), ExitCode::SUCCESS);
    for name in names {
        match first(daemon, name, kinds, size).await {
            Ok(document) => found.push(document),
            Err(error) => {
                output::error(&error);
                outcome = error.exit_code();
            }
        }
    }
    output::document(&found)?;
    Ok(outcome)
}

/// The first kind's that has such a name.
async fn first(daemon: &Daemon, name: &str, kinds: &[Kind], size: bool) -> Result<Value> {
    for kind in kinds {
        match daemon.document(kind.request(name, size)).await {
            Err(error) if error.is_not_found() && kinds.len() > 1 => {}
            outcome => return outcome,
        }
    }
    Err(Error::Failed(format!("no container, image, network or volume is called {name}")))
}
