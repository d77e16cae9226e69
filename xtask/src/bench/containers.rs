//! Containers through the API, and through the docker client.

use super::arena::{Arena, IMAGE};
use super::daemons::{daemon_of, megabytes, settled, start};
use super::document::{Figure, Target, Unit};
use super::{Contender, take_turns, time};
use crate::http::{Connection, Payload};
use crate::instance::Instance;
use crate::memory::{Process, kernel};
use crate::peers::Dockerd;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 31;
const EXECS: usize = 40;
const CLIENTS: usize = 4;
/// What is started at once, by us and by a peer that takes its time.
const HUNDRED: usize = 100;
const OF_THE_PEER: usize = 30;
const THOUSAND: usize = 1000;
/// So many run before memory is looked at: what the first ones take is the daemon's for the first use of its code, and no container's.
const FIRST: usize = 10;

/// What the last hundred of a thousand take more than the first, and how that was found.
const LAST_HUNDRED: &str = "the kernel. Of each of the first hundred, by processor time: the keeper and its child until the exec 1.50 ms, the \
    daemon 1.06, namespaces made ahead 0.46, commits 0.30, the program 0.27; of each of the last: 1.77, 1.17, 0.40, 0.33, 0.21. The growth is the \
    look of each new sysfs through those of all network namespaces (`kernfs_test_super`, 0.09 ms), that of a new cpuset cgroup through its \
    siblings (`cpuset_css_online`, 0.07), locks that these hold meanwhile (0.1), and `pivot_root`'s look through all processes (`chroot_fs_refs`, \
    0.02). The daemon and the keeper make as many system calls a container as at the first (some 160 and 410), and no function of theirs takes \
    0.02 ms more but the store's (`get_page`, 0.05, of a tree that is deeper). Where memory is short, the kernel's reclaim looks through each \
    cgroup's part of each file system (`shrink_slab`): then 0.5 to 0.7 ms more. Taken by `perf record -a -g -F 2999` (`cpu-clock`) of the first and \
    the 901st to 1,000th, by four clients, and `strace -f -c` of twenty more, before and after, of a daemon of the release profile on a machine that \
    compiled beside it";
/// As [`LAST_HUNDRED`], on the default bridge.
const LAST_HUNDRED_BRIDGED: &str = "as before, and the bridge: endpoints that are made ahead take 1.40 ms for each of the last hundred, and \
    0.74 for the first. The kernel goes through all ports of a bridge for each new one, several times (`br_add_if`, `br_set_gso_limits`, \
    `fdb_add_hw_addr`, 0.2 ms), and through all that it is linked with (`__netdev_adjacent_dev_insert`, 0.06), with the lock of all network devices held; the daemon \
    waits for that lock where it looks a link up (`rtnl_getlink`, 0.1). Taken in the same way";

pub(super) fn figures(arena: &Arena) -> Result<Vec<Figure>> {
    let ours = arena.instance("containers");
    ours.0.start()?;
    let theirs = Dockerd::new(arena.path("containers-dockerd"))?;
    theirs.start()?;
    arena.import(&mut ours.0.connect()?)?;
    arena.import(&mut theirs.connect()?)?;
    let mut figures = Vec::new();
    figures.extend(client_runs(&ours.0, &theirs)?);
    figures.push(execs(&ours.0, &theirs)?);
    figures.extend(crowds(&ours.0, &theirs)?);
    figures.extend(idle(&ours.0, &theirs)?);
    drop(theirs);
    figures.extend(thousand(&ours.0)?);
    Ok(figures)
}

/// The docker client: what it takes by itself, and `docker run --rm` of `true`.
fn client_runs(ours: &Instance, theirs: &Dockerd) -> Result<Vec<Figure>> {
    let measure = |arguments: &[&str]| {
        let contender = |name, socket: &Path| -> Contender<'_> {
            let mut command = Command::new("docker");
            command.arg("--host").arg(format!("unix://{}", socket.display())).args(arguments);
            (name, Box::new(move || time(&mut command)))
        };
        take_turns(ROUNDS, vec![contender("stratus", &ours.socket()), contender("dockerd", &theirs.socket())])
    };
    let run = |network, most, times, what| -> Result<Figure> {
        Ok(Figure {
            what,
            unit: Unit::Milliseconds,
            measured: measure(&["run", "--rm", "--network", network, IMAGE, "true"])?,
            target: Target::AtMostOrPeerDividedBy(most, times),
            bound: "the client: what `docker version` takes is the start of its own program and one request, and a run is \
                    five requests, one after the other",
        })
    };
    Ok(vec![
        Figure {
            what: "`docker version`: the client itself",
            unit: Unit::Milliseconds,
            measured: measure(&["version"])?,
            target: Target::None,
            bound: "",
        },
        run("none", 21.0, 9.0, "`docker run --rm` of `true`, no network")?,
        run("bridge", 25.0, 10.0, "`docker run --rm` of `true`, bridge")?,
    ])
}

/// An exec as the client does it: made, started and read to its end, its exit status asked for.
fn execs(ours: &Instance, theirs: &Dockerd) -> Result<Figure> {
    let (mut our_api, mut their_api) = (ours.connect()?, theirs.connect()?);
    let (our_id, their_id) = (start_one(&mut our_api, "none")?, start_one(&mut their_api, "none")?);
    let contenders: Vec<Contender<'_>> = vec![
        ("stratus", Box::new(|| exec(&mut our_api, &ours.socket(), &our_id))),
        ("dockerd", Box::new(|| exec(&mut their_api, &theirs.socket(), &their_id))),
    ];
    let measured = take_turns(EXECS, contenders)?;
    remove_all(&mut ours.connect()?, &ours.socket())?;
    remove_all(&mut theirs.connect()?, &theirs.socket())?;
    Ok(Figure {
        what: "exec through the API: create, start, read to its end, inspect",
        unit: Unit::Milliseconds,
        measured,
        target: Target::AtMost(5.0),
        bound: "joining the container's namespaces and cgroups, and the end of the process that did",
    })
}

fn exec(api: &mut Connection<UnixStream>, socket: &Path, id: &str) -> Result<Duration> {
    let began = Instant::now();
    let wanted = json!({ "Cmd": ["true"], "AttachStdout": true, "AttachStderr": true });
    let created = api.post(&format!("/containers/{id}/exec"), &wanted)?;
    let exec = created["Id"].as_str().context("no id")?.to_owned();
    // The stream takes its connection along.
    let path = format!("/exec/{exec}/start");
    let answer = Connection::open(socket)?.call("POST", &path, Payload::Json(&json!({ "Detach": false })))?;
    let ended = api.get(&format!("/exec/{exec}/json"))?;
    let time = began.elapsed();
    if answer.status != 200 || ended["ExitCode"] != json!(0) {
        bail!("an exec ended with {}", ended["ExitCode"]);
    }
    Ok(time)
}

/// A hundred containers, by four clients.
fn crowds(ours: &Instance, theirs: &Dockerd) -> Result<Vec<Figure>> {
    let mut rates = Vec::new();
    for network in ["none", "bridge"] {
        let mut our_rates = Vec::new();
        for _ in 0..3 {
            our_rates.push(create_and_start(&ours.socket(), network, HUNDRED)?);
            remove_all(&mut ours.connect()?, &ours.socket())?;
        }
        let their_rates = vec![create_and_start(&theirs.socket(), network, OF_THE_PEER)?];
        remove_all(&mut theirs.connect()?, &theirs.socket())?;
        rates.push(vec![("stratus", our_rates), ("dockerd", their_rates)]);
    }
    let mut rates = rates.into_iter();
    let mut rate = |what, least, bound| Figure {
        what,
        unit: Unit::PerSecond,
        measured: rates.next().unwrap_or_default(),
        target: Target::AtLeast(least),
        bound,
    };
    Ok(vec![
        rate(
            "create + start through the API, 4 clients, no network",
            400.0,
            "the cores: a creation and a start take 4.5 ms of processor time, nearly all of it in the kernel: the \
             new process 1.3 (its exec 0.35, mounting the overlay 0.2, compiling the seccomp filter 0.08; it \
             makes 356 system calls), the daemon 1.0 (ten cgroup directories 0.3, the container's own directories \
             and files 0.2), the keeper 0.6 (the clone 0.3, \
             opening a file in each of nine cgroup hierarchies 0.15), the network namespace 0.7, two durable \
             commits 0.5, the program that starts 0.4",
        ),
        rate(
            "create + start through the API, 4 clients, bridge",
            200.0,
            "as before, and the kernel's lock over all network devices: a namespace, a veth pair and its place on the \
             bridge take 1.5 ms during which no other such request goes on",
        ),
    ])
}

/// What a hundred containers that sleep take in memory, beyond their own processes.
///
/// A daemon keeps some of what it once needed, so that each round begins with a new one, and with [`FIRST`] containers; and a figure counts
/// once it has settled, as memory is given back a while after it was used.
fn idle(ours: &Instance, theirs: &Dockerd) -> Result<Vec<Figure>> {
    let (mut memory, mut daemon, mut keeper, mut kernels) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        // With its keeper, which keeps, too, what it once needed.
        ours.stop()?;
        ours.clean()?;
        ours.start()?;
        let beyond = Grown { own: &|| Ok(megabytes(&own(ours)?)), socket: &ours.socket() };
        let (own, kernel) = beyond.by(HUNDRED)?;
        memory.push(own);
        kernels.push(kernel);
        daemon.push(megabytes(&daemon_of(ours)?));
        keeper.push(megabytes(&of_role(ours, "keeper")?));
        remove_all(&mut ours.connect()?, &ours.socket())?;
    }
    let beyond = Grown { own: &|| Ok(megabytes(&theirs.own_processes()?)), socket: &theirs.socket() };
    let (their_memory, their_kernel) = beyond.by(OF_THE_PEER)?;
    remove_all(&mut theirs.connect()?, &theirs.socket())?;
    Ok(vec![
        Figure {
            what: "an idle container beyond its own processes, PSS of ours",
            unit: Unit::Megabytes,
            measured: vec![("stratus", memory), ("dockerd", vec![their_memory])],
            target: Target::AtMost(0.3),
            bound: "the growth of all of the daemon's processes from ten containers to a hundred more, each time once it has settled",
        },
        Figure {
            what: "what the kernel keeps of an idle container, with its process",
            unit: Unit::Megabytes,
            measured: vec![("stratus", kernels), ("dockerd", vec![their_kernel])],
            target: Target::None,
            bound: "namespaces, cgroups, mounts and a stack: the growth of `Slab`, `KernelStack`, `PageTables` and `Percpu` \
                    (proc_meminfo(5)) meanwhile",
        },
        Figure {
            what: "daemon with 110 containers, PSS",
            unit: Unit::Megabytes,
            measured: vec![("stratus", daemon)],
            target: Target::AtMost(30.0),
            bound: "",
        },
        Figure {
            what: "keeper of 110 containers, PSS",
            unit: Unit::Megabytes,
            measured: vec![("stratus", keeper)],
            target: Target::AtMost(3.0),
            bound: "the program's constants that have addresses in them, of which each process has its own (half of it), and the heap, of \
                    which each container takes 4 KB; pages of its code are given back where nothing comes for a second",
        },
    ])
}

/// How much more memory something takes with more containers.
struct Grown<'a> {
    /// The megabytes of whoever runs the containers.
    own: &'a dyn Fn() -> Result<f64>,
    socket: &'a Path,
}

impl Grown<'_> {
    /// The megabytes a container of `count` more than [`FIRST`]: of whoever runs them, and of the kernel.
    fn by(&self, count: usize) -> Result<(f64, f64)> {
        create_and_start(self.socket, "bridge", FIRST)?;
        let (own, in_kernel) = (settled(self.own)?, settled(&kernel_megabytes)?);
        create_and_start(self.socket, "bridge", count)?;
        let each = |before: f64, after: f64| (after - before) / count as f64;
        Ok((each(own, settled(self.own)?), each(in_kernel, settled(&kernel_megabytes)?)))
    }
}

fn kernel_megabytes() -> Result<f64> {
    Ok(kernel()? as f64 / 1e6)
}

/// A thousand that run, without a network and over the bridge, and a daemon that starts among them.
fn thousand(ours: &Instance) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let whats = [
        ("none", "the same, no network, for the 901st to the 1,000th running container"),
        ("bridge", "the same, bridge, for the 901st to the 1,000th running container"),
    ];
    for (network, what) in whats {
        let first = create_and_start(&ours.socket(), network, HUNDRED)?;
        create_and_start(&ours.socket(), network, THOUSAND - 2 * HUNDRED)?;
        let last = create_and_start(&ours.socket(), network, HUNDRED)?;
        figures.push(Figure {
            what,
            unit: Unit::PerSecond,
            measured: vec![("stratus", vec![last]), ("the first 100", vec![first])],
            target: Target::NoSlowerThan(first),
            bound: if network == "none" { LAST_HUNDRED } else { LAST_HUNDRED_BRIDGED },
        });
        if network == "bridge" {
            let mut starts = Vec::new();
            for _ in 0..5 {
                ours.stop()?;
                starts.push(crate::figures::milliseconds(start(ours)?));
            }
            figures.push(Figure {
                what: "daemon from exec to answering, with 1,000 running containers",
                unit: Unit::Milliseconds,
                measured: vec![("stratus", starts)],
                target: Target::AtMost(150.0),
                bound: "reading a thousand records, and asking the keeper and the kernel what each of them does",
            });
        }
        remove_all(&mut ours.connect()?, &ours.socket())?;
    }
    Ok(figures)
}

fn own(ours: &Instance) -> Result<Vec<Process>> {
    Ok(ours.own_processes()?.into_iter().map(|(_, process)| process).collect())
}

fn of_role(ours: &Instance, role: &str) -> Result<Vec<Process>> {
    Ok(ours.own_processes()?.into_iter().filter(|(other, _)| other == role).map(|(_, process)| process).collect())
}

fn start_one(api: &mut Connection<UnixStream>, network: &str) -> Result<String> {
    let wanted = json!({ "Image": IMAGE, "Cmd": ["sleep", "100000"], "HostConfig": { "NetworkMode": network } });
    let created = api.post("/containers/create", &wanted)?;
    let id = created["Id"].as_str().context("no id")?.to_owned();
    api.ask("POST", &format!("/containers/{id}/start"), Payload::Nothing)?;
    Ok(id)
}

/// How many containers a second four clients make and start.
fn create_and_start(socket: &Path, network: &str, count: usize) -> Result<f64> {
    let began = Instant::now();
    by_clients(socket, count, |api, _| start_one(api, network).map(drop))?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

fn remove_all(api: &mut Connection<UnixStream>, socket: &Path) -> Result<()> {
    let list = api.get("/containers/json?all=true")?;
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    by_clients(socket, list.len(), |api, index| {
        let id = list.get(index).and_then(|container: &Value| container["Id"].as_str()).unwrap_or_default();
        api.ask("DELETE", &format!("/containers/{id}?force=true"), Payload::Nothing).map(drop)
    })
}

/// Does something so many times, by four clients at once, each with a connection of its own.
fn by_clients(
    socket: &Path,
    count: usize,
    act: impl Fn(&mut Connection<UnixStream>, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let client = || -> Result<()> {
        let mut api = Connection::open(socket)?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(());
            }
            act(&mut api, index)?;
        }
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")))
    })
}
