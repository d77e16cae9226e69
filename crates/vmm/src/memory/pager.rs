//! Who brings the pages of a snapshot into the guest's memory when they are touched first.
//!
//! A thread of the machine's own process, and no process of its own: only whoever has the memory may give pages back and bring them without telling the other of each (here both lock
//! [`Mapped`](super::Mapped)), nothing can die without the machine, and a machine is one process less. What it costs is that a file system that hangs holds the machine up, as it would if the file were mapped.
//!
//! What can't be read is told as the machine's end, and reads as zeros, so that nobody waits for it for ever; what the guest then asks of its disks is refused ([`Whole`](super::Whole)).

use super::sources::{Sources, filled};
use super::userfault::{Put, Userfault};
use super::working_set::{MOST_RUNS, WorkingSet};
use super::{Memory, PAGE, Run};
use crate::end::{End, Ending};
use crate::error::{Error, Result};
use crate::events::Waited;
use crate::threads::{Gate, Wake};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use vm_memory::GuestAddress;

/// Pages that come with one that is touched: as many as the kernel maps of a file around a fault, and as many more each time the next ones are touched in order, up to a MiB.
const AROUND: u64 = 16;
const MOST_AROUND: u64 = 256;
/// Pages that are brought ahead of need between two looks at what is needed.
const AHEAD: u64 = 64;
/// Holes of a file of less than so many pages are told of, too: each range costs the kernel two mappings, of which a process may have 65,530.
const GAP: u64 = 256;
/// The most ranges. Where there are more, all is one.
const MOST_RANGES: usize = 4096;

/// Which pages were touched, for as long as the machine lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched(Arc<Mutex<Vec<Run>>>);

impl Touched {
    /// In the order in which they were.
    pub(crate) fn working_set(&self) -> WorkingSet {
        WorkingSet(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn add(&self, pages: &Range<u64>) {
        let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, count, is_full) = (pages.start, pages.end - pages.start, runs.len() >= MOST_RUNS);
        match runs.last_mut() {
            Some(last) if last.first + last.count == first => last.count += count,
            _ if is_full => {}
            _ => runs.push(Run { first, count }),
        }
    }
}

/// How many pages come with one that is touched.
#[derive(Debug)]
struct Readahead {
    /// Behind what came last.
    next: u64,
    count: u64,
}

impl Readahead {
    /// The pages that are to come with `page`.
    fn around(&mut self, page: u64) -> Range<u64> {
        self.count = if page == self.next { (self.count * 2).min(MOST_AROUND) } else { AROUND };
        // Around it, or from it on where they are touched in order.
        let start = if self.count == AROUND { page / AROUND * AROUND } else { page };
        self.next = start + self.count;
        start..self.next
    }
}

/// A file of a snapshot's memory: all of it, or the pages that it has.
pub(crate) type Part<'s> = (File, Option<&'s [Run]>);

/// What its thread has.
#[derive(Debug)]
pub(crate) struct Pager {
    faults: Userfault,
    memory: Memory,
    sources: Arc<Sources>,
    /// Addresses of this process whose faults are told.
    registered: Vec<Range<u64>>,
    touched: Touched,
    ahead: VecDeque<Run>,
    readahead: Readahead,
    buffer: Vec<u8>,
    /// It has said that it can't go on.
    has_failed: bool,
}

impl Pager {
    /// Has memory that was just made come from those files, of which the first has all of it and each other one what it differs by from those before. Whatever is in `ahead` comes
    /// before it is asked for. Until [`Pager::work`] runs, who touches the memory waits.
    ///
    /// # Errors
    /// A file is not of this machine, or the process may not have faults told.
    pub(crate) fn new(memory: &mut Memory, files: Vec<Part<'_>>, ahead: Option<&WorkingSet>) -> Result<Pager> {
        let mut sources = Sources::default();
        for (file, runs) in files {
            memory.is_whole(&file)?;
            let runs = match runs {
                Some(runs) => runs.iter().map(|run| memory.pages_of(run)).collect::<Result<_>>()?,
                None => filled(&file, GAP).map_err(Error::host("look at a snapshot's memory"))?,
            };
            let number = sources.file(file);
            let parts = memory.saved_pages();
            for run in runs {
                // What was unplugged later is in none.
                let within = |part: &Range<u64>| run.start.max(part.start)..run.end.min(part.end);
                parts.iter().map(within).for_each(|pages| sources.lay(number, pages));
            }
        }
        let sources = Arc::new(sources);
        memory.await_pages(Arc::clone(&sources));
        let faults = Userfault::new()?;
        let all = sources.all().joined(GAP, MOST_RANGES);
        let registered: Vec<_> = all
            .iter()
            .flat_map(|pages| memory.places(pages))
            .map(|(pages, host)| host..host + (pages.end - pages.start) * PAGE)
            .collect();
        registered.iter().try_for_each(|range| faults.register(range))?;
        // Whoever told it may have told the same again and again: in all it brings no more pages than there are.
        let mut rest = all.iter().map(|pages| pages.end - pages.start).sum::<u64>();
        let ahead = ahead.iter().flat_map(|set| &set.0).filter(|run| memory.pages_of(run).is_ok()).copied();
        let ahead = ahead.map_while(|run| {
            rest = rest.checked_sub(run.count)?;
            Some(run)
        });
        Ok(Pager {
            faults,
            ahead: ahead.collect(),
            memory: memory.clone(),
            sources,
            registered,
            touched: Touched::default(),
            readahead: Readahead { next: u64::MAX, count: AROUND },
            buffer: Vec::new(),
            has_failed: false,
        })
    }

    /// What was touched, while it works.
    pub(crate) fn touched(&self) -> Touched {
        self.touched.clone()
    }

    /// Answers until the gate says that it is over: also while the machine rests, as who saves it touches its memory.
    pub(crate) fn work(mut self, gate: &Gate, wake: &Wake, ending: &Ending) {
        while !gate.is_over() {
            if let Err(error) = self.turn(wake) {
                self.fail(&error, ending);
            }
        }
    }

    fn turn(&mut self, wake: &Wake) -> io::Result<()> {
        let waited = Waited(wake);
        let mut polled = [PollFd::new(&self.faults, PollFlags::IN), PollFd::new(&waited, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // It fails where a signal came: looked at again.
        let _ = poll(&mut polled, (!self.ahead.is_empty()).then_some(&at_once));
        let _ = wake.read();
        let faults = self.faults.read()?;
        if faults.is_empty() {
            return self.bring_ahead();
        }
        faults.into_iter().try_for_each(|address| self.answer(address))
    }

    /// Brings the page at an address, which somebody waits for, and some around it.
    fn answer(&mut self, address: u64) -> io::Result<()> {
        let place = self.memory.guest_address(address as *const u8);
        let page = place.and_then(|at: GuestAddress| self.memory.page_of(at));
        let page = page.ok_or_else(|| io::Error::other("a fault where no memory of the guest's is"))?;
        if !self.has_failed && self.is_away(page) {
            let around = self.readahead.around(page);
            self.touched.add(&around);
            // What is waited for first, and then what is before it. Where some of that can't be had, only what is waited for is an error.
            if self.bring(page..around.end).is_err() {
                self.bring(page..page + 1)?;
            } else {
                let _ = self.bring(around.start..page);
            }
        }
        // It was given back, or no file has it; or it has come meanwhile.
        let range = address..address + PAGE;
        match self.faults.zero(&range)? {
            Put::WasThere => self.faults.wake(&range),
            Put::Bytes(_) => Ok(()),
        }
    }

    fn is_away(&self, page: u64) -> bool {
        self.memory.mapped().awaited.as_ref().is_some_and(|awaited| awaited.is_away(page))
    }

    /// Brings some of what will be needed.
    fn bring_ahead(&mut self) -> io::Result<()> {
        let Some(run) = self.ahead.front_mut() else { return Ok(()) };
        let count = run.count.min(AHEAD);
        let pages = run.first..run.first.saturating_add(count);
        (run.first, run.count) = (pages.end, run.count - count);
        if run.count == 0 {
            self.ahead.pop_front();
        }
        self.touched.add(&pages);
        if self.bring(pages).is_err() {
            // Whoever touches what can't be had is told.
            self.ahead.clear();
        }
        Ok(())
    }

    /// Brings those of some pages that are still in a file.
    fn bring(&mut self, pages: Range<u64>) -> io::Result<()> {
        let away = self.memory.mapped().awaited.as_ref().map(|awaited| awaited.away(pages)).unwrap_or_default();
        for run in away {
            self.buffer.resize(((run.end - run.start) * PAGE) as usize, 0);
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = self.sources.read(run.start, &mut buffer);
            let put = read.and_then(|()| self.put(&run, &buffer));
            self.buffer = buffer;
            put?;
        }
        Ok(())
    }

    /// Puts pages where they belong, unless they were given back while they were read.
    fn put(&self, pages: &Range<u64>, bytes: &[u8]) -> io::Result<()> {
        let mut mapped = self.memory.mapped();
        let Some(awaited) = &mut mapped.awaited else { return Ok(()) };
        for away in awaited.away(pages.clone()) {
            for (part, host) in self.memory.places(&away) {
                let at = |page: u64| ((page - pages.start) * PAGE) as usize;
                self.put_at(host, &bytes[at(part.start)..at(part.end)])?;
                awaited.has_come(part);
            }
        }
        Ok(())
    }

    fn put_at(&self, host: u64, bytes: &[u8]) -> io::Result<()> {
        let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
        let zeros: Vec<_> = bytes.chunks(PAGE as usize).map(is_zero).collect();
        let mut done = 0;
        for alike in zeros.chunk_by(bool::eq) {
            let end = done + alike.len() * PAGE as usize;
            while done < end {
                let at = host + done as u64;
                let put = if alike[0] {
                    self.faults.zero(&(at..host + end as u64))?
                } else {
                    self.faults.copy(at, &bytes[done..end])?
                };
                done += match put {
                    Put::Bytes(count) => count as usize,
                    Put::WasThere => PAGE as usize,
                };
            }
        }
        Ok(())
    }

    /// Tells that the machine can't go on, and has nobody wait any more.
    fn fail(&mut self, error: &io::Error, ending: &Ending) {
        // In this order: who reads zeros by it can find out that they are not the guest's.
        self.memory.whole().lose();
        if !std::mem::replace(&mut self.has_failed, true) {
            ending.tell(End::Failed(format!(
                "bring the memory of a snapshot into the machine: {error}; its files are gone, damaged or out of reach"
            )));
        }
        self.ahead.clear();
        self.release();
    }

    fn release(&self) {
        for range in &self.registered {
            // It fails where nothing is registered any more.
            let _ = self.faults.unregister(range);
        }
    }
}

impl Drop for Pager {
    /// Also where it panicked: nobody may wait for it then, and nothing that is missing may last.
    fn drop(&mut self) {
        self.memory.whole().lose();
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemorySize;
    use crate::confine::Kind;
    use crate::threads::{Thread, wake};
    use vm_memory::{Bytes, GuestMemoryBackend};

    const MIB: u64 = 1 << 20;

    fn memory() -> Memory {
        let size = MemorySize::from_mib(32).unwrap();
        Memory::new(size, &[(GuestAddress(0), 16 * MIB), (GuestAddress(64 * MIB), 16 * MIB)]).unwrap()
    }

    fn fill(memory: &Memory, at: u64, length: u64, byte: u8) {
        memory.write("bytes", GuestAddress(at), &vec![byte; length as usize]).unwrap();
    }

    fn byte(memory: &Memory, at: u64) -> u8 {
        memory.regions().read_obj(GuestAddress(at)).unwrap()
    }

    fn all(memory: &Memory) -> Vec<u8> {
        let mut bytes = vec![0; 32 * MIB as usize];
        let (low, high) = bytes.split_at_mut(16 * MIB as usize);
        memory.regions().read_slice(low, GuestAddress(0)).unwrap();
        memory.regions().read_slice(high, GuestAddress(64 * MIB)).unwrap();
        bytes
    }

    /// Memory that comes from files, and who brings it.
    struct Brought {
        memory: Memory,
        ending: Arc<Ending>,
        touched: Touched,
        _thread: Thread,
    }

    fn brought(files: Vec<(&File, Option<&[Run]>)>, ahead: Option<&WorkingSet>) -> Brought {
        let mut memory = memory();
        let files = files.into_iter().map(|(file, runs)| (file.try_clone().unwrap(), runs)).collect();
        let pager = Pager::new(&mut memory, files, ahead).unwrap();
        let (touched, ending, wake) = (pager.touched(), Arc::new(Ending::new().unwrap()), wake().unwrap());
        let (woken, told) = (Arc::clone(&wake), Arc::clone(&ending));
        let work = move |gate: &Gate| pager.work(gate, &woken, &told);
        let thread = Thread::new("pages".to_owned(), Kind::Pages, Some(wake), &ending, work).unwrap();
        Brought { memory, ending, touched, _thread: thread }
    }

    /// A file with 1 in the first 4 MiB, 2 at the beginning of the second region, and holes.
    fn base() -> File {
        let (memory, file) = (memory(), tempfile::tempfile().unwrap());
        fill(&memory, 0, 4 * MIB, 1);
        fill(&memory, 64 * MIB, 2 * PAGE, 2);
        memory.save(&file).unwrap();
        file
    }

    /// How much of a part of the memory this process has pages of.
    fn resident(memory: &Memory, at: u64, length: u64) -> usize {
        let mut pages = vec![0u8; (length / PAGE) as usize];
        let start = memory.regions().get_host_address(GuestAddress(at)).unwrap();
        // SAFETY: the range is mapped, and the list has a byte for each of its pages.
        assert_eq!(unsafe { libc::mincore(start.cast(), length as usize, pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| **page & 1 != 0).count()
    }

    #[test]
    fn what_is_touched_comes_with_some_around_it_and_nothing_else() {
        let brought = brought(vec![(&base(), None)], None);
        let memory = &brought.memory;
        assert_eq!(resident(memory, 0, 16 * MIB), 0);
        assert_eq!(byte(memory, MIB + 5), 1);
        assert_eq!(resident(memory, 0, 16 * MIB), AROUND as usize);
        assert_eq!((byte(memory, 64 * MIB), byte(memory, 64 * MIB + 2 * PAGE)), (2, 0));
        // Touched in order, more comes at once.
        for page in 0..AROUND * 8 {
            assert_eq!(byte(memory, 2 * MIB + page * PAGE), 1);
        }
        assert!(brought.touched.working_set().0.len() < 8, "{:?}", brought.touched);
        // Where no file has anything it is as any other memory.
        assert_eq!(byte(memory, 12 * MIB), 0);
        fill(memory, 12 * MIB, PAGE, 9);
        assert!(all(memory)[..4 * MIB as usize].iter().all(|byte| *byte == 1));
        assert_eq!(brought.ending.told(), None);
        assert!(memory.whole().is());
    }

    #[test]
    fn many_threads_that_touch_the_same_see_the_same() {
        let brought = brought(vec![(&base(), None)], None);
        let memory = &brought.memory;
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                scope.spawn(move || {
                    for number in 0..1024 {
                        let page = (number * 7 + thread) % 1024;
                        assert_eq!(byte(memory, page * PAGE + thread), 1);
                    }
                });
            }
        });
        assert_eq!(brought.ending.told(), None);
    }

    #[test]
    fn what_is_given_back_never_comes_again() {
        let brought = brought(vec![(&base(), None)], None);
        let memory = &brought.memory;
        assert_eq!(byte(memory, 0), 1);
        // One that has come, and some that have not.
        memory.give_back(GuestAddress(PAGE), 3 * PAGE);
        memory.give_back(GuestAddress(MIB), MIB);
        assert_eq!(resident(memory, PAGE, 3 * PAGE), 0);
        for at in [PAGE, 3 * PAGE, MIB, 2 * MIB - 1] {
            assert_eq!(byte(memory, at), 0, "at {at:#x}");
        }
        assert_eq!((byte(memory, 4 * PAGE), byte(memory, 2 * MIB), byte(memory, MIB - 1)), (1, 1, 1));
        fill(memory, MIB, PAGE, 3);
        assert_eq!((byte(memory, MIB), byte(memory, MIB + PAGE)), (3, 0));
    }

    #[test]
    fn giving_back_while_pages_come_leaves_zeros_or_what_is_written_then() {
        let brought = brought(vec![(&base(), None)], None);
        let memory = &brought.memory;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1024).map(|page| byte(memory, page * PAGE)).max());
            scope.spawn(|| {
                (0..1024).rev().step_by(2).for_each(|page| memory.give_back(GuestAddress(page * PAGE), PAGE))
            });
        });
        for page in 0..1024 {
            assert_eq!(byte(memory, page * PAGE), if page % 2 == 1 { 0 } else { 1 }, "page {page}");
        }
    }

    #[test]
    fn it_is_saved_as_it_is_and_a_difference_has_what_differs() {
        let base = base();
        let first = brought(vec![(&base, None)], None);
        fill(&first.memory, 5 * PAGE, PAGE, 5);
        fill(&first.memory, 8 * MIB, PAGE, 6);
        // Written to as it was, touched, and given back.
        fill(&first.memory, 6 * PAGE, PAGE, 1);
        assert_eq!(byte(&first.memory, MIB), 1);
        first.memory.give_back(GuestAddress(2 * MIB), 4 * PAGE);
        let difference = tempfile::tempfile().unwrap();
        let runs = first.memory.save_changed(&difference).unwrap();
        assert_eq!(runs.iter().map(|run| run.count).sum::<u64>(), 6, "{runs:?}");
        assert!(resident(&first.memory, 3 * MIB, MIB) == 0, "saving it brought it");
        let whole = tempfile::tempfile().unwrap();
        first.memory.save(&whole).unwrap();
        let second = brought(vec![(&base, None), (&difference, Some(&runs))], None);
        let third = brought(vec![(&whole, None)], None);
        let mapped = memory();
        mapped.map_saved(&base).unwrap();
        mapped.map_changed(&difference, &runs).unwrap();
        let expected = all(&first.memory);
        assert_eq!((expected[5 * PAGE as usize], expected[2 * MIB as usize], expected[8 * MIB as usize]), (5, 0, 6));
        assert!(all(&second.memory) == expected && all(&third.memory) == expected && all(&mapped) == expected);
    }

    #[test]
    fn what_was_touched_comes_before_it_is_asked_for() {
        let base = base();
        let first = brought(vec![(&base, None)], None);
        for at in [3 * MIB, 64 * MIB, MIB] {
            byte(&first.memory, at);
        }
        let set = first.touched.working_set();
        assert_eq!(set.pages(), 3 * AROUND);
        let second = brought(vec![(&base, None)], Some(&set));
        while second.touched.working_set().pages() < set.pages() {
            std::thread::yield_now();
        }
        // The last run may be under way: what is touched is right all the same.
        assert_eq!([3 * MIB, 64 * MIB, MIB].map(|at| byte(&second.memory, at)), [1, 2, 1]);
        assert_eq!(second.touched.working_set(), set);
        // One that speaks of what there is not.
        let wrong = WorkingSet(vec![Run { first: u64::MAX, count: 2 }, Run { first: 0, count: u64::MAX }]);
        assert_eq!(byte(&brought(vec![(&base, None)], Some(&wrong)).memory, 0), 1);
    }

    #[test]
    fn a_file_that_is_cut_ends_the_machine_and_nobody_waits() {
        let base = base();
        let brought = brought(vec![(&base, None)], None);
        assert_eq!(byte(&brought.memory, 0), 1);
        base.set_len(MIB).unwrap();
        let read = std::thread::scope(|scope| {
            let touch = |at| byte(&brought.memory, at);
            let threads: Vec<_> = [2 * MIB, 3 * MIB, 64 * MIB].map(|at| scope.spawn(move || touch(at))).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(read, [0, 0, 0]);
        assert!(!brought.memory.whole().is());
        let Some(End::Failed(why)) = brought.ending.told() else { panic!("it did not end") };
        assert!(why.contains("bring the memory of a snapshot into the machine"), "{why}");
        assert!(brought.memory.save(&tempfile::tempfile().unwrap()).is_err(), "what is lost was saved");
        let short = Pager::new(&mut memory(), vec![(base.try_clone().unwrap(), None)], None).unwrap_err().to_string();
        assert!(short.contains("is of another one, or was cut"), "{short}");
    }

    #[test]
    fn who_brings_them_may_die() {
        let base = base();
        let mut memory = memory();
        let pager = Pager::new(&mut memory, vec![(base.try_clone().unwrap(), None)], None).unwrap();
        let read = std::thread::scope(|scope| {
            let waits = scope.spawn(|| byte(&memory, MIB));
            let dies = scope.spawn(move || {
                // Until somebody waits.
                while poll(&mut [PollFd::new(&pager.faults, PollFlags::IN)], None).is_err() {}
                let _pager = pager;
                std::panic::resume_unwind(Box::new("it died"));
            });
            assert!(dies.join().is_err());
            waits.join().unwrap()
        });
        assert_eq!((read, memory.whole().is()), (0, false));
    }
}
