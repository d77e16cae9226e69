//! What a build tells while it goes on.

use crate::check::Warning;
use engine::OutputStream;
use image::{ImageId, Platform, ProgressEvent, Reference};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// An instruction of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId {
    /// The stage's index in the file.
    pub stage: usize,
    /// The instruction's index in the stage; 0 is `FROM`.
    pub index: usize,
}

/// Something that happened, and when.
#[derive(Clone, Debug)]
pub struct Told {
    /// How long the build went on by then.
    pub at: Duration,
    /// Which platform it is of, where there are several: each has steps of its own.
    pub platform: Option<Arc<Platform>>,
    /// What happened.
    pub event: Event,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// What is going to be done, before anything is.
    Planned(Vec<PlannedStage>),
    /// What is likely not meant in the file, by Docker's build checks.
    Checked(Vec<Found>),
    /// Something happened to a step. The steps of a stage come one after the other, those of several at once.
    Step(StepId, StepEvent),
}

/// A stage that is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStage {
    /// Its index in the file.
    pub stage: usize,
    /// Its name.
    pub name: Option<String>,
    /// Its instructions, each as one line. The triggers of its base come between them.
    pub steps: Vec<String>,
}

/// Something in the file that is likely not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What it is.
    pub warning: Warning,
    /// The file's name.
    pub file: String,
    /// The lines where it stands.
    pub lines: Vec<String>,
}

/// What happened to a step.
#[derive(Clone, Debug)]
pub enum StepEvent {
    /// It begins.
    Began,
    /// These triggers of its base are carried out now, each as one line.
    Triggers(Vec<String>),
    /// What it comes to was there already.
    Cached,
    /// It runs, in a container.
    Running(String),
    /// The container wrote something.
    Output(OutputStream, bytes::Bytes),
    /// The container is gone.
    Removed(String),
    /// Its image is not here, and fetched.
    Pulling(Reference),
    /// How far a layer of that image is. Of what happens while nobody hears, the last is told.
    Layer(ProgressEvent),
    /// So many bytes have come of something that is elsewhere, of so many if that is known.
    Downloading(u64, Option<u64>),
    /// Something that is elsewhere is known as it is now, or has come.
    Downloaded,
    /// Something is not as it should be.
    Warning(String),
    /// It failed, and the build with it: what is wrong, in one line.
    Failed(String),
    /// It is done.
    Done {
        /// The image would be called so if it ended here.
        image: ImageId,
        /// Bytes in the files of the layers that it made, or found; `None`: it has none.
        size: Option<u64>,
    },
}

/// Who is told. Whoever tells waits while much is told and not heard yet; nobody need hear.
#[derive(Clone, Debug)]
pub struct Progress {
    to: Option<mpsc::Sender<Told>>,
    began: Instant,
    platform: Option<Arc<Platform>>,
}

/// Between two messages of how far something is.
const INTERVAL: Duration = Duration::from_millis(100);

/// Events that wait to be heard.
const QUEUE: usize = 256;

impl Progress {
    /// Tells whoever has the other end. The build's time begins now.
    pub fn channel() -> (Progress, mpsc::Receiver<Told>) {
        let (to, from) = mpsc::channel(QUEUE);
        (Progress { to: Some(to), began: Instant::now(), platform: None }, from)
    }

    /// Tells nobody.
    pub fn none() -> Progress {
        Progress { to: None, began: Instant::now(), platform: None }
    }

    /// Tells what is of one of several platforms.
    pub(crate) fn of(&self, platform: &Platform) -> Progress {
        Progress { platform: Some(Arc::new(platform.clone())), ..self.clone() }
    }

    pub(crate) async fn tell(&self, event: Event) {
        if let Some(to) = &self.to {
            // Who does not hear any more gives the build up otherwise.
            let _ = to.send(Told { at: self.began.elapsed(), platform: self.platform.clone(), event }).await;
        }
    }

    /// Tells something that is worth no wait: who is busy hears what comes after it.
    pub(crate) fn in_passing(&self, id: StepId, event: StepEvent) {
        if let Some(to) = &self.to {
            let platform = self.platform.clone();
            let _ = to.try_send(Told { at: self.began.elapsed(), platform, event: Event::Step(id, event) });
        }
    }

    /// Tells how far a download is, at most ten times a second.
    pub(crate) fn of_download(&self, id: StepId) -> impl Fn(u64, Option<u64>) + Send + Sync + '_ {
        let told: Mutex<Option<Instant>> = Mutex::default();
        move |come, whole| {
            let now = Instant::now();
            let mut told = told.lock();
            let is_due = told.is_none_or(|last| now - last >= INTERVAL) || whole == Some(come);
            if is_due {
                *told = Some(now);
                self.in_passing(id, StepEvent::Downloading(come, whole));
            }
        }
    }

    pub(crate) async fn step(&self, id: StepId, event: StepEvent) {
        self.tell(Event::Step(id, event)).await;
    }
}
