//! A processor, and the thread that runs it.

use super::signal;
use crate::arch::current::entry::Entry;
use crate::arch::current::registers;
use crate::bus::Bus;
use crate::end::{End, Ending};
use crate::error::{Error, Result};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// The two address spaces in which devices are.
#[derive(Debug, Default)]
pub(crate) struct Buses {
    pub(crate) ports: Bus,
    pub(crate) memory: Bus,
}

/// A processor that does not run yet.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: u8,
    fd: VcpuFd,
}

impl Vcpu {
    pub(super) fn new(index: u8, fd: VcpuFd) -> Vcpu {
        Vcpu { index, fd }
    }

    /// Gives it its registers: the first processor begins at `entry`, the others wait until the guest wakes them.
    pub(crate) fn prepare(&self, entry: Entry) -> Result<()> {
        registers::set(&self.fd, (self.index == 0).then_some(entry))
    }

    /// Runs it on a thread of its own, until it is stopped or can't go on. What it asks of devices, `buses` answer; how it ended, if it did by
    /// itself, `ending` is told.
    pub(crate) fn run(self, buses: Arc<Buses>, ending: Arc<Ending>) -> Result<VcpuThread> {
        signal::install()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let name = format!("vcpu{}", self.index);
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _told = ToldOfPanics(Arc::clone(&ending));
            let mut running = Running { fd: self.fd, buses, ending, stop: stopped };
            running.until_stopped();
        });
        Ok(VcpuThread { stop, thread: Some(thread.map_err(Error::host("start a thread for a processor"))?) })
    }
}

/// The thread of a processor. It is stopped, and waited for, when this is dropped.
#[derive(Debug)]
pub(crate) struct VcpuThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl VcpuThread {
    /// Has it come out of the guest and end, and does not wait for that.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            signal::send(thread);
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // It panicked: what it knew it has told, as far as it got.
            let _ = thread.join();
        }
    }
}

/// Tells that a thread panicked, so that nobody waits for a processor that runs no more.
struct ToldOfPanics(Arc<Ending>);

impl Drop for ToldOfPanics {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.tell(End::Failed("a fault in the hypervisor itself, which it wrote to standard error".to_owned()));
        }
    }
}

/// What the thread has.
struct Running {
    fd: VcpuFd,
    buses: Arc<Buses>,
    ending: Arc<Ending>,
    stop: Arc<AtomicBool>,
}

impl Running {
    fn until_stopped(&mut self) {
        let immediate_exit = ptr::addr_of_mut!(self.fd.get_kvm_run().immediate_exit);
        let _registered = signal::Registered::new(immediate_exit);
        while !self.stop.load(Ordering::Acquire) {
            if let Some(end) = self.once() {
                self.ending.tell(end);
                return;
            }
        }
    }

    /// Goes into the guest and comes back once. Returns how the machine ended, if it did.
    fn once(&mut self) -> Option<End> {
        match self.fd.run() {
            Ok(VcpuExit::IoIn(port, data)) => self.buses.ports.read(port.into(), data),
            Ok(VcpuExit::IoOut(port, data)) => self.buses.ports.write(port.into(), data),
            Ok(VcpuExit::MmioRead(address, data)) => self.buses.memory.read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => self.buses.memory.write(address, data),
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::Shutdown) => return Some(End::TripleFault),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Some(End::Failed(format!(
                    "the processor {cpu} refuses to enter the guest: reason {reason:#x}"
                )));
            }
            Ok(VcpuExit::InternalError) => return Some(self.internal_error()),
            Ok(other) => {
                return Some(End::Failed(format!("KVM returned with an exit that this does not know: {other:?}")));
            }
            Err(error) => return self.refused(io::Error::from_raw_os_error(error.errno())),
        }
        None
    }

    /// Entering the guest failed, or was interrupted.
    fn refused(&mut self, error: io::Error) -> Option<End> {
        match error.kind() {
            io::ErrorKind::Interrupted => {
                self.fd.set_kvm_immediate_exit(0);
                None
            }
            io::ErrorKind::WouldBlock => None,
            _ => Some(End::Failed(format!("run a processor (KVM_RUN): {error}"))),
        }
    }

    /// KVM itself does not know further: mostly an instruction that it can't emulate.
    fn internal_error(&mut self) -> End {
        // SAFETY: the exit is KVM_EXIT_INTERNAL_ERROR, for which this member of the union is the valid one.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        let at = self.fd.get_regs().map(|registers| registers.rip);
        let at = at.map_or_else(|_| "an unknown address".to_owned(), |address| format!("{address:#x}"));
        End::Failed(format!(
            "KVM can't go on at {at} (KVM_EXIT_INTERNAL_ERROR, suberror {suberror}: 1 is an instruction that it can't emulate)"
        ))
    }
}
