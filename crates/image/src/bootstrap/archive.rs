//! What the ways of making an image share: a sink that counts, programs whose words are passed on, dates.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::io::Errno;

use super::place::Place;
use super::{BootstrapError, BootstrapEvent, BootstrapProgress};

/// Bytes between two events.
const EVENT_EVERY: u64 = 1 << 20;
const COPY_BUFFER: usize = 256 * 1024;
/// How many of a program's last lines are kept for an error.
const LINES_KEPT: usize = 30;

/// Passes bytes on and tells how many there were.
pub(super) struct Counted<'a, W> {
    inner: W,
    written: u64,
    told: u64,
    progress: BootstrapProgress<'a>,
}

impl<'a, W: Write> Counted<'a, W> {
    pub(super) fn new(inner: W, progress: BootstrapProgress<'a>) -> Self {
        Counted { inner, written: 0, told: 0, progress }
    }
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.written += taken as u64;
        if self.written - self.told >= EVENT_EVERY {
            self.told = self.written;
            (self.progress)(BootstrapEvent::Written(self.written));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        (self.progress)(BootstrapEvent::Written(self.written));
        self.inner.flush()
    }
}

/// Whether a program can be found as the shell would find it.
pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).chain([Path::new("/usr/sbin").into()]).any(|dir| dir.join(program).is_file())
}

/// Runs a program and takes all that it writes to standard output; it is small.
pub(super) fn output_of(command: &mut Command) -> Result<Vec<u8>, BootstrapError> {
    let program = program_name(command);
    let Output { status, stdout, stderr } = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .map_err(BootstrapError::io(format!("starting {program}")))?;
    match status.success() {
        true => Ok(stdout),
        false => {
            let output = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
            Err(BootstrapError::Failed { program, status, output: output.trim_end().to_owned() })
        }
    }
}

/// Runs a program whose standard output goes to `sink` as it comes, and whose words are told as they are said.
pub(super) fn stream_to(
    command: &mut Command,
    place: &Place,
    sink: &mut (impl Write + Send),
    progress: BootstrapProgress<'_>,
) -> Result<(), BootstrapError> {
    let program = program_name(command);
    place.lend(command)?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C.UTF-8");
    let mut child = spawn_apart(command).map_err(BootstrapError::io(format!("starting {program}")))?;
    let words = child.stderr.take();
    let (copied, said) = std::thread::scope(|scope| {
        let listener = scope.spawn(move || words.map(|words| listen(words, progress)).unwrap_or_default());
        // The pipe is closed by the end of the copy, so that a program whose output nobody wants any more ends and tidies up.
        let copied = copy(&mut child, sink);
        (copied, listener.join().unwrap_or_default())
    });
    let status = child.wait().map_err(BootstrapError::io(format!("waiting for {program}")))?;
    copied.map_err(BootstrapError::io(format!("passing on the output of {program}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(BootstrapError::Failed { program, status, output: Vec::from(said).join("\n") }),
    }
}

/// Runs a program that writes nothing but words, to standard output or error, and tells them as they are said.
pub(super) fn follow(
    mut command: Command,
    place: &Place,
    progress: BootstrapProgress<'_>,
) -> Result<(), BootstrapError> {
    let program = program_name(&command);
    let (words, both) = io::pipe().map_err(BootstrapError::io("making a pipe"))?;
    let output = both.try_clone().map_err(BootstrapError::io("making a pipe"))?;
    place.lend(&mut command)?;
    command.stdout(output).stderr(both).env("LC_ALL", "C.UTF-8");
    let mut child = spawn_apart(&mut command).map_err(BootstrapError::io(format!("starting {program}")))?;
    // It holds the pipe's other end, which has to close with the program.
    drop(command);
    let said = listen(words, progress);
    let status = child.wait().map_err(BootstrapError::io(format!("waiting for {program}")))?;
    match status.success() {
        true => Ok(()),
        false => Err(BootstrapError::Failed { program, status, output: Vec::from(said).join("\n") }),
    }
}

/// Starts a program that may mount things, so that nobody else sees them, and none of them is left whatever is killed.
/// Whoever may not make a mount namespace mounts nothing either.
fn spawn_apart(command: &mut Command) -> io::Result<Child> {
    std::thread::scope(|scope| {
        let apart = scope.spawn(|| {
            match crate::rootfs::in_own_namespace() {
                Ok(()) | Err(Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            command.spawn()
        });
        apart.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts it was lost")))
    })
}

fn copy(child: &mut Child, sink: &mut impl Write) -> io::Result<()> {
    let Some(mut output) = child.stdout.take() else { return Ok(()) };
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return sink.flush(),
            Ok(length) => sink.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells a program's lines, and keeps the last ones.
fn listen(words: impl Read, progress: BootstrapProgress<'_>) -> VecDeque<String> {
    let mut kept = VecDeque::new();
    for line in BufReader::new(words).split(b'\n') {
        let Ok(line) = line else { break };
        // Progress bars overwrite their line; what stands there last counts.
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
        if let Some(phase) = line.strip_prefix("I: ") {
            progress(BootstrapEvent::Phase(phase.to_owned()));
        } else if let Some(warning) = line.strip_prefix("W: ") {
            progress(BootstrapEvent::Warning(warning.to_owned()));
        }
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    kept
}

fn program_name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// The architecture of the host's packages, as dpkg calls it.
pub(super) fn host_architecture() -> Result<String, BootstrapError> {
    let output = output_of(Command::new("dpkg").arg("--print-architecture"))?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

/// Go's name of an architecture (as images have it) for dpkg's, with its variant.
pub(super) fn image_platform(architecture: &str) -> crate::Platform {
    let (name, variant) = match architecture {
        "i386" => ("386", None),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v5")),
        "ppc64el" => ("ppc64le", None),
        "mips64el" => ("mips64le", None),
        other => (other, None),
    };
    crate::Platform::new("linux", name, variant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_mounts_is_seen_by_nobody_else() {
        let temp = tempfile::tempdir().expect("a directory");
        let place = temp.path().to_str().expect("a path");
        let mut command = Command::new("sh");
        command.args(["-c", "mount -t tmpfs none \"$0\" && touch \"$0/in-there\"", place]);
        let status = spawn_apart(&mut command).expect("it starts").wait().expect("its end");
        assert!(status.success());
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        assert!(!table.contains(place) && !temp.path().join("in-there").exists());
    }
}
