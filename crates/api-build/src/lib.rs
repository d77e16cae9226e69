//! What `stratus build` and the daemon say to each other: a door of stratus, with both its ends.
//!
//! A request of HTTP ([`PATH`], [`PROTOCOL`]) becomes a stream of bytes, and that many streams (`mux`), each held back by whoever does
//! not read it. On the first, which the client opens, stands what is to be built ([`Ask`]), and the daemon answers with what happens, one
//! document a line, and with what came of it (`said`). Every other one is opened by the daemon, when it needs something of the
//! client's or has something for it ([`need`]): files of a context, an archive, a secret, an agent, an export.
//!
//! Neither end believes the other: lines and lists have an end, paths are looked at, and nothing is kept in memory because somebody says how
//! much is going to come. A build ends with its connection.
#![forbid(unsafe_code)]

mod ask;
mod client;
mod daemon;
mod entry;
mod export;
mod layout;
mod mux;
mod need;
mod patient;
mod said;
mod wire;

pub use ask::{
    Ask, Attest, CacheFrom, CachePlace, CacheTo, Credentials, NamedContext, Output, Provenance, Running, Source, Text,
    Ulimit,
};
pub use client::{Client, Directory, Heard, Keep, LayoutDirectory, Offers, Secret};
pub use daemon::serve;
pub use mux::Opener;
pub use need::Outgoing;
pub use said::document;

/// Entry point for fuzzing: what a client sends of its files. It may not panic.
pub fn fuzz(data: &[u8]) {
    entry::fuzz(data);
    let _ = serde_json::from_slice::<Ask>(data);
}

/// Where the daemon is asked.
pub const PATH: &str = "/stratus/build";

/// What the connection is upgraded to. Whoever speaks another version is told this one.
pub const PROTOCOL: &str = "stratus-build/1";
