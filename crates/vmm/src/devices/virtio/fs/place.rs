//! A place for a file system that may come, and go, while the machine runs.
//!
//! Until it comes the place has the number of no device (4.2.2), at which a driver stops looking: it costs a guest three reads at its start, and the host neither a
//! thread nor memory. Whoever speaks with the guest has it look again, and leave the file system before that goes.

use super::{Fs, KIND, QUEUE, QUEUES, TAG_MAX};
use crate::confine::Kind;
use crate::devices::virtio::Device;
use crate::devices::virtio::queue::{Position, Queue};
use crate::threads::{Thread, Wanted};
use std::time::Instant;

/// The number of a place where nothing is.
const NOTHING: u32 = 0;

/// The device, or its place.
#[derive(Default)]
pub(crate) struct Place {
    fs: Option<Fs>,
    changes: u32,
}

impl Place {
    /// Whether a file system is there.
    pub(crate) fn is_taken(&self) -> bool {
        self.fs.is_some()
    }

    /// Has the file system rest that is there, once its server has answered what it was asked.
    ///
    /// # Errors
    /// By then it does not, and goes on: as [`Thread::rest_until`].
    pub(crate) fn rest_until(&self, until: Instant) -> Result<(), Kind> {
        let Some(thread) = self.thread() else { return Ok(()) };
        thread.rest_until(until).inspect_err(|_| thread.want(Wanted::Run))
    }

    /// A file system comes, or what is there goes. The guest has set up nothing there, or was made to forget it.
    pub(crate) fn put(&mut self, fs: Option<Fs>) {
        self.fs = fs;
        self.changes = self.changes.wrapping_add(1);
    }
}

impl Device for Place {
    fn kind(&self) -> u32 {
        if self.fs.is_some() { KIND } else { NOTHING }
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE; QUEUES]
    }

    fn configuration(&self) -> &[u8] {
        self.fs.as_ref().map_or(&[0; TAG_MAX + 4], |fs| fs.configuration())
    }

    fn changes(&self) -> u32 {
        self.changes
    }

    fn activate(&mut self, queues: Vec<Option<Queue>>, features: u64) {
        // A guest that sets up what is not there has set up nothing.
        if let Some(fs) = &mut self.fs {
            fs.activate(queues, features);
        }
    }

    fn thread(&self) -> Option<&Thread> {
        self.fs.as_ref().and_then(Fs::thread)
    }

    fn has_own_thread(&self) -> bool {
        true
    }

    fn positions(&self) -> Vec<Option<Position>> {
        self.fs.as_ref().map_or_else(|| vec![None; QUEUES], |fs| fs.positions())
    }

    fn state(&self) -> Result<Vec<u8>, String> {
        self.fs.as_ref().map_or_else(|| Ok(Vec::new()), Fs::state)
    }

    fn reset(&mut self) {
        if let Some(fs) = &mut self.fs {
            fs.reset();
        }
    }
}
