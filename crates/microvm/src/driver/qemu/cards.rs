//! Network cards, each behind a port of its own, so that it can come and go while the machine runs (QEMU's docs/pcie.txt). ACPI tells the guest of either.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use qapi::Dictionary;
use qapi::qmp::{Netdev, NetdevTapOptions, device_add, device_del, netdev_add, netdev_del, qom_list};

use super::monitor::Monitor;
use crate::error::{Error, Result};
use crate::plan::Card;

/// How long a guest may take to leave a card.
const LEAVES: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

const DEVICE: &str = "virtio-net-pci";

fn port(place: usize) -> String {
    format!("port{place}")
}

fn card_id(place: usize) -> String {
    format!("card{place}")
}

fn net_id(place: usize) -> String {
    format!("net{place}")
}

fn mac(card: &Card) -> String {
    card.mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The places of cards, and those that are there from the start on.
pub(super) fn arguments(command: &mut Command, cards: &[Option<Card>]) {
    for (place, card) in cards.iter().enumerate() {
        command.args(["-device", &format!("pcie-root-port,id={},chassis={}", port(place), place + 1)]);
        let Some(card) = card else { continue };
        let (net, id, bus) = (net_id(place), card_id(place), port(place));
        command.args(["-netdev", &format!("tap,id={net},ifname={},script=no,downscript=no", card.tap)]);
        let more = format!("netdev={net},mac={},host_mtu={},romfile=", mac(card), card.mtu);
        command.args(["-device", &format!("{DEVICE},id={id},bus={bus},{more}")]);
    }
}

/// Has a card come.
pub(super) fn plug(monitor: &mut Monitor, place: usize, card: &Card) -> Result<()> {
    let tried = "have a network card come";
    let no = || Some("no".to_owned());
    let tap = NetdevTapOptions {
        ifname: Some(card.tap.clone()),
        script: no(),
        downscript: no(),
        br: None,
        fd: None,
        fds: None,
        helper: None,
        poll_us: None,
        queues: None,
        sndbuf: None,
        vhost: None,
        vhostfd: None,
        vhostfds: None,
        vhostforce: None,
        vnet_hdr: None,
    };
    monitor.execute(tried, &netdev_add(Netdev::tap { id: net_id(place), tap }))?;
    let arguments: Dictionary = [
        ("netdev".to_owned(), net_id(place).into()),
        ("mac".to_owned(), mac(card).into()),
        ("host_mtu".to_owned(), card.mtu.into()),
        ("romfile".to_owned(), "".into()),
    ]
    .into_iter()
    .collect();
    let (bus, id) = (Some(port(place)), Some(card_id(place)));
    let added = monitor.execute(tried, &device_add { bus, id, driver: DEVICE.to_owned(), arguments });
    added.map(drop).inspect_err(|_| {
        let _ = monitor.execute(tried, &netdev_del { id: net_id(place) });
    })
}

/// Has a card go. It is on no network then, in any case.
///
/// # Errors
/// The guest does not leave it.
pub(super) fn unplug(monitor: &mut Monitor, place: usize) -> Result<()> {
    let tried = "have a network card go";
    // It may be on its way, or gone, since it was tried last.
    let _ = monitor.execute(tried, &device_del { id: card_id(place) });
    let _ = monitor.execute(tried, &netdev_del { id: net_id(place) });
    let until = Instant::now() + LEAVES;
    loop {
        let devices = monitor.execute(tried, &qom_list { path: "/machine/peripheral".to_owned() })?;
        if !devices.iter().any(|device| device.name == card_id(place)) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Error::Monitor { tried, why: format!("the guest has not left it in {LEAVES:?}") });
        }
        thread::sleep(LOOK);
    }
}
