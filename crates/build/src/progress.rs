//! What a build tells while it goes on.

use engine::OutputStream;
use image::{ImageId, Reference};
use tokio::sync::mpsc;

/// An instruction of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId {
    /// The stage's index in the file.
    pub stage: usize,
    /// The instruction's index in the stage; 0 is `FROM`.
    pub index: usize,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// What is going to be done, before anything is.
    Planned(Vec<PlannedStage>),
    /// Something happened to a step. The steps of a stage come one after the other, those of several at once.
    Step(StepId, StepEvent),
}

/// A stage that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// Its index in the file.
    pub stage: usize,
    /// Its name.
    pub name: Option<String>,
    /// Its instructions, each as one line. The triggers of its base come between them.
    pub steps: Vec<String>,
}

/// What happened to a step.
#[derive(Clone, Debug)]
pub enum StepEvent {
    /// It begins.
    Began,
    /// So many triggers of its base are carried out now, each as one line.
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
    /// Something is not as it should be.
    Warning(String),
    /// It is done; the image would be called so if it ended here.
    Done(ImageId),
}

/// Who is told. Whoever tells waits while much is told and not heard yet; nobody need hear.
#[derive(Clone, Debug)]
pub struct Progress(Option<mpsc::Sender<Event>>);

/// Events that wait to be heard.
const QUEUE: usize = 256;

impl Progress {
    /// Tells whoever has the other end.
    pub fn channel() -> (Progress, mpsc::Receiver<Event>) {
        let (to, from) = mpsc::channel(QUEUE);
        (Progress(Some(to)), from)
    }

    /// Tells nobody.
    pub fn none() -> Progress {
        Progress(None)
    }

    pub(crate) async fn tell(&self, event: Event) {
        if let Some(to) = &self.0 {
            // Who does not hear any more gives the build up otherwise.
            let _ = to.send(event).await;
        }
    }

    pub(crate) async fn step(&self, id: StepId, event: StepEvent) {
        self.tell(Event::Step(id, event)).await;
    }
}
