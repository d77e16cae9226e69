//! What a build takes from elsewhere: files at addresses, and git repositories.

mod git;
mod web;

pub(crate) use git::{Commit, Git};
pub(crate) use web::{MODE, Tell, WebFile, WebFiles};
