//! Network cards that come and go while the machine runs.
//!
//! A machine has places for them from its start on. What is wanted is said whole: which cards there are to be, and what the guest makes of them. First the guest leaves the
//! cards that are to go, then they go, others come, and the guest is told of those. One that does not leave a card, or never answers, has it taken all the same.

use std::collections::BTreeSet;

use guest_protocol::configuration::{Found, Interface, Network};
use guest_protocol::message::{Failure, Reply, Request};

use super::{Asked, Process, Stage};
use crate::control::NetworkWish;
use crate::error::Result;
use crate::plan::Card;

/// What is known of the machine's places for cards beside what is there, and what is being changed.
#[derive(Debug, Default)]
pub(super) struct Cards {
    /// Places of cards that the guest keeps, though they are nobody's any more.
    kept: BTreeSet<usize>,
    /// The change that is under way.
    change: Option<Change>,
    /// How many there were: what the guest answers to one that was given up is not for the next.
    changes: u64,
}

/// A change for a client.
#[derive(Debug)]
struct Change {
    client: u64,
    wish: NetworkWish,
    /// The guest is asked to leave cards. Else it is told what there is.
    leaves: bool,
}

impl Cards {
    /// Why the machine can't be saved as it is, if it can't.
    pub(super) fn keep_from_saving(&self) -> Option<&'static str> {
        match (&self.change, self.kept.is_empty()) {
            (Some(_), _) => Some("its network cards are being changed"),
            (None, false) => Some("the guest keeps a network card that it was to leave"),
            (None, true) => None,
        }
    }
}

impl Process {
    /// A client wants the machine to have another network.
    pub(super) fn on_network(&mut self, client: u64, wish: NetworkWish) -> Result<()> {
        let refused = match self.stage {
            Stage::Running if !self.host.is_connected() => Some("the machine's agent is away"),
            Stage::Running if self.clients.hold() => Some("the machine rests to be saved"),
            Stage::Running if self.cards.change.is_some() => Some("its network cards are being changed already"),
            Stage::Running => None,
            _ => Some("the container's process does not run"),
        };
        if let Some(why) = refused {
            self.clients.networked(client, Err(Failure::Refused { why: why.to_owned() }));
            return Ok(());
        }
        let leaves = self.leaving(&wish).next().is_some();
        self.cards.changes += 1;
        self.cards.change = Some(Change { client, wish, leaves });
        if leaves { self.ask_to_leave() } else { self.add_cards() }
    }

    /// The places of cards that are to go.
    fn leaving<'p>(&'p self, wish: &'p NetworkWish) -> impl Iterator<Item = usize> + 'p {
        let places = self.plan.hardware.cards.iter().enumerate();
        let goes = |card: &Card| !wish.cards.iter().any(|wanted| is_same(wanted, card));
        places.filter(move |(_, card)| card.as_ref().is_some_and(goes)).map(|(place, _)| place)
    }

    fn ask_to_leave(&mut self) -> Result<()> {
        let Some(Change { wish, .. }) = &self.cards.change else { return Ok(()) };
        // What is there already, and stays.
        let stays = |interface: &&Interface| {
            self.plan
                .hardware
                .cards
                .iter()
                .flatten()
                .any(|card| is_of(interface, card.mac) && wish.cards.iter().any(|wanted| is_same(wanted, card)))
        };
        let interfaces = wish.network.interfaces.iter().filter(stays).cloned().collect();
        self.ask_network(Network { interfaces, sysctls: Vec::new(), files: Vec::new() })
    }

    fn ask_network(&mut self, network: Network) -> Result<()> {
        self.ask(Request::Network(Box::new(network)), Asked::Network(self.cards.changes))
    }

    /// The guest has answered, or nobody waits for that any more.
    pub(super) fn on_networked(&mut self, number: u64, answer: Result<Reply, Failure>) -> Result<()> {
        match self.cards.change.as_mut().filter(|_| number == self.cards.changes) {
            Some(change) if change.leaves => {
                // Whatever it says of that: they go.
                change.leaves = false;
                self.remove_cards();
                self.add_cards()
            }
            Some(_) => {
                self.changed(answer.map(drop));
                Ok(())
            }
            // Given up meanwhile.
            None => Ok(()),
        }
    }

    /// A client is gone: what it wanted is given up, but that cards are to go, which they do without the guest.
    pub(super) fn give_up_network(&mut self, client: u64) {
        if let Some(change) = self.cards.change.take_if(|change| change.client == client)
            && change.leaves
        {
            let leaving: Vec<_> = self.leaving(&change.wish).collect();
            leaving.into_iter().for_each(|place| self.remove_card(place));
        }
    }

    fn remove_cards(&mut self) {
        let Some(change) = &self.cards.change else { return };
        let leaving: Vec<_> = self.leaving(&change.wish).chain(self.cards.kept.iter().copied()).collect();
        leaving.into_iter().for_each(|place| self.remove_card(place));
    }

    fn remove_card(&mut self, place: usize) {
        self.plan.hardware.cards[place] = None;
        match self.machine.unplug(place) {
            Ok(()) => self.cards.kept.remove(&place),
            // It is on no network any more; its place is not free.
            Err(_) => self.cards.kept.insert(place),
        };
    }

    /// Has those come that are not there yet, and tells the guest.
    fn add_cards(&mut self) -> Result<()> {
        let Some(Change { wish, .. }) = &self.cards.change else { return Ok(()) };
        let network = wish.network.clone();
        let places = &self.plan.hardware.cards;
        let is_new = |wanted: &&Card| !places.iter().flatten().any(|card| is_same(wanted, card));
        let coming: Vec<_> = wish.cards.iter().filter(is_new).cloned().collect();
        for card in coming {
            if let Err(failure) = self.add_card(card) {
                self.changed(Err(failure));
                return Ok(());
            }
        }
        self.ask_network(network)
    }

    fn add_card(&mut self, card: Card) -> Result<(), Failure> {
        let places = self.plan.hardware.cards.iter().enumerate();
        let free = places.filter(|(place, card)| card.is_none() && !self.cards.kept.contains(place));
        let Some(place) = free.map(|(place, _)| place).next() else {
            let all = self.plan.hardware.cards.len();
            let why = format!(
                "a microVM that runs has places for {all} network cards, and all are taken: stop it, connect it, and start it again"
            );
            return Err(Failure::Refused { why });
        };
        let plugged = self.machine.plug(place, &card);
        plugged.map_err(|error| Failure::Refused { why: format!("have a network card come: {error}") })?;
        self.plan.hardware.cards[place] = Some(card);
        Ok(())
    }

    fn changed(&mut self, result: Result<(), Failure>) {
        if let Some(change) = self.cards.change.take() {
            self.clients.networked(change.client, result);
        }
    }
}

fn is_same(one: &Card, other: &Card) -> bool {
    (&one.tap, one.mac) == (&other.tap, other.mac)
}

fn is_of(interface: &Interface, mac: [u8; 6]) -> bool {
    interface.mac == Some(mac) || interface.found == Found::Mac(mac)
}
