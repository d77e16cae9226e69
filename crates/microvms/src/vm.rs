//! MicroVMs that go on from an image.

use std::sync::Arc;

use bytes::Bytes;
use engine::model::{ContainerRecord, Phase};
use engine::{Error, RemoveOptions, Result};

use crate::{Hook, Hooks, Microvms, step};

/// Has the containers that are microVMs, with `NAME:VERSION` of their image.
pub const IMAGE_LABEL: &str = "stratus.microvm.image";
/// Has their hooks, as JSON: they outlive the image.
const HOOKS_LABEL: &str = "stratus.microvm.hooks";
/// The most bytes that a microVM is begun with.
const PAYLOAD_MAX: usize = 16 << 10;

/// A microVM to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunMicrovm {
    /// Its image: `NAME:VERSION`, or `NAME` for the newest version.
    pub image: String,
    /// Its name; `None`: a new one.
    pub name: Option<String>,
    /// What its program is told by the hook `run`: whose it is, as a rule.
    pub payload: Bytes,
}

/// A microVM.
#[derive(Clone, Debug)]
pub struct Microvm {
    /// Its container.
    pub record: Arc<ContainerRecord>,
    /// `NAME:VERSION` of its image.
    pub image: String,
}

impl Microvm {
    /// `running`, `suspended`, or what has become of its container.
    pub fn state(&self) -> &'static str {
        match (self.record.state.phase, &self.record.state.suspended) {
            (Phase::Exited | Phase::Created, Some(_)) => "suspended",
            (phase, _) => phase.name(),
        }
    }
}

impl Microvms {
    /// Runs a microVM: it goes on where its image was saved.
    ///
    /// # Errors
    /// There is no such image, it can't go on here, or its program refuses. Nothing is left then.
    pub async fn run(&self, request: RunMicrovm) -> Result<Microvm> {
        if request.payload.len() > PAYLOAD_MAX {
            let length = request.payload.len();
            return Err(Error::invalid(format!("the payload has {length} bytes, and {PAYLOAD_MAX} is the most")));
        }
        let version = self.find(&request.image)?;
        let hooks = version.hooks.as_ref();
        if !request.payload.is_empty() && !hooks.is_some_and(|hooks| hooks.has(Hook::Run)) {
            return Err(Error::invalid(format!(
                "{}: its program has no hook run, by which it would get a payload",
                request.image
            )));
        }
        let name = version.machine_image();
        let told = hooks.map(serde_json::to_string).transpose().map_err(|error| step("write down its hooks", error))?;
        let told = told.map(|hooks| (HOOKS_LABEL.to_owned(), hooks));
        let label = |config: &mut engine::model::ContainerConfig, _: &mut _| {
            config.labels.remove(crate::build::BUILD_LABEL);
            config.labels.insert(IMAGE_LABEL.to_owned(), name.clone());
            config.labels.extend(told);
        };
        let created = self.0.engine.create_of_machine_image(&name, request.name, label).await?;
        let id = created.id.as_str();
        let begun = async {
            self.0.engine.start(id).await?;
            self.tell(hooks, Hook::Run, id, request.payload).await?;
            self.microvm(id).await
        };
        match begun.await {
            Ok(microvm) => Ok(microvm),
            Err(error) => {
                let options = RemoveOptions { force: true, volumes: true, link: false };
                // One that removes itself may be gone.
                let _ = self.0.engine.remove(id, options).await;
                Err(error.context(format!("run {}", request.image)))
            }
        }
    }

    /// A microVM, by the name or identifier of its container.
    ///
    /// # Errors
    /// There is no such container, or it is none.
    pub async fn microvm(&self, reference: &str) -> Result<Microvm> {
        let record = self.0.engine.inspect(reference, false).await?.record;
        of(record).ok_or_else(|| {
            Error::invalid(format!(
                "container {reference} did not go on from an image of microVMs: it is an ordinary one"
            ))
        })
    }

    /// All microVMs, the newest first.
    ///
    /// # Errors
    /// None that a caller could bring about.
    pub async fn microvms(&self) -> Result<Vec<Microvm>> {
        let listed = self.labelled(IMAGE_LABEL).await?;
        Ok(listed.into_iter().filter_map(|listed| of(listed.record)).collect())
    }

    /// Suspends a microVM: it keeps its memory and files on the disk, and goes on from there.
    ///
    /// # Errors
    /// It does not run, or its program refuses.
    pub async fn suspend(&self, reference: &str) -> Result<()> {
        let (microvm, hooks) = self.with_hooks(reference).await?;
        let id = microvm.record.id.as_str();
        self.tell(hooks.as_ref(), Hook::Suspend, id, Bytes::new()).await?;
        self.0.engine.suspend(id).await
    }

    /// Has a suspended microVM go on.
    ///
    /// # Errors
    /// It is not suspended, or can't go on; or its program refuses, and runs.
    pub async fn resume(&self, reference: &str) -> Result<()> {
        let (microvm, hooks) = self.with_hooks(reference).await?;
        let id = microvm.record.id.as_str();
        self.0.engine.resume(id).await?;
        self.tell(hooks.as_ref(), Hook::Resume, id, Bytes::new()).await
    }

    /// Ends a microVM, and removes it. Its program is told, and can't hinder it.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn terminate(&self, reference: &str) -> Result<()> {
        let (microvm, hooks) = self.with_hooks(reference).await?;
        let id = microvm.record.id.as_str();
        if microvm.record.state.phase == Phase::Running
            && let Err(error) = self.tell(hooks.as_ref(), Hook::Terminate, id, Bytes::new()).await
        {
            tracing::warn!(microvm = microvm.record.name, %error, "its program did not end well");
        }
        self.0.engine.remove(id, RemoveOptions { force: true, volumes: true, link: false }).await
    }

    /// With what its program is told.
    async fn with_hooks(&self, reference: &str) -> Result<(Microvm, Option<Hooks>)> {
        let microvm = self.microvm(reference).await?;
        let hooks = microvm.record.config.labels.get(HOOKS_LABEL).map(|hooks| serde_json::from_str(hooks));
        let hooks = hooks.transpose().map_err(|error| step(&format!("read the hooks of {reference}"), error))?;
        Ok((microvm, hooks))
    }
}

/// A container that is a microVM.
fn of(record: Arc<ContainerRecord>) -> Option<Microvm> {
    let image = record.config.labels.get(IMAGE_LABEL)?.clone();
    Some(Microvm { record, image })
}
