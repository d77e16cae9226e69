//! `stratus microvm run`, `ls`, `suspend`, `resume`, `terminate`

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::client::containers::NamesArgs;
use crate::client::error::{Error, Result};
use crate::client::request::{Request, segment};
use crate::client::table::Table;
use crate::client::{Context, human, output};

/// Run a microVM of an image: its program goes on where it was saved
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Name of the microVM
    #[arg(long)]
    name: Option<String>,
    /// What its program is told by the hook run, as who it is for; - for standard input
    #[arg(long, value_name = "TEXT")]
    payload: Option<String>,
    /// Print its identifier instead of its name
    #[arg(long, short)]
    quiet: bool,
    /// Image of a microVM, NAME or NAME:VERSION
    image: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Microvm {
    id: String,
    name: String,
    image: String,
    state: String,
    created: String,
}

const PATH: &str = "/stratus/microvms";

fn path(name: &str) -> String {
    format!("{PATH}/{}", segment(name))
}

/// `stratus microvm run`
pub(super) async fn run(context: &Context, args: RunArgs) -> Result<ExitCode> {
    let payload = match args.payload.as_deref() {
        Some("-") => {
            let read = std::io::read_to_string(std::io::stdin());
            Some(read.map_err(Error::io("read the payload from standard input"))?)
        }
        _ => args.payload,
    };
    let request = Request::post(PATH).query("image", &args.image).maybe("name", args.name.as_ref());
    let request = request.json(&json!({ "Payload": payload.unwrap_or_default() }));
    let document = context.daemon.document(request).await?;
    if context.format == output::Format::Json {
        output::document(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let microvm = Microvm::deserialize(document)?;
    output::line(if args.quiet { &microvm.id } else { &microvm.name })?;
    Ok(ExitCode::SUCCESS)
}

/// `stratus microvm ls`
pub(super) async fn list(context: &Context) -> Result<ExitCode> {
    let all = context.daemon.document(Request::get(PATH)).await?;
    context.show(&all, |all| {
        let mut table = Table::new(["NAME", "ID", "IMAGE", "STATE", "CREATED"]);
        for one in Vec::<Microvm>::deserialize(all)? {
            table.row([
                one.name.as_str().into(),
                human::short(&one.id).into(),
                one.image.as_str().into(),
                one.state.as_str().into(),
                human::ago_rfc3339(&one.created).into(),
            ]);
        }
        Ok(table)
    })
}

/// `stratus microvm suspend`, `stratus microvm resume`
pub(super) async fn each(context: &Context, args: NamesArgs, call: &str) -> Result<ExitCode> {
    let work = async |name: &str| context.daemon.done(Request::post(format!("{}/{call}", path(name)))).await.map(drop);
    context.each(&args.containers, work).await
}

/// `stratus microvm terminate`
pub(super) async fn terminate(context: &Context, args: NamesArgs) -> Result<ExitCode> {
    let work = async |name: &str| context.daemon.done(Request::delete(path(name))).await.map(drop);
    context.each(&args.containers, work).await
}
