//! Keys that are in no agent: for the time of a build they get one of their own, by the programs of OpenSSH, which know every form of a key, who may read
//! its file, and how to ask for a passphrase. No key is read here, and none leaves this machine.

use rustix::process::{Pid, Signal};
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::super::error::{Error, Result};
use super::super::transfer::blocking;

/// Runs an agent until the end of its standard input, which comes with the end of this program, however that ends. The directory of its socket
/// goes with it.
const AGENT: &str = r#"exec 3<&0 </dev/null
ssh-agent -D -a "$1" 3<&- &
read -r _ <&3
kill "$!"
wait "$!"
rmdir "$2""#;

/// An agent that has some keys, and ends with this.
#[derive(Debug)]
pub(super) struct KeyAgent {
    program: Child,
    directory: tempfile::TempDir,
}

impl KeyAgent {
    /// Starts one, and gives it keys. Where a key has a passphrase, that is asked for on the terminal, until nobody awaits this any more.
    pub(super) async fn start(keys: &[&Path]) -> Result<KeyAgent> {
        let starting = || "starting an agent for keys (ssh-agent, of the package openssh-client)".to_owned();
        let directory = tempfile::Builder::new().prefix("stratus-keys-").tempdir().map_err(Error::io(starting()))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", AGENT, "sh"]).arg(directory.path().join("agent")).arg(directory.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut program = command.spawn().map_err(Error::io(starting()))?;
        let said = program.stdout.take();
        let agent = KeyAgent { program, directory };
        // It says where it is once it listens there.
        let mut line = String::new();
        let read = said.map(|said| BufReader::new(said).read_line(&mut line)).transpose();
        if read.map_err(Error::io(starting()))?.unwrap_or(0) == 0 {
            return Err(Error::Failed(format!("{}: it ended at once", starting())));
        }
        for key in keys {
            agent.add(key).await?;
        }
        Ok(agent)
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    async fn add(&self, key: &Path) -> Result<()> {
        let mut command = Command::new("ssh-add");
        command.arg("-q").arg("--").arg(key).env("SSH_AUTH_SOCK", self.socket()).env("SSH_ASKPASS_REQUIRE", "never");
        // What it asks for a passphrase by is the terminal, and nothing that is piped in.
        command.stdin(if std::io::stdin().is_terminal() { Stdio::inherit() } else { Stdio::null() });
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let adding = || format!("adding {} to an agent (ssh-add, of the package openssh-client)", key.display());
        let mut asking = Asking(command.spawn().map_err(Error::io(adding()))?);
        let said = asking.0.stderr.take();
        // To its end, which is the program's.
        let read = move || {
            let mut bytes = Vec::new();
            let read = said.map(|mut said| said.read_to_end(&mut bytes)).transpose();
            read.map(|_| bytes).map_err(Error::io("hearing ssh-add"))
        };
        let said = blocking(read).await?;
        let status = asking.0.wait().map_err(Error::io(adding()))?;
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('@'));
        let why = match (&*lines.collect::<Vec<_>>().join(" "), status.signal()) {
            ("", Some(signal)) => format!("ssh-add was ended by signal {signal}"),
            (why, _) if why.is_empty() || why.contains("passphrase for") => "nobody typed its passphrase".to_owned(),
            (why, _) => why.trim_end_matches('.').to_owned(),
        };
        Err(Error::Usage(format!(
            "--ssh: {} is not taken: {why}. What has a passphrase is for an agent, where there is no terminal: ssh-add, and --ssh ID=SOCKET",
            key.display()
        )))
    }
}

/// A program that may be asking somebody for something. It is ended where nobody waits for the answer any more.
struct Asking(Child);

impl Drop for Asking {
    fn drop(&mut self) {
        // So that it leaves the terminal as it was.
        if let (Ok(None), Some(pid)) = (self.0.try_wait(), i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        drop(self.program.stdin.take());
        // It has nothing to wait for.
        let _ = self.program.wait();
    }
}
