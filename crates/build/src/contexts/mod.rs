//! Contexts: what a client has, and a build copies from.
//!
//! One comes as an archive (`archive`), or file by file: the client lists what it has (`list`), and sends what is lacking here (`update`).

mod archive;
mod list;
mod update;

pub use archive::Received;
pub use list::{List, Listed, Stamp, What};
pub use update::{Taking, Update, Verdict};
