//! The connection to the keeper, and what is done when it breaks.

use std::pin::Pin;

use keeper::client::{
    AsyncClient, Client, ClientError, Events, StartOptions, bring_up_to_date, ensure_running, recover_orphans,
};
use keeper::protocol::{Event, ExitStatus, Failure};
use parking_lot::RwLock;
use rustix::io::Errno;
use sandbox::Step;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::{Engine, EngineConfig, Error, Result};

/// Calls to the keeper, and what it tells by itself.
type Connected = Result<(AsyncClient, Events)>;

/// The connection to the keeper.
pub(crate) struct KeeperLink {
    options: StartOptions,
    client: RwLock<Option<AsyncClient>>,
    /// Held while a connection is being made; in it the first one, which is made beside the rest of the start.
    connecting: tokio::sync::Mutex<Option<JoinHandle<Connected>>>,
}

impl KeeperLink {
    /// Begins to connect. Must be called within a tokio runtime.
    pub(crate) fn open(config: &EngineConfig) -> Self {
        let mut options = StartOptions::new(config.program.clone(), config.run_dir.clone());
        options.arguments.extend(config.keeper_arguments.iter().cloned());
        let first = tokio::spawn(connect(options.clone()));
        Self { options, client: RwLock::new(None), connecting: tokio::sync::Mutex::new(Some(first)) }
    }
}

/// Starts the keeper where none is, has one of another program go on as this one, and connects. What a killed one left
/// is ended first.
async fn connect(options: StartOptions) -> Connected {
    let client = crate::blocking(move || {
        end_orphans(&options);
        ensure_running(&options).map_err(keeper_error)?;
        let outdated = bring_keeper_up_to_date(&options);
        Client::connect(&options.run_dir).map_err(|error| not_connected(error, outdated))
    });
    AsyncClient::from_client(client.await?).map_err(keeper_error)
}

/// Processes whose keeper was killed: nobody holds their streams any more, so they are ended.
fn end_orphans(options: &StartOptions) {
    let Ok(orphans) = recover_orphans(&options.run_dir) else { return };
    for orphan in orphans.iter().filter(|orphan| orphan.is_alive()) {
        tracing::warn!(process = orphan.id, pid = orphan.pid, "its keeper was killed: ending it");
        if let Err(error) = orphan.kill() {
            tracing::error!(process = orphan.id, %error, "could not end it");
        }
    }
}

/// A daemon that was installed over the one before gets a keeper of its own release, which loses nothing that it holds.
/// Gives what hindered that.
fn bring_keeper_up_to_date(options: &StartOptions) -> Option<ClientError> {
    match bring_up_to_date(options) {
        Ok(false) => None,
        Ok(true) => {
            tracing::info!("the keeper has gone on as this program");
            None
        }
        // Whether the two understand each other all the same, the greeting tells.
        Err(error) => {
            tracing::warn!(%error, "the keeper goes on as the program that it is");
            Some(error)
        }
    }
}

/// What hindered the keeper's upgrade is why it does not speak this daemon's protocol.
fn not_connected(error: ClientError, outdated: Option<ClientError>) -> Error {
    match (error, outdated) {
        (ClientError::Refused { .. }, Some(outdated)) => Error::system(format!(
            "the keeper is of another release, which this daemon does not understand, and could not go on as this program: \
             {outdated}"
        )),
        (error, _) => keeper_error(error),
    }
}

/// Says that the keeper does not answer, for which starts and whatever else needs it wait, and that it does again. Ends with the connection.
async fn tell_of_silence(mut silent: watch::Receiver<bool>, error: String) {
    while silent.changed().await.is_ok() {
        match *silent.borrow_and_update() {
            true => tracing::warn!("{error}. Until then starts, execs, stops and kills wait"),
            false => tracing::info!("the keeper answers again"),
        }
    }
}

impl Engine {
    /// Why starts, execs, stops and kills wait, where the keeper does not answer.
    pub(crate) fn silent_keeper(&self) -> Option<String> {
        let client = self.0.keeper.client.read();
        let silent = client.as_ref().filter(|client| *client.silence().borrow())?;
        Some(silent.silent_error().to_string())
    }

    /// The keeper; it is started, or connected to anew, where that is needed.
    pub(crate) async fn keeper(&self) -> Result<AsyncClient> {
        if let Some(client) = &*self.0.keeper.client.read() {
            return Ok(client.clone());
        }
        let mut first = self.0.keeper.connecting.lock().await;
        if let Some(client) = &*self.0.keeper.client.read() {
            return Ok(client.clone());
        }
        let connected = match &mut *first {
            // Taken out only once it has ended: whoever is cancelled here leaves it to the next one.
            Some(connecting) => {
                let connected = connecting.await;
                *first = None;
                connected.map_err(|error| Error::system(format!("connect to the keeper: {error}")))?
            }
            None => connect(self.0.keeper.options.clone()).await,
        };
        let (client, events) = connected?;
        *self.0.keeper.client.write() = Some(client.clone());
        tokio::spawn(tell_of_silence(client.silence(), client.silent_error().to_string()));
        let engine = self.clone();
        tokio::spawn(engine.hear(events));
        Ok(client)
    }

    /// Hears the keeper's events until the connection ends.
    fn hear(self, events: Events) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // Boxed, as it comes back here: after the loss of a keeper it connects to the next one.
        Box::pin(self.hear_until_the_end(events))
    }

    async fn hear_until_the_end(self, mut events: Events) {
        while let Some(event) = events.recv().await {
            self.keeper_event(event);
        }
        *self.0.keeper.client.write() = None;
        let lost = self.0.execs.running();
        tracing::error!("the keeper is gone: what it held is ended, and a new one is started");
        if let Err(error) = self.recover().await {
            tracing::error!(%error, "could not recover from the loss of the keeper");
        }
        // After their containers: who sees an exec end finds why.
        lost.iter().for_each(|exec| exec.lost());
    }

    fn keeper_event(&self, event: Event) {
        match event {
            Event::Exited { id, exit, .. } => {
                let (engine, recovering) = (self.clone(), self.is_recovering());
                // On a task of its own, as it waits for whatever else changes that container's life.
                tokio::spawn(async move {
                    match engine.0.containers.by_id(&id) {
                        Some(_) if recovering && engine.found_by_recovery(&id).await => {}
                        Some(container) => engine.container_ended(&container, &exit).await,
                        None => engine.exec_ended(&id, &exit).await,
                    }
                });
            }
            Event::LogFailing { id, errno } => {
                let error = std::io::Error::from_raw_os_error(errno);
                tracing::warn!(container = id, %error, "its log can't be written: lines are lost until it can");
            }
            Event::LogDropped { id, count } => {
                tracing::warn!(container = id, lines = count, "its log is written again; lines were lost");
            }
            Event::LogRotated { id, path, inode } => self.compress_log(id, path, inode),
            Event::Whereabouts { away_from: Some(namespace) } => tracing::error!(
                namespace,
                "the keeper can't return to its own namespace: it begins nothing that would be in the wrong place until it can"
            ),
            Event::Whereabouts { away_from: None } => tracing::info!("the keeper has returned to its own namespaces"),
            Event::OutputEnded { .. } | Event::StdinClosed { .. } => {}
        }
    }
}

/// What Docker says comes before the failure of a further process.
pub(crate) const EXEC_STEPS: &str = "OCI runtime exec failed: exec failed: unable to start container process";
/// What Docker says comes before a failure of the sandbox.
pub(crate) const STEPS: &str =
    "failed to create task for container: failed to create shim task: OCI runtime create failed";

/// What the keeper answers, in the engine's kinds; a program that could not be executed in Docker's words.
pub(crate) fn keeper_error(error: ClientError) -> Error {
    in_words(error, STEPS)
}

/// A program with an empty name, in the words of whoever was to execute it.
pub(crate) fn no_program(steps: &str) -> Error {
    Error::invalid(format!("{steps}: exec: \"\": executable file not found in $PATH")).with_exit_code(127)
}

/// The same for a further process in a container.
pub(crate) fn exec_error(error: ClientError) -> Error {
    in_words(error, EXEC_STEPS)
}

/// What Docker adds where a mount is refused with `ENOTDIR`.
const VICE_VERSA: &str = "Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists \
     and is the expected type";

/// The signal of whoever touches mapped memory that its file does not have (signal(7)).
const SIGBUS: u8 = 7;

/// Whether it is the step of a container's mounts, by the name that the keeper gives it, or what a machine's agent says of that.
fn is_mount(step: &str, text: &str) -> bool {
    step == format!("{:?}", Step::Mount) || (step == format!("{:?}", Step::InGuest) && text.starts_with("mount "))
}

/// `steps`: what Docker says comes before a failure of the sandbox.
fn in_words(error: ClientError, steps: &str) -> Error {
    let ClientError::Failed(failure) = error else {
        return Error::system(format!("the keeper: {error}"));
    };
    let runtime = |text: &str| format!("{steps}: {text}");
    match &failure {
        Failure::Program { errno, text } => {
            let missing = *errno == Errno::NOENT.raw_os_error();
            Error::invalid(runtime(text)).with_exit_code(if missing { 127 } else { 126 })
        }
        Failure::Sandbox { step, errno, text }
            if is_mount(step, text) && *errno == Some(Errno::NOTDIR.raw_os_error()) =>
        {
            Error::invalid(format!("{}: {VICE_VERSA}", runtime(text))).with_exit_code(127)
        }
        Failure::Sandbox { step, text, .. } => {
            let error = Error::system(runtime(text)).with_exit_code(128);
            match step {
                step if *step == format!("{:?}", Step::Saved) => error.of_saved(),
                step if *step == format!("{:?}", Step::Lost) => error.of_lost(),
                _ => error,
            }
        }
        Failure::Died { status, .. } => {
            let error = Error::system(runtime(&failure.to_string())).with_exit_code(128);
            // The memory of what was saved is shorter than it was.
            let is_of_saved = matches!(status, ExitStatus::Signal { signal: SIGBUS, .. });
            if is_of_saved { error.of_saved() } else { error }
        }
        Failure::Unknown { .. } | Failure::WrongState { .. } => Error::conflict(failure.to_string()),
        _ => Error::system(failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_that_is_not_understood_is_told_with_what_hindered_its_upgrade() {
        let refused = |reason: &str| ClientError::Refused { reason: reason.to_owned(), protocol: 1 };
        let error = not_connected(refused("upgrade the keeper"), Some(refused("job (process 7) hangs"))).to_string();
        assert!(error.contains("job (process 7) hangs") && !error.contains("upgrade the keeper"), "{error}");
        let error = not_connected(refused("upgrade the keeper"), None).to_string();
        assert!(error.contains("upgrade the keeper"), "{error}");
    }
}
