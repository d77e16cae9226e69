//! Places for daemons: a directory and a range of addresses that no other daemon of these tests has at the time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// As many daemons as may run at once; each has a /16 of 10.192.0.0/10.
const SLOTS: u8 = 64;

/// A place that is ours until it is dropped, also to other processes.
pub(crate) struct Slot {
    number: u8,
    directory: PathBuf,
    _lock: File,
}

impl Slot {
    /// Takes the first place that is free. What a test that was killed left there is the caller's to take down.
    pub(crate) fn take() -> Self {
        let all = std::env::temp_dir().join("stratus-e2e");
        fs::create_dir_all(&all).expect("create the directory of all daemons");
        for number in 0..SLOTS {
            let lock = File::create(all.join(format!("{number}.lock"))).expect("create a lock");
            if lock.try_lock().is_ok() {
                return Self { number, directory: all.join(number.to_string()), _lock: lock };
            }
        }
        panic!("all {SLOTS} places of {} are taken", all.display());
    }

    /// Short, as sockets' paths have to be. It need not be there.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Addresses for the daemon's networks.
    pub(crate) fn addresses(&self) -> String {
        format!("10.{}.0.0/16", 192 + self.number)
    }

    /// A range of twenty ports of the host for this daemon's containers, below those that the kernel gives away.
    pub(crate) fn first_port(&self) -> u16 {
        21_000 + u16::from(self.number) * 20
    }
}
