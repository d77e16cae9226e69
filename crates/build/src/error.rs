//! Why there is no image.

use crate::dockerfile::{Mistake, Mistakes, Source, Span};
use std::sync::Arc;
use thiserror::Error;

/// Why there is no image. Cheap to clone, as all who wait for a stage hear of it.
#[derive(Clone, Debug, Error)]
pub enum Error {
    /// The file is none.
    #[error("{0}")]
    Language(Arc<Mistakes>),
    /// An instruction can't be carried out.
    #[error("{0}")]
    Instruction(Arc<Mistake>),
    /// A command failed.
    #[error("{at}")]
    Command {
        /// What is said of it, and where it stands.
        at: Arc<Mistake>,
        /// Its exit code.
        code: i32,
    },
    /// What was asked for can't be.
    #[error("{0}")]
    Invalid(String),
    /// Something on the way there failed.
    #[error("{doing}: {reason}")]
    Failed {
        /// What was tried.
        doing: String,
        /// What came of it.
        reason: String,
    },
}

/// What building comes to.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Something was tried and failed.
    pub(crate) fn failed(doing: impl Into<String>, reason: impl ToString) -> Error {
        Error::Failed { doing: doing.into(), reason: reason.to_string() }
    }

    /// Where what was asked for stands helps; what went wrong with the machine is not the file's fault.
    pub(crate) fn asked_at(self, source: &Source, span: Span) -> Error {
        match self {
            Error::Invalid(message) => source.mistake(span, message).into(),
            other => other,
        }
    }

    /// What is wrong in one line, without where it stands.
    pub fn summary(&self) -> String {
        match self {
            Error::Language(mistakes) => mistakes.iter().next().map(Mistake::summary).unwrap_or_default(),
            Error::Instruction(mistake) | Error::Command { at: mistake, .. } => mistake.summary(),
            other => other.to_string(),
        }
    }

    /// The exit code of the command that failed.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Error::Command { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether whoever asked can do something about it: the file or the request is wrong.
    pub fn is_invalid(&self) -> bool {
        !matches!(self, Error::Failed { .. })
    }
}

impl From<Mistakes> for Error {
    fn from(mistakes: Mistakes) -> Error {
        Error::Language(Arc::new(mistakes))
    }
}

impl From<Mistake> for Error {
    fn from(mistake: Mistake) -> Error {
        Error::Instruction(Arc::new(mistake))
    }
}
