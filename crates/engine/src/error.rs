//! What the engine answers when it can't: a kind that a door maps to its protocol, and a message for the user.

/// The kinds of failure, as far as a client can act on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request makes no sense; the same request will fail again.
    Invalid,
    /// No such thing.
    NotFound,
    /// It can't be done in the present state.
    Conflict,
    /// It is so already.
    NotModified,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// It is not allowed.
    Forbidden,
    /// stratus does not do this.
    NotImplemented,
    /// Not now.
    Unavailable,
    /// The machine, or stratus itself, failed.
    System,
}

/// A failure with a message for the user.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    exit_code: Option<i32>,
    blame: Blame,
}

/// What is to blame that a machine did not begin, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// Something else, or nothing that is known.
    Other,
    /// It was lost before its program was asked for: what it went on from may be why.
    Lost,
    /// What it was to go on from.
    Saved,
}

/// What the engine's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self { kind: ErrorKind::$kind, message: message.into(), exit_code: None, blame: Blame::Other }
        })*
    };
}

impl Error {
    constructors! {
        /// The request makes no sense.
        invalid => Invalid;
        /// No such thing.
        not_found => NotFound;
        /// It can't be done in the present state.
        conflict => Conflict;
        /// It is so already.
        not_modified => NotModified;
        /// Credentials are missing or wrong.
        unauthorized => Unauthorized;
        /// It is not allowed.
        forbidden => Forbidden;
        /// stratus does not do this.
        not_implemented => NotImplemented;
        /// Not now.
        unavailable => Unavailable;
        /// The machine, or stratus itself, failed.
        system => System;
    }

    /// No container has this name or identifier.
    pub fn no_such_container(reference: &str) -> Self {
        Self::not_found(format!("No such container: {reference}"))
    }

    /// A step on the machine failed.
    pub fn step(what: impl std::fmt::Display, why: impl std::fmt::Display) -> Self {
        Self::system(format!("{what}: {why}"))
    }

    /// The same failure with the exit code that it stands for (126: not executable, 127: not found).
    pub fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// The same failure, of a machine for which what it was to go on from is to blame.
    pub(crate) fn of_saved(mut self) -> Self {
        self.blame = Blame::Saved;
        self
    }

    /// Whether what a machine was to go on from is to blame, which no other one goes on from then.
    pub(crate) fn is_of_saved(&self) -> bool {
        self.blame == Blame::Saved
    }

    /// The same failure, of a machine that was lost before its program was asked for.
    pub(crate) fn of_lost(mut self) -> Self {
        self.blame = Blame::Lost;
        self
    }

    /// Whether a machine that boots may begin where this one, which went on from something, did not.
    pub(crate) fn may_be_of_saved(&self) -> bool {
        self.blame != Blame::Other
    }

    /// The same failure, with what failed said before it.
    pub fn context(mut self, failed: impl std::fmt::Display) -> Self {
        self.message = format!("{failed}: {}", self.message);
        self
    }

    /// The same, with what belongs to it told after it.
    #[must_use]
    pub fn followed_by(mut self, more: impl std::fmt::Display) -> Self {
        self.message = format!("{}{more}", self.message);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The exit code that a failed start stands for.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::system(format!("the store: {error}"))
    }
}
