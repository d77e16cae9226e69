//! The client's end: says what is to be built, has at hand what the daemon may need, and hears how it goes.

mod directory;
mod known_hosts;
mod layout;

pub use directory::Directory;
pub use layout::LayoutDirectory;

use crate::ask::Ask;
use crate::mux::{Mux, Side, Stream};
use crate::need::{Answer, Need};
use crate::said::{self, Said};
use crate::wire::{self, PieceReader, PieceWriter};
use build::{Built, Error, Graph, Told};
use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::io::SyncIoBridge;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What the daemon may ask for. Each is given once, where nothing else is said.
#[derive(Default)]
pub struct Offers {
    /// The context's files.
    pub context: Option<Directory>,
    /// Those of named contexts.
    pub contexts: BTreeMap<String, Directory>,
    /// An archive of the context.
    pub archive: Option<Box<dyn Read + Send>>,
    /// Secrets, by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// Sockets of SSH agents, by their ids.
    pub agents: BTreeMap<String, PathBuf>,
    /// Files that say which host has which key, as ssh has them. One that is not there says nothing.
    pub known_hosts: Vec<PathBuf>,
    /// What keeps what is exported, by the names that it was asked for as.
    pub exports: BTreeMap<String, Keep>,
    /// Directories that are OCI layouts, by the names that they are known as. They are given as often as they are asked for.
    pub layouts: BTreeMap<String, LayoutDirectory>,
    /// Held while something is being kept in one of them, so that somebody can wait for the end of that.
    pub keeping: Option<TaskTrackerToken>,
}

impl Offers {
    /// A directory that is an OCI layout. An error is one line for people.
    fn layout(&self, name: &str) -> Result<LayoutDirectory, String> {
        self.layouts.get(name).cloned().ok_or_else(|| format!("the client has no directory {name}"))
    }

    /// The same for who keeps something in it, with what is held meanwhile.
    fn kept_in(&self, name: &str) -> (Result<LayoutDirectory, String>, Option<TaskTrackerToken>) {
        (self.layout(name), self.keeping.clone())
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// In a variable of the environment.
    Variable(String),
}

impl Secret {
    /// What is in it. An error is one line for people.
    async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Secret::File(path) => tokio::fs::read(path).await.map_err(|e| format!("reading {}: {e}", path.display())),
            Secret::Variable(name) => {
                let value = std::env::var_os(name).ok_or_else(|| format!("there is no variable {name}"))?;
                Ok(value.into_encoded_bytes())
            }
        }
    }
}

/// Keeps what comes, to its end, on a thread. Where it comes no further, reading fails. An error is one line for people.
pub type Keep = Box<dyn FnOnce(&mut (dyn Read + Send)) -> Result<(), String> + Send>;

/// What a client hears: how the build goes on, or, at last, how it ended.
#[derive(Debug)]
pub enum Heard {
    /// Something happened.
    Told(Told),
    /// Nothing was to be built: that there would be to do.
    Looked(Graph),
    /// It has ended.
    End(Result<Built, Error>),
}

/// A build that goes on. It ends where this is dropped.
pub struct Client {
    control: BufReader<Stream>,
    failure: Failure,
    _serving: JoinSet<()>,
}

/// What went wrong on this side first.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    fn say(&self, why: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Client {
    /// Asks for a build on a connection that has become a stream of bytes.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub async fn begin(
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        ask: &Ask,
        offers: Offers,
    ) -> io::Result<Client> {
        let mux = Mux::new(connection, Side::Client);
        let mut control = BufReader::new(mux.opener().open().await?);
        wire::write(&mut control, ask).await?;
        let failure = Failure::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(mux, offers, failure.clone()));
        Ok(Client { control, failure, _serving: serving })
    }

    /// What is heard next. After the end there is nothing more.
    ///
    /// # Errors
    /// What went wrong on this side; or the daemon is gone.
    pub async fn next(&mut self) -> io::Result<Heard> {
        let said = wire::read::<Said>(&mut self.control, said::LINE).await;
        let heard = match said {
            Ok(Some(said)) => said.try_into(),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        };
        match heard {
            Ok(heard @ (Heard::Told(_) | Heard::Looked(_) | Heard::End(Ok(_)))) => Ok(heard),
            // What the daemon missed then is what could not be had here.
            failed => match self.failure.take() {
                Some(why) => Err(io::Error::other(why)),
                None => failed,
            },
        }
    }
}

/// Gives the daemon what it needs, for as long as the connection lasts.
async fn serve(mut mux: Mux, offers: Offers, failure: Failure) {
    let offers = Arc::new(Mutex::new(offers));
    let mut given = JoinSet::new();
    while let Some(stream) = mux.accept().await {
        while given.try_join_next().is_some() {}
        given.spawn(give(stream, Arc::clone(&offers), failure.clone()));
    }
}

async fn give(stream: Stream, offers: Arc<Mutex<Offers>>, failure: Failure) {
    let mut stream = BufReader::new(stream);
    let need = match wire::read::<Need>(&mut stream, wire::LINE).await {
        Ok(Some(need)) => need,
        Ok(None) => return,
        Err(error) => return failure.say(format!("what the daemon needs is not understood: {error}")),
    };
    if let Err(Some(why)) = given(stream, need, &offers).await {
        failure.say(why);
    }
}

/// Gives what is needed. An error is one line for people, or nothing where the daemon does not take it: then it says why.
async fn given(mut stream: BufReader<Stream>, need: Need, offers: &Mutex<Offers>) -> Result<(), Option<String>> {
    let offers = || offers.lock().unwrap_or_else(PoisonError::into_inner);
    let not = |why: &str| Answer::Not { why: why.to_owned() };
    let lost = |_: io::Error| None;
    match need {
        Need::Context { name } => {
            let directory = match &name {
                None => offers().context.take(),
                Some(name) => offers().contexts.remove(name),
            };
            let Some(directory) = directory else {
                let why = format!("the client has no context {}", name.as_deref().unwrap_or("of its own"));
                return wire::write(&mut stream, &not(&why)).await.map_err(lost);
            };
            wire::write(&mut stream, &Answer::Here).await.map_err(lost)?;
            blocking(move || directory.send(SyncIoBridge::new(stream))).await.map_err(Some)
        }
        Need::Archive {} => {
            let archive = offers().archive.take();
            let Some(mut archive) = archive else {
                return wire::write(&mut stream, &not("the client has no archive")).await.map_err(lost);
            };
            wire::write(&mut stream, &Answer::Here).await.map_err(lost)?;
            let passing = move || pass_on(&mut *archive, SyncIoBridge::new(stream)).map_err(|e| e.to_string());
            blocking(passing).await.map_err(Some)
        }
        Need::Secret { id } => {
            let secret = offers().secrets.get(&id).cloned();
            let read = match secret {
                Some(secret) => secret.read().await,
                None => Err("the client has none of this id".to_owned()),
            };
            short(stream, read).await.map_err(lost)
        }
        Need::KnownHosts { host } => {
            let files = offers().known_hosts.clone();
            let reading = tokio::task::spawn_blocking(move || known_hosts::of(&host, &files));
            let read = reading.await.map_err(|e| Some(e.to_string()))?;
            short(stream, read).await.map_err(lost)
        }
        Need::Agent { id } => {
            let socket = offers().agents.get(&id).cloned();
            let connected = match socket {
                Some(socket) => UnixStream::connect(&socket).await.map_err(|e| format!("{}: {e}", socket.display())),
                None => Err("the client has none of this id".to_owned()),
            };
            match connected {
                Ok(mut agent) => {
                    wire::write(&mut stream, &Answer::Here).await.map_err(lost)?;
                    // Either may go away in the middle.
                    let _ = tokio::io::copy_bidirectional(&mut agent, &mut stream).await;
                    Ok(())
                }
                Err(why) => wire::write(&mut stream, &not(&why)).await.map_err(lost),
            }
        }
        Need::Export { name } => {
            let keep = offers().exports.remove(&name);
            let Some(keep) = keep else {
                return wire::write(&mut stream, &not(&format!("the client asked for no {name}"))).await.map_err(lost);
            };
            wire::write(&mut stream, &Answer::Here).await.map_err(lost)?;
            let keeping = tokio::task::spawn_blocking(move || {
                let mut pieces = PieceReader::new(SyncIoBridge::new(stream));
                let kept = keep(&mut pieces);
                (kept, pieces.into_inner().into_inner())
            });
            let (kept, mut stream) = keeping.await.map_err(|e| Some(e.to_string()))?;
            let answer = kept.as_ref().map_or_else(|why| not(why), |()| Answer::Here);
            wire::write(&mut stream, &answer).await.map_err(lost)?;
            kept.map_err(Some)
        }
        Need::Layout { name, file } => {
            let opened = offers().layout(&name).and_then(|layout| layout.open(file));
            let mut file = match opened {
                Ok(file) => file,
                Err(why) => return wire::write(&mut stream, &not(&why)).await.map_err(lost),
            };
            wire::write(&mut stream, &Answer::Here).await.map_err(lost)?;
            // A cache of which no more can be read is one that the build does without.
            let passing = move || pass_on(&mut file, SyncIoBridge::new(stream)).map_err(|e| e.to_string());
            blocking(passing).await.map_err(|_| None)
        }
        Need::LayoutHas { name, blob, size } => {
            let there = offers().layout(&name).is_ok_and(|layout| layout.has(&blob, size));
            let answer = if there { Answer::Here } else { not("it is not there") };
            wire::write(&mut stream, &answer).await.map_err(lost)
        }
        Need::LayoutIndex { name } => {
            let opened = offers().layout(&name).and_then(|layout| layout.open_index());
            let mut file = match opened {
                Ok(Some(file)) => file,
                Ok(None) => return wire::write(&mut stream, &Answer::Other {}).await.map_err(lost),
                Err(why) => return wire::write(&mut stream, &not(&why)).await.map_err(lost),
            };
            wire::write(&mut stream, &Answer::Here).await.map_err(lost)?;
            let passing = move || pass_on(&mut file, SyncIoBridge::new(stream)).map_err(|e| e.to_string());
            blocking(passing).await.map_err(|_| None)
        }
        Need::LayoutReplace { name, former } => {
            let directory = offers().kept_in(&name);
            keep_in(stream, directory, move |layout, pieces| match layout.replace_index(former.as_ref(), pieces)? {
                true => Ok(Answer::Here),
                false => Ok(Answer::Other {}),
            })
            .await
        }
        Need::LayoutKeep { name, file } => {
            let directory = offers().kept_in(&name);
            keep_in(stream, directory, move |layout, pieces| layout.keep(file, pieces).map(|()| Answer::Here)).await
        }
    }
}

/// Has something that comes kept in a directory. The daemon says what becomes of the build where that fails.
async fn keep_in(
    mut stream: BufReader<Stream>,
    (layout, going): (Result<LayoutDirectory, String>, Option<TaskTrackerToken>),
    keep: impl FnOnce(LayoutDirectory, &mut PieceReader<SyncIoBridge<BufReader<Stream>>>) -> Result<Answer, String>
    + Send
    + 'static,
) -> Result<(), Option<String>> {
    let lost = |_: io::Error| None;
    let layout = match layout {
        Ok(layout) => layout,
        Err(why) => return wire::write(&mut stream, &Answer::Not { why }).await.map_err(lost),
    };
    wire::write(&mut stream, &Answer::Here).await.map_err(lost)?;
    let keeping = tokio::task::spawn_blocking(move || {
        let mut pieces = PieceReader::new(SyncIoBridge::new(stream));
        let kept = keep(layout, &mut pieces);
        drop(going);
        (kept, pieces.into_inner().into_inner())
    });
    let (kept, mut stream) = keeping.await.map_err(|e| Some(e.to_string()))?;
    wire::write(&mut stream, &kept.unwrap_or_else(|why| Answer::Not { why })).await.map_err(lost)
}

/// Gives something short, or says why there is none.
async fn short(mut stream: BufReader<Stream>, read: Result<Vec<u8>, String>) -> io::Result<()> {
    match read {
        Ok(contents) => {
            let mut pieces = PieceWriter::new(Vec::new());
            pieces.write_all(&contents)?;
            let pieces = pieces.end()?;
            wire::put(&mut stream, &Answer::Here).await?;
            stream.write_all(&pieces).await?;
            stream.flush().await
        }
        Err(why) => wire::write(&mut stream, &Answer::Not { why }).await,
    }
}

/// Runs something that blocks.
async fn blocking(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

/// Sends all of something whose length nobody knows yet.
fn pass_on(archive: &mut dyn Read, to: SyncIoBridge<BufReader<Stream>>) -> io::Result<()> {
    let mut pieces = PieceWriter::new(to);
    let mut buffer = vec![0; wire::PIECE];
    loop {
        match archive.read(&mut buffer) {
            // A daemon that takes no more has said why.
            Ok(0) => {
                let _ = pieces.end().and_then(|mut to| to.flush());
                return Ok(());
            }
            Ok(count) if pieces.write_all(&buffer[..count]).is_err() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("reading standard input: {error}"))),
        }
    }
}
