//! What a build takes from elsewhere: files at addresses.

mod web;

pub(crate) use web::{MODE, Tell, WebFile, WebFiles};
