//! A machine: made of its parts, and what can be done with it.

use crate::arch::current::layout;
use crate::config::Config;
use crate::devices::virtio::Attached;
use crate::devices::{fixed, virtual_devices};
use crate::end::{End, Ending};
use crate::error::{Error, Result};
use crate::events::{Events, Waited};
use crate::kvm::{self, Buses, Vcpu, Vm};
use crate::load::load;
use crate::memory::Memory;
use crate::parts::Parts;
use crate::threads::{Thread, Wanted, wake};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

/// A machine. It is made resting; dropping it ends it, and waits until nothing of it runs any more.
pub struct Machine {
    // In this order they go: the processors before what answers them, the memory last.
    vcpus: Vec<Thread>,
    events: Thread,
    console: Option<Thread>,
    devices: Vec<Attached>,
    _buses: Arc<Buses>,
    ending: Arc<Ending>,
    vm: Vm,
    state: State,
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
        let Parts { vcpus, memory, boot, devices } = parts;
        let memory = Memory::new(memory, &layout::memory(memory))?;
        let entry = load(vcpus, &boot, &devices, &memory)?;
        let vm = Vm::new(memory)?;
        let ending = Arc::new(Ending::new()?);
        let mut buses = Buses::default();
        let console = fixed::attach(devices.console, &vm, &ending, &mut buses.ports)?;
        let devices =
            virtual_devices::attach(devices.disks, devices.cards, devices.vsock, &vm, &ending, &mut buses.memory)?;
        let buses = Arc::new(buses);
        let events = serve(devices.clone(), &ending)?;
        let mut processors = Vec::new();
        for index in 0..vcpus.get() {
            let vcpu = vm.vcpu(index, vcpus)?;
            vcpu.prepare(entry)?;
            processors.push(Arc::new(Mutex::new(vcpu)));
        }
        let thread = |vcpu: &Arc<Mutex<Vcpu>>| kvm::thread(Arc::clone(vcpu), Arc::clone(&buses), &ending);
        let vcpus = processors.iter().map(thread).collect::<Result<_>>()?;
        Ok(Machine { vcpus, events, console, devices, _buses: buses, ending, vm, state: State::Rests })
    }

    /// Has it begin, or go on after a pause. Nothing happens where it runs, or has ended.
    pub fn start(&mut self) {
        self.console.iter().for_each(|thread| thread.want(Wanted::Run));
        self.devices.iter().for_each(|device| device.want(Wanted::Run));
        self.events.want(Wanted::Run);
        self.vcpus.iter().for_each(|thread| thread.want(Wanted::Run));
        self.state = State::Runs;
    }

    /// As [`Machine::start`], by the name that goes with [`Machine::pause`].
    pub fn resume(&mut self) {
        self.start();
    }

    /// Has everything of it rest, and waits until it does: from then on nothing of the guest changes, no processor's access to a device is pending, and no
    /// request is half done.
    pub fn pause(&mut self) {
        // All of them are told before the first is waited for: one may wait for what another one keeps busy.
        self.vcpus.iter().for_each(|thread| thread.want(Wanted::Rest));
        self.vcpus.iter().for_each(Thread::wait_for_rest);
        self.events.rest();
        self.devices.iter().for_each(Attached::rest);
        self.console.iter().for_each(Thread::rest);
        self.state = State::Rests;
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
    Thread::new("events".to_owned(), crate::confine::Kind::Events, Some(wake), ending, move |gate| {
        while gate.pass() {
            while gate.is_open() {
                if let Err(error) = events.wait() {
                    return told.tell(End::Failed(error.to_string()));
                }
            }
        }
    })
}
