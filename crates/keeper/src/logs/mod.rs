//! Logs: what a sandbox writes, line by line, in Docker's own formats on disk.
//!
//! - [`lines`]: a stream of bytes becomes lines, long ones in pieces.
//! - [`json_file`] and [`local`]: a line becomes bytes.
//! - [`rotate`]: bytes go into a file, which is rotated by size.
//! - [`writer`]: the three together, for one sandbox.
//! - `reader` and `compress` (feature `log-reader`): the way back, and the daemon's part of a rotation.

#[cfg(feature = "log-reader")]
pub mod compress;
pub mod json_file;
pub mod lines;
pub mod local;
#[cfg(feature = "log-reader")]
pub mod reader;
pub mod rotate;
pub mod timestamp;
pub mod writer;
