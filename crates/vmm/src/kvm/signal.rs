//! The signal that takes a processor's thread out of the guest.
//!
//! A signal that comes between a look at what is to be done and the entry into the guest would be lost: so its handler has the next entry
//! return at once, by the field that KVM has for that (`immediate_exit`, the kernel's Documentation/virt/kvm/api.rst).

use crate::error::{Error, Result};
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Once;
use std::thread::JoinHandle;

use std::os::unix::thread::JoinHandleExt;

thread_local! {
    /// `immediate_exit` of the processor that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal: one that nothing else uses.
fn number() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn handle(_signal: libc::c_int) {
    let field = IMMEDIATE_EXIT.get();
    if !field.is_null() {
        // SAFETY: the field is in the page that KVM shares with this thread, which lives for as long as it is registered (`Registered`), and it is
        // this thread itself that is interrupted, so nobody else is in the middle of an access.
        unsafe { field.write_volatile(1) };
    }
}

/// While it lives, the signal has this thread's next entry into the guest return at once.
#[derive(Debug)]
pub(super) struct Registered {
    /// It is this thread's alone.
    _here: std::marker::PhantomData<*mut u8>,
}

impl Registered {
    /// `immediate_exit` points to that field of the processor that this thread runs, which lives longer than what is returned.
    pub(super) fn new(immediate_exit: *mut u8) -> Registered {
        IMMEDIATE_EXIT.set(immediate_exit);
        Registered { _here: std::marker::PhantomData }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

/// Has the handler installed, once a process.
pub(crate) fn install() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // SAFETY: all zero bytes are a valid sigaction: no flags, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handle as *const () as usize;
        // SAFETY: the handler does nothing but one volatile write to memory of its own thread, which a handler may.
        if unsafe { libc::sigaction(number(), &action, ptr::null_mut()) } != 0 {
            result = Err(Error::Host { what: "install a signal handler", source: io::Error::last_os_error() });
        }
    });
    result
}

/// Lets the signal reach this thread, whatever the one that made it holds back.
pub(crate) fn let_through() {
    // SAFETY: all zero bytes are an empty set of signals on Linux, and sigaddset writes to that set alone.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, number());
        set
    };
    // SAFETY: the set lives for as long as the call, which changes this thread's mask alone. With these arguments it can't fail.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
}

/// Takes a thread out of the guest.
pub(crate) fn send<T>(thread: &JoinHandle<T>) {
    // SAFETY: a thread that has not been joined has an identifier, also after its end; then the signal goes nowhere.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), number()) };
}
