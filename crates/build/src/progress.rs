//! What a build tells while it goes on.

use crate::check::Warning;
use engine::OutputStream;
use image::{ImageId, Platform, ProgressEvent, Reference};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

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
    Planned {
        /// The `ARG`s before the first `FROM`, each as one line.
        arguments: Vec<String>,
        /// The stages that are needed, in the file's order.
        stages: Vec<PlannedStage>,
    },
    /// What is likely not meant in the file, by Docker's build checks.
    Checked(Vec<Found>),
    /// Something happened to a step. The steps of a stage come one after the other, those of several at once.
    Step(StepId, StepEvent),
    /// Something happened to what the build came to, on its way to where it was asked for.
    Export(usize, ExportEvent),
}

/// What happened to an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExportEvent {
    /// It begins; what it is, for people.
    Began(String),
    /// How far a layer is on its way to a registry.
    Layer(ProgressEvent),
    /// Something is not as it should be, which is no matter.
    Warning(String),
    /// It is where it was asked for.
    Done,
    /// It failed, and the build with it: what is wrong, in one line.
    Failed(String),
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
    /// What it comes to was found in this cache of elsewhere.
    CachedFrom(String),
    /// The layer that it comes to is fetched from this cache.
    Fetching(String),
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

/// Who is told. Whoever tells never waits, as others may wait for what is told of; nobody need hear.
#[derive(Clone, Debug)]
pub struct Progress {
    to: Option<Arc<Telling>>,
    began: Instant,
    platform: Option<Arc<Platform>>,
}

/// Between two messages of how far something is.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is told, for whoever hears it.
#[derive(Debug)]
pub struct Events(Arc<Queue>);

/// The end of a queue that is told to; it ends with the last of its clones.
#[derive(Debug)]
struct Telling(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Told>,
    /// Bytes of memory that output takes in there.
    held: usize,
    /// Nobody tells any more, or nobody hears.
    ended: bool,
}

/// The most memory that output takes which is not heard yet. Of more, what was written last is kept.
const MOST: usize = 4 << 20;

/// What is said in place of what was let go.
const CLIPPED: &str = "[output clipped: it was not read in time]\n";

/// What a piece of output takes beside its bytes.
const EACH: usize = size_of::<Told>();

impl Progress {
    /// Tells whoever has the other end. The build's time begins now.
    pub fn channel() -> (Progress, Events) {
        let queue = Arc::<Queue>::default();
        let to = Some(Arc::new(Telling(Arc::clone(&queue))));
        (Progress { to, began: Instant::now(), platform: None }, Events(queue))
    }

    /// Tells nobody.
    pub fn none() -> Progress {
        Progress { to: None, began: Instant::now(), platform: None }
    }

    /// Tells what is of one of several platforms.
    pub(crate) fn of(&self, platform: &Platform) -> Progress {
        Progress { platform: Some(Arc::new(platform.clone())), ..self.clone() }
    }

    pub(crate) fn tell(&self, event: Event) {
        if let Some(to) = &self.to {
            to.0.push(Told { at: self.began.elapsed(), platform: self.platform.clone(), event });
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
                self.step(id, StepEvent::Downloading(come, whole));
            }
        }
    }

    /// Tells of an export, by its number.
    pub fn export(&self, number: usize, event: ExportEvent) {
        self.tell(Event::Export(number, event));
    }

    pub(crate) fn step(&self, id: StepId, event: StepEvent) {
        self.tell(Event::Step(id, event));
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.told.notify_one();
    }
}

impl Events {
    /// The next; `None` after the last.
    pub async fn recv(&mut self) -> Option<Told> {
        loop {
            {
                let mut state = self.0.state.lock();
                match state.next() {
                    None if !state.ended => {}
                    next => return next,
                }
            }
            self.0.told.notified().await;
        }
    }

    /// The next, if it is there already.
    pub fn try_recv(&mut self) -> Option<Told> {
        self.0.state.lock().next()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        *self.0.state.lock() = State { ended: true, ..State::default() };
    }
}

impl Queue {
    fn push(&self, told: Told) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        if let Some(way) = way(&told) {
            state.events.retain(|other| self::way(other) != Some(way));
        }
        state.held += size(&told);
        state.events.push_back(told);
        if state.held > MOST {
            state.clip();
        }
        drop(state);
        self.told.notify_one();
    }
}

impl State {
    fn next(&mut self) -> Option<Told> {
        let next = self.events.pop_front()?;
        self.held -= size(&next);
        Some(next)
    }

    /// Lets go of the older half of the output, and says so once for each step.
    fn clip(&mut self) {
        let mut over = self.held - MOST / 2;
        let mut clipped = HashSet::new();
        let all = std::mem::take(&mut self.events);
        let mut kept = VecDeque::with_capacity(all.len());
        for told in all {
            match &told.event {
                Event::Step(id, StepEvent::Output(_, bytes)) if over > 0 => {
                    over = over.saturating_sub(bytes.len() + EACH);
                    if clipped.insert((told.platform.clone(), *id)) {
                        let note = bytes::Bytes::from_static(CLIPPED.as_bytes());
                        let event = Event::Step(*id, StepEvent::Output(OutputStream::Stderr, note));
                        kept.push_back(Told { event, ..told });
                    }
                }
                _ => kept.push_back(told),
            }
        }
        self.held = kept.iter().map(size).sum();
        self.events = kept;
    }
}

/// Bytes of memory that it takes, if it is what a command wrote.
fn size(told: &Told) -> usize {
    match &told.event {
        Event::Step(_, StepEvent::Output(_, bytes)) => bytes.len() + EACH,
        _ => 0,
    }
}

/// What it tells the way of: of what is not heard yet, only the last counts.
fn way(told: &Told) -> Option<(Option<&Platform>, Result<StepId, usize>, &str)> {
    let platform = told.platform.as_deref();
    match &told.event {
        Event::Step(step, StepEvent::Layer(event)) => Some((platform, Ok(*step), &event.id)),
        Event::Step(step, StepEvent::Downloading(..)) => Some((platform, Ok(*step), "")),
        Event::Export(number, ExportEvent::Layer(event)) => Some((platform, Err(*number), &event.id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const STEP: StepId = StepId { stage: 0, index: 1 };

    #[tokio::test]
    async fn who_does_not_hear_holds_nobody_up() {
        let (progress, mut events) = Progress::channel();
        progress.step(STEP, StepEvent::Began);
        for line in 0..1_000_000 {
            progress.step(STEP, StepEvent::Output(OutputStream::Stdout, Bytes::from(format!("line {line}\n"))));
        }
        progress.step(STEP, StepEvent::Cached);
        assert!(events.0.state.lock().held <= MOST);
        drop(progress);
        let mut heard = Vec::new();
        while let Some(told) = events.recv().await {
            heard.push(told.event);
        }
        assert!(matches!(heard[0], Event::Step(STEP, StepEvent::Began)));
        assert!(matches!(heard[heard.len() - 1], Event::Step(STEP, StepEvent::Cached)));
        let said: Vec<String> = heard
            .iter()
            .filter_map(|event| match event {
                Event::Step(_, StepEvent::Output(_, bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(said[0], CLIPPED);
        assert_eq!(said.last().map(String::as_str), Some("line 999999\n"));
    }

    #[tokio::test]
    async fn of_a_layers_way_the_last_is_told() {
        let (progress, mut events) = Progress::channel();
        for phase in [image::Phase::Waiting, image::Phase::DownloadComplete] {
            for id in ["a", "b"] {
                progress.step(STEP, StepEvent::Layer(ProgressEvent { id: id.into(), phase: phase.clone() }));
            }
        }
        drop(progress);
        let mut heard = Vec::new();
        while let Some(told) = events.recv().await {
            if let Event::Step(_, StepEvent::Layer(event)) = told.event {
                heard.push((event.id, event.phase));
            }
        }
        assert_eq!(
            heard,
            [("a".to_owned(), image::Phase::DownloadComplete), ("b".to_owned(), image::Phase::DownloadComplete)]
        );
    }

    #[tokio::test]
    async fn what_is_told_to_nobody_is_nowhere() {
        let (progress, events) = Progress::channel();
        drop(events);
        progress.step(STEP, StepEvent::Output(OutputStream::Stdout, Bytes::from_static(b"x")));
        let (progress, mut events) = Progress::channel();
        let waiting = tokio::spawn(async move { events.recv().await.is_none() });
        drop(progress);
        assert!(waiting.await.unwrap());
    }
}
