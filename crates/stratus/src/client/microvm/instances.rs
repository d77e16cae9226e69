//! `stratus microvm run`, `ls`, `suspend`, `resume`, `terminate`

use std::collections::BTreeMap;
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
    /// Suspend it when nobody has asked it anything through the endpoint for that time, as 5m
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    idle: Option<i64>,
    /// End it when it has been suspended for that time; 0s: in place of being suspended
    #[arg(long, value_name = "TIME", requires = "idle", value_parser = seconds)]
    suspended: Option<i64>,
    /// Leave it suspended when it is asked something
    #[arg(long, requires = "idle")]
    no_auto_resume: bool,
    /// End it that long after it was run, in any case
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    max_duration: Option<i64>,
    /// Print its identifier instead of its name
    #[arg(long, short)]
    quiet: bool,
    /// Image of a microVM, NAME or NAME:VERSION
    image: String,
}

/// Show all that is known of a microVM, as JSON
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// MicroVM
    name: String,
}

/// Print a token, with which a microVM is asked something through the endpoint
///
/// The token goes into the header X-aws-proxy-auth; --output json says where it goes to.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// Port of its program that the token is for: 8080, 8000-8099, or all; repeats [default: the one at which its program was
    /// waited for when its image was made, else 8080]
    #[arg(long = "port", short, value_name = "PORTS")]
    ports: Vec<String>,
    /// How long it is good, an hour at most [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    valid_for: Option<i64>,
    /// Take back all that there are instead: none of them is good any more
    #[arg(long, conflicts_with_all = ["ports", "valid_for"])]
    revoke: bool,
    /// MicroVM
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Token {
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Microvm {
    id: String,
    name: String,
    image: String,
    state: String,
    created: String,
    policy_error: Option<String>,
}

impl Microvm {
    /// What it is, for people.
    fn state(&self) -> String {
        match &self.policy_error {
            Some(_) => format!("{} (its policy fails)", self.state),
            None => self.state.clone(),
        }
    }
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
    let idle = args
        .idle
        .map(|after| json!({ "After": after, "Suspended": args.suspended, "AutoResume": !args.no_auto_resume }));
    let request = request.json(&json!({
        "Payload": payload.unwrap_or_default(),
        "Idle": idle,
        "MaximumDuration": args.max_duration,
    }));
    let document = context.daemon.document(request).await?;
    if context.format == output::Format::Json {
        output::document(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let microvm = Microvm::deserialize(document)?;
    output::line(if args.quiet { &microvm.id } else { &microvm.name })?;
    Ok(ExitCode::SUCCESS)
}

/// Seconds, as `90s` or `5m`: policies know no shorter times.
fn seconds(text: &str) -> std::result::Result<i64, String> {
    const SECOND: i64 = 1_000_000_000;
    let nanoseconds = human::parse_span(text)?;
    match nanoseconds % SECOND {
        0 => Ok(nanoseconds / SECOND),
        _ => Err("write whole seconds, as 90s or 5m".to_owned()),
    }
}

/// `stratus microvm inspect`
pub(super) async fn inspect(context: &Context, args: InspectArgs) -> Result<ExitCode> {
    output::document(&context.daemon.document(Request::get(path(&args.name))).await?)?;
    Ok(ExitCode::SUCCESS)
}

/// `stratus microvm token`
pub(super) async fn token(context: &Context, args: TokenArgs) -> Result<ExitCode> {
    let tokens = format!("{}/token", path(&args.name));
    if args.revoke {
        context.daemon.done(Request::delete(tokens)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = Request::post(tokens);
    let request = request.json(&json!({ "Ports": args.ports, "Seconds": args.valid_for }));
    let document = context.daemon.document(request).await?;
    if context.format == output::Format::Json {
        output::document(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let token = Token::deserialize(document)?;
    for value in token.headers.values() {
        output::line(value)?;
    }
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
                one.state().as_str().into(),
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
