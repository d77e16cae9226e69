//! The log that engines read to learn why a command failed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::cli::{Global, LogFormat};
use super::clock;

/// Where messages go.
pub(super) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(super) fn new(global: &Global) -> Self {
        Self { file: global.log.clone(), format: global.log_format, debug: global.debug }
    }

    pub(super) fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            // Whoever sits at a terminal does not read the log.
            eprintln!("{message}");
        }
    }

    pub(super) fn warning(&self, message: &str) {
        self.write("warning", message);
    }

    pub(super) fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let time = clock::now();
        let line = match self.format {
            LogFormat::Json => serde_json::json!({ "level": level, "msg": message, "time": time }).to_string(),
            LogFormat::Text => format!("time={time:?} level={level} msg={message:?}"),
        };
        let Some(path) = &self.file else {
            eprintln!("{line}");
            return;
        };
        let written =
            OpenOptions::new().append(true).create(true).open(path).and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            eprintln!("{line}\nwrite {}: {error}", path.display());
        }
    }
}
