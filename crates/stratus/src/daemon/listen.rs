//! Where the daemon listens: Unix sockets, TCP with mutual TLS, and sockets that systemd opened.

mod tls;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_rustls::rustls::ServerConfig;

use super::Error;
use super::config::{Config, Host};
pub(super) use tls::TlsListener;

/// Everything that is listened on.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) unix: Vec<UnixListener>,
    pub(super) tls: Vec<TlsListener>,
    fresh: Vec<Fresh>,
}

impl Listeners {
    /// Lets the sockets be found in the file system: from that moment on, who comes waits for an answer.
    pub(super) async fn publish(&mut self) -> Result<(), Error> {
        for fresh in self.fresh.drain(..) {
            // Somebody may have come in the meantime.
            remove_dead(&fresh.path).await?;
            std::fs::rename(&fresh.name, &fresh.path).map_err(Error::io("name", fresh.path.display()))?;
        }
        Ok(())
    }
}

/// A socket under a name that nobody looks for, which goes with this unless it gets its own.
struct Fresh {
    name: PathBuf,
    path: PathBuf,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.name);
    }
}

/// All listeners of the configuration, before they can be found: what can't be had is known before anything else is begun.
pub(super) async fn bind(config: &Config) -> Result<Listeners, Error> {
    let mut listeners = Listeners::default();
    for host in &config.hosts {
        match host {
            Host::Unix(path) => {
                let (listener, fresh) = unix(path, config).await?;
                listeners.unix.push(listener);
                listeners.fresh.push(fresh);
            }
            Host::Inherited => inherited(config, &mut listeners)?,
            Host::Tcp(address) => listeners.tls.push(tcp(address, config).await?),
        }
    }
    Ok(listeners)
}

/// Sockets that systemd opened (sd_listen_fds(3)).
fn inherited(config: &Config, listeners: &mut Listeners) -> Result<(), Error> {
    const ON: &str = "a socket of systemd";
    let mut sockets = listenfd::ListenFd::from_env();
    if sockets.len() == 0 {
        return Err(Error::Config("host fd://: systemd gave no socket: start stratus.socket".to_owned()));
    }
    for index in 0..sockets.len() {
        if let Ok(Some(listener)) = sockets.take_unix_listener(index) {
            listener.set_nonblocking(true).map_err(Error::io("make non-blocking", ON))?;
            listeners.unix.push(UnixListener::from_std(listener).map_err(Error::io("listen on", ON))?);
        } else if let Some(listener) = sockets.take_tcp_listener(index).map_err(Error::io("take over", ON))? {
            listener.set_nonblocking(true).map_err(Error::io("make non-blocking", ON))?;
            let listener = TcpListener::from_std(listener).map_err(Error::io("listen on", ON))?;
            listeners.tls.push(TlsListener::new(listener, server(config)?));
        }
    }
    Ok(())
}

async fn tcp(address: &str, config: &Config) -> Result<TlsListener, Error> {
    let server = server(config)?;
    let socket = TcpListener::bind(address).await.map_err(Error::io("listen on", format!("tcp://{address}")))?;
    Ok(TlsListener::new(socket, server))
}

/// Where programs in microVMs are asked.
pub(super) async fn microvm_endpoint(config: &Config) -> Result<microvms::Listen, Error> {
    let Some((address, by_tls)) = config.microvm_endpoint else { return Ok(microvms::Listen::WhenNeeded) };
    let tls = by_tls.then(|| config.tls.server_for_all().map(Arc::new)).transpose();
    let refused = |error| Error::Config(format!("microvm-endpoint {address}: {error}. Give --tlscert and --tlskey"));
    let tls = tls.map_err(refused)?;
    Ok(microvms::Listen::At { socket: at("microvm-endpoint", address).await?, tls })
}

/// Listens at the address that a setting names.
pub(super) async fn at(setting: &str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| {
        let what_to_do = match error.kind() {
            ErrorKind::AddrInUse => ": choose another port, or end who has this one (ss -ltnp shows it)",
            ErrorKind::AddrNotAvailable => ": choose an address that this machine has (ip address shows them)",
            _ => "",
        };
        Error::Config(format!("{setting} {address}: cannot listen there: {error}{what_to_do}"))
    })
}

/// What everybody has to show who comes by TCP: whoever may use the daemon may do everything.
fn server(config: &Config) -> Result<Arc<ServerConfig>, Error> {
    config.tls.server().map(Arc::new).map_err(|error| {
        Error::Config(format!(
            "{error}. Listening on TCP takes mutual TLS, always: give --tlscacert, --tlscert and --tlskey, or let clients come by ssh \
             (docs/remote.md tells how to do either)"
        ))
    })
}

async fn unix(path: &Path, config: &Config) -> Result<(UnixListener, Fresh), Error> {
    let on = || path.display().to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent.display()))?;
    }
    remove_dead(path).await?;
    // Under another name first: from the moment it can be found, it has the right mode and group.
    let name = PathBuf::from(format!("{}{}", path.display(), Host::FRESH));
    let _ = std::fs::remove_file(&name);
    let listener = UnixListener::bind(&name).map_err(Error::io("listen on", on()))?;
    let fresh = Fresh { name, path: path.to_owned() };
    std::fs::set_permissions(&fresh.name, std::fs::Permissions::from_mode(0o660))
        .map_err(Error::io("set the mode of", on()))?;
    if let Some(gid) = group(config)? {
        std::os::unix::fs::chown(&fresh.name, Some(0), Some(gid)).map_err(Error::io("set the group of", on()))?;
    }
    Ok((listener, fresh))
}

/// A socket that a killed daemon left is in the way; one that somebody listens on is not ours to take.
async fn remove_dead(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => {
            let why = format!("host unix://{}: that is there already, and is no socket", path.display());
            return Err(Error::Config(why));
        }
        Err(_) => return Ok(()),
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::Config(format!(
            "host unix://{}: somebody else listens there: choose another",
            path.display()
        )));
    }
    Ok(())
}

/// The group that may use the sockets; `docker` need not exist, another one that was asked for must.
fn group(config: &Config) -> Result<Option<u32>, Error> {
    let wanted = config.group.as_deref().unwrap_or("docker");
    if let Ok(gid) = wanted.parse() {
        return Ok(Some(gid));
    }
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(wanted)).then(|| fields.nth(1)?.parse().ok())?
    });
    match (found, &config.group) {
        (None, Some(group)) => {
            Err(Error::Config(format!("group {group}: no such group: add it with groupadd {group}")))
        }
        (found, _) => Ok(found),
    }
}

/// Takes the sockets' files away, for a daemon that ends in good order.
pub(super) fn remove(config: &Config) {
    for host in &config.hosts {
        if let Host::Unix(path) = host {
            let _ = std::fs::remove_file(path);
        }
    }
}
