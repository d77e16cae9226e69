//! Contexts: what a client has, and a build copies from.
//!
//! One comes as an archive (`archive`), or file by file: the client lists what it has (`list`), and sends what is lacking here (`update`) of
//! what is kept from one build to the next (`kept`).

mod archive;
mod kept;
mod layout;
mod list;
mod named;
mod settle;
mod update;

pub use archive::Received;
pub(crate) use kept::{Kept, Known, Mine};
pub use layout::LayoutImage;
pub use list::{List, Listed, Stamp, What};
pub use update::{Expected, Taking, Update, Verdict};
