//! The machine, which QEMU's software emulation is: slow, and the same everywhere.

use crate::server::disk::Disk;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// Several times what all of it takes: who is not ready by then hangs, unseen by what looks for that there (`run.sh`).
const PATIENCE: Duration = Duration::from_secs(45 * 60);
/// How often it is looked at whether the machine computes.
const LOOK: Duration = Duration::from_secs(5);
/// A processor that has told nothing for so long does not compute any more, or the machine does not boot: it tells every five seconds.
const STILL: Duration = Duration::from_secs(180);
/// So often a machine may stand still. One of some twelve that run machines of their own does, with QEMU 7.2.
const STANDSTILLS: usize = 3;
/// The line with which the tests end.
const PASSED: &str = "verdict: passed";
/// What is before the name of a file of tests that passed.
const FILE_PASSED: &str = "passed: ";
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

/// What is written of a machine beside the tests' words, in the freight's directory.
struct Words {
    /// What its kernel and systemd say.
    console: PathBuf,
    /// A line of each processor's number, again and again.
    beats: PathBuf,
}

/// Boots it, passes on what the tests say, and waits for its end. Where the emulation stands still, it is booted anew, for what did not pass before.
pub(super) fn run(disk: &Disk, freight: &Path, processors: u8, arguments: &str) -> Result<()> {
    let words = Words { console: freight.with_file_name("console"), beats: freight.with_file_name("beats") };
    let mut passed = Vec::new();
    for _ in 0..STANDSTILLS {
        let arguments = match passed.is_empty() {
            true => arguments.to_owned(),
            false => format!("{arguments} stratus.passed={}", passed.join(",")),
        };
        let mut machine = boot(disk, freight, processors, &arguments, &words)?;
        let still = match attend(&mut machine, processors, &words, &mut passed)? {
            End::Over { passed: true } => {
                let status = machine.qemu.wait().context("cannot wait for QEMU")?;
                if status.success() {
                    return Ok(());
                }
                bail!("the tests on the server passed, and QEMU failed ({status})");
            }
            End::Over { passed: false } => {
                show(&words.console);
                bail!("the tests on the server failed");
            }
            End::StandsStill(processor) => processor,
        };
        show(&words.console);
        println!(
            "Processor {still} of the machine stands still, as the emulation does now and then. It is booted anew."
        );
    }
    bail!("QEMU stood still {STANDSTILLS} times")
}

/// How the attendance of a machine ends.
enum End {
    Over {
        passed: bool,
    },
    /// This processor does not compute.
    StandsStill(usize),
}

/// Passes on what the tests say until there is an end, and adds the files of those that pass.
fn attend(machine: &mut Machine, processors: u8, words: &Words, files: &mut Vec<String>) -> Result<End> {
    let said = listen(&mut machine.qemu)?;
    let until = Instant::now() + PATIENCE;
    let mut life = Life::of(processors);
    let (mut passed, mut last) = (false, String::new());
    loop {
        match said.recv_timeout(LOOK) {
            Ok(line) => {
                passed |= line == PASSED;
                files.extend(line.strip_prefix(FILE_PASSED).map(str::to_owned));
                println!("| {line}");
                last = line;
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(End::Over { passed }),
            Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() > until => {
                show(&words.console);
                bail!("the server is not ready after {} minutes; the last it said: {last}", PATIENCE.as_secs() / 60);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if let Some(processor) = life.stands_still(&words.beats) {
                    return Ok(End::StandsStill(processor));
                }
            }
        }
    }
}

/// Which of a machine's processors compute. QEMU 7.2 now and then loses the interrupt that a halted one waits for, be it the only one or one of several: what is to run on it
/// waits for ever, beside others that go on.
struct Life(Vec<Beats>);

/// What a processor has told: how often, and when it was first seen to have told so often.
struct Beats {
    count: usize,
    since: Instant,
}

impl Life {
    fn of(processors: u8) -> Life {
        Life((0..processors).map(|_| Beats { count: 0, since: Instant::now() }).collect())
    }

    /// The processor that has told nothing for [`STILL`], if there is one.
    fn stands_still(&mut self, told: &Path) -> Option<usize> {
        // Before the machine is up nobody tells anything.
        let told = std::fs::read_to_string(told).unwrap_or_default();
        for (processor, beats) in self.0.iter_mut().enumerate() {
            let count = told.lines().filter(|line| line.trim().parse() == Ok(processor)).count();
            if count != beats.count {
                *beats = Beats { count, since: Instant::now() };
            }
        }
        self.0.iter().position(|beats| beats.since.elapsed() > STILL)
    }
}

fn boot(disk: &Disk, freight: &Path, processors: u8, arguments: &str, words: &Words) -> Result<Machine> {
    // What an earlier one told is not this one's.
    File::create(&words.beats).with_context(|| format!("cannot write {}", words.beats.display()))?;
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
    qemu.args(["-chardev", &format!("file,id=console,path={}", escaped(&words.console)), "-serial", "chardev:console"]);
    qemu.args(["-chardev", "stdio,id=tests,signal=off", "-serial", "chardev:tests"]);
    qemu.args(["-chardev", &format!("file,id=beats,path={}", escaped(&words.beats)), "-serial", "chardev:beats"]);
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
