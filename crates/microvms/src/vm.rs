//! MicroVMs that go on from an image.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::model::{ContainerRecord, Filters, Phase, Timestamp};
use engine::{Error, Forked, ListOptions, RemoveOptions, Result};
use futures_util::future::join_all;

use crate::activity::Visit;
use crate::build::address;
use crate::purpose::{Purpose, Told};
use crate::{Hook, Hooks, Microvms, Policy, step};

/// Has `NAME:VERSION` of their image, for people and their filters. Nothing goes by it: whoever makes a container, or an image, can write it.
pub const IMAGE_LABEL: &str = "stratus.microvm.image";
/// The most bytes that a microVM is begun with.
const PAYLOAD_MAX: usize = 16 << 10;
/// How long requests that are under way may take to end before a microVM is suspended by hand.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

/// A microVM to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunMicrovm {
    /// Its image: `NAME:VERSION`, or `NAME` for the newest version.
    pub image: String,
    /// Its name; `None`: a new one.
    pub name: Option<String>,
    /// What its program is told by the hook `run`: whose it is, as a rule.
    pub payload: Bytes,
    /// What becomes of it by itself.
    pub policy: Policy,
}

/// A microVM.
#[derive(Clone, Debug)]
pub struct Microvm {
    /// Its container.
    pub record: Arc<ContainerRecord>,
    told: Told,
}

impl Microvm {
    /// `NAME:VERSION` of its image.
    pub fn image(&self) -> &str {
        &self.told.image
    }

    /// `pending` until its program was told whose it is, `running`, `suspended`, or what has become of its container.
    pub fn state(&self) -> &'static str {
        match (self.record.state.phase, &self.record.state.suspended) {
            _ if !self.told.begun => "pending",
            (Phase::Exited | Phase::Created, Some(_)) => "suspended",
            (phase, _) => phase.name(),
        }
    }

    /// What becomes of it by itself.
    pub fn policy(&self) -> Policy {
        self.told.policy
    }

    /// The port where its program listened when its image was saved, where that is known.
    pub(crate) fn port(&self) -> Option<u16> {
        self.told.port
    }

    /// Its hooks.
    fn hooks(&self) -> Option<&Hooks> {
        self.told.hooks.as_ref()
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
        request.policy.check()?;
        let version = self.find(&request.image)?;
        let hooks = version.hooks.as_ref();
        if !request.payload.is_empty() && !hooks.is_some_and(|hooks| hooks.has(Hook::Run)) {
            return Err(Error::invalid(format!(
                "{}: its program has no hook run, by which it would get a payload",
                request.image
            )));
        }
        let name = version.machine_image();
        let told = |begun| Told {
            image: name.clone(),
            hooks: version.hooks.clone(),
            port: version.port,
            policy: request.policy,
            begun,
        };
        let (purpose, begun) = (Purpose::Microvm(told(false)).written()?, Purpose::Microvm(told(true)).written()?);
        let label = |config: &mut engine::model::ContainerConfig, _: &mut _| {
            config.labels.insert(IMAGE_LABEL.to_owned(), name.clone());
        };
        let created = self.0.engine.create_of_machine_image(&name, request.name, purpose, label).await?;
        let id = created.id.as_str();
        let beginning = async {
            self.0.engine.start(id).await?;
            self.tell(hooks, Hook::Run, id, request.payload).await?;
            // Who is killed before that leaves one that is taken away.
            self.0.engine.set_purpose(id, begun).await?;
            self.microvm(id).await
        };
        // Its policy leaves it alone until then.
        let visit = Visit::ours(&self.0.activities.of(id));
        let done = beginning.await;
        drop(visit);
        self.0.changed.notify_one();
        match done {
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
        let labelled = BTreeMap::from([("label".to_owned(), BTreeSet::from([IMAGE_LABEL.to_owned()]))]);
        let options = ListOptions { all: true, filters: Filters::new(labelled), ..ListOptions::default() };
        let listed = self.0.engine.list(&options).await?;
        Ok(listed.into_iter().filter_map(|listed| of(listed.record)).collect())
    }

    /// Why what a microVM's policy wanted last did not work, as its program refuses to be suspended, for example.
    pub fn hindrance(&self, microvm: &Microvm) -> Option<String> {
        self.0.activities.of(microvm.record.id.as_str()).hindrance()
    }

    /// When somebody asked a microVM something through its endpoint, and within the minute after that; `None`: nobody has yet.
    pub fn asked(&self, microvm: &Microvm) -> Option<Timestamp> {
        self.0.activities.of(microvm.record.id.as_str()).asked()
    }

    /// Suspends a microVM: it keeps its memory and files on the disk, and goes on from there. Requests that are under way have some time to end.
    ///
    /// # Errors
    /// It does not run, or its program refuses.
    pub async fn suspend(&self, reference: &str) -> Result<()> {
        let microvm = self.microvm(reference).await?;
        let activity = self.0.activities.of(microvm.record.id.as_str());
        let _alone = activity.gate.lock().await;
        activity.left_within(LEAVE_WITHIN).await;
        self.suspend_alone(&microvm).await
    }

    /// Suspends a container that may be a microVM, whose program hears of it then.
    ///
    /// # Errors
    /// As [`Microvms::suspend`].
    pub async fn suspend_container(&self, reference: &str) -> Result<()> {
        match self.if_microvm(reference).await? {
            Some(_) => self.suspend(reference).await,
            None => self.0.engine.suspend(reference).await,
        }
    }

    /// Has a suspended container go on that may be a microVM, whose program hears of it then.
    ///
    /// # Errors
    /// As [`Microvms::resume`].
    pub async fn resume_container(&self, reference: &str) -> Result<()> {
        match self.if_microvm(reference).await? {
            Some(_) => self.resume(reference).await,
            None => self.0.engine.resume(reference).await,
        }
    }

    /// Has a container go on from one of its snapshots; `None`: the newest. It may be a microVM, whose program hears that it goes on.
    ///
    /// # Errors
    /// It has none of that name, or can't go on from it; or its program refuses, and runs.
    pub async fn rollback_container(&self, reference: &str, snapshot: Option<&str>) -> Result<()> {
        let Some(microvm) = self.if_microvm(reference).await? else {
            return self.0.engine.rollback(reference, snapshot).await;
        };
        let id = microvm.record.id.as_str();
        let activity = self.0.activities.of(id);
        let _alone = activity.gate.lock().await;
        self.0.engine.rollback(id, snapshot).await?;
        self.tell(microvm.hooks(), Hook::Resume, id, Bytes::new()).await
    }

    /// Makes copies of a container that go on beside it, as [`Engine::fork`]. It may be a microVM: what is made of it are ordinary containers, whose programs hear that they go on.
    ///
    /// # Errors
    /// As [`Engine::fork`]; of a copy whose program refuses it is said, and it runs.
    pub async fn fork_container(&self, reference: &str, count: u32, names: &[String]) -> Result<Vec<Forked>> {
        let microvm = self.if_microvm(reference).await?;
        let mut copies = self.0.engine.fork(reference, count, names).await?;
        let Some(microvm) = microvm else { return Ok(copies) };
        let told = copies.iter().map(|copy| self.tell(microvm.hooks(), Hook::Resume, copy.id.as_str(), Bytes::new()));
        let told = join_all(told).await;
        for (copy, told) in copies.iter_mut().zip(told) {
            copy.warnings.extend(told.err().map(|error| error.to_string()));
        }
        Ok(copies)
    }

    async fn if_microvm(&self, reference: &str) -> Result<Option<Microvm>> {
        Ok(of(self.0.engine.inspect(reference, false).await?.record))
    }

    /// See [`Microvms::suspend`]; the caller holds its gate.
    pub(crate) async fn suspend_alone(&self, microvm: &Microvm) -> Result<()> {
        let id = microvm.record.id.as_str();
        // What is known to be impossible is said before its program gets ready for it.
        self.0.engine.check_suspend(id).await?;
        self.tell(microvm.hooks(), Hook::Suspend, id, Bytes::new()).await?;
        let Err(error) = self.0.engine.suspend(id).await else { return Ok(()) };
        // It runs on, where it has not ended, and its program is ready for something else.
        if let Err(why) = self.tell(microvm.hooks(), Hook::Resume, id, Bytes::new()).await {
            tracing::warn!(microvm = microvm.record.name, error = %why, "it could not be suspended, and its program was not told");
        }
        Err(error)
    }

    /// Has a suspended microVM go on.
    ///
    /// # Errors
    /// It is not suspended, or can't go on; or its program refuses, and runs.
    pub async fn resume(&self, reference: &str) -> Result<()> {
        let microvm = self.microvm(reference).await?;
        let activity = self.0.activities.of(microvm.record.id.as_str());
        let _alone = activity.gate.lock().await;
        self.resume_alone(&microvm).await
    }

    async fn resume_alone(&self, microvm: &Microvm) -> Result<()> {
        let id = microvm.record.id.as_str();
        self.0.engine.resume(id).await?;
        self.tell(microvm.hooks(), Hook::Resume, id, Bytes::new()).await
    }

    /// Somebody comes to a microVM with a request: it runs, and does for as long as that is under way, and is reached at that address. One that is
    /// suspended goes on first, where its policy says so.
    ///
    /// # Errors
    /// There is none of that identifier, it does not run, or can't go on.
    pub(crate) async fn visit(&self, id: &str) -> Result<(Visit, IpAddr)> {
        let (microvms, id) = (self.clone(), id.to_owned());
        // Whoever goes away meanwhile leaves nothing half done.
        let visit = tokio::spawn(async move { microvms.visit_to_its_end(&id).await });
        visit.await.map_err(|error| step("have a microVM go on", error))?
    }

    async fn visit_to_its_end(&self, id: &str) -> Result<(Visit, IpAddr)> {
        let activity = self.0.activities.of(id);
        let _alone = activity.gate.lock().await;
        let mut microvm = self.microvm(id).await?;
        let name = &microvm.record.name;
        match (microvm.record.state.phase, microvm.state()) {
            (Phase::Running, "running") => {}
            (_, "suspended") => {
                if !microvm.policy().idle.is_some_and(|idle| idle.resumes) {
                    return Err(Error::unavailable(format!(
                        "microVM {name} is suspended, and no request has it go on: resume it first"
                    )));
                }
                self.resume_alone(&microvm).await.map_err(|error| error.context(format!("resume microVM {name}")))?;
                // It may have another address.
                microvm = self.microvm(id).await?;
            }
            (_, state) => return Err(Error::unavailable(format!("microVM {name} is {state}"))),
        }
        Ok((Visit::begin(&activity), address(&microvm.record)?))
    }

    /// Ends a microVM, and removes it. Its program is told, and can take no more than the time of that, and of a hook that it is at.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn terminate(&self, reference: &str) -> Result<()> {
        let microvm = self.microvm(reference).await?;
        let activity = self.0.activities.of(microvm.record.id.as_str());
        let _alone = activity.gate.lock().await;
        self.terminate_alone(&microvm).await
    }

    /// See [`Microvms::terminate`]; the caller holds its gate.
    pub(crate) async fn terminate_alone(&self, microvm: &Microvm) -> Result<()> {
        let id = microvm.record.id.as_str();
        if microvm.record.state.phase == Phase::Running
            && let Err(error) = self.tell(microvm.hooks(), Hook::Terminate, id, Bytes::new()).await
        {
            tracing::warn!(microvm = microvm.record.name, %error, "its program did not end well");
        }
        self.0.engine.remove(id, RemoveOptions { force: true, volumes: true, link: false }).await
    }
}

/// A container that is a microVM.
fn of(record: Arc<ContainerRecord>) -> Option<Microvm> {
    match Purpose::of(&record)? {
        Purpose::Microvm(told) => Some(Microvm { record, told }),
        Purpose::Build(_) => None,
    }
}
