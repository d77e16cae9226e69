//! A file that keeps a log of what was written to it and when it was synced, so that a test can say what a loss of power leaves of it.
//!
//! It is the one file of a file system of its own, by FUSE (the kernel's include/uapi/linux/fuse.h): whoever has it open writes by the same system calls as to any other, and each arrives here in
//! the order in which it was made. It is opened by way of its mount, which is nowhere in the tree, and gone with the last descriptor.

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::mount::{fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;

/// The unit of which a loss of power keeps all or nothing.
const SECTOR: usize = 512;
/// The most bytes of a write.
const MOST: u32 = 1 << 20;

/// What was done to the file.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Written { offset: usize, bytes: Vec<u8> },
    Synced,
}

/// What was done, and what was so at that moment.
#[derive(Clone, Debug)]
struct Event {
    change: Change,
    moment: u16,
}

/// What is said of the moment at which something is done.
type Moment = Box<dyn Fn() -> u16 + Send + Sync>;

/// The file.
pub(super) struct LoggedFile {
    state: Arc<State>,
    file: File,
    before: Vec<u8>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    moment: OnceLock<Moment>,
}

#[derive(Default)]
struct Inner {
    contents: Vec<u8>,
    events: Vec<Event>,
}

/// All that was done to a file.
pub(super) struct Log {
    before: Vec<u8>,
    events: Vec<Event>,
}

impl LoggedFile {
    /// A file with these contents, which are there after any loss of power.
    pub(super) fn new(contents: Vec<u8>) -> LoggedFile {
        let state = Arc::new(State::default());
        state.inner().contents.clone_from(&contents);
        let fuse = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        // The root of this file system is no directory, but the file.
        for (key, value) in [("fd", fuse.as_raw_fd().to_string().as_str()), ("rootmode", "100600")] {
            fsconfig_set_string(&context, key, value).unwrap();
        }
        for key in ["user_id", "group_id"] {
            fsconfig_set_string(&context, key, "0").unwrap();
        }
        fsconfig_create(&context).unwrap();
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        let serves = Arc::clone(&state);
        let server = std::thread::spawn(move || serves.serve(fuse));
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        let file = File::options().read(true).write(true).open(path).unwrap();
        LoggedFile { state, file, before: contents, server }
    }

    /// To be read and written.
    pub(super) fn file(&self) -> File {
        self.file.try_clone().unwrap()
    }

    /// Has this be asked from now on whenever something is done.
    pub(super) fn at_each_moment(&self, moment: impl Fn() -> u16 + Send + Sync + 'static) {
        assert!(self.state.moment.set(Box::new(moment)).is_ok(), "it is asked already");
    }

    /// Ends it, once nobody else has it open.
    pub(super) fn log(self) -> Log {
        drop(self.file);
        self.server.join().unwrap();
        let events = std::mem::take(&mut self.state.inner().events);
        Log { before: self.before, events }
    }
}

impl Log {
    /// How many events there were.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// What was so when so many events had been: at the moment of the next one. `None`: there was none.
    pub(super) fn moment(&self, events: usize) -> Option<u16> {
        self.events.get(events).map(|event| event.moment)
    }

    /// What is there where the power is lost after so many events: all that was synced; of each sector that was written after that, what `keeps` says.
    pub(super) fn left(&self, events: usize, mut keeps: impl FnMut() -> bool) -> Vec<u8> {
        let events = &self.events[..events];
        let synced = events.iter().rposition(|event| matches!(event.change, Change::Synced)).unwrap_or(0);
        let mut left = self.before.clone();
        for (number, event) in events.iter().enumerate() {
            let Change::Written { offset, bytes } = &event.change else { continue };
            let end = offset + bytes.len();
            left.resize(left.len().max(end), 0);
            let mut at = *offset;
            while at < end {
                let next = end.min((at / SECTOR + 1) * SECTOR);
                if number < synced || keeps() {
                    left[at..next].copy_from_slice(&bytes[at - offset..next - offset]);
                }
                at = next;
            }
        }
        left
    }
}

/// A request's number, what is asked, and for which range of bytes.
struct Asked<'a>(&'a [u8]);

impl Asked<'_> {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

/// Bytes of `struct fuse_in_header`, behind which each request has its own.
const HEADER: usize = 40;
/// Bytes of `struct fuse_write_in`.
const WRITE_HEADER: usize = 40;
/// Nothing of the file is in the kernel's cache: each access comes here (`FOPEN_DIRECT_IO`).
const DIRECT_IO: u64 = 1;

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Answers what the kernel asks, until nobody has the file system any more.
    fn serve(&self, mut fuse: File) {
        let mut buffer = vec![0; HEADER + WRITE_HEADER + MOST as usize];
        loop {
            let length = match fuse.read(&mut buffer) {
                Ok(length) => length,
                // It is unmounted; the other error is told where the kernel was still asking for something.
                Err(error) if [Some(libc::ENODEV), Some(libc::ECONNABORTED)].contains(&error.raw_os_error()) => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("read what is asked: {error}"),
            };
            let asked = Asked(&buffer[..length]);
            let (error, answer) = match self.answer(&asked) {
                Ok(Some(answer)) => (0, answer),
                Ok(None) => continue,
                Err(errno) => (-errno.raw_os_error(), Vec::new()),
            };
            let header = [&(16 + answer.len() as u32).to_le_bytes()[..], &error.to_le_bytes(), &asked.0[8..16]];
            // Who asked may be gone.
            let _ = fuse.write(&[&header.concat()[..], &answer].concat());
        }
    }

    /// `None`: nobody waits for an answer.
    fn answer(&self, asked: &Asked<'_>) -> Result<Option<Vec<u8>>, Errno> {
        let mut inner = self.inner();
        let moment = || self.moment.get().map_or(0, |moment| moment());
        let longs = |longs: &[u64]| Ok(Some(longs.iter().flat_map(|long| long.to_le_bytes()).collect()));
        match asked.word(4) {
            // FUSE_FORGET and FUSE_INTERRUPT.
            2 | 36 => Ok(None),
            // FUSE_GETATTR
            3 => Ok(Some(attributes(inner.contents.len()))),
            // FUSE_OPEN
            14 => longs(&[0, DIRECT_IO]),
            // FUSE_READ
            15 => {
                let (start, length) = (asked.long(HEADER + 8) as usize, asked.word(HEADER + 16) as usize);
                let start = start.min(inner.contents.len());
                Ok(Some(inner.contents[start..inner.contents.len().min(start + length)].to_vec()))
            }
            // FUSE_WRITE
            16 => {
                let bytes = &asked.0[HEADER + WRITE_HEADER..];
                inner.write(asked.long(HEADER + 8) as usize, bytes.to_vec(), moment());
                longs(&[bytes.len() as u64])
            }
            // FUSE_RELEASE, FUSE_FLUSH and FUSE_DESTROY.
            18 | 25 | 38 => Ok(Some(Vec::new())),
            // FUSE_FSYNC
            20 => {
                inner.events.push(Event { change: Change::Synced, moment: moment() });
                Ok(Some(Vec::new()))
            }
            // FUSE_INIT: version 7.31, by which a page's worth more may be written at once (FUSE_BIG_WRITES, FUSE_MAX_PAGES).
            26 => {
                let mut words = [0u32; 16];
                words[..4].copy_from_slice(&[7, 31, 0, 1 << 5 | 1 << 22]);
                words[5..8].copy_from_slice(&[MOST, 1, MOST / 4096]);
                Ok(Some(words.iter().flat_map(|word| word.to_le_bytes()).collect()))
            }
            // FUSE_FALLOCATE, by which a range becomes zeros.
            43 => {
                let (offset, length) = (asked.long(HEADER + 8) as usize, asked.long(HEADER + 16) as usize);
                let zeroes = [FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE];
                let how = FallocateFlags::from_bits_retain(asked.word(HEADER + 24));
                let [true, true] =
                    [how.contains(FallocateFlags::KEEP_SIZE), zeroes.iter().any(|flag| how.contains(*flag))]
                else {
                    return Err(Errno::OPNOTSUPP);
                };
                let end = inner.contents.len().min(offset + length);
                if offset < end {
                    inner.write(offset, vec![0; end - offset], moment());
                }
                Ok(Some(Vec::new()))
            }
            _ => Err(Errno::NOSYS),
        }
    }
}

impl Inner {
    fn write(&mut self, offset: usize, bytes: Vec<u8>, moment: u16) {
        let end = offset + bytes.len();
        let length = self.contents.len().max(end);
        self.contents.resize(length, 0);
        self.contents[offset..end].copy_from_slice(&bytes);
        self.events.push(Event { change: Change::Written { offset, bytes }, moment });
    }
}

/// `struct fuse_attr_out`: a file of so many bytes, of which the kernel remembers nothing.
fn attributes(size: usize) -> Vec<u8> {
    let longs = [0, 0, 1, size as u64, size as u64 / 512, 0, 0, 0];
    // Nanoseconds; mode, links, owner, group, device, size of a block, flags.
    let words = [0, 0, 0, 0o100_600, 1, 0, 0, 0, 4096, 0u32];
    let words = words.iter().flat_map(|word| word.to_le_bytes());
    longs.iter().flat_map(|long| long.to_le_bytes()).chain(words).collect()
}
