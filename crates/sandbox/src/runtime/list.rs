//! `state`, `list` and `ps`.

use std::io::Write;

use serde::Serialize;

use super::cli::{List, Ps, TableFormat};
use super::state::{Container, Status, Store};
use super::{Result, RuntimeError};

/// What `state` and `list --format json` print.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'c> {
    oci_version: &'c str,
    id: &'c str,
    pid: i32,
    status: &'static str,
    bundle: &'c std::path::Path,
    rootfs: &'c std::path::Path,
    created: &'c str,
    #[serde(skip_serializing_if = "std::collections::HashMap::is_empty")]
    annotations: &'c std::collections::HashMap<String, String>,
    owner: String,
}

fn shown(container: &Container) -> Shown<'_> {
    let status = container.status();
    let saved = &container.saved;
    Shown {
        oci_version: &saved.oci_version,
        id: &saved.id,
        pid: if status == Status::Stopped { 0 } else { saved.pid },
        status: status.name(),
        bundle: &saved.bundle,
        rootfs: &saved.rootfs,
        created: &saved.created,
        annotations: &saved.annotations,
        owner: owner(container),
    }
}

/// The name of the user whose the state is, as `list` shows it.
fn owner(container: &Container) -> String {
    use std::os::unix::fs::MetadataExt;
    let uid = std::fs::metadata(&container.directory).map_or(0, |metadata| metadata.uid());
    let name = std::fs::read_to_string("/etc/passwd").ok().and_then(|text| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            (fields.nth(1)?.parse::<u32>().ok()? == uid).then_some(name)
        })
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(RuntimeError::file("write to", "standard output".as_ref()))
}

fn json(value: &impl Serialize, pretty: bool) -> Result<()> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    print(&text.map_err(RuntimeError::json("standard output".as_ref()))?)
}

/// `state`.
pub(super) fn state(store: &Store, id: &str) -> Result<()> {
    let container = store.open(id)?;
    json(&shown(&container), true)
}

/// `list`.
pub(super) fn list(store: &Store, options: &List) -> Result<()> {
    let containers = store.all()?;
    if options.quiet {
        return containers.iter().try_for_each(|container| print(&container.saved.id));
    }
    let rows: Vec<Shown<'_>> = containers.iter().map(shown).collect();
    if options.format == TableFormat::Json {
        return if rows.is_empty() { print("null") } else { json(&rows, false) };
    }
    let mut table = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    table.extend(rows.iter().map(|row| {
        let bundle = row.bundle.display().to_string();
        [row.id.into(), row.pid.to_string(), row.status.into(), bundle, row.created.into(), row.owner.clone()]
    }));
    print(&columns(&table))
}

/// Columns at least 12 wide and 3 apart; the last one as long as it is.
fn columns(table: &[[String; 6]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.chain([row[5].clone()]).collect::<String>()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `ps`: the host's ps for a table, filtered to the container's processes.
pub(super) fn ps(store: &Store, options: &Ps) -> Result<()> {
    let container = store.open(&options.id)?;
    let pids = container.cgroup()?.processes()?;
    if options.format == TableFormat::Json {
        return json(&pids, false);
    }
    let default = ["-ef".to_owned()];
    let arguments = if options.args.is_empty() { &default[..] } else { &options.args[..] };
    let output = std::process::Command::new("ps")
        .args(arguments)
        .output()
        .map_err(RuntimeError::file("execute", "ps".as_ref()))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(RuntimeError::Usage(format!("ps: {reason}")));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    let title = lines.next().unwrap_or("");
    let column = title
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| RuntimeError::Usage("couldn't find PID field in ps output".into()))?;
    print(title)?;
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            print(line)?;
        }
    }
    Ok(())
}
