//! Ends of processes.
//!
//! Children are reaped by `wait4` when SIGCHLD says that there is one, and not by watching a pidfd for each: the keeper is a subreaper,
//! so it must reap strangers too (orphans of sandboxes without a process namespace), and a call that reaps those reaps everybody. No
//! process id can be used again before its process is reaped here, so the id tells who it was.

use std::os::fd::AsFd;

use super::entry::Entry;
use super::poller::Token;
use super::slots::Key;
use super::{Ending, Keeper, system};
use crate::protocol::{Event, Exit, ExitStatus, Failure, State, UnixNanos, Usage};

impl Keeper {
    pub(super) fn on_signals(&mut self) {
        let (mut child, mut end) = (false, false);
        system::arrived(&self.signals, |signal| match signal {
            libc::SIGCHLD => child = true,
            libc::SIGTERM | libc::SIGINT => end = true,
            // SIGHUP: the terminal of whoever started it is no concern of ours.
            _ => {}
        });
        if end && self.ending == Ending::No {
            self.ending = Ending::WhenEmpty;
        }
        if child {
            self.reap_all();
        }
    }

    /// Reaps every child that has ended.
    pub(super) fn reap_all(&mut self) {
        while let Some(reaped) = system::reap() {
            let exit = Exit { status: reaped.status, at: UnixNanos::now(), usage: reaped.usage };
            match self.by_pid.remove(&reaped.pid) {
                Some(key) => self.on_exit(key, exit),
                None => self.on_stranger_exit(reaped.pid, reaped.status),
            }
        }
    }

    /// A process of an earlier keeper, which is no child of this one, has ended.
    pub(super) fn on_orphan_exit(&mut self, key: Key) {
        let exit = Exit { status: ExitStatus::Unknown, at: UnixNanos::now(), usage: Usage::default() };
        self.on_exit(key, exit);
    }

    fn on_exit(&mut self, key: Key, exit: Exit) {
        // What it told before its end comes first.
        self.on_sync(key);
        self.on_sync_end(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.exit = Some(exit);
        // Only orphans are watched by their pidfds.
        if let Some(pidfd) = entry.pidfd.take().filter(|_| entry.state == State::Orphaned) {
            self.poller.remove(&pidfd);
        }
        if matches!(entry.state, State::Creating | State::Starting) {
            let failure = Failure::Died { id: entry.id.clone(), status: exit.status };
            return self.fail_launch(key, failure);
        }
        entry.state = State::Exited;
        entry.stdin = None;
        self.drain(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.forgotten {
            return self.settle(key);
        }
        let output_open = entry.output_open();
        entry.end_pending = output_open;
        let id = entry.id.clone();
        if let Err(error) = self.journal.ended(&id, exit) {
            self.stats.record_errors += 1;
            self.complain(&format!("the end of {id} cannot be recorded: {error}"));
        }
        self.announce(Event::Exited { id, exit, output_open });
    }

    /// Lets go of an entry and everything that belongs to it. A process that lives is killed.
    pub(super) fn remove_entry(&mut self, key: Key) {
        self.close_outputs(key);
        let Some(entry) = self.entries.remove(key) else { return };
        if self.by_id.get(&entry.id) == Some(&key) {
            self.by_id.remove(&entry.id);
        }
        if self.by_pid.get(&entry.identity.pid) == Some(&key) {
            self.by_pid.remove(&entry.identity.pid);
        }
        if entry.is_alive() && entry.state != State::Orphaned {
            kill(&entry);
        }
        if let Some(sync) = &entry.sync {
            self.poller.remove(sync);
        }
        if let Some(pidfd) = entry.pidfd.as_ref().filter(|_| entry.state == State::Orphaned) {
            self.poller.remove(pidfd);
        }
        self.stats.log_dropped += entry.log.as_ref().map_or(0, |log| log.dropped());
        for sink in entry.sinks {
            self.finish_sink(sink);
        }
    }

    /// Kills everything that runs; what has a cgroup of its own, with everything in it.
    pub(super) fn kill_all(&mut self) {
        self.kill_where(|_| true);
    }

    /// Kills what was to end with a connection, which has ended.
    pub(super) fn kill_bound_to(&mut self, connection: Key) {
        self.kill_where(|entry| entry.bound_to == Some(connection));
    }

    fn kill_where(&mut self, is_meant: impl Fn(&Entry) -> bool) {
        for (_, entry) in self.entries.iter().filter(|(_, entry)| entry.is_alive() && is_meant(entry)) {
            kill(entry);
            for cgroup in &entry.recovery.cgroups {
                if let Err(error) = sandbox::cgroup::kill_all(cgroup) {
                    self.complain(&format!("kill what is left of {}: {error}", entry.id));
                }
            }
        }
    }

    /// Watches the process of an earlier keeper, if it still lives.
    pub(super) fn watch_orphan(&mut self, key: Key) {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.state == State::Orphaned) else { return };
        let watched = entry.pidfd.as_ref().is_some_and(|pidfd| {
            self.poller.add(pidfd, Token::Orphan(key), rustix::event::epoll::EventFlags::IN).is_ok()
        });
        if !watched {
            self.on_orphan_exit(key);
        }
    }
}

/// A process that has ended already is not an error.
pub(super) fn kill(entry: &Entry) {
    if let Some(pidfd) = &entry.pidfd {
        _ = system::send_signal(pidfd.as_fd(), libc::SIGKILL);
    }
}
