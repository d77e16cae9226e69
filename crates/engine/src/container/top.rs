//! `top`: the processes of a container, as the host's `ps` shows them.

use std::collections::BTreeSet;

use tokio::process::Command;

use super::stop::not_running;
use crate::model::Phase;
use crate::{Engine, Error, Result};

/// A table of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessTable {
    /// Heads of the columns.
    pub titles: Vec<String>,
    /// One row a process.
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// The processes of a container, by `ps` with `arguments` (default `-ef`).
    pub async fn top(&self, reference: &str, arguments: &str) -> Result<ProcessTable> {
        let arguments = if arguments.trim().is_empty() { "-ef" } else { arguments };
        check(arguments)?;
        let container = self.0.containers.find(reference)?;
        let record = container.record();
        match record.state.phase {
            Phase::Running | Phase::Paused => {}
            Phase::Restarting => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    record.id
                )));
            }
            _ => return Err(not_running(&record)),
        }
        if arguments.contains('\0') {
            return Err(Error::invalid("the arguments of ps contain a NUL byte"));
        }
        if record.is_machine() {
            return self.machine_top(record, arguments).await;
        }
        let engine = self.clone();
        let pids = crate::blocking(move || {
            let cgroup = engine.0.placements.cgroup(&record)?;
            cgroup.processes().map_err(|error| Error::system(error.to_string()))
        });
        let pids: BTreeSet<i32> = pids.await?.into_iter().collect();
        // In the order of their numbers, as ps has them without a list. By itself it selects those of its own user and terminal. Some arguments don't go together with a list.
        let mut output = ps(arguments, Some(&pids)).await?;
        if !output.status.success() {
            output = ps(arguments, None).await?;
        }
        if !output.status.success() {
            // The first line says why; what follows tells how ps is used.
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::system(format!("ps: {}", said.lines().next().unwrap_or("failed"))));
        }
        parse(&String::from_utf8_lossy(&output.stdout), &pids)
    }
}

/// What `ps` prints, of these processes where they are named.
async fn ps(arguments: &str, pids: Option<&BTreeSet<i32>>) -> Result<std::process::Output> {
    let pids = pids.filter(|pids| !pids.is_empty());
    let list = pids.map(|pids| format!("-q{}", pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")));
    Command::new("ps").args(arguments.split_whitespace()).args(list).output().await.map_err(|error| {
        Error::system(format!("run ps: {error}: `top` shows what the host's ps prints: install procps"))
    })
}

/// `-o` with a head of its own for the column of process identifiers would hide whose row is whose.
fn check(arguments: &str) -> Result<()> {
    let renamed = arguments.split_whitespace().any(|word| word.to_ascii_lowercase().contains("pid="));
    if renamed {
        return Err(Error::invalid("specifying \"pid=...\" is not allowed: the column must be called PID"));
    }
    Ok(())
}

/// Rows of `ps` whose process is one of `pids`.
fn parse(output: &str, pids: &BTreeSet<i32>) -> Result<ProcessTable> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::invalid("Couldn't find PID field in ps output"));
    };
    let mut rows = Vec::new();
    for line in lines {
        let fields = fields(line, titles.len());
        let pid = fields.get(column).and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            rows.push(fields);
        }
    }
    Ok(ProcessTable { titles, rows })
}

/// A line's fields; the last one takes the rest, as commands have spaces.
fn fields(line: &str, count: usize) -> Vec<String> {
    let mut fields = Vec::with_capacity(count);
    let mut rest = line.trim();
    while fields.len() + 1 < count {
        let Some((field, after)) = rest.split_once(char::is_whitespace) else { break };
        fields.push(field.to_owned());
        rest = after.trim_start();
    }
    fields.push(rest.to_owned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_column_keeps_its_spaces() {
        let output = "UID  PID CMD\nroot   1 /sbin/init splash\nroot  12 sleep 60\n";
        let table = parse(output, &BTreeSet::from([12])).unwrap();
        assert_eq!(table.titles, ["UID", "PID", "CMD"]);
        assert_eq!(table.rows, [["root", "12", "sleep 60"]]);
    }

    #[test]
    fn without_a_pid_column_nothing_can_be_told() {
        assert!(parse("CMD\nx\n", &BTreeSet::new()).is_err());
        assert!(check("-o pid=X").is_err());
    }
}
