//! How far a build is: what is known of each of its steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use build::dockerfile::UNNAMED;
use build::{Event, ExportEvent, Found, PlannedStage, StepEvent, StepId, Told};
use image::{Phase, Platform, ProgressEvent};

use super::super::super::human;
use super::written::{Line, Written};

/// Which step. Exports come behind all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Id {
    /// An instruction, for one of the platforms that were heard of.
    Step(usize, StepId),
    Export(usize),
}

/// A step.
#[derive(Debug)]
pub(super) struct Step {
    /// Its number among all, from 1, in the order of the file.
    pub(super) number: usize,
    /// `[build 2/4] RUN make`
    pub(super) title: String,
    pub(super) state: State,
    pub(super) began: Duration,
    pub(super) written: Written,
    /// Something comes from elsewhere, or goes there.
    pub(super) transfer: Option<Transfer>,
    /// Bytes in the files of its layer.
    pub(super) size: Option<u64>,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Running { made: Made },
    Done { made: Made, took: Duration },
    Failed { why: String, took: Duration },
}

/// How a step comes to what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It is carried out.
    Anew,
    /// It was found.
    Cached,
    /// It was found in this cache of elsewhere.
    CachedFrom(String),
}

impl Made {
    /// Where it was found, as docker says it.
    pub(super) fn cached(&self) -> Option<String> {
        match self {
            Made::Anew => None,
            Made::Cached => Some("CACHED".to_owned()),
            Made::CachedFrom(name) => Some(format!("CACHED [from {name}]")),
        }
    }
}

/// Something on its way from elsewhere, or there.
#[derive(Debug)]
pub(super) enum Transfer {
    /// An image.
    Image(Layers),
    /// A file: bytes that have come, and all, where that is known.
    File(u64, Option<u64>),
}

/// The layers of an image on its way.
#[derive(Debug)]
pub(super) struct Layers {
    /// What is done with it.
    what: String,
    layers: BTreeMap<String, Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    current: u64,
    total: u64,
    is_there: bool,
}

/// A build as far as it was told.
#[derive(Debug, Default)]
pub(super) struct Course {
    platforms: Vec<Option<Arc<Platform>>>,
    steps: BTreeMap<Id, Step>,
    pub(super) found: Vec<Found>,
    /// How long it goes on.
    pub(super) at: Duration,
}

/// What is new.
#[derive(Debug)]
pub(super) enum News {
    /// A step began.
    Began,
    /// It said these lines.
    Lines(Vec<Line>),
    /// Something of it is not as it should be.
    Warning(String),
    /// It is done, or failed.
    Ended,
}

impl Course {
    /// Takes what is told. What is new of which step.
    pub(super) fn hear(&mut self, told: Told) -> Vec<(Id, News)> {
        let Told { at, platform, event } = told;
        self.at = self.at.max(at);
        let number = self.steps.len() + 1;
        let (id, news) = match event {
            Event::Planned { stages, .. } => {
                self.plan(platform, &stages);
                return Vec::new();
            }
            // Each platform finds the same.
            Event::Checked(found) => {
                let new = found.into_iter().filter(|found| !self.found.contains(found)).collect::<Vec<_>>();
                self.found.extend(new);
                return Vec::new();
            }
            Event::Step(id, event) => {
                let id = Id::Step(self.place(&platform), id);
                (id, self.steps.get_mut(&id).map(|step| step.hear(at, event)))
            }
            Event::Export(export, event) => {
                let id = Id::Export(export);
                let step = self.steps.entry(id).or_insert_with(|| Step::new(number, String::new()));
                (id, Some(step.hear_export(at, event)))
            }
        };
        news.unwrap_or_default().into_iter().map(|news| (id, news)).collect()
    }

    fn place(&self, platform: &Option<Arc<Platform>>) -> usize {
        self.platforms.iter().position(|known| known == platform).unwrap_or(self.platforms.len())
    }

    fn plan(&mut self, platform: Option<Arc<Platform>>, stages: &[PlannedStage]) {
        let place = self.place(&platform);
        let of = platform.as_ref().map_or_else(String::new, |platform| format!("{platform} "));
        self.platforms.push(platform);
        for stage in stages {
            let name = match &stage.name {
                Some(name) => format!("{name} "),
                None if stages.len() == 1 => String::new(),
                None => format!("{UNNAMED}{} ", stage.stage),
            };
            for (index, text) in stage.steps.iter().enumerate() {
                let title = format!("[{of}{name}{}/{}] {text}", index + 1, stage.steps.len());
                let number = self.steps.len() + 1;
                self.steps.insert(Id::Step(place, StepId { stage: stage.stage, index }), Step::new(number, title));
            }
        }
    }

    pub(super) fn step(&self, id: Id) -> Option<&Step> {
        self.steps.get(&id)
    }

    /// All of them, in the order of the file.
    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.values()
    }

    /// Those that are done, and all.
    pub(super) fn count(&self) -> (usize, usize) {
        let done = self.steps.values().filter(|step| matches!(step.state, State::Done { .. })).count();
        (done, self.steps.len())
    }
}

impl Step {
    fn new(number: usize, title: String) -> Step {
        let state = State::Waiting;
        Step { number, title, state, began: Duration::ZERO, written: Written::default(), transfer: None, size: None }
    }

    fn hear(&mut self, at: Duration, event: StepEvent) -> Vec<News> {
        match event {
            StepEvent::Began => {
                (self.state, self.began) = (State::Running { made: Made::Anew }, at);
                vec![News::Began]
            }
            StepEvent::Triggers(texts) => {
                let triggers = texts.into_iter().map(|text| Line { at, text: format!("ONBUILD {text}") });
                vec![News::Lines(triggers.collect())]
            }
            StepEvent::Cached => {
                self.state = State::Running { made: Made::Cached };
                Vec::new()
            }
            StepEvent::CachedFrom(name) => {
                self.state = State::Running { made: Made::CachedFrom(name) };
                Vec::new()
            }
            StepEvent::Fetching(name) => {
                let what = format!("fetching from {name}");
                self.transfer = Some(Transfer::Image(Layers { what, layers: BTreeMap::new() }));
                Vec::new()
            }
            // A container's name says nothing to who builds.
            StepEvent::Running(_) | StepEvent::Removed(_) => Vec::new(),
            StepEvent::Output(_, bytes) => self.lines(|step| step.written.take(at, &bytes)),
            StepEvent::Pulling(reference) => {
                let text = format!("pulling {}", reference.familiar());
                self.transfer = Some(Transfer::Image(Layers { what: text.clone(), layers: BTreeMap::new() }));
                vec![News::Lines(vec![Line { at, text }])]
            }
            StepEvent::Layer(event) => self.layer(at, &event, "pulled"),
            StepEvent::Downloading(current, total) => {
                self.transfer = Some(Transfer::File(current, total));
                Vec::new()
            }
            StepEvent::Downloaded => {
                self.transfer = None;
                Vec::new()
            }
            StepEvent::Warning(warning) => vec![News::Warning(warning)],
            StepEvent::Failed(why) => self.end(State::Failed { why, took: at.saturating_sub(self.began) }),
            StepEvent::Done { size, .. } => {
                self.size = size;
                let made = match &self.state {
                    State::Running { made } => made.clone(),
                    _ => Made::Anew,
                };
                self.end(State::Done { made, took: at.saturating_sub(self.began) })
            }
        }
    }

    fn hear_export(&mut self, at: Duration, event: ExportEvent) -> Vec<News> {
        let took = at.saturating_sub(self.began);
        match event {
            ExportEvent::Began(what) => {
                (self.state, self.began) = (State::Running { made: Made::Anew }, at);
                self.transfer = Some(Transfer::Image(Layers { what: what.clone(), layers: BTreeMap::new() }));
                self.title = what;
                vec![News::Began]
            }
            ExportEvent::Layer(event) => self.layer(at, &event, "pushed"),
            ExportEvent::Warning(warning) => vec![News::Warning(warning)],
            ExportEvent::Done => self.end(State::Done { made: Made::Anew, took }),
            ExportEvent::Failed(why) => self.end(State::Failed { why, took }),
        }
    }

    fn layer(&mut self, at: Duration, event: &ProgressEvent, done: &str) -> Vec<News> {
        let Some(Transfer::Image(layers)) = &mut self.transfer else { return Vec::new() };
        let told = layers.hear(event, done);
        told.map(|text| News::Lines(vec![Line { at, text }])).into_iter().collect()
    }

    fn lines<L: IntoIterator<Item = Line>>(&mut self, take: impl FnOnce(&mut Step) -> L) -> Vec<News> {
        let lines: Vec<Line> = take(self).into_iter().collect();
        if lines.is_empty() { Vec::new() } else { vec![News::Lines(lines)] }
    }

    fn end(&mut self, state: State) -> Vec<News> {
        let mut news = self.lines(|step| step.written.end());
        self.transfer = None;
        self.state = state;
        news.push(News::Ended);
        news
    }
}

impl Transfer {
    /// Bytes that have come or gone, of all, where that is known.
    pub(super) fn part(&self) -> Option<(u64, u64)> {
        let (current, total) = match self {
            Transfer::Image(layers) => layers.bytes(),
            Transfer::File(current, total) => (*current, total.unwrap_or(0)),
        };
        (total > 0).then_some((current.min(total), total))
    }

    /// How far it is, in one line; `None`: there is nothing to say yet.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Transfer::Image(layers) => layers.text(),
            Transfer::File(current, None) => Some(format!("{} have come", human::decimal(*current))),
            Transfer::File(current, Some(total)) => {
                Some(format!("{} of {}", human::decimal(*current), human::decimal(*total)))
            }
        }
    }
}

impl Layers {
    /// What there is to say of it once.
    fn hear(&mut self, event: &ProgressEvent, done: &str) -> Option<String> {
        let layer = self.layers.entry(event.id.clone()).or_default();
        let was_there = layer.is_there;
        match event.phase {
            Phase::Downloading { current, total } | Phase::Pushing { current, total } => {
                (layer.current, layer.total) = (current, total);
            }
            Phase::PullComplete
            | Phase::AlreadyExists
            | Phase::Pushed
            | Phase::LayerAlreadyExists
            | Phase::Mounted { .. } => layer.is_there = true,
            Phase::Retrying { seconds } => return Some(format!("{}: trying again in {seconds} s", event.id)),
            _ => {}
        }
        let size = if layer.total == 0 { String::new() } else { format!(", {}", human::decimal(layer.total)) };
        (layer.is_there && !was_there).then(|| format!("{}: {done}{size}", event.id))
    }

    /// Bytes that have come or gone, and all that are known of.
    fn bytes(&self) -> (u64, u64) {
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).fold(0, u64::saturating_add);
        (sum(|layer| layer.current), sum(|layer| layer.total))
    }

    fn text(&self) -> Option<String> {
        if self.layers.is_empty() {
            return None;
        }
        let (current, total) = self.bytes();
        let there = self.layers.values().filter(|layer| layer.is_there).count();
        let bytes = match total {
            0 => String::new(),
            total => format!("{} of {}, ", human::decimal(current.min(total)), human::decimal(total)),
        };
        let plural = if self.layers.len() == 1 { "" } else { "s" };
        Some(format!("{}: {bytes}{there} of {} layer{plural}", self.what, self.layers.len()))
    }
}

/// A time as people read it.
pub(super) fn time(took: Duration) -> String {
    let seconds = took.as_secs();
    match seconds {
        0..60 => format!("{seconds}.{}s", took.subsec_millis() / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(time(Duration::from_millis(420)), "0.4s");
        assert_eq!(time(Duration::from_millis(59_990)), "59.9s");
        assert_eq!(time(Duration::from_secs(62)), "1m02s");
        assert_eq!(time(Duration::from_secs(3_725)), "1h02m");
    }
}
