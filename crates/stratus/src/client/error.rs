//! What a command failed at, in words that say what to do next.

use std::io;
use std::process::ExitCode;

use http::StatusCode;

use super::address::Address;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nobody listens there.
    #[error(
        "no daemon answers at {0} ({1}).\nStart one with \"sudo stratus daemon\" (or \"sudo systemctl start stratus\"), or say \
         where it is with --host or DOCKER_HOST."
    )]
    NotRunning(Address, io::Error),
    /// The socket is not this user's.
    #[error(
        "permission denied at {0}.\nRun this as root (\"sudo stratus …\"), or join the socket's group (\"sudo usermod -aG docker \
         $USER\", then log in again)."
    )]
    Denied(Address),
    /// The connection could not be made for another reason.
    #[error("can't reach the daemon at {0}: {1}")]
    Unreachable(Address, io::Error),
    /// The address is none.
    #[error("{0:?} is no address of a daemon: {1}. Give unix:///PATH or tcp://HOST:PORT.")]
    Address(String, &'static str),
    /// The certificates that are to be shown and trusted can't be used.
    #[error(
        "{0}.\nDOCKER_TLS_VERIFY is set: ca.pem, cert.pem and key.pem are to be in DOCKER_CERT_PATH, else in ~/.docker."
    )]
    Tls(#[from] crate::tls::Error),
    /// The daemon wants to see another certificate.
    #[error(
        "the daemon at {0} does not accept the certificate of this side ({1}).\nIts authority (--tlscacert) must have signed it, for clientAuth."
    )]
    NotAccepted(Address, String),
    /// The daemon wants to be spoken to by TLS.
    #[error(
        "the daemon at {0} speaks TLS alone.\nSet DOCKER_TLS_VERIFY=1, with ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH, else in \
         ~/.docker."
    )]
    WantsTls(Address),
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// Something failed after the daemon began to answer.
    #[error("{0}")]
    Failed(String),
    /// The connection broke.
    #[error("the daemon went away in the middle: {0}.\nSee its log; containers run on meanwhile.")]
    Broken(String),
    /// The daemon's answer is none that is understood.
    #[error("the daemon's answer is not understood ({0}). Are \"stratus version\" and the daemon's far apart?")]
    Answer(String),
    /// The command was given something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something on this side failed.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// What the ground floor said of an archive or an image's making.
    #[error(transparent)]
    Bootstrap(#[from] image::bootstrap::BootstrapError),
    /// The container did not end at signals that were passed on.
    #[error("container {0} goes on after three signals. It runs on; end it with: stratus kill {0}")]
    Unheeded(String),
    /// The user, or a supervisor, ended the command.
    #[error("ended by signal {0}")]
    Signal(i32),
}

/// How the daemon's words begin where a mount can't be made.
const MOUNT: &str = "mount ";
/// The system's own words for a disk without room.
const FULL: &str = "no space left on device";

/// A text with a name in the place of identifiers of containers, which have 64 digits.
fn named(text: &str, name: &str) -> String {
    const WORD: &str = "container ";
    let (mut named, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(WORD).map(|at| at + WORD.len()) {
        named.push_str(&rest[..at]);
        rest = &rest[at..];
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 64 {
            named.push_str(name);
            rest = &rest[digits..];
        }
    }
    named + rest
}

/// What the daemon said, with what to do where its disk is full, whatever filled it.
pub(super) fn advised(message: String) -> String {
    match message.to_lowercase().contains(FULL) {
        true => format!(
            "{message}\nThe disk of the daemon's data is full: \"stratus system df\" shows what is kept there, \"stratus system \
             prune\" frees what nothing uses, and df -h shows what else there is."
        ),
        false => message,
    }
}

/// What commands end with.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err`: what was tried.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let what = what.into();
        move |error| Error::Io(what, error)
    }

    /// Whether the daemon said that something is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { status: StatusCode::NOT_FOUND, .. })
    }

    /// The same with what the user typed in the place of a container's whole identifier.
    pub(super) fn naming(self, container: &str) -> Error {
        match self {
            Error::Refused { status, message } => Error::Refused { status, message: named(&message, container) },
            error => error,
        }
    }

    /// Where it is about what a list is filtered by, the same with what there is to filter by.
    pub(super) fn with_filters(self, known: &[&str]) -> Error {
        let text = self.to_string();
        match text.strip_prefix("invalid filter '") {
            Some(filter) if !filter.contains('=') => Error::Usage(format!("{text}: there are {}", known.join(", "))),
            _ => self,
        }
    }

    /// The command's exit status.
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Error::Usage(_) | Error::Address(..) => ExitCode::from(2),
            Error::Signal(signal) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
            _ => ExitCode::FAILURE,
        }
    }

    /// The exit status of `run` and `exec`, whose own failures must be told from the container's: 127 for a program
    /// that is not there, 126 for one that can't be run, 125 for everything else.
    pub(super) fn run_exit_code(&self) -> ExitCode {
        let text = match self {
            // What is missing of a mount is no program.
            Error::Refused { message, .. } if !message.starts_with(MOUNT) => message.as_str(),
            Error::Signal(_) | Error::Unheeded(_) => return self.exit_code(),
            _ => "",
        };
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        ExitCode::from(if says(&["executable file not found", "no such file or directory"]) {
            127
        } else if says(&["permission denied", "is a directory", "exec format error"]) {
            126
        } else {
            125
        })
    }
}

impl From<hyper::Error> for Error {
    fn from(error: hyper::Error) -> Error {
        use std::error::Error as _;
        // hyper's own words say which part of HTTP it was at; the cause is what matters.
        Error::Broken(error.source().map_or_else(|| error.to_string(), ToString::to_string))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        Error::Answer(error.to_string())
    }
}

impl From<image::Error> for Error {
    fn from(error: image::Error) -> Error {
        Error::Failed(match error {
            // What is written here is on this side's disk, of which the daemon keeps nothing.
            image::Error::NoSpace { doing } => {
                format!("{FULL} while {doing}: free some of this machine's disk and try again")
            }
            error => error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> ExitCode {
        Error::Refused { status: StatusCode::BAD_REQUEST, message: message.into() }.run_exit_code()
    }

    #[test]
    fn containers_are_called_what_they_were_called() {
        let id = "0123456789abcdef".repeat(4);
        let text = format!("cannot kill container: box: container {id} is not running");
        assert_eq!(named(&text, "box"), "cannot kill container: box: container box is not running");
        assert_eq!(named("No such container: nobody", "nobody"), "No such container: nobody");
        assert_eq!(named("container cafe is paused", "box"), "container cafe is paused");
    }

    #[test]
    fn a_full_disk_is_told_with_what_to_do() {
        assert!(advised("write /x: No space left on device".into()).contains("stratus system df"));
        assert_eq!(advised("No such image: x".into()), "No such image: x");
    }

    #[test]
    fn a_program_that_is_not_there_is_127() {
        assert_eq!(refused("exec: \"nope\": executable file not found in $PATH"), ExitCode::from(127));
        assert_eq!(refused("exec: \"/etc\": permission denied"), ExitCode::from(126));
        assert_eq!(refused("mount /v/nothing to /d: no such file or directory"), ExitCode::from(125));
        assert_eq!(refused("Conflict. The container name \"/a\" is already in use"), ExitCode::from(125));
    }
}
