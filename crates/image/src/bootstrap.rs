//! Makes base images with neither Docker nor a registry: from a distribution's packages, verified by its archive keys.
//!
//! `debian:bookworm` and the like are made by `mmdebstrap` (or `debootstrap` where that is what the host has) from the mirror that
//! the host itself uses; `busybox` is made from the package `busybox-static`. Both run other programs, so this is no part of any
//! start path. The same packages give the same bytes, as times are cut to the date of the archive's release file.
//!
//! The result is a tar stream of a root file system and [`ImportMetadata`], which an import turns into an image.

mod archive;
mod busybox;
mod debootstrap;
mod place;
mod sources;
mod spec;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::{ImageConfig, NewImageOptions, Platform, Reference};

pub use spec::{BootstrapSpec, Distribution, DistributionSpec, SpecError, Variant};

/// What an image is made of besides its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportMetadata {
    /// What to call it: `debian:bookworm`, `busybox:latest`.
    pub reference: Reference,
    /// What it runs on.
    pub platform: Platform,
    /// Its configuration, with environment, command, labels and date. It has no layers and no history yet.
    pub config: ImageConfig,
    /// How it was made, for its history.
    pub created_by: String,
}

impl ImportMetadata {
    /// What [`crate::Images::import`] needs to make an image of the archive.
    pub fn options(&self) -> NewImageOptions {
        NewImageOptions {
            name: Some(self.reference.clone()),
            created_by: self.created_by.clone(),
            config: self.config.config.clone(),
            platform: Some(self.platform.clone()),
            ..NewImageOptions::default()
        }
    }
}

/// A step of making an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapEvent {
    /// Something begins; the text is for people (`downloading packages with apt...`).
    Phase(String),
    /// Something to know that isn't an error.
    Warning(String),
    /// So many bytes of the root file system were written so far.
    Written(u64),
}

/// Who is told of the steps. Called from any thread.
pub type BootstrapProgress<'a> = &'a (dyn Fn(BootstrapEvent) + Sync);

/// Why an image couldn't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The request makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A program that is needed is not here.
    #[error("{program} is not installed. Install it with: {command}")]
    MissingProgram {
        /// The program.
        program: String,
        /// The one command that mends it.
        command: String,
    },
    /// The distribution's keys are not here, so that nothing could be verified.
    #[error("the keys of the {distribution} archive ({}) are not installed, and unsigned packages are never used. Install them with: {command}", path.display())]
    MissingKeyring {
        /// Whose keys.
        distribution: String,
        /// Where they would be.
        path: PathBuf,
        /// The one command that mends it.
        command: String,
    },
    /// The mirror has no such suite.
    #[error("{distribution} has no suite {suite} (asked {host})")]
    NoSuite {
        /// The distribution.
        distribution: &'static str,
        /// What was asked for.
        suite: String,
        /// Who was asked.
        host: String,
    },
    /// A program failed.
    #[error("{program} failed ({status}):\n{output}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// What a program gave is not what it should be.
    #[error("{what} is not as expected: {reason}")]
    Unexpected {
        /// What was looked at.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Only root can do this with what is installed.
    #[error("debootstrap needs root. Run this as root, or install mmdebstrap with: apt-get install mmdebstrap")]
    NeedsRoot,
    /// Reading, writing or starting something failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// The kernel's word.
        source: std::io::Error,
    },
}

impl BootstrapError {
    fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> BootstrapError {
        let action = action.into();
        move |source| BootstrapError::Io { action, source }
    }
}

/// Everything that was found out before the work begins: programs, keys, mirrors, dates.
pub struct Prepared<'a>(Source<'a>);

enum Source<'a> {
    Busybox(busybox::Package),
    Distribution(debootstrap::Plan<'a>),
}

/// Finds out what it takes to make an image, and whether it is there. Blocks; asks the mirror, and changes nothing.
pub fn prepare<'a>(spec: &'a BootstrapSpec, progress: BootstrapProgress<'_>) -> Result<Prepared<'a>, BootstrapError> {
    Ok(Prepared(match spec {
        BootstrapSpec::Busybox => Source::Busybox(busybox::package(progress)?),
        BootstrapSpec::Distribution(spec) => Source::Distribution(debootstrap::plan(spec, progress)?),
    }))
}

impl Prepared<'_> {
    /// What the image will be made of besides its files: known before them, so that the archive can be imported while it is made.
    pub fn metadata(&self) -> ImportMetadata {
        match &self.0 {
            Source::Busybox(package) => package.metadata(),
            Source::Distribution(plan) => plan.metadata(),
        }
    }

    /// Makes the root file system and writes it as an uncompressed tar archive. Blocks until it is done.
    ///
    /// What is written is of use only if this succeeds: whoever reads it meanwhile must not take its end for success.
    pub fn write(self, sink: impl Write + Send, progress: BootstrapProgress<'_>) -> Result<(), BootstrapError> {
        let mut sink = archive::Counted::new(sink, progress);
        match self.0 {
            Source::Busybox(package) => package.write(&mut sink, progress),
            Source::Distribution(plan) => plan.write(&mut sink, progress),
        }
    }
}

/// Makes the root file system of an image and writes it as an uncompressed tar archive: [`prepare`] and [`Prepared::write`] in one.
pub fn bootstrap(
    spec: &BootstrapSpec,
    sink: impl Write + Send,
    progress: BootstrapProgress<'_>,
) -> Result<ImportMetadata, BootstrapError> {
    let prepared = prepare(spec, progress)?;
    let metadata = prepared.metadata();
    prepared.write(sink, progress)?;
    Ok(metadata)
}
