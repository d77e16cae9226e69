//! A program with all that it starts, which goes on no longer than whoever waits for it: neither past a build that is given up, nor past a
//! daemon that is killed. What it may say, and what it may put on the disk, is bounded.

use crate::{Error, Result};
use image::tree::TreeSize;
use rustix::process::{Pid, Signal};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, ChildStdin, Command};

/// The most bytes of what it says.
const MOST_SAID: u64 = 8 << 20;

/// How often it is looked at how much it has put on the disk; less often where looking takes longer.
const LOOK: Duration = Duration::from_millis(500);
/// How much longer than a look the time between two is.
const SELDOM: u32 = 10;

/// Runs its arguments. Modes are what the program makes of them, whatever the daemon's own mask is. Beside it, something waits for the end of a pipe that
/// the daemon holds: it ends with the daemon, however that ends, and takes the whole group with it.
const SUPERVISED: &str = r#"exec 3<&0 </dev/null
umask 022
{ read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 &
exec 3<&-
"$@"
code=$?
kill -PIPE "$!"
wait "$!"
exit "$code""#;

/// How it ended.
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) output: String,
    pub(super) complaint: String,
}

/// What is run, and where.
pub(super) struct Process<'a> {
    pub(super) program: &'a str,
    pub(super) arguments: &'a [&'a str],
    pub(super) directory: &'a Path,
    pub(super) environment: Vec<(&'static str, OsString)>,
    /// How much may be in the directory, and for how long it may run.
    pub(super) most: TreeSize,
    pub(super) deadline: Duration,
}

impl Process<'_> {
    /// Runs it to its end.
    pub(super) async fn end(self) -> Result<Ended> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SUPERVISED, "sh", self.program]).args(self.arguments).current_dir(self.directory);
        command.env_clear().envs(self.environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|e| Error::failed(format!("running {}", self.program), e))?;
        let held = child.stdin.take();
        let group = Group { child, _held: held };
        let grown = too_large(self.directory.to_owned(), self.most);
        tokio::select! {
            ended = group.end() => ended,
            found = grown => Err(found),
            () = tokio::time::sleep(self.deadline) => {
                Err(Error::Invalid(format!("{} took longer than {} minutes", self.program, self.deadline.as_secs() / 60)))
            }
        }
    }
}

/// Whether there is no more in a directory than may be.
pub(super) async fn check(directory: PathBuf, most: TreeSize) -> Result<()> {
    let looking = tokio::task::spawn_blocking(move || image::tree_size(&directory, &most)).await;
    let size = looking.map_err(|e| Error::failed("measuring what was fetched", e))?;
    let size = size.map_err(|e| Error::failed("measuring what was fetched", e))?;
    match size.is_within(&most) {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "there is more to put on the disk than {} bytes and {} files, which is all that one source may have",
            most.bytes, most.entries
        ))),
    }
}

/// Ends once there is more.
async fn too_large(directory: PathBuf, most: TreeSize) -> Error {
    let mut pause = LOOK;
    loop {
        tokio::time::sleep(pause).await;
        let begun = Instant::now();
        if let Err(error) = check(directory.clone(), most).await {
            return error;
        }
        pause = LOOK.max(begun.elapsed() * SELDOM);
    }
}

/// It and all that it started, which ends with this.
struct Group {
    child: Child,
    /// The end of this is theirs.
    _held: Option<ChildStdin>,
}

impl Group {
    async fn end(mut self) -> Result<Ended> {
        let failed = |e: std::io::Error| Error::failed("running a program", e);
        let (Some(output), Some(complaint)) = (self.child.stdout.take(), self.child.stderr.take()) else {
            return Err(Error::failed("running a program", "it has no output"));
        };
        // Where one of the two is too much, nobody waits for the end of the other.
        let (output, complaint) = tokio::try_join!(all(output), all(complaint))?;
        let status = self.child.wait().await.map_err(failed)?;
        Ok(Ended { code: status.code(), output, complaint })
    }
}

/// All that is said.
async fn all(from: impl AsyncRead + Unpin) -> Result<String> {
    let mut said = Vec::new();
    let mut from = from.take(MOST_SAID);
    from.read_to_end(&mut said).await.map_err(|e| Error::failed("running a program", e))?;
    match from.limit() {
        0 => Err(Error::Invalid(format!("it says more than {MOST_SAID} bytes"))),
        _ => Ok(String::from_utf8_lossy(&said).into_owned()),
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // One that was waited for has no number any more.
        if let Some(group) = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script.
    async fn run(script: &str, most: TreeSize, deadline: Duration) -> (Result<Ended>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let environment = vec![("PATH", "/usr/bin:/bin".into())];
        let arguments = ["-c", script];
        let process =
            Process { program: "sh", arguments: &arguments, directory: directory.path(), environment, most, deadline };
        (process.end().await, directory)
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn what_it_says_and_how_it_ends_is_told() {
        let (ended, _directory) = run("echo out; echo err >&2; cat; exit 7", TreeSize::ENDLESS, LONG).await;
        let ended = ended.unwrap();
        assert_eq!((ended.code, &*ended.output, &*ended.complaint), (Some(7), "out\n", "err\n"));
    }

    #[tokio::test]
    async fn one_that_says_too_much_is_not_waited_for() {
        for script in ["while :; do echo word word word word; done >&2", "while :; do echo word word word; done"] {
            let (ended, _directory) = run(script, TreeSize::ENDLESS, LONG).await;
            assert!(ended.is_err_and(|error| error.to_string().contains("it says more than 8388608 bytes")));
        }
    }

    #[tokio::test]
    async fn one_that_writes_too_much_is_not_waited_for() {
        let most = TreeSize { bytes: 1 << 20, entries: 1000 };
        for script in [
            "i=0; while :; do i=$((i+1)); mkdir d$i; done",
            "while :; do echo word word word word word word >> file; done",
            "head -c 2M /dev/zero > file; sleep 3600",
        ] {
            let (ended, _directory) = run(script, most, LONG).await;
            assert!(ended.is_err_and(|error| error.to_string().contains("more to put on the disk than 1048576 bytes")));
        }
    }

    #[tokio::test]
    async fn what_it_started_ends_with_whoever_waits() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let process = Process {
            program: "sh",
            arguments: &["-c", "exec > pipe; sleep 3600 & echo; sleep 3600"],
            directory: directory.path(),
            environment: vec![("PATH", "/usr/bin:/bin".into())],
            most: TreeSize::ENDLESS,
            deadline: LONG,
        };
        let (begun, runs) = tokio::sync::oneshot::channel();
        let reading = tokio::task::spawn_blocking(move || {
            let mut pipe = std::fs::File::open(pipe).unwrap();
            let mut read = || std::io::Read::read(&mut pipe, &mut [0]).unwrap();
            assert_eq!(read(), 1);
            begun.send(()).unwrap();
            // It ends when the last of those that could write to it has.
            read()
        });
        tokio::select! {
            _ = process.end() => panic!("it has ended"),
            runs = runs => runs.unwrap(),
        }
        assert_eq!(reading.await.unwrap(), 0);
    }
}
