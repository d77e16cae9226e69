//! The file system with the volumes of the containers that came: one for all of them, which comes with the first that has some. It goes with the last of those where another one may come after it
//! ([`Driver::takes_files_again`](crate::driver::Driver::takes_files_again)); else it stays for others, until the machine is to be saved, which has none of it.
//!
//! Its server is a process of its own, that somebody else begins; here there is a connection to it. Should that end while it is wanted, the machine ends, as with the server of its first container's volumes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use guest_protocol::message::{Failure, Reply, feature};

use super::{Process, Stage};
use crate::control::{FileServerId, FromMachine};
use crate::error::Result;
use crate::volumes::SHARED_TAG;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) enum SharedFiles {
    /// None is there.
    #[default]
    Gone,
    /// It is there, and served.
    Served(Plugged),
    /// It was to go, and the guest has not let go of the device yet: nobody has anything of it, and no other one may come.
    Leaving(Plugged),
}

#[derive(Debug)]
pub(super) struct Plugged {
    id: FileServerId,
    /// The connection, for whoever waits for its end.
    server: OwnedFd,
    /// What the guest's kernel calls its place.
    place: String,
}

impl SharedFiles {
    pub(super) fn are_gone(&self) -> bool {
        matches!(self, Self::Gone)
    }

    /// What serves it, if it is there for whoever comes.
    pub(super) fn served(&self) -> Option<FileServerId> {
        self.plugged().map(|plugged| plugged.id)
    }

    /// What the guest's kernel calls its place, if it is there.
    pub(super) fn place(&self) -> Option<&str> {
        self.plugged().map(|plugged| plugged.place.as_str())
    }

    /// Hung up once its server has ended.
    pub(super) fn server(&self) -> Option<BorrowedFd<'_>> {
        self.plugged().map(|plugged| plugged.server.as_fd())
    }

    fn plugged(&self) -> Option<&Plugged> {
        match self {
            Self::Served(plugged) => Some(plugged),
            Self::Gone | Self::Leaving(_) => None,
        }
    }
}

impl Process {
    /// What serves the file system, if it is there, for a client for whom it stays.
    pub(super) fn on_keep_files(&mut self, number: u64) {
        self.clients.keep_files(number);
        self.clients.send(number, &FromMachine::HasFiles(self.shared_files.served()));
    }

    /// Has it come, unless it is there, for a client for whom it stays.
    pub(super) fn on_files(&mut self, number: u64, id: FileServerId) -> Result<()> {
        let Ok([server]) = <[OwnedFd; 1]>::try_from(self.clients.take_fds(number)) else { return self.close(number) };
        self.clients.keep_files(number);
        let result = match self.plug_files(id, server) {
            Ok(()) => Ok(Reply::Done),
            Err(why) => Err(Failure::Refused { why }),
        };
        self.clients.answer(number, result);
        Ok(())
    }

    fn plug_files(&mut self, id: FileServerId, server: OwnedFd) -> Result<(), String> {
        if matches!(self.shared_files, SharedFiles::Leaving(_)) {
            // Nobody has anything of it, but somebody waits for another one.
            self.unplug_files();
        }
        match &self.shared_files {
            SharedFiles::Gone => {}
            SharedFiles::Served(plugged) if plugged.id == id => return Ok(()),
            SharedFiles::Served(_) => {
                return Err("another process serves the volumes of containers that came into the microVM".to_owned());
            }
            SharedFiles::Leaving(_) => {
                let why =
                    "the microVM has not let go of the device that earlier containers had their volumes on: restart it";
                return Err(why.to_owned());
            }
        }
        if self.stage != Stage::Running {
            return Err("the microVM's first container does not run".to_owned());
        }
        if self.clients.hold() {
            return Err("the microVM rests, as it is being saved: try again".to_owned());
        }
        if !self.can(feature::PLUGGED_FILES) {
            let why = "the microVM goes on from what an older version of stratus has saved, and takes no volumes of other containers: restart it";
            return Err(why.to_owned());
        }
        if !self.plan.hardware.files_place {
            let why = "the microVM has no place for volumes of other containers: it has as many networks, a disk and volumes of its own as it can, or goes on from what an older version of stratus has saved";
            return Err(why.to_owned());
        }
        let kept = rustix::io::fcntl_dupfd_cloexec(&server, 3);
        let kept =
            kept.map_err(|errno| format!("keep the socket of a file server: {}", std::io::Error::from(errno)))?;
        let place = self.machine.plug_files(SHARED_TAG, server).map_err(|error| error.to_string())?;
        self.shared_files = SharedFiles::Served(Plugged { id, server: kept, place });
        Ok(())
    }

    /// It goes with the last who had something of it, where it can come again.
    pub(super) fn let_unused_files_go(&mut self) {
        if self.plan.driver.takes_files_again() && !self.clients.hold() {
            self.let_files_go();
        }
    }

    /// It goes, where nobody has or wants anything of it any more.
    pub(super) fn let_files_go(&mut self) {
        if self.members.have_files() || self.clients.keeps_files() {
            return;
        }
        self.unplug_files();
    }

    fn unplug_files(&mut self) {
        let (SharedFiles::Served(plugged) | SharedFiles::Leaving(plugged)) = std::mem::take(&mut self.shared_files)
        else {
            return;
        };
        if let Err(error) = self.machine.unplug_files() {
            // It may go yet, when it is tried again: whatever its server does not answer holds up nobody else.
            self.shared_files = SharedFiles::Leaving(plugged);
            super::members::complain(&error);
        }
    }
}
