//! Networks that a container in a microVM comes to and leaves while it runs, and where its cards are in one that goes on from a snapshot.

use std::path::Path;
use std::time::Duration;

use guest_protocol::configuration::{File, Network};
use guest_protocol::message::Blob;
use microvm::Card;
use microvm::control::NetworkWish;

use super::machine::{card, interface};
use super::machine_limits::NetworkLimits;
use crate::model::{CardPlaces, ContainerRecord, Phase, SnapshotRecord};
use crate::spec::ContainerFiles;
use crate::{Engine, Error, Result};

/// How long a guest may take for a change. One that does not answer has its cards taken all the same, and is given no new ones.
const PATIENCE: Duration = Duration::from_secs(30);

impl Engine {
    /// Has the machine of a running container be on the networks of `sandbox`, whose taps are there, and know the files that say so. Blocks.
    ///
    /// # Errors
    /// It does not answer, or refuses: it has no place for another card. Cards that none of the networks is for are gone then as well.
    pub(crate) fn machine_network(&self, record: &ContainerRecord, sandbox: &net::Sandbox) -> Result<()> {
        let interfaces = sandbox.guest_interfaces();
        let limits = NetworkLimits::of(&record.host.annotations)?;
        let own = ContainerFiles::below(&self.container_dir(&record.id));
        let wish = NetworkWish {
            cards: interfaces.iter().map(|interface| card(interface, limits)).collect(),
            network: Network {
                interfaces: interfaces.iter().map(interface).collect(),
                sysctls: interfaces.iter().flat_map(|interface| interface.sysctls.iter().cloned()).collect(),
                files: [&own.hosts, &own.resolv_conf].map(|path| file(path)).into_iter().collect::<Result<_>>()?,
            },
        };
        let changed = self.patient_connection(&record.id, PATIENCE)?.network(wish);
        changed
            .map_err(|error| Error::system(error.to_string()))?
            .map_err(|failure| Error::conflict(failure.to_string()))
    }
}

/// Refuses to change the network of a machine that answers nobody.
///
/// # Errors
/// The container is in one, and paused.
pub(crate) fn changes_network(record: &ContainerRecord) -> Result<()> {
    match record.is_machine() && record.state.phase == Phase::Paused {
        true => Err(Error::conflict(format!(
            "container {} is in a microVM and paused, and does nothing with its network cards: unpause it first",
            record.name
        ))),
        false => Ok(()),
    }
}

/// Refuses another network of what is suspended, whose machine has a card for each that it was on.
///
/// # Errors
/// It is.
pub(crate) fn goes_on_with_its_networks(record: &ContainerRecord) -> Result<()> {
    match record.state.suspended.is_some() {
        true => Err(Error::conflict(format!(
            "container {0} is suspended, and goes on with the networks that it was on: `stratus resume {0}` first",
            record.name
        ))),
        false => Ok(()),
    }
}

fn file(path: &Path) -> Result<File> {
    let contents = std::fs::read(path).map_err(|error| Error::step(format!("read {}", path.display()), error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(File { name, mode: 0o644, contents: Blob(contents) })
}

/// The networks of a sandbox, by their identifiers, in the order of its interfaces.
pub(super) fn networks(sandbox: Option<&net::Sandbox>) -> Vec<String> {
    let endpoints = sandbox.into_iter().flat_map(|sandbox| &sandbox.endpoints).filter(|own| own.tap.is_some());
    endpoints.map(|endpoint| endpoint.network.clone()).collect()
}

/// Where the cards of interfaces are in a machine, which says what addresses its cards have, by their places.
///
/// # Errors
/// It has others.
pub(super) fn places_of(interfaces: &[net::GuestInterface], places: &[Option<[u8; 6]>]) -> Result<CardPlaces> {
    let place = |interface: &net::GuestInterface| {
        let mac = interface.mac.octets();
        let found = places.iter().position(|card| *card == Some(mac));
        found.ok_or_else(|| Error::system(format!("the machine has no network card {}", interface.mac)))
    };
    let of_cards = interfaces.iter().map(place).collect::<Result<Vec<_>>>()?;
    let taken = places.iter().flatten().count();
    if taken != of_cards.len() {
        return Err(Error::system(format!(
            "the machine has {taken} network cards, and is on {} networks",
            of_cards.len()
        )));
    }
    Ok(CardPlaces { count: places.len(), of_cards })
}

/// For each interface, which card of the saved machine is its own.
pub(super) struct Seats(pub(super) Vec<usize>);

impl Seats {
    /// The card that was on the same network, as far as there is one. Without a snapshot, the first card is the first interface's.
    pub(super) fn of(origin: Option<&SnapshotRecord>, networks: &[String]) -> Self {
        let then = origin.map(|origin| &origin.networks[..]).unwrap_or_default();
        let mut seats: Vec<_> = networks.iter().map(|network| then.iter().position(|was| was == network)).collect();
        for at in 0..seats.len() {
            if seats[at].is_none() {
                seats[at] = (0..networks.len()).find(|free| !seats.contains(&Some(*free)));
            }
        }
        Self(seats.into_iter().flatten().collect())
    }

    /// The places of a machine that goes on from a snapshot, with the cards of these interfaces.
    pub(super) fn seated(
        &self,
        origin: &SnapshotRecord,
        interfaces: &[net::GuestInterface],
        limits: NetworkLimits,
    ) -> Vec<Option<Card>> {
        let count = origin.places.as_ref().map_or(interfaces.len(), |places| places.count);
        let mut places = vec![None; count];
        for (interface, seat) in interfaces.iter().zip(&self.0) {
            let place = origin.places.as_ref().map_or(Some(*seat), |places| places.of_cards.get(*seat).copied());
            if let Some(place) = place.and_then(|place| places.get_mut(place)) {
                *place = Some(card(interface, limits));
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerId, SnapshotId, Timestamp};
    use microvm::{MemorySize, VcpuCount};

    fn origin(networks: &[&str]) -> SnapshotRecord {
        SnapshotRecord {
            id: SnapshotId::random(),
            container: ContainerId::random(),
            name: None,
            created: Timestamp::UNIX_EPOCH,
            parent: None,
            size: 0,
            driver: "kvm".to_owned(),
            vcpus: VcpuCount::new(1).unwrap(),
            processor: microvm::Processor::Host,
            memory: MemorySize::from_mib(64).unwrap(),
            most_memory: None,
            cards: Vec::new(),
            networks: networks.iter().map(|name| (*name).to_owned()).collect(),
            places: None,
            files_place: false,
            outputs: [0; 2],
            disk: false,
            copied: false,
        }
    }

    #[test]
    fn a_card_stays_on_its_network_wherever_that_comes_in_the_order() {
        let seats = |then: &[&str], now: &[&str]| {
            Seats::of(Some(&origin(then)), &now.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).0
        };
        assert_eq!(seats(&["b", "a"], &["a", "b"]), [1, 0]);
        assert_eq!(seats(&["b", "a"], &["c", "b"]), [1, 0]);
        assert_eq!(seats(&["b", "a", "d"], &["d", "c", "x"]), [2, 0, 1]);
        // As it was before networks were written down.
        assert_eq!(seats(&[], &["a", "b"]), [0, 1]);
        assert_eq!(Seats::of(None, &["a".to_owned(), "b".to_owned()]).0, [0, 1]);
    }
}
