//! A network card (5.1): packets between the guest and a tap, with what both sides leave to each other (checksums, segmentation).

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

/// Its number.
const KIND: u32 = 1;
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

/// The device.
#[derive(Debug)]
pub(crate) struct Net {
    tap: Tap,
    /// Tells once for each time that the tap has something to be received, and when what had to wait may go on.
    epoll: OwnedFd,
    /// There where there are limits.
    timer: Option<Timer>,
    receives: Limiter,
    sends: Limiter,
    mtu: u16,
    configuration: [u8; 12],
    features: u64,
    rx: Option<Queue>,
    tx: Option<Queue>,
}

impl Net {
    pub(crate) fn new(tap: Tap, card: Card) -> io::Result<Net> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &tap, EventData::new_u64(OF_TAP), EventFlags::IN | EventFlags::ET)?;
        let (receives, sends) = (Limiter::new(card.receive), Limiter::new(card.send));
        let timer = (receives.is_limited() || sends.is_limited()).then(Timer::new).transpose()?;
        if let Some(timer) = &timer {
            epoll::add(&epoll, timer, EventData::new_u64(OF_TIMER), EventFlags::IN)?;
        }
        // `struct virtio_net_config` (5.1.4): address, status and count of queues (which are not offered), MTU.
        let mut configuration = [0; 12];
        configuration[..6].copy_from_slice(&card.mac);
        configuration[10..].copy_from_slice(&card.mtu.to_le_bytes());
        Ok(Net { tap, epoll, timer, receives, sends, mtu: card.mtu, configuration, features: 0, rx: None, tx: None })
    }

    /// Bytes that a packet can have, header included, as the guest has said.
    fn largest(&self) -> usize {
        if self.features & (feature::GUEST_TSO4 | feature::GUEST_TSO6) != 0 {
            LARGEST
        } else {
            // Ethernet's header, and a tag of a VLAN.
            HEADER + 18 + usize::from(self.mtu)
        }
    }

    /// Takes as many requests as the largest packet needs, if there are as many: their numbers and lengths, and all of their buffers.
    fn room<'m>(&self, queue: &mut Queue, memory: &'m Memory) -> Result<Option<Room<'m>>, Nonsense> {
        // Without merging a packet has one request, and what does not fit into that is lost.
        let needed = if self.features & feature::MERGED_BUFFERS != 0 { self.largest() } else { 1 };
        let mut room = Room::default();
        while room.buffers.len() < needed {
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

    /// Receives what there is, as long as the guest has room for the largest packet there can be.
    fn receive(&mut self) -> Result<(), Nonsense> {
        let Some(mut queue) = self.rx.take() else { return Ok(()) };
        let received = self.receive_into(&mut queue);
        self.rx = Some(queue);
        received
    }

    fn receive_into(&mut self, queue: &mut Queue) -> Result<(), Nonsense> {
        let memory = queue.memory().clone();
        queue.quiet()?;
        loop {
            if let Some(wait) = self.receives.wait() {
                self.look_again_in(wait);
                break;
            }
            let Some(mut room) = self.room(queue, &memory)? else { break };
            let head = room.buffers.clone();
            match room.buffers.once(|list| self.tap.receive(list)) {
                Ok(count) if count > 0 => {
                    self.receives.take(count.saturating_sub(HEADER));
                    settle(queue, &room.requests, head, count)?;
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

    fn send(&mut self) -> Result<(), Nonsense> {
        let Some(mut queue) = self.tx.take() else { return Ok(()) };
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
        self.tx = Some(queue);
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
        KIND
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

    /// Its address, which a driver reads once: whoever speaks with the guest has it take another one.
    fn may_change(&self) -> Range<usize> {
        0..6
    }

    fn activate(&mut self, queues: Vec<Option<Queue>>, features: u64) {
        self.features = features;
        // A tap that can't leave it to the guest does it itself, which is right as well.
        let _ = self.tap.set_offload(features);
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
        if let Some(timer) =
            self.timer.as_mut().filter(|_| events[..count].iter().any(|event| event.data.u64() == OF_TIMER))
        {
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
