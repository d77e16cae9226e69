//! A machine: made of its parts, and what can be done with it.

use crate::arch::current::fixed::{self, Fixed, FixedState};
use crate::arch::current::layout;
use crate::config::{Config, MIB, MemorySize, Pages, VcpuCount};
use crate::confine::Kind;
use crate::devices::virtio::Attached;
use crate::devices::virtio::balloon::{Balloon, MemoryStatistics};
use crate::devices::virtio::block::DiskHandle;
use crate::devices::virtio::memory::Blocks;
use crate::devices::virtual_devices::{self, All, FilesPlace, Place, Spoken, Virtual};
use crate::end::{End, Ending};
use crate::error::{Error, Result};
use crate::events::{Events, Waited};
use crate::kvm::{self, Buses, Vcpu, Vm};
use crate::load::load;
use crate::memory::{Filler, Memory, More, PAGE, Pager, Run, Touched, Userfault, WorkingSet};
use crate::parts::{CardParts, Devices, FilesParts, Parts};
use crate::snapshot::{self, Backing, Saved, Snapshot, SnapshotFiles};
use crate::threads::{Gate, Thread, Wake, Wanted, wake};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// A machine. It is made resting; dropping it ends it, and waits until nothing of it runs any more.
pub struct Machine {
    // In this order they go: the processors before what answers them, the memory last.
    vcpus: Vec<Thread>,
    events: Thread,
    fixed: Fixed,
    devices: Vec<Virtual>,
    cards: Vec<Place>,
    files_place: Option<FilesPlace>,
    balloon: Option<Spoken<Balloon>>,
    blocks: Option<Spoken<Blocks>>,
    disks: Vec<DiskHandle>,
    processors: Vec<Arc<Mutex<Vcpu>>>,
    _buses: Arc<Buses>,
    ending: Arc<Ending>,
    /// By which the guest hears that it is a copy.
    generation: EventFd,
    vm: Vm,
    count: VcpuCount,
    state: State,
    /// The snapshot that it went on from.
    origin: Option<snapshot::Name>,
    /// Who brings its memory as it is touched, where that is not mapped: behind all that touch it.
    pages: Option<Brought>,
    /// Who makes what the guest starts from as it is touched, likewise.
    _fills: Option<Thread>,
}

/// How long everything of a machine may take to rest. What takes longer waits for the host.
const RESTS_WITHIN: Duration = Duration::from_secs(30);
/// How long a file system may take to go. A guest that has left it has asked nothing that is not answered; nobody else waits for one that has not.
const GOES_WITHIN: Duration = Duration::from_secs(1);

/// The thread that brings pages of a snapshot, and what it has brought.
struct Brought {
    touched: Touched,
    _thread: Thread,
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing: it was made and not started, or paused.
    Rests,
    /// It runs, or has ended by itself meanwhile.
    Runs,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("state", &self.state)
            .field("vcpus", &self.vcpus.len())
            .field("vm", &self.vm)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Opens what `config` names, and makes a machine of it.
    ///
    /// # Errors
    /// As [`Config::open`] and [`Machine::of`].
    pub fn new(config: &Config) -> Result<Machine> {
        Machine::of(config.open()?)
    }

    /// Makes it: puts its files into its memory, prepares its processors, starts its threads, which rest.
    ///
    /// # Errors
    /// KVM is not there or lacks something, a file can't be read or booted, something does not fit into the memory, the host has no room.
    pub fn of(parts: Parts) -> Result<Machine> {
        let Parts { vcpus: count, processor, memory, most_memory, pages, boot, devices } = parts;
        let more = More::new(layout::more(memory), memory, most_memory)?;
        let ranges = layout::memory(memory);
        // A host that promises no more memory than it has (`vm.overcommit_memory=2`) reserves none for what may come: then none does.
        let memory = Memory::growing(memory, &ranges, more).or_else(|_| Memory::new(memory, &ranges))?;
        let faults = (pages == Pages::Huge).then(Userfault::new).and_then(Result::ok);
        if faults.is_some() {
            memory.in_huge_pages();
        }
        let entry = load(count, &boot, &devices, &memory)?;
        let ending = Arc::new(Ending::new()?);
        let fills = faults.map(|faults| fills(Filler::new(faults, &memory)?, &ending)).transpose()?;
        let (vm, template) = Vm::new(memory, processor)?;
        let frame = Frame::new(&vm, devices, None, ending)?;
        let prepared = |index| {
            let vcpu = vm.vcpu(&template, index, count)?;
            vcpu.prepare(entry)?;
            Ok(vcpu)
        };
        let vcpus = (0..count.get()).map(prepared).collect::<Result<_>>()?;
        drop(template);
        let mut machine = frame.machine(vm, count, vcpus)?;
        machine._fills = fills;
        Ok(machine)
    }

    /// Makes a machine that goes on from a snapshot, and rests until it is started. It has a generation of its own (vmgenid), by which the guest knows that it is a copy;
    /// connections over vsock are over, which the guest is told; its clock goes on from where it was, and the time of day is for whoever speaks with the guest to
    /// set. The snapshot's files are mapped: they must not change for as long as the machine lives.
    ///
    /// # Errors
    /// As [`Machine::of`]; or the devices are not those of the snapshot, or the host's processors not such as the guest knows.
    pub fn restore(snapshot: &Snapshot, devices: Devices) -> Result<Machine> {
        Machine::restore_by(snapshot, devices, &Backing::Mapped)
    }

    /// As [`Machine::restore`], with the memory as `backing` says. Where pages are brought as they are touched, one that can't be read any more ends the machine, as [`End::Failed`].
    ///
    /// # Errors
    /// As [`Machine::restore`]; or the process may not have faults of its memory told.
    pub fn restore_by(snapshot: &Snapshot, devices: Devices, backing: &Backing) -> Result<Machine> {
        let saved = snapshot.saved();
        let more = (saved.more > 0).then(|| More { start: layout::more(saved.memory), length: saved.more });
        let mut memory = Memory::growing(saved.memory, &layout::memory(saved.memory), more)?;
        saved.plugged.iter().for_each(|range| memory.plug(range.clone()));
        let ending = Arc::new(Ending::new()?);
        let pages = match backing {
            Backing::Mapped => {
                snapshot.map(&memory)?;
                None
            }
            Backing::Faulted { ahead } => {
                Some(pages(Pager::new(&mut memory, snapshot.files()?, ahead.as_ref())?, &ending)?)
            }
        };
        write_generation(&memory)?;
        let (vm, template) = Vm::new(memory, saved.processor)?;
        vm.restore(&saved.vm)?;
        let frame = Frame::new(&vm, devices, Some(&saved.fixed), ending)?;
        let vcpus = saved.processors.iter().zip(0..);
        let vcpu = |(state, index)| vm.saved_vcpu(&template, index, saved.vcpus, state);
        let vcpus = vcpus.map(vcpu).collect::<Result<_>>()?;
        drop(template);
        let mut machine = frame.machine(vm, saved.vcpus, vcpus)?;
        machine.origin = Some(saved.name);
        machine.pages = pages;
        if machine.devices.len() != saved.devices.len() {
            return Err(Error::Snapshot(format!(
                "go on from a snapshot with other devices: it has {}, and {} are given",
                saved.devices.len(),
                machine.devices.len()
            )));
        }
        for (device, state) in machine.devices.iter().zip(&saved.devices) {
            device.restore(state)?;
        }
        if let Some(End::Failed(why)) = machine.end() {
            return Err(Error::Snapshot(why));
        }
        // The guest looks at its generation once it runs.
        machine.generation.write(1).map_err(Error::host("tell a guest that it is a copy"))?;
        Ok(machine)
    }

    /// Saves all of it into two empty files. It is paused for that, if it was not, and stays so: its disks can be copied as they are at that moment, and it may go on, or be dropped. The file of
    /// the memory must never be written to again; what is written is safe from a loss of power after [`SnapshotFiles::sync`].
    ///
    /// # Errors
    /// It has ended, KVM does not say what it is asked, or the files can't be written: they are nothing then.
    pub fn save(&mut self, into: &SnapshotFiles) -> Result<()> {
        self.save_with(into, |memory| memory.save(&into.memory).map(|()| None))
    }

    /// As [`Machine::save`], but of the memory only what changed since the snapshot that it went on from.
    ///
    /// # Errors
    /// As [`Machine::save`]; or it went on from none; or the kernel does not say what changed, for want of `/proc`.
    pub fn save_difference(&mut self, into: &SnapshotFiles) -> Result<()> {
        let Some(origin) = self.origin else {
            return Err(Error::Snapshot(
                "save a difference: this machine went on from no snapshot, so save all of it".to_owned(),
            ));
        };
        self.save_with(into, |memory| Ok(Some((origin, memory.save_changed(&into.memory)?))))
    }

    fn save_with(
        &mut self,
        into: &SnapshotFiles,
        save: impl FnOnce(&Memory) -> Result<Option<(snapshot::Name, Vec<Run>)>>,
    ) -> Result<()> {
        self.pause()?;
        if let Some(end) = self.end() {
            return Err(Error::Snapshot(format!("save a machine that has ended: {end:?}")));
        }
        let registers = self.vm.registers()?;
        let processors = self.processors.iter().map(|vcpu| lock(vcpu).save(&registers)).collect::<Result<_>>()?;
        let saved = Saved {
            name: random()?,
            vcpus: self.count,
            memory: self.vm.memory().size(),
            more: self.vm.memory().more().map_or(0, |more| more.length),
            plugged: self.vm.memory().all_plugged(),
            vm: self.vm.save()?,
            processors,
            fixed: self.fixed.save(),
            devices: self.devices.iter().map(Virtual::save).collect::<Result<_>>()?,
            difference: save(self.vm.memory())?,
            processor: self.vm.processor(),
        };
        // Its memory may have been out of reach when it was read.
        if let Some(end) = self.end() {
            return Err(Error::Snapshot(format!("save a machine that has ended: {end:?}")));
        }
        snapshot::write(&saved, &into.state)
    }

    /// Has it begin, or go on after a pause. Nothing happens where it runs, or has ended.
    pub fn start(&mut self) {
        if self.state == State::Rests {
            self.run_all();
            self.state = State::Runs;
        }
    }

    fn run_all(&self) {
        self.fixed.console.iter().for_each(|thread| thread.want(Wanted::Run));
        self.devices.iter().for_each(|device| device.want(Wanted::Run));
        self.events.want(Wanted::Run);
        self.vcpus.iter().for_each(|thread| thread.want(Wanted::Run));
    }

    /// As [`Machine::start`], by the name that goes with [`Machine::pause`].
    pub fn resume(&mut self) {
        self.start();
    }

    /// Has everything of it rest, and waits until it does: from then on nothing of the guest changes, no processor's access to a device is pending, and no
    /// request is half done.
    ///
    /// # Errors
    /// [`Error::Busy`]: for half a minute something does not, as the host does not answer a request of it. Then it goes on as before.
    pub fn pause(&mut self) -> Result<()> {
        match self.rest_until(Instant::now() + RESTS_WITHIN) {
            Ok(()) => {
                self.state = State::Rests;
                Ok(())
            }
            Err(kind) => Err(Error::Busy { what: kind.waits_for(), seconds: RESTS_WITHIN.as_secs() }),
        }
    }

    /// Has everything rest by then, or go on as before: the kind of thread that does not rest is told.
    fn rest_until(&self, until: Instant) -> Result<(), Kind> {
        // All of them are told before the first is waited for: one may wait for what another one keeps busy.
        self.vcpus.iter().for_each(|thread| thread.want(Wanted::Rest));
        if let Err(kind) = self.vcpus.iter().try_for_each(|thread| thread.wait_for_rest_until(until)) {
            // Nothing else was told anything, and a device may be in the hands of who does not rest.
            self.vcpus.iter().for_each(|thread| thread.want(Wanted::Run));
            return Err(kind);
        }
        for vcpu in &self.processors {
            lock(vcpu).has_rested();
        }
        let rested = self.events.rest_until(until);
        let rested = rested.and_then(|()| self.devices.iter().try_for_each(|device| device.rest_until(until)));
        let rested = rested.and_then(|()| self.fixed.console.iter().try_for_each(|thread| thread.rest_until(until)));
        if rested.is_err() {
            self.run_all();
        }
        rested
    }

    /// Asks the guest to have so much memory from now on: more than at its start comes in blocks, what is less it leaves to the host. It does so as it finds the time, or
    /// not at all, where it needs what it has: how much that is, [`Machine::memory`] says. What keeps it from taking more is that it is given no more.
    ///
    /// # Errors
    /// It can't have as much, or it has no balloon by which it could have less than at its start.
    pub fn resize(&self, memory: MemorySize) -> Result<()> {
        let at_start = self.vm.memory().size();
        let most = self.blocks.as_ref().and_then(|blocks| blocks.with(|blocks| Ok(blocks.most()))).unwrap_or(0);
        let (more, less) =
            (memory.bytes().saturating_sub(at_start.bytes()), at_start.bytes().saturating_sub(memory.bytes()));
        if more > most {
            return Err(Error::Size(format!(
                "this machine can have {} MiB of memory, and not {}: it was started so",
                at_start.mib() + most / MIB,
                memory.mib()
            )));
        }
        if less > 0 && self.balloon.is_none() {
            return Err(Error::Size(format!(
                "this machine has no balloon: it can't have less than {} MiB",
                at_start.mib()
            )));
        }
        if let Some(balloon) = &self.balloon
            && balloon.with(|balloon| Ok(balloon.ask_for((less / PAGE) as u32))) == Some(true)
        {
            balloon.changed();
        }
        if let Some(blocks) = &self.blocks
            && blocks.with(|blocks| Ok(blocks.ask_for(more))) == Some(true)
        {
            blocks.changed();
        }
        Ok(())
    }

    /// Has a network card come to one of its places (those of [`Config::cards`], from 0 on) where none is. The guest finds it when it is told to look there.
    ///
    /// # Errors
    /// There is no such place, or it is taken; or `card` has no tap.
    pub fn plug(&self, place: usize, card: CardParts) -> Result<()> {
        let free = self.cards.get(place).filter(|place| !place.is_taken());
        let free = free.ok_or_else(|| {
            Error::Size(format!("this machine has no place {place} for a network card, or one is there already"))
        })?;
        free.change(Some(card))
    }

    /// Has the network card of a place go, if one is there. The guest should have left it; if it has not, it has a card that does nothing.
    ///
    /// # Errors
    /// None that a caller could bring about.
    pub fn unplug(&self, place: usize) -> Result<()> {
        self.cards.get(place).map_or(Ok(()), |place| place.change(None))
    }

    /// Has a file system come to the place for one ([`Devices::files_place`]), where none is. The guest finds it when it is told to look there. Returns which of the machine's
    /// devices that is, in the order in which the guest finds them, from 0 on.
    ///
    /// # Errors
    /// There is no such place, or it is taken; or the server does not speak vhost-user.
    pub fn plug_files(&self, files: FilesParts) -> Result<usize> {
        let free = self.files_place.as_ref().filter(|place| !place.is_taken()).ok_or_else(|| {
            Error::Size("this machine has no place for a file system, or one is there already".to_owned())
        })?;
        let wanted = if self.state == State::Runs { Wanted::Run } else { Wanted::Rest };
        free.fill(files, wanted)?;
        Ok(free.number())
    }

    /// Has the file system go that came to that place, if one is there, once its server has answered what it was asked. The guest should have left it; if it has not, it has one that does nothing.
    ///
    /// # Errors
    /// [`Error::Stays`]: for a second the server has not answered; the file system goes on as before.
    pub fn unplug_files(&self) -> Result<()> {
        let Some(place) = &self.files_place else { return Ok(()) };
        let cleared = place.clear(Instant::now() + GOES_WITHIN);
        cleared.map_err(|kind| Error::Stays { what: kind.waits_for(), seconds: GOES_WITHIN.as_secs() })
    }

    /// Lays a file over a part of the disk with that serial number, which can't be written to: the guest finds it from `start` on, in bytes. `None`: what was laid
    /// there is not there any more. What is covered are zeros, and no driver is told: its guest has to know that there is something now.
    ///
    /// # Errors
    /// There is no such disk, it can be written to, or the file has no room on it.
    pub fn lay(&self, serial: &str, start: u64, file: Option<File>) -> Result<()> {
        let disk = self.disks.iter().find(|disk| disk.is(serial));
        let laid = disk.map_or_else(|| Err(std::io::ErrorKind::NotFound.into()), |disk| disk.lay(start, file));
        laid.map_err(Error::host("lay a file over a part of a disk"))
    }

    /// How many bytes of memory the guest has. What of those that it had at its start it has left to the host, it says itself.
    pub fn memory(&self) -> u64 {
        let plugged = self.blocks.as_ref().and_then(|blocks| blocks.with(|blocks| Ok(blocks.plugged())));
        let left = self.balloon.as_ref().and_then(|balloon| balloon.with(|balloon| Ok(balloon.left())));
        let left = left.map_or(0, |pages| u64::from(pages) * PAGE);
        (self.vm.memory().size().bytes() + plugged.unwrap_or(0)).saturating_sub(left)
    }

    /// What the guest told last of its memory, if it did, which it is asked for anew: who wants to know how it stands now asks again after a moment.
    pub fn memory_statistics(&self) -> Option<MemoryStatistics> {
        self.balloon.as_ref()?.with(Balloon::statistics)?
    }

    /// Which pages of its snapshot were touched so far, in the order in which they were: what another machine that goes on from the same one is likely to touch. `None`: they don't come as they are
    /// touched.
    pub fn working_set(&self) -> Option<WorkingSet> {
        self.pages.as_ref().map(|pages| pages.touched.working_set())
    }

    /// What it does, as far as it was told.
    pub fn state(&self) -> State {
        self.state
    }

    /// Ends it from outside: as [`End::Stopped`], unless it has ended already.
    pub fn stop(&self) {
        self.ending.tell(End::Stopped);
    }

    /// How it ended, if it did. What it runs on is taken away by [`Machine::wait`], or when it is dropped.
    pub fn end(&self) -> Option<End> {
        self.ending.told()
    }

    /// Readable as soon as it has ended, and ever after: for whoever waits for many things.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ending.as_fd()
    }

    /// Waits until it has ended, takes everything of it away, and says how it ended.
    ///
    /// # Errors
    /// Waiting failed, for want of the host's memory.
    pub fn wait(self) -> Result<End> {
        loop {
            if let Some(end) = self.ending.told() {
                // The guest's last words are behind this.
                drop(self);
                return Ok(end);
            }
            match poll(&mut [PollFd::new(&self.ended(), PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::host("wait for a machine's end")(error)),
            }
        }
    }

    /// Runs it until it ends.
    ///
    /// # Errors
    /// As [`Machine::wait`].
    pub fn run(mut self) -> Result<End> {
        self.start();
        self.wait()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // All of them are told before the first is waited for, as in a pause. What they ask of devices is answered until they rest.
        self.vcpus.iter().for_each(|thread| thread.want(Wanted::End));
    }
}

/// What a machine has around its processors.
struct Frame {
    ending: Arc<Ending>,
    buses: Arc<Buses>,
    fixed: Fixed,
    devices: Vec<Virtual>,
    cards: Vec<Place>,
    files_place: Option<FilesPlace>,
    balloon: Option<Spoken<Balloon>>,
    blocks: Option<Spoken<Blocks>>,
    disks: Vec<DiskHandle>,
    events: Thread,
    generation: EventFd,
}

impl Frame {
    /// Makes the devices, of which those at fixed places go on from where they were `saved`.
    fn new(vm: &Vm, devices: Devices, saved: Option<&FixedState>, ending: Arc<Ending>) -> Result<Frame> {
        let mut devices = devices;
        let console = devices.console.take();
        let mut buses = Buses::default();
        let fixed = fixed::attach(console, saved, vm, &ending, &mut buses.ports)?;
        let All { devices, cards, files_place, balloon, blocks, disks } =
            virtual_devices::attach(devices, vm, &ending, &mut buses.memory)?;
        let events = serve(devices.iter().map(Virtual::attached).collect(), &ending)?;
        let generation = vm.line(layout::GENERATION_LINE)?;
        let buses = Arc::new(buses);
        Ok(Frame { ending, buses, fixed, devices, cards, files_place, balloon, blocks, disks, events, generation })
    }

    /// Gives each processor its thread.
    fn machine(self, vm: Vm, count: VcpuCount, vcpus: Vec<Vcpu>) -> Result<Machine> {
        let Frame { ending, buses, fixed, devices, cards, files_place, balloon, blocks, disks, events, generation } =
            self;
        let processors: Vec<_> = vcpus.into_iter().map(|vcpu| Arc::new(Mutex::new(vcpu))).collect();
        let thread = |vcpu: &Arc<Mutex<Vcpu>>| kvm::thread(Arc::clone(vcpu), Arc::clone(&buses), &ending);
        let vcpus = processors.iter().map(thread).collect::<Result<_>>()?;
        let (state, origin) = (State::Rests, None);
        Ok(Machine {
            vcpus,
            events,
            fixed,
            devices,
            cards,
            files_place,
            balloon,
            blocks,
            disks,
            processors,
            _buses: buses,
            ending,
            generation,
            vm,
            count,
            state,
            origin,
            pages: None,
            _fills: None,
        })
    }
}

fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // As few bytes are never cut short.
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(Error::host("ask for random bytes"))?;
    Ok(bytes)
}

/// Gives a machine a generation that no other one has.
pub(crate) fn write_generation(memory: &Memory) -> Result<()> {
    memory.write("the machine's generation", layout::GENERATION, &random()?)
}

/// The thread that brings pages as they are touched: it works from now on.
fn pages(pager: Pager, ending: &Arc<Ending>) -> Result<Brought> {
    let (touched, told) = (pager.touched(), Arc::clone(ending));
    let thread = answers("pages", ending, move |gate, wake| pager.work(gate, wake, &told))?;
    Ok(Brought { touched, _thread: thread })
}

/// The thread that makes what a guest starts from as it is touched: it works from now on.
fn fills(filler: Filler, ending: &Arc<Ending>) -> Result<Thread> {
    let told = Arc::clone(ending);
    answers("fills", ending, move |gate, wake| filler.work(gate, wake, &told))
}

/// A thread that answers faults of the guest's memory.
fn answers(name: &str, ending: &Arc<Ending>, work: impl FnOnce(&Gate, &Wake) + Send + 'static) -> Result<Thread> {
    let wake = wake()?;
    let woken = Arc::clone(&wake);
    let work = move |gate: &Gate| work(gate, &woken);
    Thread::new(name.to_owned(), Kind::Pages, Some(wake), ending, work)
}

/// The thread that serves the queues of all devices that have none of their own.
fn serve(devices: Vec<Attached>, ending: &Arc<Ending>) -> Result<Thread> {
    let wake = wake()?;
    let mut events = Events::new()?;
    let woken = Arc::clone(&wake);
    events.add(&Waited(&wake), move || drop(woken.read()))?;
    for device in devices {
        for (number, kick) in device.waited_for().iter().enumerate() {
            let (device, kicked) = (device.clone(), Arc::clone(kick));
            events.add(&Waited(kick), move || {
                // Written to again meanwhile, it is readable again.
                let _ = kicked.read();
                device.notified(number);
            })?;
        }
        let ready = device.clone();
        device.waits_for(|fd| events.add(&fd, move || ready.ready())).transpose()?;
    }
    let told = Arc::clone(ending);
    Thread::new("events".to_owned(), Kind::Events, Some(wake), ending, move |gate| {
        while gate.pass() {
            while gate.is_open() {
                if let Err(error) = events.wait() {
                    return told.tell(End::Failed(error.to_string()));
                }
            }
        }
    })
}
