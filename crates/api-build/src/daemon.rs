//! The daemon's end: reads what is to be built, gets what is needed from the client, and tells how it goes.

use crate::ask::{self, Ask, NamedContext, Source};
use crate::entry;
use crate::export::Exports;
use crate::layout::ClientLayout;
use crate::mux::{Mux, Opener, Side, Stream};
use crate::need::{self, Need};
use crate::patient::Patient;
use crate::said::Said;
use crate::wire::{self, PieceReader};
use build::dockerfile::{Given, Source as FileSource};
use build::ignore::Ignore;
use build::{Builder, Built, Error, Files, Graph, Leaves, Lender, List, Progress, Received, Request};
use futures_util::future::BoxFuture;
use image::Reference;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, BufWriter};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::io::SyncIoBridge;
use tokio_util::sync::CancellationToken;

/// How long a client may take to go away once it was told the end.
const GOODBYE: Duration = Duration::from_secs(10);

/// Bytes that a thread reads or writes at a time.
const BUFFER: usize = 128 << 10;

/// Serves one build on a connection that has become a stream of bytes. Where the connection ends before, so does the build.
pub async fn serve(
    builder: Builder,
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shutdown: CancellationToken,
) {
    let mut mux = Mux::new(connection, Side::Daemon);
    let opened = tokio::time::timeout(need::PATIENCE, mux.accept()).await;
    // Whoever opens nothing wants nothing.
    let Ok(Some(control)) = opened else { return };
    let mut control = tokio::io::BufStream::new(control);
    let told = tokio::select! {
        told = session(&builder, &mut control, mux.opener()) => told,
        () = ended(&mut mux) => return,
        () = shutdown.cancelled() => {
            let message = "the build was given up, as the daemon is being stopped: build again once one runs";
            wire::write(&mut control, &Said::from(Err(Error::Invalid(message.to_owned())))).await
        }
    };
    match told {
        // The client ends the connection once it has heard. If that ended before, what the client still says would find nobody, and it
        // would take that for the end of what it has not read yet.
        Ok(()) => drop(tokio::time::timeout(GOODBYE, ended(&mut mux)).await),
        Err(error) => tracing::debug!(%error, "the client of a build does not hear its end"),
    }
}

/// Waits until the connection has ended. A client opens nothing but its first stream.
async fn ended(mux: &mut Mux) {
    while mux.accept().await.is_some() {}
}

type Control = tokio::io::BufStream<Stream>;

async fn session(builder: &Builder, control: &mut Control, opener: Opener) -> io::Result<()> {
    let asked = tokio::time::timeout(need::PATIENCE, wire::read::<Ask>(control, ask::LINE)).await;
    let asked = match asked {
        Ok(Ok(Some(asked))) => Ok(asked),
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) => Err(Error::Invalid(format!("what is to be built is not understood: {error}"))),
        Err(_) => Err(Error::Invalid("the client does not say what is to be built".to_owned())),
    };
    let end = match asked {
        Ok(asked) if asked.look => {
            look(builder, &opener, asked).await.map_or_else(|e| Said::from(Err(e)), Said::Looked)
        }
        Ok(asked) => Said::from(build(builder, control, opener, asked).await?),
        Err(error) => Said::from(Err(error)),
    };
    wire::write(control, &end).await
}

/// Looks what there would be to do.
async fn look(builder: &Builder, opener: &Opener, asked: Ask) -> Result<Graph, Error> {
    if asked.platforms.len() > 1 {
        return Err(Error::Invalid("what there is to do is told for one platform at a time: name one".to_owned()));
    }
    let (request, _) = request(builder, opener, asked).await?;
    builder.look(&request).await
}

/// Builds, and tells what happens; only where that fails the error is the outer one.
async fn build(
    builder: &Builder,
    control: &mut Control,
    opener: Opener,
    asked: Ask,
) -> io::Result<Result<Built, Error>> {
    let (request, exports) = match request(builder, &opener, asked).await {
        Ok(request) => request,
        Err(error) => return Ok(Err(error)),
    };
    let (progress, mut events) = Progress::channel();
    let builder = builder.clone();
    let mut task = Task(tokio::spawn(async move {
        let product = builder.carry_out(&request, &exports.platforms, &progress).await?;
        exports.carry_out(&builder, &request, product, &opener, &progress).await
    }));
    while let Some(event) = events.recv().await {
        wire::put(control, &Said::from(event)).await?;
        // What is there already goes with it.
        while let Some(event) = events.try_recv() {
            wire::put(control, &Said::from(event)).await?;
        }
        control.flush().await?;
    }
    let given_up = |e| Err(Error::Failed { doing: "building".to_owned(), reason: format!("{e}") });
    Ok((&mut task.0).await.unwrap_or_else(given_up))
}

/// A build that is given up with its client.
struct Task(JoinHandle<Result<Built, Error>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the client asks for, with all that it has to send.
async fn request(builder: &Builder, opener: &Opener, asked: Ask) -> Result<(Request, Exports), Error> {
    let given = asked.given();
    let names = ask::references(&asked.names).map_err(Error::Invalid)?;
    let exports = Exports::new(&asked.outputs, &names, &asked.platforms).map_err(Error::Invalid)?;
    let exports = exports.with_caches(&asked.cache_to, opener).map_err(Error::Invalid)?;
    let cache_from = asked.cache_from.iter().map(|from| cache(opener, from)).collect::<Result<_, _>>()?;
    let credentials = asked.auths().map_err(Error::Invalid)?;
    let lender: Arc<dyn Lender> =
        Arc::new(Lending { opener: opener.clone(), secrets: asked.secrets, agents: asked.agents });
    let Received { file, context, commit_time, origin } =
        source(builder, opener, asked.source, &given, &lender).await?;
    let mut contexts = BTreeMap::new();
    for (name, context) in asked.contexts {
        let context = match context {
            NamedContext::Image(image) => build::NamedContext::Image(image),
            NamedContext::Directory { ignore, key } => {
                let ignore = ignore.map(ask::Text::source);
                let files = directory(builder, opener, Some(name.clone()), &key, ignore).await?;
                build::NamedContext::Files { files: Arc::new(files), origin: None }
            }
            NamedContext::Layout { layout, path, entry } => {
                let layout = Arc::new(ClientLayout { opener: opener.clone(), name: layout });
                build::NamedContext::Layout(build::LayoutImage { layout, path, entry })
            }
            NamedContext::Elsewhere(address) => {
                let fetched = builder.fetch_named(&address, Some(&lender)).await;
                fetched.map_err(|error| Error::Invalid(format!("context {name}: {error}")))?
            }
        };
        contexts.insert(name, context);
    }
    let request = Request {
        file,
        context,
        origin,
        commit_time,
        given,
        names,
        labels: asked.labels,
        no_cache: asked.no_cache,
        no_cache_filter: asked.no_cache_filter,
        cache_from,
        inline_cache: asked.inline_cache,
        pull: asked.pull,
        squash: asked.squash,
        allowed: asked.allowed,
        leaves: Leaves::default(),
        step_timeout: asked.running.timeout.map(Duration::from_millis),
        host: asked.running.host(),
        credentials,
        contexts,
        attest: asked.attest.wanted(),
        lender: Some(lender),
    };
    Ok((request, exports))
}

/// A cache that the client names.
fn cache(opener: &Opener, from: &ask::CacheFrom) -> Result<build::CacheFrom, Error> {
    Ok(match from {
        ask::CacheFrom::Registry(name) => {
            build::CacheFrom::Registry(Reference::parse(name).map_err(|e| Error::Invalid(e.to_string()))?)
        }
        ask::CacheFrom::Layout { layout, path, entry } => {
            let layout = Arc::new(ClientLayout { opener: opener.clone(), name: layout.clone() });
            build::CacheFrom::Layout { name: path.clone(), layout, entry: entry.clone() }
        }
    })
}

/// What the client has for commands: it is asked when one needs it.
struct Lending {
    opener: Opener,
    secrets: BTreeSet<String>,
    agents: BTreeSet<String>,
}

/// Bytes of a secret.
const SECRET: usize = 500 << 10;
/// Bytes of what is known of a host: all of whose hosts are written as hashes is.
const KNOWN: usize = 16 << 20;

impl Lender for Lending {
    fn has_secret(&self, id: &str) -> bool {
        self.secrets.contains(id)
    }

    fn secret(&self, id: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let (opener, id) = (self.opener.clone(), id.to_owned());
        Box::pin(async move {
            let stream = need::ask(&opener, &Need::Secret { id }).await?;
            need::short(stream, SECRET).await
        })
    }

    fn known_hosts(&self, host: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let (opener, host) = (self.opener.clone(), host.to_owned());
        Box::pin(async move {
            let stream = need::ask(&opener, &Need::KnownHosts { host }).await?;
            need::short(stream, KNOWN).await
        })
    }

    fn has_agent(&self, id: &str) -> bool {
        self.agents.contains(id)
    }

    fn agent(&self, id: &str, mut command: UnixStream) -> BoxFuture<'static, ()> {
        let (opener, id) = (self.opener.clone(), id.to_owned());
        Box::pin(async move {
            match need::ask(&opener, &Need::Agent { id }).await {
                // Either may go away in the middle.
                Ok(mut agent) => drop(tokio::io::copy_bidirectional(&mut command, &mut agent).await),
                Err(error) => tracing::debug!(%error, "an SSH agent does not answer"),
            }
        })
    }
}

async fn source(
    builder: &Builder,
    opener: &Opener,
    source: Source,
    given: &Given,
    lender: &Arc<dyn Lender>,
) -> Result<Received, Error> {
    let received =
        |file, context: Files| Received { file, context: Arc::new(context), commit_time: None, origin: None };
    match source {
        Source::Alone { file } => Ok(received(file.source(), Files::no_context())),
        Source::Directory { file, ignore, key } => {
            let files = directory(builder, opener, None, &key, ignore.map(ask::Text::source)).await?;
            Ok(received(file.source(), files))
        }
        Source::Archive { name } => {
            let stream = need::ask(opener, &Need::Archive {}).await.map_err(Error::Invalid)?;
            let builder = builder.clone();
            let receiving = blocking(move || {
                let mut pieces = PieceReader::new(BufReader::with_capacity(BUFFER, SyncIoBridge::new(stream)));
                builder.receive(&mut pieces, &name)
            });
            receiving.await
        }
        Source::Elsewhere { address, name } => builder.fetch(&address, &name, given, Some(lender)).await,
    }
}

/// Takes a directory of the client's.
async fn directory(
    builder: &Builder,
    opener: &Opener,
    name: Option<String>,
    key: &str,
    ignore: Option<FileSource>,
) -> Result<Files, Error> {
    let ignore = ignore.map(|rules| Ignore::parse(&rules)).transpose()?.unwrap_or_default();
    let stream = need::ask(opener, &Need::Context { name }).await.map_err(Error::Invalid)?;
    // A directory's files are at hand, which what somebody makes an archive of need not be.
    let stream = Patient::new(stream, need::PATIENCE);
    let (builder, key) = (builder.clone(), key.to_owned());
    blocking(move || {
        let failed = |e: io::Error| match e.kind() {
            // A connection has no end of space: it is the disk that the context is kept on.
            io::ErrorKind::StorageFull => Error::Failed {
                doing: "receiving the build context".to_owned(),
                reason: "no space left on the disk of the daemon's data: free some (`stratus builder prune`, `stratus image prune`) and try again"
                    .to_owned(),
            },
            _ => Error::Invalid(format!("receiving the build context: {e}")),
        };
        let mut stream = BufReader::with_capacity(BUFFER, SyncIoBridge::new(stream));
        let (expected, mut list) = (builder.expect(&key)?, List::default());
        entry::read_entries(&mut stream, |entry| list.push(entry).map_err(wire::refused)).map_err(failed)?;
        let mut update = expected.listed(list)?;
        let wanted = update.lacks().to_vec();
        entry::write_wanted(&mut BufWriter::with_capacity(BUFFER, stream.get_mut()), &wanted).map_err(failed)?;
        for place in wanted {
            let mut taking = update.take(place)?;
            let verdict = entry::read_file(&mut stream, &mut taking).map_err(failed)?;
            taking.end(&verdict)?;
        }
        update.finish(ignore)
    })
    .await
}

/// Runs something that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let failed = |e| Error::Failed { doing: "receiving the build context".to_owned(), reason: format!("{e}") };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
