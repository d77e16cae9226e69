//! Programs that keep secrets, `docker-credential-NAME` (their protocol: docker-credential-helpers): what they are to do is
//! their argument, what with comes on their standard input, and where they fail, they say why on their standard output.

use std::io::Write;
use std::process::{Command, Stdio};

use super::super::error::{Error, Result};

/// The user's name of what is a token.
pub(super) const TOKEN: &str = "<token>";

/// What a program answers; as an error, what it says where it fails.
pub(super) fn call(name: &str, what: &str, with: &str) -> Result<Result<Vec<u8>, String>> {
    let program = format!("docker-credential-{name}");
    let failed = |error| Error::Io(format!("calling {program} {what}"), error);
    let mut child = Command::new(&program)
        .arg(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(with.as_bytes()) {
            // It may know its answer before it has read all.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(failed)?;
    match output.status.success() {
        true => Ok(Ok(output.stdout)),
        false => Ok(Err(String::from_utf8_lossy(&output.stdout).trim().to_owned())),
    }
}
