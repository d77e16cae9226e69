//! Runs a machine from the command line, with its serial port on standard output: for trying out a kernel, and for the tests.
//!
//! `vmm [--cpus N] [--processor LEVEL] [--memory MIB] [--most-memory MIB] [--initrd FILE] [--append LINE] [--disk FILE] [--qcow2 FILE] [--layer FILE…] [--limit BYTES] [--tap NAME] [--vsock PATH] [--balloon] [--huge] [--control] [--quiet] [--save DIR] KERNEL | --restore DIR [--faulted [--ahead FILE]]`
//!
//! With `--save`, the machine is saved into a directory, and no more is done, as soon as standard input has something or is at its end. With `--restore`, one goes on that was saved, with devices
//! as it had. With `--faulted`, its memory comes as it is touched, before that what a file says, and what was touched is written there at its end.
//!
//! With `--control`, what standard input says is done, line by line, until its end: `memory MIB` has it have that much memory, `tell` writes down what the guest says of
//! its memory.
//!
//! `--limit` is for what comes behind it: so many bytes a second go through a disk, and through a card in each direction.
//!
//! Disks have the serials `disk0`, `disk1`, …; layers are one read-only disk, `layers`.

use rustix::event::{PollFd, PollFlags, poll};
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmm::{
    Backing, Card, Config, Console, Contents, Disk, End, Limits, Machine, MemorySize, Pages, Processor, Rate, Snapshot,
    SnapshotFiles, VcpuCount, Vsock,
};

fn main() -> ExitCode {
    match run(env::args_os().skip(1).collect()) {
        Ok(end) => {
            eprintln!("vmm: {end:?}");
            ExitCode::from(u8::from(matches!(end, End::TripleFault | End::Failed(_))))
        }
        Err(error) => {
            eprintln!("vmm: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<End, Box<dyn Error>> {
    let mut config = Config {
        vcpus: VcpuCount::new(1)?,
        processor: Processor::default(),
        memory: MemorySize::from_mib(256)?,
        most_memory: MemorySize::from_mib(MemorySize::MIN_MIB)?,
        kernel: PathBuf::new(),
        initrd: None,
        command_line: "console=ttyS0".to_owned(),
        console: Console::Stdout,
        disks: Vec::new(),
        cards: Vec::new(),
        vsock: None,
        files: Vec::new(),
        files_place: false,
        balloon: false,
        pages: Pages::Small,
    };
    let (mut is_controlled, mut is_faulted, mut ahead) = (false, false, None);
    let (mut layers, mut save, mut restore, mut limits) = (Vec::new(), None, None, Limits::default());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{} wants a value", argument.display()));
        let text = |value: OsString| value.into_string().map_err(|value| format!("{} is no text", value.display()));
        match argument.to_str() {
            Some("--cpus") => config.vcpus = VcpuCount::new(text(value()?)?.parse()?)?,
            Some("--processor") => {
                let name = text(value()?)?;
                config.processor = Processor::parse(&name).ok_or_else(|| format!("there is no processor {name}"))?;
            }
            Some("--memory") => config.memory = MemorySize::from_mib(text(value()?)?.parse()?)?,
            Some("--most-memory") => config.most_memory = MemorySize::from_mib(text(value()?)?.parse()?)?,
            Some("--initrd") => config.initrd = Some(value()?.into()),
            Some("--append") => config.command_line = text(value()?)?,
            Some("--disk") => {
                let contents = Contents::File { path: value()?.into(), read_only: false };
                config.disks.push(Disk { serial: format!("disk{}", config.disks.len()), contents, limits });
            }
            Some("--qcow2") => {
                let contents = Contents::Qcow2 { path: value()?.into(), read_only: false };
                config.disks.push(Disk { serial: format!("disk{}", config.disks.len()), contents, limits });
            }
            Some("--vsock") => config.vsock = Some(Vsock { cid: 3, path: value()?.into() }),
            Some("--tap") => {
                let mac = [2, 0, 0, 0, 0, config.cards.len() as u8 + 1];
                config.cards.push(Some(Card { tap: text(value()?)?, mac, mtu: 1500, receive: limits, send: limits }));
            }
            Some("--limit") => limits.bytes = Some(Rate { per_second: text(value()?)?.parse()?, burst: 0 }),
            Some("--layer") => layers.push(value()?.into()),
            Some("--save") => save = Some(PathBuf::from(value()?)),
            Some("--restore") => restore = Some(PathBuf::from(value()?)),
            Some("--faulted") => is_faulted = true,
            Some("--ahead") => ahead = Some(PathBuf::from(value()?)),
            Some("--balloon") => config.balloon = true,
            Some("--huge") => config.pages = Pages::Huge,
            Some("--control") => is_controlled = true,
            Some("--quiet") => config.console = Console::Off,
            _ => config.kernel = argument.into(),
        }
    }
    config.most_memory = config.most_memory.max(config.memory);
    if !layers.is_empty() {
        config.disks.push(Disk { serial: "layers".to_owned(), contents: Contents::Concatenated(layers), limits });
    }
    let mut machine = match restore {
        Some(from) => {
            let snapshot = Snapshot::read(SnapshotFiles::open(&from)?)?;
            let backing = if is_faulted { faulted(ahead.as_deref())? } else { Backing::Mapped };
            Machine::restore_by(&snapshot, config.open_devices()?, &backing)?
        }
        None => Machine::new(&config)?,
    };
    machine.start();
    if is_controlled {
        control(&machine)?;
    }
    if let Some(into) = save {
        let stdin = std::io::stdin();
        let mut waited = [PollFd::from_borrowed_fd(machine.ended(), PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        poll(&mut waited, None)?;
        if machine.end().is_none() {
            machine.save(&SnapshotFiles::create(&into)?)?;
            machine.stop();
        }
    }
    if let Some((path, _)) = ahead.zip(machine.working_set()) {
        poll(&mut [PollFd::from_borrowed_fd(machine.ended(), PollFlags::IN)], None)?;
        std::fs::write(path, postcard::to_stdvec(&machine.working_set())?)?;
    }
    Ok(machine.wait()?)
}

/// Memory that comes as it is touched, and ahead of that what a file says, where it is there.
fn faulted(ahead: Option<&Path>) -> Result<Backing, Box<dyn Error>> {
    let bytes = ahead.and_then(|path| std::fs::read(path).ok());
    Ok(Backing::Faulted { ahead: bytes.map(|bytes| postcard::from_bytes(&bytes)).transpose()?.flatten() })
}

/// Does what standard input says, until its end or the machine's.
fn control(machine: &Machine) -> Result<(), Box<dyn Error>> {
    let stdin = std::io::stdin();
    let mut lines = stdin.lock();
    loop {
        let mut waited = [PollFd::from_borrowed_fd(machine.ended(), PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        poll(&mut waited, None)?;
        let mut line = String::new();
        if machine.end().is_some() || lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().split_once(' ') {
            Some(("memory", mib)) => machine.resize(MemorySize::from_mib(mib.parse()?)?)?,
            None if line == "tell\n" => {
                eprintln!("vmm: has {} MiB, {:?}", machine.memory() >> 20, machine.memory_statistics());
            }
            _ => return Err(format!("{line:?} is nothing that can be done").into()),
        }
    }
}
