//! Devices that come and go while the machine runs, network cards above all: found in the places where they may be, and left before they go.
//!
//! By virtio over MMIO a place where nothing is has the number of no device, at which the kernel's driver gave up when the machine booted (virtio 4.2.2): it is asked to
//! look there again. A bus of PCI tells of what comes by itself.

use std::fs;
use std::io::Error;
use std::path::{Path, PathBuf};

use guest_protocol::configuration::{Found, Interface};
use guest_protocol::message::Failure;

use crate::failed_io;

/// The kernel's driver of devices by MMIO, and what ACPI calls one of them.
const DRIVER: &str = "/sys/bus/platform/drivers/virtio-mmio";
const DEVICES: &str = "/sys/bus/platform/devices";
const NAME: &str = "LNRO0005";
/// Devices of PCI.
const PORTS: &str = "/sys/bus/pci/devices";
const RESCAN: &str = "/sys/bus/pci/rescan";
/// Network interfaces.
const INTERFACES: &str = "/sys/class/net";

/// Has the kernel look again where nothing was.
pub(crate) fn look() {
    for device in entries(DEVICES) {
        let name = device.file_name().and_then(|name| name.to_str()).filter(|name| name.starts_with(NAME));
        if let Some(name) = name.filter(|_| !device.join("driver").exists()) {
            // Most places are still free, which is an error here.
            let _ = fs::write(format!("{DRIVER}/bind"), name);
        }
    }
}

/// Has the kernel look again at one place, by its name, where nothing was, or where what is there was left.
pub(crate) fn look_at(place: &str) {
    if place.starts_with(NAME) {
        // Where its driver is there already, it refuses.
        let _ = fs::write(format!("{DRIVER}/bind"), place);
    } else {
        // What comes for the first time it sees by itself.
        let _ = fs::write(RESCAN, "1");
    }
}

/// Leaves what is in a place, if anything is.
pub(crate) fn leave_place(place: &str) {
    if place.starts_with(NAME) {
        let _ = fs::write(format!("{DRIVER}/unbind"), place);
        return;
    }
    // What is behind a port is in its directory, by its own address.
    for device in entries(&format!("{PORTS}/{place}")) {
        let is_device = device.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"0000:"));
        if is_device {
            let _ = fs::write(device.join("remove"), "1");
        }
    }
}

/// Leaves the cards that none of these interfaces is for.
pub(crate) fn leave_others(interfaces: &[Interface]) -> Result<(), Failure> {
    for interface in entries(INTERFACES) {
        // Those that are no devices, as the loopback, have none; and others are no cards of the host's.
        let Ok(device) = fs::canonicalize(interface.join("device")) else { continue };
        let is_virtio = device.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"virtio"));
        let Some(card) = device.parent().filter(|_| is_virtio) else { continue };
        let mac = fs::read_to_string(interface.join("address"));
        let mac = mac.map_err(failed_io("read the address of", interface.display().to_string()))?;
        if !interfaces.iter().any(|wanted| is_of(wanted, mac.trim_end())) {
            leave(card).map_err(failed_io("leave", card.display().to_string()))?;
        }
    }
    Ok(())
}

/// Whether an interface is that of a card of this address, as it is or as it is to be.
fn is_of(interface: &Interface, mac: &str) -> bool {
    let is = |own: &[u8; 6]| own.map(|byte| format!("{byte:02x}")).join(":") == mac;
    interface.mac.as_ref().is_some_and(is) || matches!(&interface.found, Found::Mac(own) if is(own))
}

fn leave(card: &Path) -> Result<(), Error> {
    // On a bus of PCI it goes altogether, until somebody looks for it.
    let remove = card.join("remove");
    if remove.exists() {
        return fs::write(remove, "1");
    }
    let name = card.file_name().unwrap_or_default().as_encoded_bytes();
    fs::write(card.join("driver/unbind"), name)
}

fn entries(directory: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_for_a_card_by_either_of_its_addresses() {
        let (was, is) = ([2, 0, 0, 0, 0, 0xa], [2, 0, 0, 0, 0, 0xb]);
        let of = |found, mac| Interface {
            found,
            name: "eth0".to_owned(),
            mac,
            mtu: None,
            addresses: Vec::new(),
            routes: Vec::new(),
        };
        let both = of(Found::Mac(was), Some(is));
        assert!(is_of(&both, "02:00:00:00:00:0a") && is_of(&both, "02:00:00:00:00:0b"));
        assert!(!is_of(&both, "02:00:00:00:00:0c") && !is_of(&of(Found::Name("eth0".to_owned()), None), ""));
    }
}
