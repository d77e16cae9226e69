//! A file system that comes and goes while the machine runs, behind a port of its own as network cards are ([`cards`](super::cards)).

use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use qapi::Dictionary;
use qapi::qmp::{
    ChardevBackend, ChardevCommon, ChardevSocket, FdSocketAddress, chardev_add, chardev_remove, device_add, device_del,
    qom_list,
};

use super::monitor::Monitor;
use crate::error::{Error, Result};

/// How long a guest may take to leave it.
const LEAVES: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// What its port, its device and the connection to its server are called.
const PORT: &str = "files-port";
const DEVICE: &str = "files-device";
const SERVER: &str = "files-server";

/// Where the port is on the first bus, behind all that QEMU places itself, and what Linux calls it.
const SLOT: &str = "0x1e";
const PLACE: &str = "0000:00:1e.0";

/// The place, behind as many for cards.
pub(super) fn place(command: &mut Command, cards: usize) {
    command.args(["-device", &format!("pcie-root-port,id={PORT},chassis={},addr={SLOT}", cards + 1)]);
}

/// Has a file system come. Returns what the guest's kernel calls its place.
pub(super) fn plug(monitor: &mut Monitor, tag: &str, server: OwnedFd) -> Result<String> {
    let tried = "have a file system come";
    monitor.lend(tried, SERVER, server)?;
    let socket = ChardevSocket {
        base: ChardevCommon { logappend: None, logfile: None },
        nodelay: None,
        reconnect: None,
        // It is who connected.
        server: Some(false),
        telnet: None,
        tls_authz: None,
        tls_creds: None,
        tn3270: None,
        wait: None,
        websocket: None,
        addr: FdSocketAddress { str: SERVER.to_owned() }.into(),
    };
    monitor.execute(tried, &chardev_add { id: SERVER.to_owned(), backend: ChardevBackend::socket(socket.into()) })?;
    let arguments: Dictionary =
        [("chardev".to_owned(), SERVER.into()), ("tag".to_owned(), tag.into()), ("queue-size".to_owned(), 512.into())]
            .into_iter()
            .collect();
    let (bus, id) = (Some(PORT.to_owned()), Some(DEVICE.to_owned()));
    let added = monitor.execute(tried, &device_add { bus, id, driver: "vhost-user-fs-pci".to_owned(), arguments });
    added.map(|_| PLACE.to_owned()).inspect_err(|_| {
        let _ = monitor.execute(tried, &chardev_remove { id: SERVER.to_owned() });
    })
}

/// Has it go, which the guest has left.
///
/// # Errors
/// The guest does not leave it.
pub(super) fn unplug(monitor: &mut Monitor) -> Result<()> {
    let tried = "have a file system go";
    // It may be on its way, or gone, since it was tried last.
    let _ = monitor.execute(tried, &device_del { id: DEVICE.to_owned() });
    let until = Instant::now() + LEAVES;
    loop {
        let devices = monitor.execute(tried, &qom_list { path: "/machine/peripheral".to_owned() })?;
        if !devices.iter().any(|device| device.name == DEVICE) {
            let removed = monitor.execute(tried, &chardev_remove { id: SERVER.to_owned() });
            return removed.map(drop);
        }
        if Instant::now() >= until {
            return Err(Error::Monitor { tried, why: format!("the guest has not left it in {LEAVES:?}") });
        }
        thread::sleep(LOOK);
    }
}
