//! The endpoint: HTTP and WebSocket to the programs in microVMs, for whoever shows a token. What comes by it has a suspended microVM go on, and is what its
//! policy takes it to be idle by.
//!
//! There is one for all of a daemon's microVMs: the token says which of them is meant.

mod forward;
mod program;
mod serve;
mod token;
mod wanted;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::model::Timestamp;
use engine::{Error, Result};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use store::Collection;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::{Microvms, step};
use token::{Grant, KEY, Signer};
pub use token::{PortRange, Ports};

/// How long a client may take for a request's head or for TLS, and leave a connection idle.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long who was silent for that may take to show that it is there, each of some times that it is asked.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// The most connections of clients at a time, whatever they have become: who comes after that waits. As many to programs there may be, as by HTTP/2 a
/// connection asks much at a time: whoever asks after that is told to come later.
const CONNECTIONS: usize = 4096;
/// How long to wait when the system has no descriptor left for a new connection.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Where a program listens that nobody knows the port of, as on AWS.
const USUAL_PORT: u16 = 8080;
/// The record's name.
const RECORD: &str = "endpoint";

/// Where the endpoint is.
pub enum Listen {
    /// At a free port of 127.0.0.1, from when somebody needs it first; at the same one from then on.
    WhenNeeded,
    /// There.
    At {
        /// The socket.
        socket: TcpListener,
        /// With TLS.
        tls: Option<Arc<ServerConfig>>,
    },
}

/// What outlives the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct EndpointRecord {
    /// What tokens are signed with, in base64.
    key: String,
    /// The port of 127.0.0.1 where it was last.
    port: Option<u16>,
}

/// The endpoint, whether it is listened at yet or not.
pub(crate) struct Endpoint {
    records: Collection<EndpointRecord>,
    /// As it was written down when the daemon began, if it was.
    known: Option<EndpointRecord>,
    /// What tokens are signed with, in base64.
    key: String,
    signer: Signer,
    /// Its address, once it is listened at.
    url: OnceCell<String>,
}

/// A token, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The header that it goes into.
    pub header: &'static str,
    /// The token.
    pub value: String,
    /// The ports that it is for.
    pub ports: Ports,
    /// From when on it is no good.
    pub expires: Timestamp,
    /// Where to go with it, without a slash at its end.
    pub endpoint: String,
}

impl Endpoint {
    /// With the key that there is, or a new one.
    pub(crate) fn open(store: &store::Store) -> Result<Self> {
        let records = Collection::<EndpointRecord>::new(store, "microvm-endpoint/");
        let read = records.get(RECORD).map_err(|error| step("read the key of microVMs' tokens", error))?;
        let known = read.map(|item| item.value);
        let decoded = known.as_ref().and_then(|known| STANDARD.decode(&known.key).ok()?.try_into().ok());
        let key: [u8; KEY] = match decoded {
            Some(key) => key,
            None => {
                let mut key = [0; KEY];
                let filled = SystemRandom::new().fill(&mut key);
                filled.map_err(|error| step("make a key for microVMs' tokens", error))?;
                key
            }
        };
        Ok(Self { records, known, key: STANDARD.encode(key), signer: Signer::new(&key), url: OnceCell::new() })
    }

    /// The port where it was, where that is known.
    fn last_port(&self) -> Option<u16> {
        self.known.as_ref()?.port
    }

    /// Writes down the key, and where it is, unless that is known.
    fn remember(&self, port: Option<u16>) -> Result<()> {
        let record = EndpointRecord { key: self.key.clone(), port };
        if self.known.as_ref() != Some(&record) {
            self.records.put(RECORD, &record).map_err(|error| step("record microVMs' endpoint", error))?;
        }
        Ok(())
    }
}

impl Microvms {
    /// Listens at the endpoint, if somebody asked for that, or has used it before.
    pub(crate) async fn begin_endpoint(&self, listen: Listen) -> Result<()> {
        let endpoint = &self.0.endpoint;
        match listen {
            Listen::At { socket, tls } => {
                endpoint.remember(endpoint.last_port())?;
                let address = socket.local_addr().map_err(|error| step("find out where it listens", error))?;
                let scheme = if tls.is_some() { "https" } else { "http" };
                let host = match address.ip().is_unspecified() {
                    // Wherever it is called from, its name leads here, and a certificate may have it.
                    true => format!("{}:{}", node_name(), address.port()),
                    false => address.to_string(),
                };
                // Nobody was here before.
                let _ = endpoint.url.set(format!("{scheme}://{host}"));
                tokio::spawn(self.clone().serve_endpoint(socket, tls.map(TlsAcceptor::from)));
                Ok(())
            }
            Listen::WhenNeeded => match endpoint.last_port() {
                Some(_) => self.endpoint().await.map(drop),
                None => Ok(()),
            },
        }
    }

    /// Where the endpoint is: it is listened at from now on. Without a slash at its end.
    ///
    /// # Errors
    /// It can't be listened at.
    pub async fn endpoint(&self) -> Result<&str> {
        let endpoint = &self.0.endpoint;
        let listen = || async {
            let last = endpoint.last_port();
            let socket = match last {
                Some(port) => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.inspect_err(|error| {
                    tracing::warn!(port, %error, "the endpoint of microVMs can't be where it was: it gets another port");
                }),
                None => Err(std::io::ErrorKind::NotFound.into()),
            };
            let socket = match socket {
                Ok(socket) => socket,
                Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                    .await
                    .map_err(|error| step("listen at 127.0.0.1 for microVMs' endpoint", error))?,
            };
            let address = socket.local_addr().map_err(|error| step("find out where it listens", error))?;
            endpoint.remember(Some(address.port()))?;
            tokio::spawn(self.clone().serve_endpoint(socket, None));
            Ok(format!("http://{address}"))
        };
        endpoint.url.get_or_try_init(listen).await.map(String::as_str)
    }

    /// A token for a microVM: for these ports; `None`: for the one at which its program was waited for, or 8080.
    ///
    /// # Errors
    /// There is no such microVM, or the token would be good for no time, or for more than an hour.
    pub async fn token(&self, reference: &str, ports: Option<Ports>, good_for: Duration) -> Result<Token> {
        if good_for < Duration::from_secs(1) || good_for > token::LONGEST {
            return Err(Error::invalid("a token may be good for a second to 60 minutes"));
        }
        let microvm = self.microvm(reference).await?;
        let endpoint = self.endpoint().await?.to_owned();
        let ports = ports.unwrap_or_else(|| Ports::one(microvm.port().unwrap_or(USUAL_PORT)));
        let expires = Timestamp::now() + good_for;
        let id = microvm.record.id.to_string();
        let generation = self.0.activities.of(&id).tokens();
        let grant = Grant { microvm: id, ports: ports.clone(), expires: expires.as_second(), generation };
        let value = self.0.endpoint.signer.sign(&grant)?;
        Ok(Token { header: wanted::TOKEN_NAME, value, ports, expires, endpoint })
    }

    /// Takes all tokens of a microVM back that there are. What was begun with one goes on to its end.
    ///
    /// # Errors
    /// There is no such microVM; or it can't be written down, and they are good again after a restart of the daemon.
    pub async fn take_tokens_back(&self, reference: &str) -> Result<()> {
        let microvm = self.microvm(reference).await?;
        let activity = self.0.activities.of(microvm.record.id.as_str());
        let taken = tokio::task::spawn_blocking(move || activity.take_tokens_back()).await;
        taken.map_err(|error| step("take tokens back", error))?
    }

    async fn serve_endpoint(self, socket: TcpListener, tls: Option<TlsAcceptor>) {
        let (places, ways) = (Arc::new(Semaphore::new(CONNECTIONS)), program::Ways::new(CONNECTIONS));
        let scheme = if tls.is_some() { "https" } else { "http" };
        loop {
            // Nobody closes it.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match socket.accept().await {
                Ok((stream, peer)) => {
                    let (microvms, peer, place) = (self.clone(), peer.ip(), Arc::new(place));
                    let client = forward::Client { microvms, peer, scheme, place, ways: ways.clone() };
                    tokio::spawn(client.serve(stream, tls.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the endpoint of microVMs can't be accepted");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
}

impl forward::Client {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        prepare(&stream);
        match tls {
            None => serve::connection(self, stream).await,
            Some(tls) => match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
                Ok(Ok(stream)) => serve::connection(self, stream).await,
                // Not worth more: who may not come in, may not fill the log either.
                Ok(Err(error)) => tracing::debug!(%error, "a client of the endpoint is not let in"),
                Err(_) => {}
            },
        }
    }
}

/// This machine's name.
fn node_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Makes a connection one that does not wait for more to send, and that ends where nobody is at its other end any more.
fn prepare(stream: &TcpStream) {
    // Without that it is slower, or lasts longer.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, PATIENCE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE);
}
