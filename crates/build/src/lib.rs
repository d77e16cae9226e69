//! A Dockerfile and a context become an image. What there is of it: the language, all of it, and its checks; nothing is
//! carried out yet.
//!
//! [`dockerfile`] is the language itself, [`glob`] what its paths may have, [`ignore`] which files of a context count; [`check`] tells what
//! is allowed and likely not meant.
#![forbid(unsafe_code)]

pub mod check;
pub mod dockerfile;
pub mod glob;
pub mod ignore;
mod suggest;
