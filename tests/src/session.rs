//! A command that runs while others do: its output is read as it comes, and one can type into it.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Waiting;

/// A command in the background. It is killed when it is dropped.
pub struct Session {
    command: String,
    child: Child,
    input: Option<ChildStdin>,
    /// What it wrote to its standard output and standard error so far, in the order of arrival.
    output: Arc<Mutex<String>>,
}

impl Session {
    pub(crate) fn start(command: &str, mut shell: Command) -> Self {
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {command}: {error}"));
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take(), &output);
        collect(child.stderr.take(), &output);
        let input = child.stdin.take();
        Self { command: command.to_owned(), child, input, output }
    }

    /// Types `text`: nothing is added to it.
    #[track_caller]
    pub fn types(&mut self, text: &str) -> &mut Self {
        let input = self.input.as_mut().expect("input is open");
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).expect("type into a session");
        self
    }

    /// Closes its standard input.
    pub fn closes_input(&mut self) -> &mut Self {
        self.input = None;
        self
    }

    /// Everything it said so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said `text`.
    #[track_caller]
    pub fn waits_for(&self, text: &str) -> &Self {
        self.waits_until(text, |output| output.contains(text))
    }

    /// Waits until what it has said is as `condition` wants it; `what` says what that is.
    #[track_caller]
    pub fn waits_until(&self, what: &str, condition: impl Fn(&str) -> bool) -> &Self {
        let mut waiting = Waiting::for_what(what);
        loop {
            let output = self.output();
            if condition(&output) {
                return self;
            }
            waiting.look_again_at(|| format!("$ {}\n{output}", self.command));
        }
    }

    /// Waits until it ends; its exit code, or 128 and the signal.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let mut waiting = Waiting::for_what("the end of a session");
        loop {
            if let Some(status) = self.child.try_wait().expect("look at a session") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            waiting.look_again_at(|| format!("$ {}\n{}", self.command, self.output()));
        }
    }

    /// Sends a signal to the command, as `kill` names it.
    pub fn signal(&self, name: &str) -> &Self {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "send {name} to {}", self.command);
        self
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: Option<impl Read + Send + 'static>, into: &Arc<Mutex<String>>) {
    let Some(mut from) = from else { return };
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..count]);
            into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        }
    });
}
