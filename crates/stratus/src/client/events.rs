//! `stratus events`

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;

use super::Context;
use super::attach::asked_to_end;
use super::error::{Error, Result};
use super::human::{parse_moment, short};
use super::output::{self, Format};
use super::request::{Filter, Request};

/// Show what happens, as it happens
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// Only what fits: type=…, event=…, container=…, image=…, label=… and others; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// Also what happened since then: a time, seconds since 1970, or a span before now (10m)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<String>,
    /// Only until then
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    #[serde(rename = "Type")]
    kind: String,
    action: String,
    actor: Actor,
    #[serde(rename = "timeNano")]
    time: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    attributes: Option<BTreeMap<String, String>>,
}

/// `stratus events`
pub(super) async fn events(context: &Context, args: EventsArgs) -> Result<ExitCode> {
    let request = Request::get("/events").maybe("since", args.since).maybe("until", args.until).filters(&args.filter);
    let mut documents = context.daemon.documents(request).await?;
    let show = async {
        while let Some(document) = documents.next().await? {
            match context.format {
                Format::Json => output::document_line(&document)?,
                Format::Table => output::line(told(&Event::deserialize(document)?))?,
            }
        }
        Ok(ExitCode::SUCCESS)
    };
    tokio::select! {
        end = show => end,
        signal = asked_to_end() => Err(Error::Signal(signal?)),
    }
}

/// What a container's events tell besides labels.
const TOLD: [&str; 10] =
    ["container", "execDuration", "execID", "exitCode", "image", "name", "network", "oldName", "signal", "status"];

fn told(event: &Event) -> String {
    let time = Timestamp::from_nanosecond(event.time.into())
        .map_or_else(|_| event.time.to_string(), |time| format!("{time:.9}"));
    // A container's events have its labels, and with them its image's, among what they tell: programs get them.
    let of_container = event.kind == "container";
    let told = |name: &String| !of_container || TOLD.contains(&name.as_str());
    let attributes = event.actor.attributes.iter().flatten().filter(|(name, _)| told(name));
    let attributes: Vec<String> = attributes.map(|(name, value)| format!("{name}={value}")).collect();
    let is_digest = event.actor.id.len() == 64 || event.actor.id.starts_with("sha256:");
    let id = if is_digest { short(&event.actor.id) } else { &event.actor.id };
    format!("{time} {} {} {id} ({})", event.kind, event.action, attributes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines() {
        let event = serde_json::json!({ "Type": "container", "Action": "start", "time": 1, "timeNano": 1_500_000_000_i64,
            "Actor": { "ID": "a".repeat(64), "Attributes": { "image": "b", "name": "c", "org.example.label": "x" } } });
        let line = told(&Event::deserialize(event).expect("an event"));
        assert_eq!(line, "1970-01-01T00:00:01.500000000Z container start aaaaaaaaaaaa (image=b, name=c)");
    }
}
