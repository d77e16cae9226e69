//! Requests as values: what goes in, and what its caller gets.

use std::os::fd::OwnedFd;

use crate::protocol::{AttachOptions, Blob, EntryInfo, LogConfig, Recovery, Reply, Request, Stdio};

/// A request with the type of its outcome. [`Request`] itself is one too, for all that answer [`Reply::Done`].
pub trait Call {
    /// What the caller gets.
    type Output;
    /// The message, and the descriptors that go with it.
    fn into_request(self) -> (Request, Vec<OwnedFd>);
    /// What takes it back. Asked for where the answer's descriptors find no room, as what they belong to would be nobody's.
    fn undo(&self) -> Option<Request> {
        None
    }
    /// Reads the answer. `None`: it does not fit.
    fn output(reply: Reply, descriptors: Vec<OwnedFd>) -> Option<Self::Output>;
}

/// [`Request::Create`].
#[derive(Debug)]
pub struct Create {
    /// The new sandbox's id.
    pub id: String,
    /// An encoded `sandbox::plan::InitPlan`.
    pub plan: Vec<u8>,
    /// The descriptors that the plan refers to, then what `sandbox::open_trees` opens for it.
    pub plan_descriptors: Vec<OwnedFd>,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Where its output is written.
    pub log: LogConfig,
    /// Attachments from the first byte on, each with its sink (see [`Attach::sink`]).
    pub attach: Vec<(AttachOptions, OwnedFd)>,
    /// For the case that the keeper is killed.
    pub recovery: Recovery,
    /// Start it at once.
    pub start: bool,
    /// It ends with this connection.
    pub bound: bool,
}

/// The outcome of [`Create`] and [`Exec`].
#[derive(Debug)]
pub struct Created {
    /// The process's id as the keeper sees it.
    pub pid: u32,
    /// One number for each attachment.
    pub attachments: Vec<u64>,
    /// The end of standard input to write to, if an attachment asked for it and there is one. Non-blocking.
    pub stdin: Option<OwnedFd>,
    /// What could not be done and did not have to be; for people.
    pub warnings: Vec<String>,
}

impl Call for Create {
    type Output = Created;
    fn undo(&self) -> Option<Request> {
        Some(kill(&self.id))
    }
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        let (attach, mut descriptors): (Vec<_>, Vec<_>) = self.attach.into_iter().unzip();
        descriptors.extend(self.plan_descriptors);
        let request = Request::Create {
            id: self.id,
            plan: Blob(self.plan),
            stdio: self.stdio,
            log: self.log,
            attach,
            recovery: self.recovery,
            start: self.start,
            bound: self.bound,
        };
        (request, descriptors)
    }
    fn output(reply: Reply, descriptors: Vec<OwnedFd>) -> Option<Created> {
        created(reply, descriptors)
    }
}

/// [`Request::Exec`].
#[derive(Debug)]
pub struct Exec {
    /// The running sandbox.
    pub sandbox: String,
    /// The new process's id.
    pub id: String,
    /// An encoded `sandbox::plan::ExecPlan`.
    pub plan: Vec<u8>,
    /// The descriptors that the plan refers to.
    pub plan_descriptors: Vec<OwnedFd>,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Attachments from the first byte on, each with its sink (see [`Attach::sink`]).
    pub attach: Vec<(AttachOptions, OwnedFd)>,
    /// Whether it is the daemon's own, so that nobody waits for it once that has ended.
    pub own: bool,
}

impl Call for Exec {
    type Output = Created;
    fn undo(&self) -> Option<Request> {
        Some(kill(&self.id))
    }
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        let (attach, mut descriptors): (Vec<_>, Vec<_>) = self.attach.into_iter().unzip();
        descriptors.extend(self.plan_descriptors);
        let Exec { sandbox, id, plan, stdio, own, .. } = self;
        let request = Request::Exec { sandbox, id, plan: Blob(plan), stdio, attach, own };
        (request, descriptors)
    }
    fn output(reply: Reply, descriptors: Vec<OwnedFd>) -> Option<Created> {
        created(reply, descriptors)
    }
}

fn kill(id: &str) -> Request {
    Request::Signal { id: id.to_owned(), signal: libc::SIGKILL }
}

fn created(reply: Reply, descriptors: Vec<OwnedFd>) -> Option<Created> {
    match reply {
        Reply::Created { pid, attachments, warnings } => {
            Some(Created { pid, attachments, stdin: descriptors.into_iter().next(), warnings })
        }
        _ => None,
    }
}

/// [`Request::Start`].
#[derive(Debug)]
pub struct Start {
    /// The created sandbox.
    pub id: String,
}

/// The outcome of [`Start`].
#[derive(Debug)]
pub struct Started {
    /// What could not be done and did not have to be; for people.
    pub warnings: Vec<String>,
}

impl Call for Start {
    type Output = Started;
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        (Request::Start { id: self.id }, Vec::new())
    }
    fn output(reply: Reply, _: Vec<OwnedFd>) -> Option<Started> {
        match reply {
            Reply::Started { warnings } => Some(Started { warnings }),
            _ => None,
        }
    }
}

/// [`Request::Attach`].
#[derive(Debug)]
pub struct Attach {
    /// A sandbox or an exec.
    pub id: String,
    /// What is wanted.
    pub options: AttachOptions,
    /// Where output goes: one end of a `SOCK_STREAM` socket pair, or a pipe's writing end. The keeper puts it into non-blocking mode.
    /// What is not read from its other end in time holds up the process, as a full pipe does; closing the other end ends the
    /// attachment. The keeper closes its end when the attached streams have ended.
    pub sink: OwnedFd,
}

/// The outcome of [`Attach`].
#[derive(Debug)]
pub struct Attached {
    /// The attachment's number, for [`Request::Detach`].
    pub attachment: u64,
    /// Whether the streams are a terminal.
    pub terminal: bool,
    /// The end of standard input to write to, if asked for and open. Non-blocking, and shared with the keeper.
    pub stdin: Option<OwnedFd>,
}

impl Call for Attach {
    type Output = Attached;
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        (Request::Attach { id: self.id, options: self.options }, vec![self.sink])
    }
    fn output(reply: Reply, descriptors: Vec<OwnedFd>) -> Option<Attached> {
        match reply {
            Reply::Attached { attachment, terminal } => {
                Some(Attached { attachment, terminal, stdin: descriptors.into_iter().next() })
            }
            _ => None,
        }
    }
}

/// [`Request::List`].
#[derive(Debug)]
pub struct List;

impl Call for List {
    type Output = Vec<EntryInfo>;
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        (Request::List, Vec::new())
    }
    fn output(reply: Reply, _: Vec<OwnedFd>) -> Option<Vec<EntryInfo>> {
        match reply {
            Reply::Entries(entries) => Some(entries),
            _ => None,
        }
    }
}

/// [`Request::Inspect`].
#[derive(Debug)]
pub struct Inspect {
    /// A sandbox or an exec.
    pub id: String,
}

impl Call for Inspect {
    type Output = EntryInfo;
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        (Request::Inspect { id: self.id }, Vec::new())
    }
    fn output(reply: Reply, _: Vec<OwnedFd>) -> Option<EntryInfo> {
        match reply {
            Reply::Entries(entries) => entries.into_iter().next(),
            _ => None,
        }
    }
}

/// [`Request::Stats`].
#[derive(Debug)]
pub struct Stats;

impl Call for Stats {
    type Output = crate::protocol::Stats;
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        (Request::Stats, Vec::new())
    }
    fn output(reply: Reply, _: Vec<OwnedFd>) -> Option<crate::protocol::Stats> {
        match reply {
            Reply::Stats(stats) => Some(stats),
            _ => None,
        }
    }
}

/// Every request that answers [`Reply::Done`].
impl Call for Request {
    type Output = ();
    fn into_request(self) -> (Request, Vec<OwnedFd>) {
        (self, Vec::new())
    }
    fn output(reply: Reply, _: Vec<OwnedFd>) -> Option<()> {
        matches!(reply, Reply::Done).then_some(())
    }
}
