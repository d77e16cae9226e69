//! The machine, which QEMU's software emulation is: slow, and the same everywhere.

use crate::server::disk::Disk;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Several times what all of it takes: who is not ready by then hangs.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
/// How often it is looked at whether the machine computes.
const LOOK: Duration = Duration::from_secs(5);
/// A machine that has not computed for so long does not any more: systemd alone wakes more often.
const STILL: Duration = Duration::from_secs(90);
/// Ticks that QEMU itself uses in that time beside a machine that does nothing.
const AT_REST: u64 = 1;
/// So often a machine may stand still. One of some twelve that run machines of their own does, with QEMU 7.2.
const STANDSTILLS: usize = 3;
/// The line with which the tests end.
const PASSED: &str = "verdict: passed";
/// All that QEMU emulates, but for the word of a processor that its string instructions are fast: software emulation takes
/// them byte by byte, and a kernel that hears no such word clears a page in half the time.
const PROCESSOR: &str = "max,-erms,-fsrm";
/// How much of the console is shown when something went wrong.
const CONSOLE_LINES: usize = 60;

/// A machine that runs. It ends when it is dropped.
struct Machine {
    qemu: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Boots it, passes on what the tests say, and waits for its end. Where the emulation stands still, it is booted anew.
pub(super) fn run(disk: &Disk, freight: &Path, processors: u8, arguments: &str) -> Result<()> {
    let console = freight.with_file_name("console");
    for _ in 0..STANDSTILLS {
        let mut machine = boot(disk, freight, processors, arguments, &console)?;
        if let Some(passed) = attend(&mut machine, &console)? {
            let status = machine.qemu.wait().context("cannot wait for QEMU")?;
            if !passed || !status.success() {
                show(&console);
                bail!("the tests on the server failed (QEMU: {status})");
            }
            return Ok(());
        }
        show(&console);
        println!(
            "QEMU stands still: the machine's processors wait for an interrupt that its emulation lost. It is booted anew."
        );
    }
    bail!("QEMU stood still {STANDSTILLS} times")
}

/// Whether the tests passed; `None` where they came to no end because the machine stands still.
fn attend(machine: &mut Machine, console: &Path) -> Result<Option<bool>> {
    let said = listen(&mut machine.qemu)?;
    let until = Instant::now() + PATIENCE;
    let mut life = Life::of(machine.qemu.id());
    let mut passed = false;
    loop {
        match said.recv_timeout(LOOK) {
            Ok(line) if line == PASSED => passed = true,
            Ok(line) => println!("| {line}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(Some(passed)),
            Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() > until => {
                show(console);
                bail!("the server is not ready after {} minutes", PATIENCE.as_secs() / 60);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if life.stands_still() {
                    return Ok(None);
                }
            }
        }
    }
}

/// Whether a process computes. A machine that runs a kernel does, at each of its clock's ticks, even where all that it runs waits for ever: only one whose
/// processor was halted and is told of no interrupt any more does not.
struct Life {
    process: u32,
    used: Option<u64>,
    since: Instant,
}

impl Life {
    fn of(process: u32) -> Life {
        Life { process, used: None, since: Instant::now() }
    }

    /// Whether it has used no processor time worth mentioning for [`STILL`].
    fn stands_still(&mut self) -> bool {
        let used = self.used_now();
        let is_alive = match (self.used, used) {
            (Some(before), Some(now)) => now > before + AT_REST,
            // It is gone, which is told by its output, or was not looked at before.
            _ => true,
        };
        if is_alive {
            (self.used, self.since) = (used, Instant::now());
        }
        self.since.elapsed() > STILL
    }

    /// Processor time so far, in the kernel's ticks of a hundredth of a second (proc_pid_stat(5), fields 14 and 15).
    fn used_now(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process)).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(14 - 3);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    }
}

fn boot(disk: &Disk, freight: &Path, processors: u8, arguments: &str, console: &Path) -> Result<Machine> {
    // It ends with this program, whatever kills that.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    qemu.args(["-accel", "tcg,thread=multi", "-M", "q35", "-cpu", PROCESSOR, "-m", "3072"]);
    qemu.args(["-smp", &processors.to_string()]);
    qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]);
    qemu.arg("-kernel").arg(disk.kernel()).arg("-initrd").arg(disk.initrd());
    let always = "root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=false \
        systemd.default_timeout_start_sec=600 stratus.tests";
    qemu.args(["-append", &format!("{always} {arguments}")]);
    qemu.args(["-drive", &format!("file={},format=raw,if=virtio,snapshot=on,cache=unsafe", escaped(&disk.image()))]);
    qemu.args(["-drive", &format!("file={},format=raw,if=virtio,readonly=on", escaped(freight))]);
    qemu.args(["-chardev", &format!("file,id=console,path={}", escaped(console)), "-serial", "chardev:console"]);
    qemu.args(["-chardev", "stdio,id=tests,signal=off", "-serial", "chardev:tests"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    Ok(Machine { qemu: qemu.spawn().context("cannot run setpriv, which starts QEMU")? })
}

/// A path as QEMU's options have it, where a comma ends a value.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// What the tests say, line by line, until the machine ends.
fn listen(qemu: &mut Child) -> Result<Receiver<String>> {
    let output = qemu.stdout.take().context("QEMU has no output")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

/// The end of what the kernel and systemd said.
fn show(console: &Path) {
    let Ok(file) = File::open(console) else { return };
    let lines: Vec<String> = BufReader::new(file)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).trim_end().to_owned())
        .collect();
    eprintln!("--- the end of the console:");
    for line in lines.iter().skip(lines.len().saturating_sub(CONSOLE_LINES)) {
        eprintln!("{line}");
    }
    eprintln!("---");
}
