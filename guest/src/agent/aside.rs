//! Volumes that come and go, which the agent has a process of its own wait for: one whose server on the host does not answer holds up nobody but who has something of that server's.
//!
//! They are all on one device, which is mounted for the first root that has some and left with the last. So one after the other has its turn.

use std::collections::VecDeque;
use std::io::{Read, Write};

use guest_protocol::configuration::Root;
use guest_protocol::message::{ContainerId, Failure, Reply, ToHost, decode, encode};
use rustix::fd::OwnedFd;
use rustix::pipe::PipeFlags;

use super::Agent;
use crate::{failed, refused, sys, volumes};

/// The most bytes of a text in a report, which is read once the process has ended: all of it has to fit into a pipe, which has 4 KiB for whoever has many.
const TEXT_MAX: usize = 2048;

/// What is to be done, and is under way.
#[derive(Debug, Default)]
pub(super) struct Aside {
    waiting: VecDeque<Job>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Job {
    work: Work,
    /// The request that it is for, if the host that made it is still there.
    number: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Work {
    /// The volumes of a root are mounted, and then it is made.
    Make(Box<Root>),
    /// The volumes of a container are let go of, and then the rest of its root is taken away.
    Remove(ContainerId),
}

impl Work {
    fn container(&self) -> ContainerId {
        match self {
            Self::Make(root) => root.container,
            Self::Remove(container) => *container,
        }
    }
}

/// A process that does one of them.
#[derive(Debug)]
struct Running {
    job: Job,
    pid: i32,
    /// Where it says what came of it.
    report: OwnedFd,
}

impl Aside {
    fn jobs(&mut self) -> impl Iterator<Item = &mut Job> {
        self.running.iter_mut().map(|running| &mut running.job).chain(&mut self.waiting)
    }

    /// Something is to be done, or is under way, for a container.
    pub(super) fn has(&mut self, container: ContainerId) -> bool {
        self.jobs().any(|job| job.work.container() == container)
    }

    /// What has not begun never does.
    pub(super) fn give_up_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Something is under way.
    pub(super) fn is_at_work(&self) -> bool {
        self.running.is_some()
    }

    /// Whoever asked is gone: what is to be done is done all the same.
    pub(super) fn forget_host(&mut self) {
        self.jobs().for_each(|job| job.number = None);
    }
}

impl Agent {
    /// Makes a root, or has that wait for its volumes: then the answer comes later.
    pub(super) fn make_root(&mut self, number: u64, root: Root) -> Result<Option<Reply>, Failure> {
        match volumes::come(&root) {
            true => Ok(self.has_done(number, Work::Make(Box::new(root)))),
            false => self.roots.make(&root).map(|()| Some(Reply::Done)),
        }
    }

    /// Takes a root away; likewise.
    pub(super) fn remove_root(&mut self, number: u64, container: ContainerId) -> Result<Option<Reply>, Failure> {
        if self.containers().any(|process| process.container == container) {
            return Err(refused(format!("container {container} runs")));
        }
        self.files.remove(&container);
        match self.roots.have_volumes_that_come(container) || self.aside.has(container) {
            true => Ok(self.has_done(number, Work::Remove(container))),
            false => self.roots.remove(container).map(|()| Some(Reply::Done)),
        }
    }

    /// What is asked for again, as the conversation broke off, is not done twice.
    fn has_done(&mut self, number: u64, work: Work) -> Option<Reply> {
        let again = self.aside.jobs().find(|job| job.work == work).map(|job| job.number = Some(number));
        if again.is_none() {
            self.aside.waiting.push_back(Job { work, number: Some(number) });
        }
        self.go_on_aside();
        None
    }

    /// Begins the next one, unless one is under way.
    fn go_on_aside(&mut self) {
        while self.aside.running.is_none()
            && let Some(job) = self.aside.waiting.pop_front()
        {
            match self.begin_aside(&job.work) {
                Ok(Some((pid, report))) => self.aside.running = Some(Running { job, pid, report }),
                Ok(None) => self.end_aside(&job, Ok(())),
                Err(failure) => self.end_aside(&job, Err(failure)),
            }
        }
    }

    /// Begins a process that does it, and gives it with its report; `None`: there is nothing to do.
    fn begin_aside(&mut self, work: &Work) -> Result<Option<(i32, OwnedFd)>, Failure> {
        match work {
            Work::Make(root) if self.roots.is_made(root)? => Ok(None),
            Work::Make(root) => aside(|| volumes::make_those_that_come(root)).map(Some),
            Work::Remove(container) => {
                let Some(root) = self.roots.clear(*container)? else { return Ok(None) };
                aside(|| volumes::leave(&root, self.roots.others(*container))).map(Some)
            }
        }
    }

    /// A child has ended: where it was that one, what it was for goes on.
    pub(super) fn on_aside(&mut self, pid: i32) {
        let Some(Running { job, report, .. }) = self.aside.running.take_if(|running| running.pid == pid) else {
            return;
        };
        let result = match (&job.work, read(report)) {
            (Work::Make(root), Ok(())) => self.roots.make(root),
            (Work::Make(root), Err(failure)) => {
                self.roots.keep_half(root);
                Err(failure)
            }
            (Work::Remove(container), Ok(())) => self.roots.finish(*container),
            (Work::Remove(_), Err(failure)) => Err(failure),
        };
        self.end_aside(&job, result);
        self.go_on_aside();
    }

    fn end_aside(&mut self, job: &Job, result: Result<(), Failure>) {
        if let Some(number) = job.number {
            self.say(&ToHost::Answer { number, result: result.map(|()| Reply::Done) });
        }
    }
}

/// Has a child do something, and say what came of it.
fn aside(work: impl FnOnce() -> Result<(), Failure>) -> Result<(i32, OwnedFd), Failure> {
    let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (report, theirs) = pipe.map_err(failed("make", "the pipe of a process for volumes"))?;
    let child = |theirs: OwnedFd| {
        let told = encode(&work().map_err(short)).unwrap_or_default();
        // Whoever reads nothing knows that it failed.
        let _ = std::fs::File::from(theirs).write_all(&told);
    };
    let pid = sys::fork(theirs, child).map_err(failed("begin", "a process for volumes"))?;
    Ok((pid, report))
}

/// What it said, which has ended.
fn read(report: OwnedFd) -> Result<(), Failure> {
    let mut told = Vec::new();
    let heard = std::fs::File::from(report).read_to_end(&mut told);
    let told = heard.ok().and_then(|_| decode::<Result<(), Failure>>(&told).ok());
    told.unwrap_or_else(|| Err(refused("the process for its volumes ended without a word")))
}

/// What fits into a report of a failure.
fn short(mut failure: Failure) -> Failure {
    match &mut failure {
        Failure::Unknown { what: text }
        | Failure::Refused { why: text }
        | Failure::System { on: text, .. }
        | Failure::Program { text, .. }
        | Failure::Sandbox { text, .. } => {
            let end = (0..=TEXT_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
        }
        Failure::Died { .. } => {}
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_fits_into_the_pipe_however_long_it_is() {
        let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let (report, theirs) = pipe.unwrap();
        let _ = rustix::pipe::fcntl_setpipe_size(&theirs, 4096).unwrap();
        // No character of it is cut in the middle.
        let long = "/€".repeat(100_000);
        let told = encode(&Err::<(), _>(short(refused(long.clone())))).unwrap();
        std::fs::File::from(theirs).write_all(&told).unwrap();
        let Err(Failure::Refused { why }) = read(report) else { panic!("it failed") };
        assert!(long.starts_with(&why) && why.len() > TEXT_MAX - 4, "{why}");
        assert_eq!(short(refused("short")), refused("short"));
    }
}
