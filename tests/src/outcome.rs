//! What came of a command, and what a test expects of it.

use std::fmt;
use std::process::Output;

/// What a command said and how it ended. Each expectation fails with the whole of it.
pub struct Outcome {
    command: String,
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    pub(crate) fn new(command: &str, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        Self {
            command: command.to_owned(),
            code,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It ended with 0.
    #[track_caller]
    pub fn ok(&self) -> &Self {
        self.exits_with(0)
    }

    /// It ended with this code.
    #[track_caller]
    pub fn exits_with(&self, code: i32) -> &Self {
        assert!(self.code == code, "expected exit code {code} of {self}");
        self
    }

    /// It ended with something else than 0, and said `text` on its standard error.
    #[track_caller]
    pub fn fails_with(&self, text: &str) -> &Self {
        assert!(self.code != 0, "expected to fail with {text:?}: {self}");
        self.complains(text)
    }

    /// `text` is on its standard error.
    #[track_caller]
    pub fn complains(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "expected the complaint {text:?} of {self}");
        self
    }

    /// `text` is not on its standard error.
    #[track_caller]
    pub fn spares(&self, text: &str) -> &Self {
        assert!(!self.stderr.contains(text), "expected no complaint {text:?} of {self}");
        self
    }

    /// It ended with 0, and this is all it said on its standard output, but for white space around.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(self.text() == text, "expected {text:?} of {self}");
        self
    }

    /// It ended with 0, and said this among other things on its standard output.
    #[track_caller]
    pub fn mentions(&self, text: &str) -> &Self {
        assert!(self.text().contains(text), "expected {text:?} in {self}");
        self
    }

    /// It said this on its standard output, however it ended.
    #[track_caller]
    pub fn prints(&self, text: &str) -> &Self {
        assert!(self.stdout.contains(text), "expected {text:?} in {self}");
        self
    }

    /// It ended with 0, and did not say this on its standard output.
    #[track_caller]
    pub fn omits(&self, text: &str) -> &Self {
        assert!(!self.text().contains(text), "expected no {text:?} in {self}");
        self
    }

    /// Its standard output without white space around; it ended with 0.
    #[track_caller]
    pub fn text(&self) -> &str {
        self.ok();
        self.stdout.trim()
    }

    /// The lines of its standard output; it ended with 0.
    #[track_caller]
    pub fn lines(&self) -> Vec<&str> {
        self.text().lines().map(str::trim_end).collect()
    }

    /// Its standard output as a number; it ended with 0.
    #[track_caller]
    pub fn number(&self) -> u64 {
        self.text().parse().unwrap_or_else(|_| panic!("expected a number of {self}"))
    }

    /// Its standard output as JSON; it ended with 0.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).unwrap_or_else(|error| panic!("expected JSON of {self}: {error}"))
    }

    /// How it ended: its exit code, or 128 and the signal.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// Its standard output, as it is.
    pub fn stdout(&self) -> &str {
        &self.stdout
    }

    /// Its standard error, as it is.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(out, "\n$ {command}\n{stdout}[exit code {code}]\n{stderr}")
    }
}
