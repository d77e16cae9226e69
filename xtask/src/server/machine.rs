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

/// Boots it, passes on what the tests say, and waits for its end.
pub(super) fn run(disk: &Disk, freight: &Path, processors: u8, arguments: &str) -> Result<()> {
    let console = freight.with_file_name("console");
    let mut machine = boot(disk, freight, processors, arguments, &console)?;
    let said = listen(&mut machine.qemu)?;
    let until = Instant::now() + PATIENCE;
    let mut passed = false;
    loop {
        match said.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) if line == PASSED => passed = true,
            Ok(line) => println!("| {line}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                show(&console);
                bail!("the server is not ready after {} minutes", PATIENCE.as_secs() / 60);
            }
        }
    }
    let status = machine.qemu.wait().context("cannot wait for QEMU")?;
    if !passed || !status.success() {
        show(&console);
        bail!("the tests on the server failed (QEMU: {status})");
    }
    Ok(())
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
