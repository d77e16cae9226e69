//! A balloon (5.5): pages that the guest leaves to the host, as many as it is asked for, or just because it does not need them at the moment.
//!
//! - here: the device, and what the host asks for
//! - [`statistics`]: what the guest tells of its memory
//!
//! A page that was left reads as zeros until the guest writes to it again. It may do so at once: nothing keeps a guest from taking pages back that it has in its
//! balloon, as Linux does before it would have to kill somebody for want of memory. What holds is the limit of the machine's process.

mod statistics;

pub use statistics::MemoryStatistics;

use super::Device;
use super::queue::{Nonsense, Position, Queue, Request};
use crate::memory::PAGE;
use std::collections::BTreeSet;
use std::ops::Range;
use vm_memory::GuestAddress;

/// Its number.
const KIND: u32 = 5;

/// What it can do (5.5.3).
mod feature {
    /// There are statistics.
    pub(super) const STATISTICS: u64 = 1 << 1;
    /// The guest takes pages back before it kills for want of memory.
    pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The guest tells of pages that are free. Without a further feature (`PAGE_POISON`) it looks at nothing that is in them.
    pub(super) const REPORTING: u64 = 1 << 5;
}

/// The most pages that a request puts into the balloon: Linux's have 256.
const MOST: usize = 1 << 14;
/// Where in the configuration (5.5.4) is how many pages the guest has left, in four bytes, which it writes.
const ACTUAL: Range<usize> = 4..8;

/// The device.
#[derive(Debug, Default)]
pub(crate) struct Balloon {
    /// How many pages the host would like, and how many it has: four bytes each.
    configuration: [u8; 8],
    /// How often the host has changed its mind.
    changes: u32,
    features: u64,
    queues: [Option<Queue>; 5],
    statistics: Option<MemoryStatistics>,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

impl Balloon {
    /// Would like so many pages of 4096 bytes. Returns whether that is news.
    pub(crate) fn ask_for(&mut self, pages: u32) -> bool {
        let (wanted, _) = self.configuration.split_at_mut(ACTUAL.start);
        let is_news = *wanted != pages.to_le_bytes();
        wanted.copy_from_slice(&pages.to_le_bytes());
        self.changes = self.changes.wrapping_add(is_news.into());
        is_news
    }

    /// How many pages the guest says that it has left.
    pub(crate) fn left(&self) -> u32 {
        let [_, _, _, _, actual @ ..] = self.configuration;
        u32::from_le_bytes(actual)
    }

    /// What the guest told last, if it did; it is asked for news.
    ///
    /// # Errors
    /// As [`Device::notified`].
    pub(crate) fn statistics(&mut self) -> Result<Option<MemoryStatistics>, Nonsense> {
        let has = (0..self.queues.len()).find(|queue| self.role(*queue) == Some(Role::Statistics));
        let Some(number) = has else { return Ok(None) };
        let last = self.statistics;
        if let Some(mut queue) = self.queues[number].take() {
            let asked = self.ask_again(&mut queue);
            self.queues[number] = Some(queue);
            asked?;
        }
        Ok(last)
    }

    /// Returns the buffer that the guest told its statistics in, as is done when there shall be others (5.5.6.3).
    fn ask_again(&mut self, queue: &mut Queue) -> Result<(), Nonsense> {
        let memory = queue.memory().clone();
        let Some(number) = queue.next(&memory)?.map(|request| request.number) else { return Ok(()) };
        queue.answer(number, 0)?;
        // Before the guest hears of it: it is to tell of what it puts there next.
        if queue.wake()? {
            self.hear(queue)?;
        }
        queue.tell()
    }

    /// Queues are counted without those whose features were not accepted, as Linux does; by the specification the one for reports is the fifth, whichever there are.
    fn role(&self, queue: usize) -> Option<Role> {
        let has = |feature: u64| self.features & feature != 0;
        match queue {
            0 => Some(Role::Inflate),
            1 => Some(Role::Deflate),
            2 if has(feature::STATISTICS) => Some(Role::Statistics),
            _ if has(feature::REPORTING) => Some(Role::Reporting),
            _ => None,
        }
    }

    /// What the guest tells is heard; the buffer stays with the device until it wants to hear more.
    fn hear(&mut self, queue: &mut Queue) -> Result<(), Nonsense> {
        let memory = queue.memory().clone();
        let told = queue.next(&memory)?.map(|mut request| MemoryStatistics::read(&mut request.readable));
        if let Some(told) = told {
            self.statistics = Some(told);
            queue.put_back(1);
        }
        Ok(())
    }
}

/// Pages of a request, by their numbers, four bytes each.
fn inflate(queue: &mut Queue) -> Result<(), Nonsense> {
    let memory = queue.memory().clone();
    queue.handle(|mut request| {
        if request.readable.len() > MOST * 4 {
            return Err(Nonsense("more is put into the balloon at once than can be".to_owned()));
        }
        // In order, so that those that follow each other go together.
        let mut pages = BTreeSet::new();
        while let Some(number) = request.readable.array() {
            pages.insert(u64::from(u32::from_le_bytes(number)));
        }
        for Range { start, end } in runs(pages) {
            memory.give_back(GuestAddress(start * PAGE), (end - start) * PAGE);
        }
        Ok(0)
    })
}

/// Numbers that follow each other, together.
fn runs(numbers: BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

/// Pages that are free are the buffers of a request.
fn reported(queue: &mut Queue) -> Result<(), Nonsense> {
    let memory = queue.memory().clone();
    queue.handle(|Request { writable, .. }| {
        for (place, length) in writable.places() {
            if let Some(at) = memory.guest_address(place) {
                memory.give_back(at, length as u64);
            }
        }
        Ok(0)
    })
}

impl Device for Balloon {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        feature::STATISTICS | feature::DEFLATE_ON_OOM | feature::REPORTING
    }

    fn queues(&self) -> &'static [u16] {
        &[64; 5]
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn changes(&self) -> u32 {
        self.changes
    }

    fn configure(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = usize::try_from(offset) else { return };
        for (at, byte) in (offset..).zip(data).filter(|(at, _)| ACTUAL.contains(at)) {
            self.configuration[at] = *byte;
        }
    }

    fn activate(&mut self, queues: Vec<Option<Queue>>, features: u64) {
        self.features = features;
        for (ours, theirs) in self.queues.iter_mut().zip(queues) {
            *ours = theirs;
        }
    }

    fn notified(&mut self, queue: usize) -> Result<(), Nonsense> {
        let Some(role) = self.role(queue) else { return Ok(()) };
        let Some(mut taken) = self.queues.get_mut(queue).and_then(Option::take) else { return Ok(()) };
        let handled = match role {
            Role::Inflate => inflate(&mut taken),
            // Whatever the guest takes back is there when it is touched.
            Role::Deflate => taken.handle(|_| Ok(0)),
            Role::Statistics => self.hear(&mut taken),
            Role::Reporting => reported(&mut taken),
        };
        self.queues[queue] = Some(taken);
        handled
    }

    fn positions(&self) -> Vec<Option<Position>> {
        self.queues.iter().map(|queue| queue.as_ref().map(Queue::position)).collect()
    }

    fn state(&self) -> Result<Vec<u8>, String> {
        Ok(self.configuration.to_vec())
    }

    fn set_state(&mut self, state: &[u8]) -> Result<(), String> {
        self.configuration = state.try_into().map_err(|_| "a balloon's state has 8 bytes".to_owned())?;
        Ok(())
    }

    fn reset(&mut self) {
        self.queues = Default::default();
        self.features = 0;
        self.statistics = None;
        self.configuration[ACTUAL].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_follow_each_other_go_together() {
        assert_eq!(runs(BTreeSet::from([7, 3, 4, 5, 9, 8])), [3..6, 7..10]);
        assert_eq!(runs(BTreeSet::new()), []);
    }

    #[test]
    fn what_is_asked_for_twice_is_no_news() {
        let mut balloon = Balloon::default();
        assert!(balloon.ask_for(5) && !balloon.ask_for(5) && balloon.ask_for(0));
        assert_eq!(balloon.changes(), 2);
        // The guest says how much it has left, and nothing else.
        balloon.configure(2, &[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((balloon.left(), &balloon.configuration()[..4]), (0x0605_0403, &[0; 4][..]));
    }
}
