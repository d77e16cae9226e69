//! Sessions at a terminal: a test starts a daemon of its own and types commands of the stock `docker` client.
//!
//! ```no_run
//! let host = e2e::Daemon::start();
//! host.sh("docker run --rm busybox echo hello").says("hello");
//! host.sh("docker run --rm busybox sh -c 'exit 3'").exits_with(3);
//! host.sh("docker rm nobody").fails_with("No such container: nobody");
//! ```
//!
//! The image `busybox` is there from the start. What a test leaves running is taken down when the daemon is dropped,
//! and then nothing may be left in the kernel: no process, cgroup, link, table or mount.
#![forbid(unsafe_code)]

mod bases;
mod daemon;
mod holdings;
mod http;
mod kernel;
mod leftovers;
mod machine;
mod machines;
mod outcome;
mod power;
mod registry;
mod server;
mod session;
mod slot;
mod web;
mod world;

pub use bases::base_archive;
pub use daemon::Daemon;
pub use holdings::is_template;
pub use http::{Cut, Reply};
pub use kernel::{Release, fetch_kernel, kernel_as_packaged, kernel_of};
pub use machine::{Waiting, eventually};
pub use outcome::Outcome;
pub use registry::Registry;
pub use server::Server;
pub use session::Session;
pub use web::Web;
pub use world::World;
