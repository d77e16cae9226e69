//! What a host can ask for.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use guest_protocol::message::{ContainerId, End, Failure, ProcessId, Reply, Request, TerminalSize, ToHost};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::Agent;
use crate::process::{State, resize};
use crate::{disks, failed, identity, observe, refused, roots, sys};

/// How long processes have to end after they were killed: one in a file system that hangs does not.
const KILLED: Duration = Duration::from_secs(10);

impl Agent {
    pub(super) fn on_request(&mut self, number: u64, request: Request) {
        let result = match self.answer(number, request) {
            Ok(None) => return,
            Ok(Some(reply)) => Ok(reply),
            Err(failure) => Err(failure),
        };
        self.say(&ToHost::Answer { number, result });
    }

    /// Does what is asked for; `None`: the answer comes later.
    fn answer(&mut self, number: u64, request: Request) -> Result<Option<Reply>, Failure> {
        match request {
            Request::Configure(machine) => {
                identity::take_on(&machine.identity, self.containers())?;
                identity::write_sysctls(&machine.sysctls)?;
                if machine.names {
                    self.names.listen(&self.poller)?;
                }
                self.configured = true;
            }
            Request::MakeRoot(root) => return self.make_root(number, *root),
            Request::Start(start) => return self.start(number, &start),
            Request::Signal { process, signal, everyone } => self.signal(process, signal, everyone)?,
            Request::Resize { process, size } => self.resize(process, size)?,
            Request::Forget { process } => {
                self.remove(process);
            }
            Request::Stats { container } => return Ok(Some(Reply::Stats(Box::new(observe::stats(container)?)))),
            Request::Memory { container } => return Ok(Some(Reply::Memory(Box::new(observe::memory(container)?)))),
            Request::Processes { container } => return Ok(Some(Reply::Processes(observe::processes(container)?))),
            Request::Freeze { container, frozen } => roots::freeze(container, frozen)?,
            Request::Limit { container, limits } => roots::limit(container, &limits)?,
            Request::File { container, request } => {
                let trees = self.trees(container)?;
                let files = self.files.entry(container).or_default();
                return files.answer(&trees, request).map(|reply| Some(Reply::File(reply)));
            }
            Request::Renew(identity) => {
                identity::take_on(&identity, self.containers())?;
                for process in self.processes.values_mut() {
                    process.oom_kills_before = observe::oom_kills(process.container);
                }
            }
            Request::Network(network) => identity::move_to(&network)?,
            Request::RemoveRoot { container } => return self.remove_root(number, container),
            Request::Shutdown { how } => self.shut_down(how),
        }
        Ok(Some(Reply::Done))
    }

    fn process(&self, id: ProcessId) -> Result<&crate::process::Process, Failure> {
        self.processes.get(&id).ok_or_else(|| Failure::Unknown { what: format!("process {id}") })
    }

    /// The first processes of containers that run.
    pub(super) fn containers(&self) -> impl Iterator<Item = &crate::process::Process> {
        self.processes.values().filter(|process| process.is_init && matches!(process.state, State::Running))
    }

    fn signal(&mut self, id: ProcessId, signal: i32, everyone: bool) -> Result<(), Failure> {
        let process = self.process(id)?;
        if !(1..=64).contains(&signal) {
            return Err(refused(format!("{signal} is no signal")));
        }
        if everyone {
            return roots::kill(process.container, signal);
        }
        match sys::signal(process.pidfd.as_fd(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(failed("send a signal to", format!("process {id}"))(errno)),
        }
    }

    fn resize(&mut self, id: ProcessId, size: TerminalSize) -> Result<(), Failure> {
        let process = self.processes.get_mut(&id).ok_or_else(|| Failure::Unknown { what: format!("process {id}") })?;
        if process.terminal.is_none() {
            return Err(refused(format!("process {id} has no terminal")));
        }
        process.terminal = Some(size);
        match process.outputs[0].fd() {
            Some(terminal) => resize(terminal, size).map_err(failed("set", "the size of a terminal")),
            // It is not made yet, or gone.
            None => Ok(()),
        }
    }

    /// A container's trees: its root as its first process sees it, or as it was made.
    fn trees(&self, container: ContainerId) -> Result<crate::files::Trees, Failure> {
        let init = self.containers().find(|process| process.container == container).map(|process| process.pid);
        self.roots.trees(container, init)
    }

    /// Ends all that runs, and puts everything where it lasts.
    fn shut_down(&mut self, how: End) {
        self.files.clear();
        // Nothing more comes or goes; what is under way may write yet.
        self.aside.give_up_waiting();
        let containers: Vec<_> = self.processes.values().map(|process| process.container).collect();
        for container in containers {
            let _ = roots::freeze(container, false);
            let _ = roots::kill(container, libc::SIGKILL);
        }
        for process in self.processes.values().filter(|process| process.is_alive()) {
            let _ = sys::signal(process.pidfd.as_fd(), libc::SIGKILL);
        }
        let end = Instant::now() + KILLED;
        while (self.aside.is_at_work() || self.processes.values().any(crate::process::Process::is_alive))
            && Instant::now() < end
        {
            let mut poll = [PollFd::new(&self.children, PollFlags::IN)];
            let time = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = rustix::event::poll(&mut poll, Some(&time));
            let _ = rustix::io::read(&self.children, &mut [0; 512]);
            self.reap();
        }
        if self.machine.is_own {
            self.roots.unmount();
            disks::sync();
        }
        self.ending = Some(how);
    }
}
