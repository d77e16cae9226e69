//! Where the daemon is killed: at a system call that it is about to make, or after a time.

use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::Daemon;
use rand::Rng;
use rand::rngs::StdRng;

/// The calls that change what somebody else sees: the disk, the kernel's tables, other processes.
const CALLS: &str = "?rename,renameat,renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,?mkdir,mkdirat,?rmdir,mknodat,\
                     fdatasync,fsync,syncfs,ftruncate,fallocate,write,pwrite64,writev,copy_file_range,sendmsg,sendto,\
                     fchmod,fchmodat,fchownat,setxattr,mount,umount2,clone3,setns,unshare,bind,connect,shutdown";

/// How long the daemon may go on with what it does behind its answer before it is killed in any case.
const BEHIND: Duration = Duration::from_millis(150);

/// A point of what the daemon does for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// When a thread is about to make a call for the `nth` time.
    Call { name: String, nth: u32 },
    /// So long after the request was sent.
    Time(Duration),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call { name, nth } => write!(f, "before {name} number {nth} of a thread"),
            Self::Time(time) => write!(f, "after {} µs", time.as_micros()),
        }
    }
}

/// What one undisturbed request makes the daemon do, which is where points are chosen from.
pub(crate) struct Trail {
    /// Every call, and how many of its name its thread had made by then.
    calls: Vec<(String, u32)>,
    /// How long it took untraced.
    time: Duration,
}

impl Trail {
    /// Sees what `act` makes the daemon do; `time` is how long it takes when nobody looks.
    pub(crate) fn of(host: &Daemon, time: Duration, act: impl FnOnce()) -> Self {
        let record = host.work().join("trace");
        let mut tracer = Tracer::attach(host, &["-e", &format!("trace={CALLS}"), "-o", &record.display().to_string()]);
        act();
        std::thread::sleep(BEHIND);
        tracer.detach();
        let calls = read(&std::fs::read_to_string(&record).expect("read the trace"));
        assert!(!calls.is_empty(), "strace saw nothing");
        Self { calls, time }
    }

    /// One of its points: three of four at a call, the others at a time.
    pub(crate) fn any(&self, random: &mut StdRng) -> Point {
        if random.random_ratio(1, 4) {
            let most = u64::try_from(self.time.as_micros()).unwrap_or(u64::MAX).max(1) * 5 / 4;
            return Point::Time(Duration::from_micros(random.random_range(0..=most)));
        }
        let (name, nth) = self.calls[random.random_range(0..self.calls.len())].clone();
        Point::Call { name, nth }
    }
}

/// `123 unlinkat(…` becomes `("unlinkat", 1)`, and the next of the same thread `("unlinkat", 2)`.
fn read(trace: &str) -> Vec<(String, u32)> {
    let mut seen: HashMap<(&str, &str), u32> = HashMap::new();
    let calls = trace.lines().filter_map(|line| {
        let (thread, rest) = line.split_once(' ')?;
        let (name, _) = rest.trim_start().split_once('(')?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then(|| {
            let nth = seen.entry((thread, name)).or_default();
            *nth += 1;
            (name.to_owned(), *nth)
        })
    });
    calls.collect()
}

/// Has the daemon killed at `point` of what `act` makes it do. What `act` gives, once the daemon is dead.
pub(crate) fn kill_at<T: Send>(host: &mut Daemon, point: &Point, act: impl FnOnce(&Daemon) -> T + Send) -> T {
    let came = match point {
        Point::Call { name, nth } => {
            let inject = format!("inject={name}:signal=SIGKILL:when={nth}");
            let mut tracer = Tracer::attach(host, &["-e", &format!("trace={name}"), "-e", &inject, "-o", "/dev/null"]);
            let came = act(host);
            // The point may lie behind the answer.
            tracer.ends_within(BEHIND);
            came
        }
        Point::Time(time) => std::thread::scope(|scope| {
            let acting = scope.spawn({
                let host = &*host;
                move || act(host)
            });
            std::thread::sleep(*time);
            signal(host.pid(), "KILL");
            acting.join().expect("the request")
        }),
    };
    host.kill9();
    came
}

/// `strace` on the threads of a daemon.
struct Tracer(Child);

impl Tracer {
    fn attach(host: &Daemon, flags: &[&str]) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-p", &host.pid().to_string()])
            .args(flags)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start strace");
        let mut said = BufReader::new(child.stderr.take().expect("its standard error"));
        let mut line = String::new();
        said.read_line(&mut line).expect("hear of strace");
        assert!(line.contains("attached"), "strace says {line:?}");
        // It tells of each thread to come, and must not wait for anybody to listen.
        std::thread::spawn(move || said.read_to_end(&mut Vec::new()));
        Self(child)
    }

    fn detach(&mut self) {
        signal(self.0.id(), "INT");
        self.0.wait().expect("wait for strace");
    }

    /// Whether the traced process ended, and strace with it.
    fn ends_within(&mut self, time: Duration) -> bool {
        let until = std::time::Instant::now() + time;
        while std::time::Instant::now() < until {
            if self.0.try_wait().expect("look at strace").is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It may have ended with the daemon, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(process: u32, name: &str) {
    // A daemon that is dead already is as good.
    let _ = Command::new("kill").args(["-s", name, &process.to_string()]).stderr(Stdio::null()).status();
}
