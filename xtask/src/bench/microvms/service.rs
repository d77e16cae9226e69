//! The same small web service as a process, in a container and in a microVM; and what the second microVM of an image takes.
//!
//! The microVMs are run by what the daemon finds to be the best: where the host's KVM can't run kernels, by QEMU without it, which is ten times slower and has all of a
//! machine's memory for itself.

use super::super::arena::{Arena, IMAGE};
use super::super::document::{Figure, Target, Unit};
use super::super::settle;
use crate::figures::milliseconds;
use crate::http::{Connection, Payload};
use crate::instance::Running;
use crate::memory::{disk_usage, family, processes, pss};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const CLIENTS: usize = 2;
/// How long requests are counted.
const COUNTED: Duration = Duration::from_secs(2);
/// A machine that is emulated on a busy host takes a while.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at whether it answers.
const AGAIN: Duration = Duration::from_millis(1);
const PORT: u16 = 8080;

/// Where a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Process,
    Container,
    MicroVm,
}

/// What was seen of a form: times to the first answer, memory, disk, and answers a second.
#[derive(Debug, Default)]
struct Seen {
    starts: Vec<f64>,
    memory: Vec<f64>,
    disk: Vec<f64>,
    rates: Vec<f64>,
}

pub(super) fn figures(arena: &Arena, daemon: &Running) -> Result<Vec<Figure>> {
    let mut api = daemon.0.connect()?;
    arena.import(&mut api)?;
    // The first machine of its kind boots, and one is saved behind it that others go on from.
    let first = Service::in_container(&mut api, Form::MicroVm, PORT, &daemon.0.data_dir)?;
    wait_for_template(&daemon.0.data_dir)?;
    let mut seen = [Form::Process, Form::Container, Form::MicroVm].map(|form| (form, Seen::default()));
    let mut shared = Vec::new();
    for round in 0..ROUNDS {
        for (number, (form, seen)) in seen.iter_mut().enumerate() {
            settle()?;
            let port = PORT + 1 + (round * 3 + number) as u16;
            let service = match form {
                Form::Process => Service::process(&arena.path("www"), port)?,
                _ => Service::in_container(&mut api, *form, port, &daemon.0.data_dir)?,
            };
            seen.starts.push(milliseconds(service.start));
            seen.disk.push(service.disk as f64 / 1e6);
            seen.rates.push(rate(port)?);
            let members = family(&processes()?, service.pid);
            seen.memory.push(members.iter().map(|process| pss(process.pid)).sum::<u64>() as f64 / 1e6);
            if *form == Form::MicroVm {
                let (layers, both) = (layers(&daemon.0.data_dir)?, [files_of(first.pid)?, files_of(service.pid)?]);
                shared.push(layers.iter().filter(|layer| both.iter().all(|open| open.contains(layer))).count() as f64);
            }
            service.end(&mut api)?;
        }
    }
    let start = milliseconds(first.start);
    first.end(&mut api)?;
    Ok(rows(seen.map(|(_, seen)| seen), start, shared))
}

fn rows([process, container, machine]: [Seen; 3], booted: f64, shared: Vec<f64>) -> Vec<Figure> {
    let figure = |what, unit, of: fn(&Seen) -> &Vec<f64>, bound| Figure {
        what,
        unit,
        measured: vec![
            ("stratus", of(&machine).clone()),
            ("container", of(&container).clone()),
            ("process", of(&process).clone()),
        ],
        target: Target::None,
        bound,
    };
    vec![
        Figure {
            what: "disk of the second microVM of an image",
            unit: Unit::Megabytes,
            measured: vec![("stratus", machine.disk.clone())],
            target: Target::AtMost(0.1),
            bound: "what the data directory grows by: the container's record, its log and its own few files",
        },
        Figure {
            what: "layers of the image, of one, that it and the first one have open, in the host's memory once",
            unit: Unit::Calls,
            measured: vec![("stratus", shared)],
            target: Target::AtLeast(1.0),
            bound: "",
        },
        Figure {
            what: "a web service in the first microVM of its kind, which boots: from its creation to its first answer",
            unit: Unit::Milliseconds,
            measured: vec![("stratus", vec![booted])],
            target: Target::None,
            bound: "a kernel's boot, by the driver that the daemon chose. Where the host's KVM can't run kernels, that is QEMU without it, which translates each instruction",
        },
        figure(
            "the same in one that goes on from a template, in a container, and as a process",
            Unit::Milliseconds,
            |seen| &seen.starts,
            "as before: reading the template's memory into QEMU, and what the guest does until it serves, emulated",
        ),
        figure(
            "memory of the service, with what it runs in, PSS",
            Unit::Megabytes,
            |seen| &seen.memory,
            "QEMU's copies share no memory, and its translated code is memory as well; our own hypervisor's process is above",
        ),
        figure("disk of the service, beyond its image", Unit::Megabytes, |seen| &seen.disk, ""),
        figure(
            "requests a second, two clients, a connection for each request",
            Unit::PerSecond,
            |seen| &seen.rates,
            "the service itself, which starts a process for each request, emulated where the microVM is",
        ),
    ]
}

/// A service that answers.
pub(super) struct Service {
    start: Duration,
    pid: u32,
    disk: u64,
    what: What,
}

enum What {
    Process(Child),
    Container(String),
}

/// Serves one page.
fn script(busybox: &str, directory: &str, address: &str) -> String {
    format!("echo hello > {directory}/index.html; exec {busybox} httpd -f -p {address} -h {directory}")
}

impl Service {
    fn process(directory: &Path, port: u16) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let script = script("/bin/busybox", &directory.display().to_string(), &format!("127.0.0.1:{port}"));
        let before = disk_usage(directory);
        let began = Instant::now();
        let mut command = Command::new("sh");
        let child = command.args(["-c", &script]).stdin(Stdio::null()).spawn().context("cannot run sh")?;
        let pid = child.id();
        let start = until_it_answers(port, began)?;
        let disk = disk_usage(directory).saturating_sub(before);
        Ok(Self { start, pid, disk, what: What::Process(child) })
    }

    pub(super) fn in_container(api: &mut Connection<UnixStream>, form: Form, port: u16, data: &Path) -> Result<Self> {
        let runtime = if form == Form::MicroVm { "microvm" } else { "stratus" };
        let published = format!("{PORT}/tcp");
        let wanted = json!({
            "Image": IMAGE,
            "Cmd": ["sh", "-c", script("/bin/busybox", "/tmp", &PORT.to_string())],
            "ExposedPorts": { &published: {} },
            "HostConfig": {
                "Runtime": runtime,
                "PortBindings": { &published: [{ "HostIp": "127.0.0.1", "HostPort": port.to_string() }] },
            },
        });
        let before = disk_usage(data);
        let began = Instant::now();
        let created = api.post("/containers/create", &wanted)?;
        let id = created["Id"].as_str().context("no id")?.to_owned();
        api.ask("POST", &format!("/containers/{id}/start"), Payload::Nothing)?;
        let start = until_it_answers(port, began)?;
        let disk = disk_usage(data).saturating_sub(before);
        let inspected = api.get(&format!("/containers/{id}/json"))?;
        let pid = inspected["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("no process")?;
        Ok(Self { start, pid, disk, what: What::Container(id) })
    }

    /// The container's identifier, if it is in one.
    pub(super) fn container(&self) -> Option<&str> {
        match &self.what {
            What::Process(_) => None,
            What::Container(id) => Some(id),
        }
    }

    pub(super) fn end(self, api: &mut Connection<UnixStream>) -> Result<()> {
        match self.what {
            What::Process(mut child) => {
                child.kill().context("cannot end a service")?;
                child.wait().map(drop).context("cannot wait for a service")
            }
            What::Container(id) => {
                api.ask("DELETE", &format!("/containers/{id}?force=true"), Payload::Nothing).map(drop)
            }
        }
    }
}

pub(super) fn until_it_answers(port: u16, began: Instant) -> Result<Duration> {
    while began.elapsed() < PATIENCE {
        if ask(port).is_ok() {
            return Ok(began.elapsed());
        }
        std::thread::sleep(AGAIN);
    }
    bail!("a service does not answer at port {port} after {PATIENCE:?}")
}

fn ask(port: u16) -> Result<()> {
    match Connection::to_port(port)?.call("GET", "/index.html", Payload::Nothing)?.status {
        200 => Ok(()),
        other => bail!("a service answers with {other}"),
    }
}

/// How many requests a second are answered.
fn rate(port: u16) -> Result<f64> {
    let began = Instant::now();
    let client = || -> Result<usize> {
        let mut answered = 0;
        while began.elapsed() < COUNTED {
            ask(port)?;
            answered += 1;
        }
        Ok(answered)
    };
    let answered = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|_| bail!("a client panicked")))
            .sum::<Result<usize>>()
    })?;
    Ok(answered as f64 / began.elapsed().as_secs_f64())
}

/// Waits until there is a template whose files are written.
fn wait_for_template(data: &Path) -> Result<()> {
    let templates = data.join("microvm/templates");
    let (began, mut before) = (Instant::now(), 0);
    while began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_secs(1));
        let now = disk_usage(&templates);
        // A snapshot's memory is megabytes, and grows while it is written.
        if now == before && now > 1 << 20 {
            return Ok(());
        }
        before = now;
    }
    bail!("there is no template in {} after {PATIENCE:?}", templates.display())
}

/// The layers' files, as machines have them.
fn layers(data: &Path) -> Result<HashSet<(u64, u64)>> {
    let directory = data.join("images/erofs");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let files = entries.flatten().filter_map(|entry| entry.metadata().ok());
    Ok(files.map(|file| (file.dev(), file.ino())).collect())
}

/// The files on disks that a process and those below it have open.
fn files_of(pid: u32) -> Result<HashSet<(u64, u64)>> {
    let mut files = HashSet::new();
    for process in family(&processes()?, pid) {
        let open = fs::read_dir(format!("/proc/{}/fd", process.pid)).context("a machine's process is gone")?;
        let open = open.flatten().filter_map(|entry| fs::metadata(entry.path()).ok());
        // The machine's directory in memory has files of its own, on a device of their own.
        files.extend(open.filter(|file| file.is_file() && file.nlink() > 0).map(|file| (file.dev(), file.ino())));
    }
    Ok(files)
}
