//! The process of a machine, as a keeper starts it: the program `machine`.

use anyhow::{Context, Result, bail};
use microvm::driver::Driver;
use microvm::{Backing, DiskLimits, Hardware, MachinePlan, MemorySize, Origin, VcpuCount, role};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs;
use std::io::{PipeReader, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Waits until it is told to, and becomes the program then, with its report's socket where it expects it.
const SHELL: &str = r#"read go; exec "$0" "$1" "$2" 3<&0 < /dev/null"#;

/// What a machine is run by, and boots.
#[derive(Debug, Clone)]
pub(super) struct Boots {
    /// The program of its process.
    pub(super) program: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// Where machines have their own files, in directories of theirs.
    pub(super) place: PathBuf,
}

/// The plan of a machine with one processor and the devices that every microVM has, in which nothing is to run.
pub(super) fn plan(
    boots: &Boots,
    mib: u64,
    origin: Option<&Path>,
    directory: &Path,
    console: bool,
) -> Result<MachinePlan> {
    let memory = MemorySize::from_mib(mib)?;
    Ok(MachinePlan {
        driver: Driver::Kvm,
        hardware: Hardware {
            vcpus: VcpuCount::new(1)?,
            processor: microvm::Processor::Host,
            memory,
            most_memory: memory,
            kernel: boots.kernel.clone(),
            initramfs: boots.initramfs.clone(),
            layers: Vec::new(),
            upper: None,
            limits: DiskLimits::default(),
            cards: Vec::new(),
            volumes: None,
            files_place: true,
            console,
        },
        origin: origin.map(|directory| Origin::Template(directory.to_owned())),
        backing: Backing::default(),
        container: None,
        start_timeout: None,
        control: directory.join("control"),
        scratch: directory.to_owned(),
    })
}

/// A process that has not begun to be a machine's. It ends, and its directory goes, when it is dropped.
pub(super) struct Process {
    child: Child,
    /// By which it is told to go, and tells how it goes.
    report: OwnedFd,
    /// What the guest writes to its serial port.
    told: PipeReader,
    directory: PathBuf,
    /// Processor time before.
    before: Duration,
}

impl Process {
    /// `directory` is made for it.
    pub(super) fn prepare(boots: &Boots, mib: u64, from: Option<&Path>, directory: PathBuf) -> Result<Self> {
        Self::prepare_with(boots, mib, from, directory, true)
    }

    /// As [`Self::prepare`], and nobody hears what its guest writes to its serial port, as nobody does of a container's.
    pub(super) fn prepare_silent(boots: &Boots, mib: u64, from: &Path, directory: PathBuf) -> Result<Self> {
        Self::prepare_with(boots, mib, Some(from), directory, false)
    }

    fn prepare_with(boots: &Boots, mib: u64, from: Option<&Path>, directory: PathBuf, console: bool) -> Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let file = directory.join("plan");
        let plan = plan(boots, mib, from, &directory, console)?;
        fs::write(&file, plan.to_bytes()?).context("cannot write a machine's plan")?;
        let (report, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).context("no sockets")?;
        let (told, stderr) = std::io::pipe().context("no pipe")?;
        let mut command = Command::new("sh");
        command.args(["-c", SHELL]).arg(&boots.program).arg(role::RUN).arg(&file);
        // What the daemon gives it.
        let (name, value) = microvm::container::FRUGAL;
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env(name, value);
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().context("cannot run sh")?;
        Ok(Self { child, report, told, directory, before: Duration::ZERO })
    }

    /// Has it execute the program.
    pub(super) fn go(&mut self) -> Result<Instant> {
        self.before = self.processor_time()?;
        let began = Instant::now();
        rustix::io::write(&self.report, b"\n").context("cannot tell a process to go")?;
        Ok(began)
    }

    /// What the guest writes first.
    pub(super) fn first<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.told.read_exact(&mut bytes) {
            // What it complains of comes the same way.
            Ok(()) if !bytes.starts_with(b"\rstr") => Ok(bytes),
            _ => {
                let mut rest = String::new();
                self.child.kill().context("cannot end a machine's process")?;
                let _ = self.told.read_to_string(&mut rest);
                bail!("a machine's process ended: {}{}", String::from_utf8_lossy(&bytes), rest.trim())
            }
        }
    }

    /// What its guest has at an address of its memory, where that is mapped from the file `memory` of the snapshot that it goes on from. `None`: it is not yet.
    pub(super) fn peek<const N: usize>(&self, snapshot: &Path, address: u64) -> Result<Option<[u8; N]>> {
        let name = snapshot.join("memory");
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let maps = fs::read_to_string(process.join("maps")).context("a machine's process ended")?;
        let of_it = maps.lines().filter(|line| line.ends_with(&*name.to_string_lossy()));
        let Some(at) = of_it.filter_map(mapping).find_map(|(range, offset)| {
            let at = range.start.checked_add(address.checked_sub(offset)?)?;
            range.contains(&at).then_some(at)
        }) else {
            return Ok(None);
        };
        let mut bytes = [0; N];
        let memory = fs::File::open(process.join("mem")).context("a machine's process ended")?;
        memory.read_exact_at(&mut bytes, at).context("cannot look into a machine's memory")?;
        Ok(Some(bytes))
    }

    /// What its threads have had of processors since it was told to go.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        processor_time(self.child.id()).map(|time| time.saturating_sub(self.before))
    }

    /// Memory of its own, in bytes.
    pub(super) fn memory(&self) -> Result<u64> {
        memory(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Where a line of `/proc/PID/maps` says that a file is mapped, and from which offset on (proc_pid_maps(5)).
fn mapping(line: &str) -> Option<(Range<u64>, u64)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?..number(end)?, number(words.nth(1)?)?))
}

/// What all threads of a process have had of processors (the kernel's Documentation/scheduler/sched-stats.rst: the first figure, in nanoseconds).
pub(super) fn processor_time(pid: u32) -> Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("a process is gone")?;
    let times = tasks.flatten().map(|task| -> Result<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).context("a thread is gone")?;
        text.split(' ').next().and_then(|time| time.parse().ok()).context("schedstat is not understood")
    });
    Ok(Duration::from_nanos(times.sum::<Result<u64>>()?))
}

/// The proportional set size of a process in bytes without its guest's memory, which is what no dump of it would have (`dd` among the `VmFlags` of proc_pid_smaps(5)).
pub(super) fn memory(pid: u32) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).context("a process is gone")?;
    let (mut sum, mut part) = (0, 0);
    for line in maps.lines() {
        if let Some(value) = line.strip_prefix("Pss:") {
            part = value.trim().strip_suffix(" kB").and_then(|value| value.parse::<u64>().ok()).context("no Pss")?;
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            sum += if flags.split_whitespace().any(|flag| flag == "dd") { 0 } else { part };
        }
    }
    Ok(sum << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_time_and_memory() {
        let me = std::process::id();
        assert!(processor_time(me).unwrap() > Duration::ZERO);
        assert!(memory(me).unwrap() > 100 << 10);
        assert!(memory(u32::MAX).is_err());
    }
}
