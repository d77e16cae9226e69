//! Containers through the API, and through the docker client.

use super::arena::{Arena, IMAGE};
use super::daemons::{daemon_of, megabytes, start};
use super::document::{Figure, Target, Unit};
use super::{Contender, take_turns, time};
use crate::http::{Connection, Payload};
use crate::instance::Instance;
use crate::memory::Process;
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

/// A hundred containers, by four clients; what they and the daemons take in memory.
fn crowds(ours: &Instance, theirs: &Dockerd) -> Result<Vec<Figure>> {
    let mut rates = Vec::new();
    let (mut memory, mut daemon, mut keeper, mut their_memory) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for network in ["none", "bridge"] {
        let (mut our_rates, mut their_rates) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let before = megabytes(&own(ours)?);
            our_rates.push(create_and_start(&ours.socket(), network, HUNDRED)?);
            std::thread::sleep(super::daemons::SETTLED);
            memory.push((megabytes(&own(ours)?) - before) / HUNDRED as f64);
            daemon.push(megabytes(&daemon_of(ours)?));
            keeper.push(megabytes(&of_role(ours, "keeper")?));
            remove_all(&mut ours.connect()?, &ours.socket())?;
        }
        let before = megabytes(&theirs.own_processes()?);
        their_rates.push(create_and_start(&theirs.socket(), network, OF_THE_PEER)?);
        their_memory.push((megabytes(&theirs.own_processes()?) - before) / OF_THE_PEER as f64);
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
        Figure {
            what: "an idle container beyond its own processes, PSS of ours",
            unit: Unit::Megabytes,
            measured: vec![("stratus", memory), ("dockerd", their_memory)],
            target: Target::AtMost(0.3),
            bound: "",
        },
        Figure {
            what: "daemon with 100 containers, PSS",
            unit: Unit::Megabytes,
            measured: vec![("stratus", daemon)],
            target: Target::AtMost(30.0),
            bound: "",
        },
        Figure {
            what: "keeper of 100 containers, PSS",
            unit: Unit::Megabytes,
            measured: vec![("stratus", keeper)],
            target: Target::AtMost(3.0),
            bound: "the program's constants that have addresses in them, of which each process has its own (half of it), and the heap, of \
                    which each container takes 4 KB; pages of its code are given back where nothing comes for a second",
        },
    ])
}

/// A thousand that run, and a daemon that starts among them.
fn thousand(ours: &Instance) -> Result<Vec<Figure>> {
    let first = create_and_start(&ours.socket(), "none", HUNDRED)?;
    create_and_start(&ours.socket(), "none", THOUSAND - 2 * HUNDRED)?;
    let last = create_and_start(&ours.socket(), "none", HUNDRED)?;
    let mut starts = Vec::new();
    for _ in 0..5 {
        ours.stop()?;
        starts.push(crate::figures::milliseconds(start(ours)?));
    }
    remove_all(&mut ours.connect()?, &ours.socket())?;
    Ok(vec![
        Figure {
            what: "the same, no network, for the 901st to the 1,000th running container",
            unit: Unit::PerSecond,
            measured: vec![("stratus", vec![last]), ("the first 100", vec![first])],
            target: Target::NoSlowerThan(first),
            bound: "the kernel: of what these take more than the first, a third is memory that it has not used before \
                    (`allocate_slab`; the first hundred get what others gave back), a sixth the look of each new sysfs \
                    through those of all network namespaces (`kernfs_test_super`, `kernfs_find_ns`), a seventh that of \
                    a new cpuset cgroup through its siblings (`cpuset_css_online`), the rest `pivot_root`'s through all \
                    processes (`chroot_fs_refs`), page tables, and locks that these hold meanwhile; the daemon and the \
                    keeper themselves take as long as at the first (`perf record` of both hundreds)",
        },
        Figure {
            what: "daemon from exec to answering, with 1,000 running containers",
            unit: Unit::Milliseconds,
            measured: vec![("stratus", starts)],
            target: Target::AtMost(150.0),
            bound: "reading a thousand records, and asking the keeper and the kernel what each of them does",
        },
    ])
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
