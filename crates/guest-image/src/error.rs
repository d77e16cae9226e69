//! Why there is nothing to boot.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use thiserror::Error;

/// Why a kernel, its modules or what is made of them can't be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine has no kernel with modules that can be read.
    #[error(
        "this machine has no kernel that a microVM could boot: neither a /boot/vmlinuz-*cloud* nor /boot/vmlinuz-{running}, \
         readable and with its /lib/modules. Fetch one with: stratus microvm kernel --fetch"
    )]
    NoHostKernel {
        /// The version of the kernel that runs.
        running: String,
    },
    /// A kernel and modules that don't belong together: none of them would load.
    #[error("the kernel {kernel} is of version {version}, and the modules in {modules} are another's")]
    OtherModules {
        /// The kernel.
        kernel: PathBuf,
        /// Its version.
        version: String,
        /// The modules.
        modules: PathBuf,
    },
    /// A kernel from before what the agent makes containers with.
    #[error(
        "the kernel {kernel} is of version {version}, and a container in a microVM takes Linux {}.{} or newer (mount_setattr(2)). \
         The distribution's kernel for clouds may be newer: stratus microvm kernel --fetch",
        oldest.0, oldest.1
    )]
    TooOld {
        /// The kernel.
        kernel: PathBuf,
        /// Its version.
        version: String,
        /// The oldest that would do.
        oldest: (u32, u32),
    },
    /// The kernel lacks something that a guest needs.
    #[error(
        "the kernel of the modules in {modules} has no {module}, which a microVM needs {}: \
         it is neither a module there nor, by modules.builtin, built in. The distribution's kernel for clouds has it: stratus microvm kernel --fetch",
        purpose
    )]
    NoModule {
        /// Where was looked.
        modules: PathBuf,
        /// What is missing.
        module: String,
        /// What for: `for its disks`.
        purpose: &'static str,
    },
    /// A module that can't be read as one.
    #[error("the kernel module {path} is not as it should be: {reason}")]
    Module {
        /// The module.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What was prepared says of itself what can't be understood.
    #[error("{path} is not as it was written ({reason}): make it again with stratus microvm kernel")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The kernel can't be unpacked.
    #[error("{0}")]
    Unpack(String),
    /// A program that is needed is not here.
    #[error(
        "{program} is not installed: kernels are fetched on Debian and Ubuntu. Elsewhere give one with: stratus microvm kernel --use VMLINUZ --modules DIR"
    )]
    NoProgram {
        /// The program.
        program: &'static str,
    },
    /// apt knows no kernel for clouds.
    #[error("apt knows none of {}: add the distribution's main archive to its sources, and run apt-get update", packages.join(", "))]
    NoPackage {
        /// What was looked for.
        packages: Vec<String>,
    },
    /// A program failed.
    #[error("{command} failed ({status}):\n{output}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err` of an operation on a path.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source: source.into() }
    }
}
