//! The client of a daemon that runs on tokio: many tasks, one connection.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::connection::disconnected;
use super::{Call, Client, ClientError, Welcome};
use crate::protocol::{Event, Failure, FromKeeper, Reply, Request, ToKeeper};
use crate::wire::{self, Packet, ReceiveBuffer, WireError};

/// How long an answer may take before it is looked whether the keeper answers anything. Of what it was asked to begin, the answer may
/// take longer, as on a file system that hangs: it waits for none of that itself.
const DOUBTED_AFTER: Duration = Duration::from_secs(5);
/// How long the answer to that may take.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// The reply and the descriptors that came with it.
type Answer = Result<(Result<Reply, Failure>, Vec<OwnedFd>), WireError>;

/// A connection that carries the requests of many tasks at once. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct AsyncClient {
    shared: Arc<Shared>,
    _reader: Arc<Reader>,
}

/// The keeper's events, in the order in which they happened. Ends with the connection. They wait in memory until they
/// are taken.
pub type Events = mpsc::UnboundedReceiver<Event>;

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    welcome: Welcome,
    last_number: AtomicU64,
    /// `None` once the connection has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    /// Whether somebody looks whether the keeper answers.
    doubted: AtomicBool,
    /// Whether it does not.
    silent: watch::Sender<bool>,
}

#[derive(Debug)]
struct Reader {
    task: AbortHandle,
    shared: Arc<Shared>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
        // Nobody answers any more who would wait here.
        *self.shared.waiting() = None;
    }
}

impl AsyncClient {
    /// Connects to the keeper of a run directory. Must be called within a tokio runtime with I/O enabled.
    pub async fn connect(run_dir: &Path) -> Result<(AsyncClient, Events), ClientError> {
        let run_dir = run_dir.to_owned();
        let client = tokio::task::spawn_blocking(move || Client::connect(&run_dir))
            .await
            .map_err(|_| ClientError::Disconnected)??;
        AsyncClient::from_client(client)
    }

    /// Takes over a connection, as one from [`super::start_or_connect`]. Must be called within a tokio runtime with I/O
    /// enabled.
    pub fn from_client(client: Client) -> Result<(AsyncClient, Events), ClientError> {
        let Client { socket, welcome, events, .. } = client;
        // SAFETY: an `OwnedFd` is open as long as it lives, always gives the same descriptor, and is never exchanged
        // here.
        let socket = unsafe { AsyncFd::register(socket) }
            .map_err(|error| ClientError::system("wait for", crate::SOCKET_NAME)(error.into_parts().1))?;
        let waiting = Mutex::new(Some(HashMap::new()));
        let (doubted, silent) = (AtomicBool::new(false), watch::Sender::new(false));
        let shared = Arc::new(Shared { socket, welcome, last_number: AtomicU64::new(0), waiting, doubted, silent });
        let (sender, receiver) = mpsc::unbounded_channel();
        for event in events {
            _ = sender.send(event);
        }
        let task = tokio::spawn(read(Arc::clone(&shared), sender)).abort_handle();
        let reader = Arc::new(Reader { task, shared: Arc::clone(&shared) });
        Ok((AsyncClient { shared, _reader: reader }, receiver))
    }

    /// What the keeper said of itself.
    pub fn welcome(&self) -> &Welcome {
        &self.shared.welcome
    }

    /// Whether the keeper does not answer anything, and each change of that. It is seen some seconds after somebody began to wait, who
    /// goes on to do so: what stopped the keeper may pass.
    pub fn silence(&self) -> watch::Receiver<bool> {
        self.shared.silent.subscribe()
    }

    /// What a keeper that is [silent](Self::silence) is told as.
    pub fn silent_error(&self) -> ClientError {
        ClientError::Silent { pid: self.welcome().pid, within: DOUBTED_AFTER + SILENT_AFTER }
    }

    /// Asks, and waits for the answer. Dropping the future does not take the request back. A process that was begun,
    /// and whose descriptors find no room in this one, is killed: nobody else has them.
    pub async fn call<C: Call>(&self, call: C) -> Result<C::Output, ClientError> {
        let undo = call.undo();
        let (body, descriptors) = call.into_request();
        let answered = self.ask(body, descriptors).await;
        if let (Err(ClientError::Wire(WireError::NoDescriptor { .. })), Some(undo)) = (&answered, undo) {
            // It may have ended by itself, and the first error is the one to be told.
            let _ = self.ask(undo, Vec::new()).await;
        }
        let (reply, descriptors) = answered?;
        let told = format!("{reply:?}");
        C::output(reply, descriptors).ok_or(ClientError::Unexpected(told))
    }

    async fn ask(&self, body: Request, descriptors: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let mut asked = std::pin::pin!(self.shared.ask(body, descriptors));
        if let Ok(answer) = timeout(DOUBTED_AFTER, &mut asked).await {
            return answer;
        }
        if !self.shared.doubted.swap(true, Ordering::AcqRel) {
            tokio::spawn(doubt(Arc::clone(&self.shared)));
        }
        asked.await
    }

    /// Asks without wanting an answer.
    pub async fn post<C: Call>(&self, call: C) -> Result<(), ClientError> {
        let (body, descriptors) = call.into_request();
        self.shared.send(&Packet::encode(&ToKeeper::Request { number: 0, body }, descriptors)?).await
    }
}

/// Frees the place of an answer that nobody waits for any more.
struct Slot<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.shared.waiting().as_mut() {
            waiting.remove(&self.number);
        }
    }
}

/// Looks whether the keeper answers something that takes no time, and waits until it does.
async fn doubt(shared: Arc<Shared>) {
    {
        let mut asked = std::pin::pin!(shared.ask(Request::Stats, Vec::new()));
        if timeout(SILENT_AFTER, &mut asked).await.is_err() {
            shared.silent.send_replace(true);
            if asked.await.is_ok() {
                shared.silent.send_replace(false);
            }
        }
    }
    shared.doubted.store(false, Ordering::Release);
}

impl Shared {
    /// One request, and its answer.
    async fn ask(&self, body: Request, descriptors: Vec<OwnedFd>) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let packet = Packet::encode(&ToKeeper::Request { number, body }, descriptors)?;
        let (sender, receiver) = oneshot::channel();
        match self.waiting().as_mut() {
            Some(waiting) => _ = waiting.insert(number, sender),
            None => return Err(ClientError::Disconnected),
        }
        let slot = Slot { shared: self, number };
        self.send(&packet).await?;
        drop(packet);
        let (result, descriptors) = receiver.await.map_err(|_| ClientError::Disconnected)??;
        drop(slot);
        Ok((result?, descriptors))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an answer to whoever waits for it.
    fn answer(&self, number: u64, answer: Answer) {
        let waiting = self.waiting().as_mut().and_then(|waiting| waiting.remove(&number));
        if let Some(sender) = waiting {
            _ = sender.send(answer);
        }
    }

    async fn send(&self, packet: &Packet) -> Result<(), ClientError> {
        self.socket.async_io(Interest::WRITABLE, |socket| packet.send(socket.as_fd()).map_err(into_io)).await.map_err(
            |error| match error.downcast::<WireError>() {
                Ok(error) => disconnected(error),
                Err(error) => ClientError::system("send to", crate::SOCKET_NAME)(error),
            },
        )
    }
}

async fn read(shared: Arc<Shared>, events: mpsc::UnboundedSender<Event>) {
    let mut buffer = ReceiveBuffer::default();
    loop {
        let received = shared
            .socket
            .async_io(Interest::READABLE, |socket| wire::receive(socket.as_fd(), &mut buffer).map_err(into_io))
            .await;
        match received.map_err(|error| error.downcast::<WireError>()) {
            Ok(Some((FromKeeper::Response { number, result }, descriptors))) => {
                shared.answer(number, Ok((result, descriptors)));
            }
            Ok(Some((FromKeeper::Event(event), _))) => _ = events.send(event),
            Ok(Some(_)) => {}
            // One request has failed. What has no number is an event: who misses one has to look at everything again.
            Err(Ok(WireError::NoDescriptor { number: number @ 1.. })) => {
                shared.answer(number, Err(WireError::NoDescriptor { number }));
            }
            Ok(None) | Err(_) => break,
        }
    }
    *shared.waiting() = None;
}

/// Keeps "would block" visible to tokio, and everything else whole.
fn into_io(error: WireError) -> io::Error {
    if error.would_block() { io::ErrorKind::WouldBlock.into() } else { io::Error::other(error) }
}
