//! A Dockerfile and a context become an image. What there is of it: the language, all of it, and its checks; nothing is
//! carried out yet.
//!
//! [`dockerfile`] is the language itself.
#![forbid(unsafe_code)]

pub mod dockerfile;
mod suggest;
