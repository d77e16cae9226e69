//! A processor, and what its thread does.

use super::signal;
use crate::arch::current::cpuid::Told;
use crate::arch::current::entry::Entry;
use crate::arch::current::registers;
use crate::arch::current::state::VcpuState;
use crate::bus::Bus;
use crate::confine::Kind;
use crate::end::{End, Ending};
use crate::error::Result;
use crate::threads::{Gate, Thread};
use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

/// The two address spaces in which devices are.
#[derive(Debug, Default)]
pub(crate) struct Buses {
    pub(crate) ports: Bus,
    pub(crate) memory: Bus,
}

/// A processor.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: u8,
    fd: VcpuFd,
    /// What it was told to say that it is. KVM itself may say more: what a host's processor does not let it hide.
    told: Told,
}

impl Vcpu {
    pub(super) fn new(index: u8, fd: VcpuFd, told: Told) -> Vcpu {
        Vcpu { index, fd, told }
    }

    /// All that it is, while it rests. `model_specific` are the numbers of the registers that KVM has a guest's own values of.
    pub(crate) fn save(&self, model_specific: &[u32]) -> Result<VcpuState> {
        VcpuState::of(&self.fd, self.told.entries(), model_specific)
    }

    /// Gives it its registers: the first processor begins at `entry`, the others wait until the guest wakes them.
    pub(crate) fn prepare(&self, entry: Entry) -> Result<()> {
        registers::set(&self.fd, (self.index == 0).then_some(entry))
    }

    /// Its guest is told that it did not run for some time.
    pub(crate) fn has_rested(&self) {
        registers::has_rested(&self.fd);
    }

    /// The processor's descriptor, for who reads and sets its registers while it rests.
    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }
}

/// Makes the thread of a processor. What it asks of devices, `buses` answer; how the machine ended, if it did by itself, `ending` is told. The thread has the
/// processor locked while it does not rest.
pub(crate) fn thread(vcpu: Arc<Mutex<Vcpu>>, buses: Arc<Buses>, ending: &Arc<Ending>) -> Result<Thread> {
    let index = vcpu.lock().unwrap_or_else(PoisonError::into_inner).index;
    let told = Arc::clone(ending);
    Thread::new(format!("vcpu{index}"), Kind::Vcpu, None, ending, move |gate| {
        while gate.pass() {
            let mut vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
            let mut running = Running { fd: &mut vcpu.fd, buses: &buses };
            if let Some(end) = running.while_open(gate) {
                return told.tell(end);
            }
        }
    })
}

/// A processor while its thread runs it.
struct Running<'a> {
    fd: &'a mut VcpuFd,
    buses: &'a Buses,
}

/// How it came out of the guest.
enum Out {
    /// It is to go in again.
    Again,
    /// It was interrupted.
    Interrupted,
    /// The machine ended.
    Ended(End),
}

impl Running<'_> {
    /// Runs it until its gate closes. Then no access of its is pending, so that its registers say all. Returns how the machine ended, if it did.
    fn while_open(&mut self, gate: &Gate) -> Option<End> {
        let immediate_exit = ptr::addr_of_mut!(self.fd.get_kvm_run().immediate_exit);
        let _registered = signal::Registered::new(immediate_exit);
        while gate.is_open() {
            if let Out::Ended(end) = self.once() {
                return Some(end);
            }
        }
        // What a device answered is put into the registers by the next entry alone (the kernel's Documentation/virt/kvm/api.rst, KVM_RUN). An instruction that
        // accesses devices several times goes on to its next access meanwhile.
        loop {
            self.fd.set_kvm_immediate_exit(1);
            match self.once() {
                Out::Again => {}
                Out::Interrupted => return None,
                Out::Ended(end) => return Some(end),
            }
        }
    }

    /// Goes into the guest and comes back once.
    fn once(&mut self) -> Out {
        let shared: *const kvm_run = self.fd.get_kvm_run();
        // SAFETY: the page is shared with KVM for as long as the processor lives, and what an access to a port has transferred lies behind this structure; where the
        // exit is one for a port, as below, this member of the union is the valid one.
        let size = || usize::from(unsafe { (*shared).__bindgen_anon_1.io.size }).max(1);
        match self.fd.run() {
            // An instruction that repeats itself comes out once for many accesses to the same port.
            Ok(VcpuExit::IoIn(port, data)) => {
                data.chunks_mut(size()).for_each(|each| self.buses.ports.read(port.into(), each));
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                data.chunks(size()).for_each(|each| self.buses.ports.write(port.into(), each));
            }
            Ok(VcpuExit::MmioRead(address, data)) => self.buses.memory.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => self.buses.memory.write(address, data),
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::Shutdown) => return Out::Ended(End::TripleFault),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Out::Ended(End::Failed(format!(
                    "the processor {cpu} refuses to enter the guest: reason {reason:#x}"
                )));
            }
            Ok(VcpuExit::InternalError) => return Out::Ended(self.internal_error()),
            Ok(other) => {
                return Out::Ended(End::Failed(format!(
                    "KVM returned with an exit that this does not know: {other:?}"
                )));
            }
            Err(error) => return self.refused(io::Error::from_raw_os_error(error.errno())),
        }
        Out::Again
    }

    /// Entering the guest failed, or was interrupted.
    fn refused(&mut self, error: io::Error) -> Out {
        match error.kind() {
            io::ErrorKind::Interrupted => {
                self.fd.set_kvm_immediate_exit(0);
                Out::Interrupted
            }
            io::ErrorKind::WouldBlock => Out::Again,
            _ => Out::Ended(End::Failed(format!("run a processor (KVM_RUN): {error}"))),
        }
    }

    /// KVM itself does not know further: mostly an instruction that it can't emulate.
    fn internal_error(&mut self) -> End {
        // SAFETY: the exit is KVM_EXIT_INTERNAL_ERROR, for which this member of the union is the valid one.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        let at = registers::instruction(self.fd);
        let at = at.map_or_else(|_| "an unknown address".to_owned(), |address| format!("{address:#x}"));
        End::Failed(format!(
            "KVM can't go on at {at} (KVM_EXIT_INTERNAL_ERROR, suberror {suberror}: 1 is an instruction that it can't emulate)"
        ))
    }
}
