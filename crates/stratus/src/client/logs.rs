//! `stratus logs`

use std::process::ExitCode;

use clap::Args;
use http_body_util::BodyExt;

use super::attach::asked_to_end;
use super::error::{Error, Result};
use super::human::parse_moment;
use super::output::Format;
use super::request::Request;
use super::streams::Output;
use super::{Context, containers};

/// Show a container's output
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Also what was said about each line (labels and variables of its log options)
    #[arg(long)]
    details: bool,
    /// Go on with what it writes from now on
    #[arg(long, short)]
    follow: bool,
    /// Only from then on: a time, seconds since 1970, or a span before now (10m)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<String>,
    /// Only the last so many lines
    #[arg(long, short = 'n', value_name = "LINES", value_parser = tail, allow_hyphen_values = true)]
    tail: Option<String>,
    /// With the time of each line
    #[arg(long, short)]
    timestamps: bool,
    /// Only until then
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<String>,
    /// Container, by name or id
    container: String,
}

/// `all`, or a number; one below 0 is all as well.
fn tail(text: &str) -> Result<String, String> {
    match text == "all" || text.parse::<i64>().is_ok() {
        true => Ok(text.to_owned()),
        false => Err("give a number of lines, or all".to_owned()),
    }
}

/// `stratus logs`
pub(super) async fn logs(context: &Context, args: LogsArgs) -> Result<ExitCode> {
    let daemon = &context.daemon;
    let details = containers::details(daemon, &args.container).await?;
    let request = Request::get(containers::path(&details.id, "logs"))
        .query("stdout", "1")
        .query("stderr", "1")
        .flag("details", args.details)
        .flag("follow", args.follow)
        .flag("timestamps", args.timestamps || context.format == Format::Json)
        .maybe("since", args.since)
        .maybe("until", args.until)
        .maybe("tail", args.tail);
    let by_line = context.format == Format::Json;
    let mut body = daemon.send(request).await?.into_body();
    let mut output = if by_line { Output::lines(details.config.tty) } else { Output::of(details.config.tty) };
    let show = async {
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                output.write(&bytes)?;
            }
        }
        output.end()
    };
    tokio::select! {
        shown = show => shown?,
        signal = asked_to_end() => return Err(Error::Signal(signal?)),
    }
    Ok(ExitCode::SUCCESS)
}
