//! `stratus usage`

use std::process::ExitCode;

use clap::Args;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::Context;
use super::error::{Error, Result};
use super::human::{self, parse_moment};
use super::request::{Filter, Request};
use super::table::{Cell, Table};
use super::terminal::Style;

/// Show what ran, for how long, and what it used
///
/// A run belongs to the time in which it ended, so that each belongs to exactly one of several adjacent spans; what still
/// runs counts as far as it has come. Records outlive their containers (stratus daemon --usage-days, --usage-runs).
#[derive(Args, Debug)]
pub(crate) struct UsageArgs {
    /// Add up the runs of each container, of each image, or of each value of a label (label=NAME)
    #[arg(long, value_name = "WHAT", default_value = "container", value_parser = by)]
    by: String,
    /// Only runs that fit: container=…, image=…, label=…, kind=…; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// Only runs that ended since then, or still run: a time, seconds since 1970, or a span before now (24h)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<String>,
    /// Only runs that ended before then
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<String>,
    /// Don't cut long fields
    #[arg(long)]
    no_trunc: bool,
}

fn by(text: &str) -> std::result::Result<String, String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("container" | "image", "") => Ok(text.to_owned()),
        ("label", name) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("write container, image or label=NAME".to_owned()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    groups: Vec<Group>,
    total: Sums,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Group {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    label: String,
    last_ended: Option<String>,
    #[serde(flatten)]
    sums: Sums,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sums {
    runs: u64,
    running: u64,
    seconds: f64,
    #[serde(rename = "VCPUSeconds")]
    cpu_seconds: f64,
    #[serde(rename = "GiBSeconds")]
    memory_seconds: f64,
    network_received: u64,
    network_sent: u64,
    disk_read: u64,
    disk_written: u64,
}

/// `stratus usage`
pub(super) async fn usage(context: &Context, args: UsageArgs) -> Result<ExitCode> {
    let request = Request::get("/stratus/usage")
        .query("by", &args.by)
        .maybe("since", args.since.as_deref())
        .maybe("until", args.until.as_deref())
        .filters(&args.filter);
    let document = context.daemon.document(request).await.map_err(|error| match error {
        Error::Refused { status: StatusCode::NOT_FOUND, .. } => Error::Failed(format!(
            "the daemon at {} keeps no record of what ran: that is stratus' own, and this is another daemon (see \"stratus version\")",
            context.daemon.address()
        )),
        error => error,
    })?;
    context.show(&document, |document| table(document, &args))
}

fn table(document: &Value, args: &UsageArgs) -> Result<Table> {
    let report = Report::deserialize(document)?;
    let label = args.by.strip_prefix("label=");
    let title = label.map_or("IMAGE", |name| name).to_uppercase();
    let of_containers = args.by == "container";
    let mut titles = if of_containers { vec!["ID".to_owned(), "NAME".to_owned()] } else { Vec::new() };
    titles.push(title);
    let counted = ["RUNS", "LAST", "TIME", "VCPU-S", "GIB-S", "NETWORK IN / OUT", "DISK READ / WRITTEN"];
    titles.extend(counted.map(str::to_owned));
    let texts = titles.len() - counted.len();
    let mut table = Table::new(titles);
    if !args.no_trunc {
        table = table.fitting(&[if of_containers { &[1, 2] } else { &[0] }], texts + 1);
    }
    for group in &report.groups {
        let id = if args.no_trunc { &group.id } else { human::short(&group.id) };
        let mut cells: Vec<Cell> = if of_containers { vec![id.into(), group.name.as_str().into()] } else { Vec::new() };
        cells.push(match label {
            Some(_) => group.label.as_str().into(),
            None if args.no_trunc => group.image.as_str().into(),
            None => shown_image(&group.image).into(),
        });
        let last = match &group.last_ended {
            None => Cell::styled("running", Style::Good),
            Some(time) => human::ago_rfc3339(time).into(),
        };
        cells.extend(group.sums.cells(last));
        table.row(cells);
    }
    let mut cells: Vec<Cell> = vec![Cell::styled("total", Style::Bold)];
    cells.resize_with(texts, || "".into());
    let running = if report.total.running > 0 { format!("{} running", report.total.running) } else { String::new() };
    cells.extend(report.total.cells(running.into()));
    table.row(cells);
    Ok(table)
}

/// An image as it was called: of one that had no name but its digest, no more than tells it apart.
fn shown_image(image: &str) -> String {
    let (name, digest) = image.split_at(image.find("sha256:").unwrap_or(image.len()));
    match name {
        "" => human::short(digest).to_owned(),
        _ => format!("{name}{}", digest.get(..19).unwrap_or(digest)),
    }
}

impl Sums {
    fn cells(&self, last: Cell) -> [Cell; 7] {
        let pair = |a: u64, b: u64| format!("{} / {}", human::decimal(a), human::decimal(b));
        [
            self.runs.to_string().into(),
            last,
            meter::Seconds(self.seconds).to_string().into(),
            format!("{:.3}", self.cpu_seconds).into(),
            format!("{:.3}", self.memory_seconds).into(),
            pair(self.network_received, self.network_sent).into(),
            pair(self.disk_read, self.disk_written).into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(by: &str) -> String {
        let sums = serde_json::json!({ "Runs": 2, "Running": 1, "Seconds": 125.0, "VCPUSeconds": 1.5, "GiBSeconds": 0.25,
            "NetworkReceived": 2000, "NetworkSent": 0, "DiskRead": 0, "DiskWritten": 4_000_000 });
        let mut group = serde_json::json!({ "ID": "a".repeat(64), "Name": "web", "Image": "shop", "Label": "blue",
            "FirstStarted": "2026-01-01T00:00:00Z", "LastEnded": null });
        group.as_object_mut().expect("an object").extend(sums.as_object().expect("an object").clone());
        let document = serde_json::json!({ "Since": null, "Until": null, "Groups": [group], "Total": sums });
        let args = UsageArgs { by: by.to_owned(), filter: Vec::new(), since: None, until: None, no_trunc: false };
        let mut text = Vec::new();
        table(&document, &args).expect("a table").write(&mut text, false, None).expect("written");
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn sums_are_a_table_with_a_last_line_of_all() {
        let by_container = shown("container");
        let lines: Vec<&str> = by_container.lines().collect();
        assert!(lines[0].starts_with("ID             NAME   IMAGE   RUNS   LAST"), "{by_container}");
        assert!(
            lines[1].starts_with("aaaaaaaaaaaa   web    shop    2      running     2 min 5 s   1.500    0.250"),
            "{by_container}"
        );
        assert!(lines[1].ends_with("0B / 4.00MB") && lines[2].starts_with("total "), "{by_container}");
        assert!(lines[2].contains("1 running"), "{by_container}");
        assert!(shown("image").starts_with("IMAGE   RUNS"), "{}", shown("image"));
        assert!(shown("label=team").starts_with("TEAM    RUNS"), "{}", shown("label=team"));
    }

    #[test]
    fn digests_are_cut() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        assert_eq!(shown_image(&digest), "0123456789ab");
        assert_eq!(shown_image(&format!("shop@{digest}")), "shop@sha256:0123456789ab");
        assert_eq!(shown_image("shop:1"), "shop:1");
    }

    #[test]
    fn what_is_added_up() {
        assert!(by("label=a=b").is_ok() && by("image").is_ok());
        assert!(by("label").is_err() && by("image=x").is_err() && by("").is_err());
    }
}
