//! Where the daemon listens: Unix sockets, and those that systemd opened.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::Error;
use super::config::Config;

/// All listeners of the configuration.
pub(super) async fn bind(config: &Config) -> Result<Vec<UnixListener>, Error> {
    let mut listeners = Vec::new();
    for host in &config.hosts {
        match host.split_once("://") {
            Some(("unix", path)) => listeners.push(unix(Path::new(path), config).await?),
            Some(("fd", _)) => listeners.extend(inherited()?),
            Some(("tcp", _)) => {
                return Err(Error::Config(format!(
                    "--host {host}: tcp:// is not supported yet, as it must come with mutual TLS: use unix:// and an SSH tunnel \
                     (DOCKER_HOST=ssh://…)"
                )));
            }
            _ => return Err(Error::Config(format!("--host {host}: write unix:///PATH or fd://"))),
        }
    }
    Ok(listeners)
}

/// Sockets that systemd opened (sd_listen_fds(3)).
fn inherited() -> Result<Vec<UnixListener>, Error> {
    const ON: &str = "a socket of systemd";
    let mut sockets = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        let Some(listener) = sockets.take_unix_listener(index).map_err(Error::io("take over", ON))? else { continue };
        listener.set_nonblocking(true).map_err(Error::io("make non-blocking", ON))?;
        listeners.push(UnixListener::from_std(listener).map_err(Error::io("listen on", ON))?);
    }
    if listeners.is_empty() {
        return Err(Error::Config("--host fd://: systemd gave no socket: start stratus.socket".to_owned()));
    }
    Ok(listeners)
}

async fn unix(path: &Path, config: &Config) -> Result<UnixListener, Error> {
    let on = || path.display().to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent.display()))?;
    }
    remove_dead(path).await?;
    // Under another name first: from the moment it can be found, it has the right mode and group.
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(Error::io("listen on", on()))?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660))
        .map_err(Error::io("set the mode of", on()))?;
    if let Some(gid) = group(config)? {
        std::os::unix::fs::chown(&fresh, Some(0), Some(gid)).map_err(Error::io("set the group of", on()))?;
    }
    std::fs::rename(&fresh, path).map_err(Error::io("name", on()))?;
    Ok(listener)
}

/// A socket that a killed daemon left is in the way; one that somebody listens on is not ours to take.
async fn remove_dead(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => return Err(Error::Config(format!("{} is there already, and is no socket", path.display()))),
        Err(_) => return Ok(()),
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(Error::Config(format!("somebody else listens on {}: choose another --host", path.display())));
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
            Err(Error::Config(format!("--group {group}: no such group: add it with groupadd {group}")))
        }
        (found, _) => Ok(found),
    }
}

/// Takes the sockets' files away, for a daemon that ends in good order.
pub(super) fn remove(config: &Config) {
    for path in config.hosts.iter().filter_map(|host| host.strip_prefix("unix://")) {
        let _ = std::fs::remove_file(path);
    }
}
