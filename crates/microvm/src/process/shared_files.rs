//! The file system with the volumes of the containers that came: one for all of them, which comes with the first that has some. It stays for others that may come, and goes where the machine is to be saved, which has none of it.
//!
//! Its server is a process of its own, that somebody else begins; here there is a connection to it. Should that end while it is wanted, the machine ends, as with the server of its first container's volumes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use guest_protocol::message::{Failure, Reply};

use super::{Process, Stage};
use crate::control::FromMachine;
use crate::error::Result;
use crate::volumes::SHARED_TAG;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct SharedFiles(Option<Plugged>);

#[derive(Debug)]
struct Plugged {
    /// The connection, for whoever waits for its end.
    server: OwnedFd,
    /// What the guest's kernel calls its place.
    place: String,
}

impl SharedFiles {
    pub(super) fn are_there(&self) -> bool {
        self.0.is_some()
    }

    /// What the guest's kernel calls its place, if it is there.
    pub(super) fn place(&self) -> Option<&str> {
        self.0.as_ref().map(|plugged| plugged.place.as_str())
    }

    /// Hung up once its server has ended.
    pub(super) fn server(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|plugged| plugged.server.as_fd())
    }
}

impl Process {
    /// Whether the file system is there, for a client for whom it stays.
    pub(super) fn on_keep_files(&mut self, number: u64) {
        self.clients.keep_files(number);
        self.clients.send(number, &FromMachine::HasFiles(self.shared_files.are_there()));
    }

    /// Has it come, unless it is there, for a client for whom it stays.
    pub(super) fn on_files(&mut self, number: u64) -> Result<()> {
        let Ok([server]) = <[OwnedFd; 1]>::try_from(self.clients.take_fds(number)) else { return self.close(number) };
        self.clients.keep_files(number);
        let result = match self.plug_files(server) {
            Ok(()) => Ok(Reply::Done),
            Err(why) => Err(Failure::Refused { why }),
        };
        self.clients.answer(number, result);
        Ok(())
    }

    fn plug_files(&mut self, server: OwnedFd) -> Result<(), String> {
        if self.shared_files.are_there() {
            return Ok(());
        }
        if self.stage != Stage::Running {
            return Err("the microVM's first container does not run".to_owned());
        }
        if self.clients.hold() {
            return Err("the microVM rests, as it is being saved: try again".to_owned());
        }
        if !self.takes_files || !self.plan.hardware.files_place {
            let why = "the microVM goes on from what an older version of stratus has saved, and takes no volumes of other containers: restart it";
            return Err(why.to_owned());
        }
        let kept = rustix::io::fcntl_dupfd_cloexec(&server, 3);
        let kept =
            kept.map_err(|errno| format!("keep the socket of a file server: {}", std::io::Error::from(errno)))?;
        let place = self.machine.plug_files(SHARED_TAG, server).map_err(|error| error.to_string())?;
        self.shared_files.0 = Some(Plugged { server: kept, place });
        Ok(())
    }

    /// It goes, where nobody has or wants anything of it any more.
    pub(super) fn let_files_go(&mut self) {
        if !self.shared_files.are_there() || self.members.have_files() || self.clients.keeps_files() {
            return;
        }
        match self.machine.unplug_files() {
            Ok(()) => self.shared_files.0 = None,
            // It stays there, for the next one.
            Err(error) => super::members::complain(&error),
        }
    }
}
