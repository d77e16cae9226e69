//! `top` of a container in a machine: the host's `ps` does not see what runs there, so that its commonest forms are made here of what the agent tells.
//!
//! Processes have the numbers that they have in the container, and users theirs: whose name that is, the container's files say, and the guest's word for it would be none. When a process
//! began, and what of a processor it uses now, nobody tells: the machine has a clock of its own.

use std::sync::Arc;

use guest_protocol::message::{Reply, Request};
use guest_protocol::observe::RunningProcess;

use super::ProcessTable;
use crate::guest_files::unfit;
use crate::model::ContainerRecord;
use crate::{Engine, Error, Result};

/// A column: its name for `-o`, its head, and what is in it.
struct Column {
    names: &'static [&'static str],
    head: &'static str,
    show: Show,
}

/// What is in a column, of a process among all.
type Show = fn(&RunningProcess, &[RunningProcess]) -> String;

/// What the agent tells, by the names and heads of `ps` (its manual, STANDARD FORMAT SPECIFIERS).
const COLUMNS: [Column; 17] = [
    Column { names: &["pid"], head: "PID", show: number },
    Column { names: &["ppid"], head: "PPID", show: parent },
    Column { names: &["user", "uname", "euser"], head: "USER", show: user },
    Column { names: &["ruser"], head: "RUSER", show: user },
    Column { names: &["uid", "euid"], head: "UID", show: |process, _| process.uid.to_string() },
    Column { names: &["ruid"], head: "RUID", show: |process, _| process.uid.to_string() },
    Column { names: &["args", "command"], head: "COMMAND", show: command },
    Column { names: &["cmd"], head: "CMD", show: command },
    Column { names: &["comm", "ucomm"], head: "COMMAND", show: name },
    Column { names: &["ucmd"], head: "CMD", show: name },
    Column { names: &["time", "cputime"], head: "TIME", show: time },
    Column { names: &["tty", "tt"], head: "TT", show: terminal },
    Column { names: &["tname"], head: "TTY", show: terminal },
    Column { names: &["stat"], head: "STAT", show: state },
    Column { names: &["s", "state"], head: "S", show: state },
    Column { names: &["rss", "rssize", "rsz"], head: "RSS", show: memory },
    Column { names: &["nlwp", "thcount"], head: "NLWP", show: |process, _| process.threads.to_string() },
];

/// What is in a column of which nobody tells.
const UNTOLD: &str = "-";

fn number(process: &RunningProcess, _: &[RunningProcess]) -> String {
    process.inner.to_string()
}

fn command(process: &RunningProcess, _: &[RunningProcess]) -> String {
    process.command.clone()
}

/// In KiB.
fn memory(process: &RunningProcess, _: &[RunningProcess]) -> String {
    (process.memory >> 10).to_string()
}

fn parent(process: &RunningProcess, all: &[RunningProcess]) -> String {
    all.iter().find(|other| other.pid == process.parent).map_or(0, |parent| parent.inner).to_string()
}

fn user(process: &RunningProcess, _: &[RunningProcess]) -> String {
    if process.uid == 0 { "root".to_owned() } else { process.uid.to_string() }
}

/// What it calls itself, without directories.
fn name(process: &RunningProcess, _: &[RunningProcess]) -> String {
    let first = process.command.split_whitespace().next().unwrap_or_default();
    match first.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => name.to_owned(),
        None => first.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

fn time(process: &RunningProcess, _: &[RunningProcess]) -> String {
    let seconds = process.cpu / 100;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn minutes(process: &RunningProcess, _: &[RunningProcess]) -> String {
    let seconds = process.cpu / 100;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn terminal(process: &RunningProcess, _: &[RunningProcess]) -> String {
    // The devices of terminals of their own (devices.txt: 136 to 143 char).
    if process.terminal == 0 { "?".to_owned() } else { format!("pts/{}", process.terminal & 0xff) }
}

fn state(process: &RunningProcess, _: &[RunningProcess]) -> String {
    // A guest's word: no letter is none.
    let letter = char::from(process.state);
    if letter.is_ascii_alphabetic() { letter.to_string() } else { "?".to_owned() }
}

/// A column as it was asked for.
type Asked = (String, Show);

fn told(head: &str, show: Show) -> Asked {
    (head.to_owned(), show)
}

fn untold(head: &str) -> Asked {
    told(head, |_, _| UNTOLD.to_owned())
}

/// Those of `ps -f`.
fn full() -> Vec<Asked> {
    vec![
        told("UID", user),
        told("PID", number),
        told("PPID", parent),
        told("C", |_, _| "0".to_owned()),
        untold("STIME"),
        told("TTY", terminal),
        told("TIME", time),
        told("CMD", command),
    ]
}

/// Those of `ps u`.
fn by_user() -> Vec<Asked> {
    vec![
        told("USER", user),
        told("PID", number),
        untold("%CPU"),
        untold("%MEM"),
        untold("VSZ"),
        told("RSS", memory),
        told("TTY", terminal),
        told("STAT", state),
        untold("START"),
        told("TIME", minutes),
        told("COMMAND", command),
    ]
}

/// Which columns `ps` would show with these arguments.
///
/// # Errors
/// It is a form that is not known here, or asks for what the agent does not tell.
fn columns(arguments: &str) -> Result<Vec<Asked>> {
    let mut asked = Vec::new();
    let (mut is_full, mut is_by_user) = (false, false);
    let mut words = arguments.split_whitespace();
    while let Some(word) = words.next() {
        if let Some(list) = word.strip_prefix("--format") {
            asked.extend(list_of(arguments, list.strip_prefix('='), &mut words)?);
            continue;
        }
        let (is_unix, letters) = word.strip_prefix('-').map_or((false, word), |letters| (true, letters));
        let mut rest = letters.chars();
        if letters.is_empty() || word.starts_with("--") {
            return Err(unknown(arguments));
        }
        while let Some(letter) = rest.next() {
            match (letter, is_unix) {
                // All processes of the container are shown in any case, in full width.
                ('e' | 'A' | 'a' | 'x' | 'w', true) | ('a' | 'x' | 'w', false) => {}
                ('f', true) => is_full = true,
                ('u', false) => is_by_user = true,
                ('o', _) => {
                    let own = Some(rest.as_str()).filter(|list| !list.is_empty());
                    asked.extend(list_of(arguments, own, &mut words)?);
                    break;
                }
                _ => return Err(unknown(arguments)),
            }
        }
    }
    Ok(match (asked.is_empty(), is_full, is_by_user) {
        (false, false, false) => asked,
        (true, true, false) => full(),
        (true, false, true) => by_user(),
        (true, false, false) => {
            vec![told("PID", number), told("TTY", terminal), told("TIME", time), told("CMD", name)]
        }
        // As `ps` has it: formats that exclude each other.
        _ => return Err(unknown(arguments)),
    })
}

/// The columns of a list, which is behind its option or the word that follows.
fn list_of<'a>(
    arguments: &str,
    behind: Option<&'a str>,
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<Vec<Asked>> {
    let list = behind.or_else(|| words.next()).ok_or_else(|| unknown(arguments))?;
    // A head of one's own takes the rest of its list.
    let (list, head) = list.split_once('=').map_or((list, None), |(list, head)| (list, Some(head)));
    let names: Vec<&str> = list.split(',').filter(|name| !name.is_empty()).collect();
    let mut asked = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let column = COLUMNS.iter().find(|column| column.names.contains(name)).ok_or_else(|| {
            let known: Vec<_> = COLUMNS.iter().flat_map(|column| column.names).copied().collect();
            Error::invalid(format!(
                "ps: the column {name:?} is not told of what runs in a microVM: there are {}",
                known.join(", ")
            ))
        })?;
        let head = head.filter(|_| at + 1 == names.len()).unwrap_or(column.head);
        asked.push(told(head, column.show));
    }
    if asked.is_empty() { Err(unknown(arguments)) } else { Ok(asked) }
}

fn unknown(arguments: &str) -> Error {
    Error::invalid(format!(
        "ps: what runs in a microVM is shown as by `ps -e`, `ps -ef`, `ps aux` or `ps -o COLUMN,…`, and not by `ps {arguments}`"
    ))
}

fn table(columns: Vec<Asked>, processes: &[RunningProcess]) -> Result<ProcessTable> {
    let (titles, shown): (Vec<String>, Vec<_>) = columns.into_iter().unzip();
    if !titles.iter().any(|title| title == "PID") {
        // As of containers: whose row is whose nobody could say.
        return Err(Error::invalid("Couldn't find PID field in ps output"));
    }
    let rows = processes.iter().map(|process| shown.iter().map(|show| show(process, processes)).collect());
    Ok(ProcessTable { titles, rows: rows.collect() })
}

impl Engine {
    /// The processes in a container's machine, as `ps` with `arguments` shows processes, by their numbers in the container.
    pub(super) async fn machine_top(&self, record: Arc<ContainerRecord>, arguments: &str) -> Result<ProcessTable> {
        let columns = columns(arguments)?;
        let engine = self.clone();
        let answer = crate::blocking(move || {
            let (mut machine, container) = engine.machine_of(&record)?;
            machine.ask(Request::Processes { container }).map_err(|error| Error::system(error.to_string()))
        });
        match answer.await? {
            Ok(Reply::Processes(processes)) => table(columns, &processes),
            Ok(_) => Err(unfit()),
            Err(failure) => Err(Error::system(failure.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes() -> Vec<RunningProcess> {
        let process = |pid, inner, parent, uid, command: &str| RunningProcess {
            pid,
            inner,
            parent,
            uid,
            state: b'S',
            threads: 2,
            memory: 4 << 20,
            cpu: 6_150,
            began: 0,
            terminal: 0x8802,
            command: command.to_owned(),
        };
        vec![
            process(70, 1, 1, 0, "/bin/sh -c sleep 9"),
            process(71, 7, 70, 33, "sleep 9"),
            process(72, 8, 70, 0, "[kworker/0:1]"),
        ]
    }

    fn shown(arguments: &str) -> Result<Vec<String>> {
        let table = table(columns(arguments)?, &processes())?;
        Ok([table.titles].into_iter().chain(table.rows).map(|row| row.join("|")).collect())
    }

    #[test]
    fn the_common_forms_of_ps_are_shown() {
        assert_eq!(
            shown("-ef").unwrap()[..2],
            ["UID|PID|PPID|C|STIME|TTY|TIME|CMD", "root|1|0|0|-|pts/2|00:01:01|/bin/sh -c sleep 9"]
        );
        assert_eq!(shown("aux").unwrap()[2], "33|7|-|-|-|4096|pts/2|S|-|1:01|sleep 9");
        assert_eq!(shown("-e").unwrap()[..2], ["PID|TTY|TIME|CMD", "1|pts/2|00:01:01|sh"]);
        let listed = ["PID|USER|COMMAND", "1|root|/bin/sh -c sleep 9", "7|33|sleep 9", "8|root|[kworker/0:1]"];
        for arguments in [
            "-eo pid,user,args",
            "-o pid -o user,args",
            "o pid,user,args",
            "-e --format=pid,user,args",
            "-opid,user,args",
            "-A --format pid,user,args",
        ] {
            assert_eq!(shown(arguments).unwrap(), listed, "{arguments}");
        }
        assert_eq!(shown("axo pid,ppid,comm,nlwp,rss,state").unwrap()[2], "7|1|sleep|2|4096|S");
        assert_eq!(shown("-o pid,comm=WHAT,IS").unwrap()[3], "8|kworker/0:1");
        assert_eq!(shown("-o pid,comm=WHAT,IS").unwrap()[0], "PID|WHAT,IS");
    }

    #[test]
    fn what_nobody_tells_is_refused_by_its_name() {
        for (arguments, why) in [
            ("-o pid,lstart", "the column \"lstart\" is not told"),
            ("-o user", "Couldn't find PID field"),
            ("-o", "and not by `ps -o`"),
            ("-nonsense", "and not by `ps -nonsense`"),
            ("-ef -o pid", "and not by"),
            ("--forest", "and not by"),
            ("-", "and not by"),
        ] {
            let told = shown(arguments).unwrap_err().to_string();
            assert!(told.contains(why), "{arguments}: {told}");
        }
    }
}
