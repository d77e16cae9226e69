//! The loop: what the host says, what processes write, and who has ended.

mod aside;
mod life;
mod requests;
mod talk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use guest_protocol::message::{ContainerId, End, Failure, ProcessId, Stream};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use sandbox::Home;

use self::aside::Aside;
use crate::boot::Machine;
use crate::files::OpenFiles;
use crate::link::Link;
use crate::names::Names;
use crate::process::Process;
use crate::roots::Roots;
use crate::{failed, sys};

/// How long after a try the next one comes, in milliseconds.
const RETRY: std::ops::RangeInclusive<u64> = 5..=250;

/// What is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Link,
    /// It is time to connect again.
    Retry,
    Children,
    Sync(ProcessId),
    Streams(ProcessId, Stream),
    /// Names asked for by UDP; somebody connects by TCP; a connection has something.
    NamesUdp,
    NamesTcp,
    NamesConnection(u32),
}

impl Token {
    fn to_bits(self) -> u64 {
        let (role, number) = match self {
            Self::Link => (0, 0),
            Self::Retry => (1, 0),
            Self::Children => (2, 0),
            Self::Sync(process) => (3, process.get()),
            Self::Streams(process, stream) => (4 + stream as u64, process.get()),
            Self::NamesUdp => (8, 0),
            Self::NamesTcp => (9, 0),
            Self::NamesConnection(number) => (10, number),
        };
        role << 32 | u64::from(number)
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let number = bits as u32;
        let process = || ProcessId::new(number);
        Some(match bits >> 32 {
            0 => Self::Link,
            1 => Self::Retry,
            2 => Self::Children,
            3 => Self::Sync(process()?),
            5 => Self::Streams(process()?, Stream::Stdin),
            6 => Self::Streams(process()?, Stream::Stdout),
            7 => Self::Streams(process()?, Stream::Stderr),
            8 => Self::NamesUdp,
            9 => Self::NamesTcp,
            10 => Self::NamesConnection(number),
            _ => return None,
        })
    }
}

/// epoll. A descriptor is either in it, for what is wanted of it, or not at all: an end that nobody wants to read would be told for ever.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Failure> {
        epoll::add(&self.0, fd, EventData::new_u64(token.to_bits()), flags)
            .map_err(failed("watch", format!("{token:?}")))
    }

    pub(crate) fn modify(&self, fd: impl AsFd, token: Token, flags: EventFlags) {
        let _ = epoll::modify(&self.0, fd, EventData::new_u64(token.to_bits()), flags);
    }

    pub(crate) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }
}

/// See the [module](self).
pub(crate) struct Agent {
    machine: Machine,
    poller: Poller,
    children: OwnedFd,
    timer: OwnedFd,
    link: Option<Link>,
    /// In milliseconds.
    delay: u64,
    boot: [u8; 16],
    conversation: u64,
    configured: bool,
    processes: BTreeMap<ProcessId, Process>,
    by_pid: HashMap<i32, ProcessId>,
    /// Whose end was in the hello.
    told: BTreeSet<ProcessId>,
    home: Home,
    roots: Roots,
    /// What waits for volumes of the host's.
    aside: Aside,
    names: Names,
    /// Files that the host has open, by their containers.
    files: BTreeMap<ContainerId, OpenFiles>,
    /// The stream that was the last to be sent of.
    turn: (u32, u8),
    ending: Option<End>,
}

impl Agent {
    pub(crate) fn new(machine: Machine) -> Result<Self, Failure> {
        let mut boot = [0; 16];
        rustix::rand::getrandom(&mut boot, rustix::rand::GetRandomFlags::INSECURE)
            .map_err(failed("choose", "a name"))?;
        let poller = Poller(epoll::create(CreateFlags::CLOEXEC).map_err(failed("make", "an epoll"))?);
        let children = sys::children().map_err(failed("watch", "children"))?;
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
                .map_err(failed("make", "a timer"))?;
        poller.add(&children, Token::Children, EventFlags::IN)?;
        poller.add(&timer, Token::Retry, EventFlags::IN)?;
        Ok(Self {
            machine,
            poller,
            children,
            timer,
            link: None,
            delay: *RETRY.start(),
            boot,
            conversation: 0,
            configured: false,
            processes: BTreeMap::new(),
            by_pid: HashMap::new(),
            told: BTreeSet::new(),
            home: Home::default(),
            roots: Roots::default(),
            aside: Aside::default(),
            names: Names::default(),
            files: BTreeMap::new(),
            turn: (0, 0),
            ending: None,
        })
    }

    /// Until the host wants an end.
    pub(crate) fn run(mut self) -> Result<End, Failure> {
        self.connect();
        loop {
            self.pump();
            if let Some(how) = self.ending {
                self.last_words();
                return Ok(how);
            }
            let mut space = [MaybeUninit::uninit(); 32];
            let ready = match epoll::wait(&self.poller.0, &mut space, None) {
                Ok((ready, _)) => ready,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("wait for", "anything")(errno)),
            };
            for event in ready {
                if let Some(token) = Token::from_bits(event.data.u64()) {
                    self.on_ready(token, event.flags);
                }
            }
        }
    }

    fn on_ready(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Link => self.on_link(flags),
            Token::Retry => {
                let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                if self.link.is_none() {
                    self.connect();
                }
            }
            Token::Children => {
                let _ = rustix::io::read(&self.children, &mut [0; 512]);
                self.reap();
            }
            Token::Sync(process) => self.on_sync(process),
            Token::Streams(process, stream) => self.on_stream(process, stream),
            Token::NamesUdp | Token::NamesTcp | Token::NamesConnection(_) => {
                let asked = self.names.on_ready(token, &self.poller);
                // Whoever floods it is not to fill the machine's memory with what a slow host has to hear: it asks again.
                if self.link.as_ref().is_some_and(|link| link.waiting() < talk::AHEAD) {
                    asked.into_iter().for_each(|message| self.say(&message));
                }
            }
        }
    }

    /// Tries again to connect, a little later each time.
    fn retry(&mut self) {
        let wait = Duration::from_millis(self.delay);
        self.delay = (self.delay * 2).min(*RETRY.end());
        let time = |nanoseconds: u128| Timespec { tv_sec: 0, tv_nsec: nanoseconds as i64 };
        let timer = Itimerspec { it_interval: time(0), it_value: time(wait.as_nanos()) };
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer);
    }
}
