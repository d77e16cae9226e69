//! What a build takes from elsewhere: files at addresses, and git repositories.

mod git;
mod web;

pub(crate) use git::{Commit, Git, Named};
pub(crate) use web::{MODE, Tell, WebFile, WebFiles};
