//! Faults of a process's own memory, told to it to be answered: userfaultfd(2), ioctl_userfaultfd(2).
//!
//! Of the kernel's calls alone, as far as a machine needs them: the crate `userfaultfd` brings a generator of bindings along, which takes a libclang to build, and a second
//! version of `nix`, for the same six requests.

use crate::error::{Error, Result};
use linux_raw_sys::general::{
    UFFD_API, UFFD_EVENT_PAGEFAULT, UFFDIO_REGISTER_MODE_MISSING, uffd_msg, uffdio_api, uffdio_copy, uffdio_range,
    uffdio_register, uffdio_zeropage,
};
use linux_raw_sys::ioctl;
use rustix::mm::UserfaultfdFlags;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Where the kernel gives descriptors of the full kind to whoever may open it, since Linux 6.1.
const DEVICE: &str = "/dev/userfaultfd";
/// `USERFAULTFD_IOC_NEW` (linux/userfaultfd.h).
const NEW: libc::c_ulong = 0xaa00;
/// Faults that are read at once.
const AT_ONCE: usize = 16;

/// The requests that whoever answers faults makes.
pub(crate) const REQUESTS: [u64; 4] = [
    ioctl::UFFDIO_COPY as u64,
    ioctl::UFFDIO_ZEROPAGE as u64,
    ioctl::UFFDIO_WAKE as u64,
    ioctl::UFFDIO_UNREGISTER as u64,
];

/// What became of pages that were to be put somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// So many bytes of them are there now.
    Bytes(u64),
    /// The first one was there already.
    WasThere,
}

/// The descriptor, of which faults in registered ranges are read, those of the kernel on this process's behalf as well: KVM's are such.
#[derive(Debug)]
pub(crate) struct Userfault(OwnedFd);

impl Userfault {
    /// Makes one. The memory is that of this process alone.
    ///
    /// # Errors
    /// The process may not have one.
    pub(crate) fn new() -> Result<Userfault> {
        let fd = by_device().or_else(|_| by_call()).map_err(|source| Error::NoUserfault { source })?;
        let mut api = uffdio_api { api: u64::from(UFFD_API), features: 0, ioctls: 0 };
        // SAFETY: the request reads and writes a structure of that type, which lives for as long as the call.
        unsafe { request(&fd, ioctl::UFFDIO_API, (&raw mut api).cast()) }.map_err(Error::host(FAILED))?;
        Ok(Userfault(fd))
    }

    /// Has accesses to pages of a range of this process's addresses that are not there wait until they are put there.
    ///
    /// # Errors
    /// The range is no anonymous memory, or another descriptor has it.
    pub(super) fn register(&self, range: &Range<u64>) -> Result<()> {
        let mode = u64::from(UFFDIO_REGISTER_MODE_MISSING);
        let mut register = uffdio_register { range: as_asked(range), mode, ioctls: 0 };
        // SAFETY: the request reads and writes a structure of that type, which lives for as long as the call. Contents of memory don't change by it.
        unsafe { request(&self.0, ioctl::UFFDIO_REGISTER, (&raw mut register).cast()) }.map_err(Error::host(FAILED))
    }

    /// Has nobody wait any more: what is not there reads as zeros from now on.
    pub(super) fn unregister(&self, range: &Range<u64>) -> io::Result<()> {
        let mut range = as_asked(range);
        // SAFETY: the request reads a structure of that type, which lives for as long as the call.
        unsafe { request(&self.0, ioctl::UFFDIO_UNREGISTER, (&raw mut range).cast()) }
    }

    /// The addresses of accesses that wait, each that of a page. None: no more at the moment.
    pub(super) fn read(&self) -> io::Result<Vec<u64>> {
        let mut messages = [MaybeUninit::<uffd_msg>::uninit(); AT_ONCE];
        // SAFETY: the kernel writes whole messages into as many bytes as the array has.
        let read =
            unsafe { libc::read(self.0.as_raw_fd(), messages.as_mut_ptr().cast(), AT_ONCE * size_of::<uffd_msg>()) };
        let read = match usize::try_from(read) {
            Ok(read) => read,
            Err(_) => match io::Error::last_os_error() {
                error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
                error => return Err(error),
            },
        };
        let count = read / size_of::<uffd_msg>();
        let address = |message: &MaybeUninit<uffd_msg>| {
            // SAFETY: the kernel has written this one as a whole.
            let message = unsafe { message.assume_init_ref() };
            if u32::from(message.event) != UFFD_EVENT_PAGEFAULT {
                return None;
            }
            // SAFETY: of this kind of event this member of the union is the valid one.
            Some(unsafe { message.arg.pagefault.address })
        };
        Ok(messages[..count].iter().filter_map(address).map(|address| address / super::PAGE * super::PAGE).collect())
    }

    /// Puts whole pages of `bytes` to an address, as far as none is there, and wakes who waits for them.
    pub(super) fn copy(&self, to: u64, bytes: &[u8]) -> io::Result<Put> {
        let mut copy = uffdio_copy { dst: to, src: bytes.as_ptr() as u64, len: bytes.len() as u64, mode: 0, copy: 0 };
        // SAFETY: the request reads and writes a structure of that type, and reads `bytes`; both live for as long as the call. Where pages come to lie, none was.
        let done = unsafe { request(&self.0, ioctl::UFFDIO_COPY, (&raw mut copy).cast()) };
        put(done, copy.copy, bytes.len() as u64)
    }

    /// Puts pages of zeros there, likewise.
    pub(super) fn zero(&self, range: &Range<u64>) -> io::Result<Put> {
        let mut zero = uffdio_zeropage { range: as_asked(range), mode: 0, zeropage: 0 };
        // SAFETY: the request reads and writes a structure of that type, which lives for as long as the call. Where pages come to lie, none was.
        let done = unsafe { request(&self.0, ioctl::UFFDIO_ZEROPAGE, (&raw mut zero).cast()) };
        put(done, zero.zeropage, range.end - range.start)
    }

    /// Wakes who waits for a page that is there.
    pub(super) fn wake(&self, range: &Range<u64>) -> io::Result<()> {
        let mut range = as_asked(range);
        // SAFETY: the request reads a structure of that type, which lives for as long as the call.
        unsafe { request(&self.0, ioctl::UFFDIO_WAKE, (&raw mut range).cast()) }
    }
}

impl AsFd for Userfault {
    /// Readable while accesses wait that were not read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const FAILED: &str = "have faults of the guest's memory told (userfaultfd)";

fn as_asked(range: &Range<u64>) -> uffdio_range {
    uffdio_range { start: range.start, len: range.end - range.start }
}

fn by_device() -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    // SAFETY: the request takes flags and no memory.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), NEW, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn by_call() -> io::Result<OwnedFd> {
    // SAFETY: what the descriptor can do to this process's memory, the methods here do, each for its own reason.
    Ok(unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }?)
}

/// Makes a request.
///
/// # Safety
/// `argument` points to what the request reads and writes.
unsafe fn request(fd: &OwnedFd, request: u32, argument: *mut c_void) -> io::Result<()> {
    // SAFETY: the caller's.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::c_ulong::from(request), argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a request to put pages somewhere says: all, or a part and why no more, which is asked for again and then told.
fn put(done: io::Result<()>, count: i64, asked: u64) -> io::Result<Put> {
    match (done, u64::try_from(count)) {
        (Ok(()), _) => Ok(Put::Bytes(asked)),
        (Err(_), Ok(count)) if count > 0 => Ok(Put::Bytes(count)),
        (Err(error), _) => match error.raw_os_error() {
            Some(libc::EEXIST) => Ok(Put::WasThere),
            Some(libc::EAGAIN) => Ok(Put::Bytes(0)),
            _ => Err(error),
        },
    }
}
