//! A network card (5.1): packets between the guest and a tap, with what both sides leave to each other (checksums, segmentation).
//!
//! One may come and go while the machine runs. Until it comes its place is there, and has the number of no device (4.2.2), at which a driver stops looking: it costs
//! a guest three reads at its start, and the host a file of events. Whoever speaks with the guest has it look again, and leave the card before it goes.

mod tap;
mod timer;

pub(crate) use tap::Tap;

use super::Device;
use super::buffers::Buffers;
use super::limit::Limiter;
use super::queue::{Nonsense, Outcome, Position, Queue, Request};
use crate::config::Limits;
use crate::memory::Memory;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tap::HEADER;
use timer::Timer;

/// Its number, and that of a place where nothing is.
const KIND: u32 = 1;
const NOTHING: u32 = 0;
const RX: usize = 0;
const TX: usize = 1;

/// What it can do (5.1.3).
mod feature {
    /// The guest may leave checksums to the host; the host may to the guest.
    pub(super) const CHECKSUM: u64 = 1 << 0;
    pub(super) const GUEST_CHECKSUM: u64 = 1 << 1;
    pub(super) const MTU: u64 = 1 << 3;
    pub(super) const MAC: u64 = 1 << 5;
    /// Packets may be larger than the network's: whoever has them last cuts them.
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
    /// A packet may lie in several of the guest's buffers.
    pub(super) const MERGED_BUFFERS: u64 = 1 << 15;
    pub(super) const ALL: u64 =
        CHECKSUM | GUEST_CHECKSUM | MTU | MAC | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6 | MERGED_BUFFERS;
}

/// The largest packet that is not cut yet, with its header: 64 KiB of IP, and Ethernet's own header.
const LARGEST: usize = HEADER + 14 + 65_535;
/// Where in a packet's header the number of buffers is that it lies in.
const BUFFER_COUNT: usize = 10;

/// What a card is called, how large a packet of its network is, and how much goes through it at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u16,
    pub(crate) receive: Limits,
    pub(crate) send: Limits,
}

/// What the card's events are told apart by.
const OF_TAP: u64 = 0;
const OF_TIMER: u64 = 1;

/// The host's side of a card.
#[derive(Debug)]
struct Plugged {
    tap: Tap,
    /// There where there are limits.
    timer: Option<Timer>,
    receives: Limiter,
    sends: Limiter,
    mtu: u16,
}

/// The device, or its place.
#[derive(Debug)]
pub(crate) struct Net {
    /// `None`: nothing is there.
    card: Option<Plugged>,
    /// Tells once for each time that the tap has something to be received, and when what had to wait may go on.
    epoll: OwnedFd,
    configuration: [u8; 12],
    changes: u32,
    features: u64,
    rx: Option<Queue>,
    tx: Option<Queue>,
}

impl Net {
    /// A place for one.
    pub(crate) fn place() -> io::Result<Net> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Net { card: None, epoll, configuration: [0; 12], changes: 0, features: 0, rx: None, tx: None })
    }

    pub(crate) fn new(tap: Tap, card: Card) -> io::Result<Net> {
        let mut net = Net::place()?;
        net.plug(tap, card)?;
        // It never was another one.
        net.changes = 0;
        Ok(net)
    }

    /// Whether there is a card.
    pub(crate) fn is_plugged(&self) -> bool {
        self.card.is_some()
    }

    /// A card comes, in the place of what was there. The guest has to set it up anew.
    pub(crate) fn plug(&mut self, tap: Tap, card: Card) -> io::Result<()> {
        self.unplug();
        epoll::add(&self.epoll, &tap, EventData::new_u64(OF_TAP), EventFlags::IN | EventFlags::ET)?;
        let (receives, sends) = (Limiter::new(card.receive), Limiter::new(card.send));
        let timer = (receives.is_limited() || sends.is_limited()).then(Timer::new).transpose()?;
        if let Some(timer) = &timer {
            epoll::add(&self.epoll, timer, EventData::new_u64(OF_TIMER), EventFlags::IN)?;
        }
        // `struct virtio_net_config` (5.1.4): address, status and count of queues (which are not offered), MTU.
        self.configuration[..6].copy_from_slice(&card.mac);
        self.configuration[10..].copy_from_slice(&card.mtu.to_le_bytes());
        self.card = Some(Plugged { tap, timer, receives, sends, mtu: card.mtu });
        Ok(())
    }

    /// The card goes, whatever the guest does with it: nothing is received or sent any more. What was waited for goes with its descriptors.
    pub(crate) fn unplug(&mut self) {
        self.reset();
        (self.card, self.configuration) = (None, [0; 12]);
        self.changes = self.changes.wrapping_add(1);
    }

    /// Receives what there is, as long as the guest has room for the largest packet there can be, and as many as its ring has at once.
    fn receive(&mut self) -> Result<(), Nonsense> {
        let (Some(card), Some(queue)) = (&mut self.card, &mut self.rx) else { return Ok(()) };
        card.receive_into(queue, self.features)
    }

    fn send(&mut self) -> Result<(), Nonsense> {
        let (Some(card), Some(queue)) = (&mut self.card, &mut self.tx) else { return Ok(()) };
        card.send_from(queue)
    }
}

impl Plugged {
    /// Bytes that a packet can have, header included, as the guest has said by what it accepted.
    fn largest(&self, features: u64) -> usize {
        if features & (feature::GUEST_TSO4 | feature::GUEST_TSO6) != 0 {
            LARGEST
        } else {
            // Ethernet's header, and a tag of a VLAN.
            HEADER + 18 + usize::from(self.mtu)
        }
    }

    /// Takes as many requests as the largest packet needs, if there are as many: their numbers and lengths, and all of their buffers.
    fn room<'m>(&self, queue: &mut Queue, memory: &'m Memory, features: u64) -> Result<Option<Room<'m>>, Nonsense> {
        // Without merging a packet has one request, and what does not fit into that is lost.
        let needed = if features & feature::MERGED_BUFFERS != 0 { self.largest(features) } else { 1 };
        let mut room = Room::default();
        while room.buffers.len() < needed {
            // A guest that offers requests without room as fast as they are taken would have this process remember them all.
            if room.requests.len() == usize::from(queue.size()) {
                return Err(Nonsense("a whole ring of requests has no room for a packet".to_owned()));
            }
            match queue.next(memory)? {
                Some(request) => {
                    room.requests.push((request.number, request.writable.len()));
                    let added = room.buffers.append(request.writable);
                    added.ok_or_else(|| Nonsense("buffers are longer than anything can be".to_owned()))?;
                }
                // Asked to tell of the next one before the others are put back: one that is there already is never told of.
                None if queue.wake()? => {}
                None => {
                    queue.put_back(room.requests.len());
                    return Ok(None);
                }
            }
        }
        Ok(Some(room))
    }

    fn receive_into(&mut self, queue: &mut Queue, features: u64) -> Result<(), Nonsense> {
        let memory = queue.memory().clone();
        queue.quiet()?;
        // Where packets come as fast as the guest takes them, others have their turn all the same.
        for turn in (0..queue.size()).rev() {
            if let Some(wait) = self.receives.wait() {
                self.look_again_in(wait);
                break;
            }
            let Some(mut room) = self.room(queue, &memory, features)? else { break };
            let head = room.buffers.clone();
            match room.buffers.once(|list| self.tap.receive(list)) {
                Ok(count) if count > 0 => {
                    self.receives.take(count.saturating_sub(HEADER));
                    settle(queue, &room.requests, head, count)?;
                    if turn == 0 {
                        // It is not full: it was read before.
                        let _ = queue.kick().write(1);
                    }
                }
                // Nothing is there; or the tap is gone, as its network is.
                _ => {
                    queue.put_back(room.requests.len());
                    break;
                }
            }
        }
        queue.tell()
    }

    fn send_from(&mut self, queue: &mut Queue) -> Result<(), Nonsense> {
        let (tap, sends, mut waits) = (&self.tap, &mut self.sends, None);
        let send = |mut request: Request<'_>| {
            if request.readable.len() <= HEADER {
                return Err(Nonsense("a packet is shorter than its header".to_owned()));
            }
            waits = sends.wait();
            if waits.is_some() {
                return Ok(Outcome::Later);
            }
            sends.take(request.readable.len() - HEADER);
            if request.readable.len() <= LARGEST {
                // What the tap does not take is lost, as on any network.
                let _ = request.readable.once(|list| tap.send(list));
            }
            Ok(Outcome::Answered(0))
        };
        let sent = queue.handle_while(|| true, send);
        if let Some(wait) = waits {
            self.look_again_in(wait);
        }
        sent
    }

    /// Nobody tells of what has to wait: the timer does.
    fn look_again_in(&mut self, wait: Duration) {
        if let Some(timer) = &mut self.timer {
            timer.at(Instant::now() + wait);
        }
    }
}

/// Requests, by their numbers and how many bytes each has room for, and all of that room.
#[derive(Default)]
struct Room<'m> {
    requests: Vec<(u16, usize)>,
    buffers: Buffers<'m>,
}

/// Says in how many buffers a packet of `count` bytes lies that was received into `requests`, answers those, and puts the others back.
fn settle(queue: &mut Queue, requests: &[(u16, usize)], mut head: Buffers<'_>, count: usize) -> Result<(), Nonsense> {
    let (mut used, mut left) = (0, count);
    while left > 0 && used < requests.len() {
        left -= left.min(requests[used].1);
        used += 1;
    }
    // Before they are answered: the guest may look at once.
    if head.take(BUFFER_COUNT).is_some() {
        head.write(&(used as u16).to_le_bytes());
    }
    let mut left = count;
    for (number, room) in &requests[..used] {
        let part = left.min(*room);
        queue.answer(*number, part as u32)?;
        left -= part;
    }
    queue.put_back(requests.len() - used);
    Ok(())
}

impl Device for Net {
    fn kind(&self) -> u32 {
        if self.card.is_some() { KIND } else { NOTHING }
    }

    fn features(&self) -> u64 {
        feature::ALL
    }

    fn queues(&self) -> &'static [u16] {
        &[256, 256]
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn changes(&self) -> u32 {
        self.changes
    }

    /// Its address, which a driver reads once: whoever speaks with the guest has it take another one.
    fn may_change(&self) -> Range<usize> {
        0..6
    }

    fn activate(&mut self, queues: Vec<Option<Queue>>, features: u64) {
        // A guest that sets up what is not there has set up nothing.
        let Some(card) = &self.card else { return };
        self.features = features;
        // A tap that can't leave it to the guest does it itself, which is right as well.
        let _ = card.tap.set_offload(features);
        let mut queues = queues.into_iter();
        self.rx = queues.next().flatten();
        self.tx = queues.next().flatten();
    }

    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn ready(&mut self) -> Result<(), Nonsense> {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(OF_TAP) }; 2];
        let no_time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // Told once of the tap, it is not told again before there is more.
        let count = epoll::wait(&self.epoll, &mut events, Some(&no_time)).unwrap_or(0);
        let rang = events[..count].iter().any(|event| event.data.u64() == OF_TIMER);
        if let Some(timer) = self.card.as_mut().and_then(|card| card.timer.as_mut()).filter(|_| rang) {
            timer.rang();
            self.send()?;
        }
        self.receive()
    }

    fn notified(&mut self, queue: usize) -> Result<(), Nonsense> {
        match queue {
            RX => self.receive(),
            TX => self.send(),
            _ => Ok(()),
        }
    }

    fn positions(&self) -> Vec<Option<Position>> {
        [&self.rx, &self.tx].map(|queue| queue.as_ref().map(Queue::position)).to_vec()
    }

    fn reset(&mut self) {
        (self.rx, self.tx, self.features) = (None, None, 0);
    }
}
