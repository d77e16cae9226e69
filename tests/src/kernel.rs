//! The kernel that microVMs boot in tests.

use std::path::PathBuf;

#[path = "../cloud_kernel.rs"]
mod cloud_kernel;

use cloud_kernel::Of;

/// Fetches it, where that was not done before: from then on it takes no network.
///
/// # Panics
/// Where it can't be fetched.
pub fn fetch_kernel() {
    cloud_kernel::directory(Of::Here);
}

/// The paths of the kernel and of its modules, as `stratus microvm kernel --use` takes them.
///
/// # Panics
/// Where it can't be fetched, or the disk is full.
pub fn kernel_as_packaged() -> (PathBuf, PathBuf) {
    cloud_kernel::packaged(Of::Here)
}

/// A release of Debian's whose kernel is another than the one that most tests boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Linux 5.10.
    Debian11,
    /// Linux 6.12.
    Debian13,
}

/// The paths of a release's kernel and of its modules, in the same way.
///
/// # Panics
/// As [`kernel_as_packaged`].
pub fn kernel_of(release: Release) -> (PathBuf, PathBuf) {
    cloud_kernel::packaged(match release {
        Release::Debian11 => Of::Bullseye,
        Release::Debian13 => Of::Trixie,
    })
}
