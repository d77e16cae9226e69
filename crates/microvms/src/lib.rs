//! MicroVMs whose service is up when they begin: images of machines that were booted once and saved when they were ready, and what goes on from them.
//!
//! The semantics are those of AWS Lambda MicroVMs (`lambda-microvms`, 2025-09-09): an image has versions, each of which is a container's image with the
//! memory of a machine in which it runs; a microVM is a container that goes on from there; and the program inside is told what becomes of it by *hooks*,
//! HTTP requests to a port of its own.
//!
//! # Invariants
//! - A microVM is a container of the engine, whose record says what it is: whatever one can do with a container, one can do with it, and what was removed is
//!   gone. No client and no image can say that of a container.
//! - A version has its record once its machine image is there. A machine image without one is removed at the next start.
//! - Nothing reaches a program through the endpoint without a token for its microVM and port, and no token reaches a program.
//! - Of what is done here, one thing at a time suspends a microVM, has it go on or ends it; no request begins meanwhile, and none is under way where a
//!   policy suspends it. Whoever does that by hand waits for those that are, and not for ever.
#![forbid(unsafe_code)]

mod activity;
mod build;
mod endpoint;
mod hooks;
mod image;
mod keeping;
mod noted;
mod policy;
mod purpose;
mod vm;

use std::sync::Arc;

use engine::{Engine, Error, Result};
use store::Collection;

use activity::Activities;
use endpoint::Endpoint;

pub use build::{BuildImage, Ready};
pub use endpoint::{Listen, PortRange, Ports, Token};
pub use hooks::{Hook, Hooks};
pub use image::ImageVersion;
pub use policy::{Idle, Policy};
pub use vm::{IMAGE_LABEL, Microvm, RunMicrovm};

/// Images of microVMs, and the microVMs. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Microvms(Arc<Inner>);

struct Inner {
    engine: Engine,
    images: Collection<ImageVersion>,
    /// Held while a version gets its number and its record.
    numbering: tokio::sync::Mutex<()>,
    activities: Activities,
    endpoint: Endpoint,
    /// How many policies are carried out at a time: each may save a machine.
    acting: tokio::sync::Semaphore,
    /// Something was done with a microVM that its policy is to hear of.
    changed: tokio::sync::Notify,
}

impl Microvms {
    /// Takes up what is there, and removes what somebody who was killed left half made. From then on policies are carried out, and the endpoint answers.
    ///
    /// # Errors
    /// The store can't be read, or the endpoint can't be where it was.
    pub async fn open(engine: Engine, listen: Listen) -> Result<Self> {
        let images = Collection::new(engine.store(), "microvm-image/");
        let endpoint = Endpoint::open(engine.store())?;
        let activities = Activities::open(engine.store())?;
        let opened = Self(Arc::new(Inner {
            engine,
            images,
            numbering: tokio::sync::Mutex::default(),
            activities,
            endpoint,
            acting: tokio::sync::Semaphore::new(keeping::AT_A_TIME),
            changed: tokio::sync::Notify::default(),
        }));
        opened.sweep().await?;
        opened.begin_endpoint(listen).await?;
        tokio::spawn(opened.clone().keep_policies());
        Ok(opened)
    }

    async fn sweep(&self) -> Result<()> {
        let known = self.versions()?;
        for image in self.0.engine.machine_images() {
            if !known.iter().any(|version| version.machine_image() == image.name) {
                tracing::info!(image = image.name, "removing a machine image that was not finished");
                self.0.engine.remove_machine_image(&image.name).await?;
            } else if let Err(error) = self.0.engine.hold_image_of(&image).await {
                tracing::error!(image = image.name, %error, "the container image that it was made of can't be kept");
            }
        }
        self.remove_unfinished().await
    }
}

fn step(tried: &str, error: impl std::fmt::Display) -> Error {
    Error::system(format!("{tried}: {error}"))
}
