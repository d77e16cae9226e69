//! Runs a machine from the command line, with its serial port on standard output: for trying out a kernel, and for the tests.
//!
//! `vmm [--cpus N] [--memory MIB] [--initrd FILE] [--append LINE] [--disk FILE] [--layer FILE…] [--tap NAME] [--vsock PATH] [--quiet] KERNEL`
//!
//! Disks have the serials `disk0`, `disk1`, …; layers are one read-only disk, `layers`.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use vmm::{Card, Config, Console, Contents, Disk, End, Machine, MemorySize, VcpuCount, Vsock};

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
        memory: MemorySize::from_mib(256)?,
        kernel: PathBuf::new(),
        initrd: None,
        command_line: "console=ttyS0".to_owned(),
        console: Console::Stdout,
        disks: Vec::new(),
        cards: Vec::new(),
        vsock: None,
    };
    let mut layers = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{} wants a value", argument.display()));
        let text = |value: OsString| value.into_string().map_err(|value| format!("{} is no text", value.display()));
        match argument.to_str() {
            Some("--cpus") => config.vcpus = VcpuCount::new(text(value()?)?.parse()?)?,
            Some("--memory") => config.memory = MemorySize::from_mib(text(value()?)?.parse()?)?,
            Some("--initrd") => config.initrd = Some(value()?.into()),
            Some("--append") => config.command_line = text(value()?)?,
            Some("--disk") => {
                let contents = Contents::File { path: value()?.into(), read_only: false };
                config.disks.push(Disk { serial: format!("disk{}", config.disks.len()), contents });
            }
            Some("--vsock") => config.vsock = Some(Vsock { cid: 3, path: value()?.into() }),
            Some("--tap") => {
                let mac = [2, 0, 0, 0, 0, config.cards.len() as u8 + 1];
                config.cards.push(Card { tap: text(value()?)?, mac, mtu: 1500 });
            }
            Some("--layer") => layers.push(value()?.into()),
            Some("--quiet") => config.console = Console::Off,
            _ => config.kernel = argument.into(),
        }
    }
    if !layers.is_empty() {
        config.disks.push(Disk { serial: "layers".to_owned(), contents: Contents::Concatenated(layers) });
    }
    Ok(Machine::new(&config)?.run()?)
}
