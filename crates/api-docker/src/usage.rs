//! `GET /stratus/usage`: what ran, and what it used. Docker has nothing like it; it is answered here as it is asked on the same
//! socket, in the same manner.

use engine::model::Timestamp;
use engine::{UsageBy, UsageGroup, UsageQuery};
use serde::Serialize;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::filters;
use crate::time::{parse_seconds, rfc3339};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReportBody {
    since: Option<String>,
    until: Option<String>,
    groups: Vec<GroupBody>,
    total: SumsBody,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GroupBody {
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    first_started: String,
    last_ended: Option<String>,
    #[serde(flatten)]
    sums: SumsBody,
}

/// The units that every form of running is counted in.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SumsBody {
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

impl SumsBody {
    fn shown(totals: &meter::Totals, running: u64) -> Self {
        let usage = &totals.usage;
        Self {
            runs: totals.runs,
            running,
            seconds: usage.wall_seconds(),
            cpu_seconds: usage.cpu_seconds(),
            memory_seconds: usage.memory_gib_seconds(),
            network_received: usage.net_rx_bytes,
            network_sent: usage.net_tx_bytes,
            disk_read: usage.io_read_bytes,
            disk_written: usage.io_write_bytes,
        }
    }
}

impl GroupBody {
    fn shown(group: UsageGroup, by: &UsageBy) -> Self {
        Self {
            sums: SumsBody::shown(&group.totals, group.running),
            kind: group.kind,
            id: group.id,
            name: group.name,
            image: (!matches!(by, UsageBy::Label(_))).then_some(group.image),
            label: matches!(by, UsageBy::Label(_)).then_some(group.label),
            first_started: rfc3339(group.first),
            last_ended: group.last.map(rfc3339),
        }
    }
}

/// `GET /stratus/usage`
pub(crate) async fn usage(call: Call) -> Result<Response> {
    let query = UsageQuery {
        since: moment(&call, "since")?,
        until: moment(&call, "until")?,
        filters: filters::from_query(&call.query)?,
        by: by(call.query.text("by"))?,
    };
    let (since, until, by) = (query.since.map(rfc3339), query.until.map(rfc3339), query.by.clone());
    let report = call.engine().usage(query).await?;
    body::ok_json(&ReportBody {
        since,
        until,
        total: SumsBody::shown(&report.totals, report.running),
        groups: report.groups.into_iter().map(|group| GroupBody::shown(group, &by)).collect(),
    })
}

fn moment(call: &Call, name: &str) -> Result<Option<Timestamp>> {
    parse_seconds(call.query.text(name))
}

fn by(text: &str) -> Result<UsageBy> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("" | "container", "") => Ok(UsageBy::Subject),
        ("image", "") => Ok(UsageBy::Image),
        ("label", name) if !name.is_empty() => Ok(UsageBy::Label(name.to_owned())),
        _ => Err(ApiError::bad_request(format!("by={text}: runs are added up by container, image or label=NAME"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_up() {
        assert_eq!((by("").ok(), by("container").ok()), (Some(UsageBy::Subject), Some(UsageBy::Subject)));
        assert_eq!(
            (by("image").ok(), by("label=a=b").ok()),
            (Some(UsageBy::Image), Some(UsageBy::Label("a=b".to_owned())))
        );
        for wrong in ["label", "label=", "image=x", "name"] {
            assert!(by(wrong).is_err(), "{wrong}");
        }
    }
}
