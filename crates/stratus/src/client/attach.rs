//! The user's terminal and a container's streams, tied together.

use std::io::{self, Read};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connect::{Daemon, Upgraded};
use super::error::{Error, Result};
use super::options::Attached;
use super::request::{Request, segment};
use super::streams::Output;
use super::{Context, containers, terminal};
use std::process::ExitCode;

/// Keys that leave a container without stopping it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DetachKeys {
    text: String,
    keys: engine::DetachKeys,
}

impl Default for DetachKeys {
    fn default() -> Self {
        "ctrl-p,ctrl-q".parse().expect("the default keys are keys")
    }
}

impl DetachKeys {
    /// As they were given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let keys = engine::DetachKeys::parse(Some(text)).map_err(|_| {
            format!("{text:?} are no keys: give a character, or ctrl- and a small letter, with commas between several")
        })?;
        Ok(DetachKeys { text: text.to_owned(), keys })
    }
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The process has closed its streams.
    Output,
    /// The user typed the detach keys.
    Detached,
}

/// What ties the two together.
pub(super) struct Conversation<'a> {
    pub(super) tty: bool,
    pub(super) stdin: bool,
    pub(super) keys: &'a DetachKeys,
}

impl Conversation<'_> {
    /// Carries bytes both ways, until the process ends its output.
    pub(super) async fn hold(&self, stream: Upgraded) -> Result<End> {
        let (mut from, to) = tokio::io::split(stream);
        let mut output = Output::of(self.tty);
        let mut input = Input { to: Some(to), typed: None, keys: None };
        if self.stdin {
            input.typed = Some(keyboard()?);
            input.keys = self.tty.then(|| self.keys.keys.clone());
        }
        // One future for all of the input: a piece that is half written must not be given up for output that comes.
        let mut typing = std::pin::pin!(input.carry_all());
        let mut buffer = vec![0; 32 << 10];
        loop {
            tokio::select! {
                read = from.read(&mut buffer) => match read.map_err(|error| Error::Broken(error.to_string()))? {
                    0 => return Ok(End::Output),
                    count => output.write(&buffer[..count])?,
                },
                () = &mut typing => return Ok(End::Detached),
            }
        }
    }
}

/// The way from the keyboard to the process.
struct Input {
    to: Option<WriteHalf<Upgraded>>,
    typed: Option<mpsc::Receiver<Bytes>>,
    keys: Option<engine::DetachKeys>,
}

impl Input {
    /// Carries everything, until the detach keys are typed.
    async fn carry_all(&mut self) {
        while !self.carry().await {}
    }

    /// Carries the next piece. `true` where it was the end of the detach keys; pending for ever after the input's end.
    async fn carry(&mut self) -> bool {
        let (Some(to), Some(typed)) = (&mut self.to, &mut self.typed) else {
            return std::future::pending().await;
        };
        let Some(piece) = typed.recv().await else {
            // The process sees the end of its input, and may go on writing.
            let _ = to.shutdown().await;
            self.typed = None;
            return false;
        };
        let (piece, detached) = match &mut self.keys {
            Some(keys) => keys.pass(&piece),
            None => (piece.to_vec(), false),
        };
        // A process that reads no more still has its output.
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            self.typed = None;
        }
        detached
    }
}

/// What is typed, or comes from a pipe. A thread of its own reads it, as a read of a terminal can't be given up.
fn keyboard() -> Result<mpsc::Receiver<Bytes>> {
    let (sender, receiver) = mpsc::channel(1);
    let read = move || {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(count) if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read).map_err(Error::io("starting a thread"))?;
    Ok(receiver)
}

/// Tells a process's terminal this one's size, now and whenever it changes. `path` is the call's. Ends when dropped.
pub(super) fn follow_size(daemon: &Daemon, path: String) -> Result<JoinSet<()>> {
    let mut changes = signal(SignalKind::window_change()).map_err(Error::io("listening for SIGWINCH"))?;
    let daemon = daemon.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut told = None;
        let mut attempts = 0;
        loop {
            let size = terminal::size();
            if let Some((rows, columns)) = size.filter(|_| size != told) {
                let request = Request::post(&path).query("h", rows.to_string()).query("w", columns.to_string());
                if daemon.done(request).await.is_ok() {
                    told = size;
                } else if attempts < 10 {
                    // The process is just being started.
                    attempts += 1;
                    tokio::time::sleep(Duration::from_millis(10 << attempts.min(5))).await;
                    continue;
                }
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(tasks)
}

/// Signals that are passed on: those that ask a process for something, by their numbers (signal(7)).
const PASSED: [(i32, &str); 8] =
    [(1, "HUP"), (2, "INT"), (3, "QUIT"), (10, "USR1"), (12, "USR2"), (14, "ALRM"), (15, "TERM"), (18, "CONT")];

/// Passes signals on to a container. Ends when dropped.
pub(super) fn pass_signals(daemon: &Daemon, container: &str) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for (number, name) in PASSED {
        let mut signals = listen(number)?;
        let (daemon, path) = (daemon.clone(), format!("/containers/{}/kill", segment(container)));
        tasks.spawn(async move {
            while signals.recv().await.is_some() {
                // One that has just ended takes no signals any more.
                let _ = daemon.done(Request::post(&path).query("signal", name)).await;
            }
        });
    }
    Ok(tasks)
}

/// The first signal that asks this program to end.
pub(super) async fn asked_to_end() -> Result<i32> {
    let (mut hangup, mut interrupt, mut terminate) = (listen(1)?, listen(2)?, listen(15)?);
    Ok(tokio::select! {
        _ = hangup.recv() => 1,
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    })
}

/// How many signals that ask it to end leave a container that does not heed them, as with the docker client.
const PATIENCE: u32 = 3;

/// Returns when this program was asked to end so often that whoever asks means it, and not the container.
async fn asked_again_and_again() -> Result<()> {
    let (mut interrupt, mut terminate) = (listen(2)?, listen(15)?);
    for _ in 0..PATIENCE {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    Ok(())
}

fn listen(number: i32) -> Result<Signal> {
    signal(SignalKind::from_raw(number)).map_err(Error::io(format!("listening for signal {number}")))
}

/// Talk with a running container's first process
#[derive(Args, Debug)]
pub(crate) struct AttachArgs {
    /// Keys that leave it, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<DetachKeys>,
    /// Don't send it what is typed
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to it
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Container, by name or id
    container: String,
}

/// `stratus attach`
pub(super) async fn attach(context: &Context, args: AttachArgs) -> Result<ExitCode> {
    let daemon = &context.daemon;
    let details = containers::details(daemon, &args.container).await?;
    if !details.state.running {
        return Err(Error::Usage(format!(
            "container {0} is not running. Start it with: stratus start {0}",
            args.container
        )));
    }
    let keys = args.detach_keys.unwrap_or_default();
    let stdin = !args.no_stdin && details.config.open_stdin;
    let attached = Attached { stdin, ..Attached::OUTPUT };
    let session =
        Session { id: &details.id, tty: details.config.tty, attached, keys: &keys, sig_proxy: args.sig_proxy };
    let ended = session.wait(daemon, "not-running").await?;
    let stream = session.streams(daemon).await?;
    session.run(daemon, stream, ended).await
}

/// A conversation with a container's first process.
pub(super) struct Session<'a> {
    pub(super) id: &'a str,
    pub(super) tty: bool,
    pub(super) attached: Attached,
    pub(super) keys: &'a DetachKeys,
    pub(super) sig_proxy: bool,
}

impl Session<'_> {
    /// The container's streams.
    pub(super) async fn streams(&self, daemon: &Daemon) -> Result<Upgraded> {
        let request = Request::post(format!("/containers/{}/attach", segment(self.id)))
            .query("stream", "1")
            .flag("stdin", self.attached.stdin)
            .flag("stdout", self.attached.stdout)
            .flag("stderr", self.attached.stderr)
            .query("detachKeys", self.keys.text());
        daemon.hijack(request).await
    }

    /// Asks for the container's end, before it can have come.
    pub(super) async fn wait(&self, daemon: &Daemon, condition: &str) -> Result<super::connect::Documents> {
        let request = Request::post(format!("/containers/{}/wait", segment(self.id))).query("condition", condition);
        daemon.documents(request).await
    }

    /// Talks until the container ends, whose exit status is the result's, or the user leaves.
    pub(super) async fn run(
        &self,
        daemon: &Daemon,
        stream: Upgraded,
        mut ended: super::connect::Documents,
    ) -> Result<ExitCode> {
        let conversation = Conversation { tty: self.tty, stdin: self.attached.stdin, keys: self.keys };
        let interactive = self.tty && self.attached.stdin;
        let raw =
            if interactive { terminal::Raw::enter().map_err(Error::io("setting up the terminal"))? } else { None };
        let size = match self.tty {
            true => Some(follow_size(daemon, format!("/containers/{}/resize", segment(self.id)))?),
            false => None,
        };
        let signals = if self.sig_proxy && !self.tty { Some(pass_signals(daemon, self.id)?) } else { None };
        let end = tokio::select! {
            end = conversation.hold(stream) => end?,
            signal = asked_to_end(), if signals.is_none() => return Err(Error::Signal(signal?)),
            asked = asked_again_and_again(), if signals.is_some() => {
                asked?;
                return Err(Error::Unheeded(super::human::short(self.id).to_owned()));
            }
        };
        drop((raw, size));
        match end {
            End::Detached => {
                eprintln!("\nIt runs on. Come back with: stratus attach {}", super::human::short(self.id));
                Ok(ExitCode::SUCCESS)
            }
            End::Output => exit_status(&mut ended).await,
        }
    }
}

/// The exit status that a call of `wait` brings.
pub(super) async fn exit_status(ended: &mut super::connect::Documents) -> Result<ExitCode> {
    let document = ended.next().await?.ok_or_else(|| Error::Broken("the container's end was not told".into()))?;
    if let Some(message) = document["Error"]["Message"].as_str().filter(|message| !message.is_empty()) {
        return Err(Error::Failed(message.to_owned()));
    }
    let code = document["StatusCode"].as_i64().ok_or_else(|| Error::Answer("it has no exit status".into()))?;
    // Exit statuses are bytes; a larger one can't be passed on.
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bytes() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        assert_eq!("a,ctrl-[".parse::<DetachKeys>().map(|keys| keys.keys.bytes().to_vec()), Ok(vec![b'a', 27]));
        // As with the docker client: none given.
        assert_eq!("".parse::<DetachKeys>().map(|keys| keys.keys), Ok(DetachKeys::default().keys));
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
    }
}
