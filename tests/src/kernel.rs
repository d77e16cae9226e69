//! The kernel that microVMs boot in tests.

use std::path::{Path, PathBuf};

#[path = "../cloud_kernel.rs"]
mod cloud_kernel;

/// Fetches it, where that was not done before: from then on it takes no network.
///
/// # Panics
/// Where it can't be fetched.
pub fn fetch_kernel() {
    cloud_kernel::directory();
}

/// Makes below a directory what its package has: the paths of the kernel and of its modules, as `stratus microvm kernel --use` takes them.
///
/// # Panics
/// Where it can't be fetched, or the disk is full.
pub fn kernel_as_packaged(place: &Path) -> (PathBuf, PathBuf) {
    cloud_kernel::as_packaged(place)
}
