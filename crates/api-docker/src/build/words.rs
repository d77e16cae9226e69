//! A build in the classic builder's words, as clients parse them. Stages that are built side by side are told one after the other, in the
//! order of the file: what the later ones do waits until the earlier ones are told.

use ::build::{Built, Event, ExportEvent, PlannedStage, StepEvent, StepId};
use engine::OutputStream;
use std::collections::VecDeque;

use crate::progress::{ErrorDetail, Message};

/// Messages of a quiet build that are kept for its failure.
const KEPT: usize = 1000;

/// Turns events into messages.
pub(super) struct Words {
    quiet: bool,
    began: bool,
    /// Steps of all stages.
    total: usize,
    /// Stages that are not told yet, the present one first.
    stages: VecDeque<Telling>,
    /// What is told only where the build fails: the last of it.
    kept: VecDeque<Message>,
}

/// A stage that is being told.
struct Telling {
    plan: PlannedStage,
    /// The number of its first step.
    first: usize,
    /// What is said of it once those before it are told.
    waiting: Vec<Waiting>,
    /// Bytes of memory that its commands' output takes in there.
    held: usize,
    /// It is done.
    ended: bool,
}

/// What is said later.
struct Waiting {
    message: Message,
    /// Bytes of memory that it takes, if it is what a command wrote.
    output: Option<usize>,
}

/// The most that waits of what a stage's commands write: of more, what they wrote last.
const MOST: usize = 2 << 20;

impl Words {
    pub(super) fn new(quiet: bool) -> Words {
        Words { quiet, began: false, total: 0, stages: VecDeque::new(), kept: VecDeque::new() }
    }

    /// Whether anything was done: what goes wrong from here on is told in the stream.
    pub(super) fn began(&self) -> bool {
        self.began
    }

    /// What is said of an event.
    pub(super) fn event(&mut self, event: Event) -> Vec<Message> {
        self.began = true;
        match event {
            Event::Planned { arguments, stages } => {
                self.total = arguments.len();
                for plan in stages {
                    let first = self.total + 1;
                    self.total += plan.steps.len();
                    self.stages.push_back(Telling { plan, first, waiting: Vec::new(), held: 0, ended: false });
                }
                let said = arguments.iter().enumerate();
                let said = said.map(|(before, text)| Message::stream(step(before + 1, self.total, text))).collect();
                self.unless_quiet(said)
            }
            Event::Export(_, ExportEvent::Layer(event)) => vec![event.into()],
            // Clients of the classic builder know nothing of checks.
            Event::Checked(_) | Event::Export(..) => Vec::new(),
            Event::Step(id, event) => {
                let total = self.total;
                if let Some(stage) = self.stages.iter_mut().find(|stage| stage.plan.stage == id.stage) {
                    stage.hear(id, event, total);
                }
                self.told()
            }
        }
    }

    /// All that can be told by now.
    fn told(&mut self) -> Vec<Message> {
        let mut told = Vec::new();
        while let Some(stage) = self.stages.front_mut() {
            told.extend(stage.waiting.drain(..).map(|waiting| waiting.message));
            stage.held = 0;
            if !stage.ended {
                break;
            }
            self.stages.pop_front();
        }
        self.unless_quiet(told)
    }

    /// What is told; of a quiet build it is kept for its failure.
    fn unless_quiet(&mut self, told: Vec<Message>) -> Vec<Message> {
        if !self.quiet {
            return told;
        }
        self.kept.extend(told);
        self.kept.drain(..self.kept.len().saturating_sub(KEPT));
        Vec::new()
    }

    /// What is said of an image.
    pub(super) fn built(&mut self, built: &Built) -> Vec<Message> {
        let id = built.id.to_string();
        if self.quiet {
            return vec![Message::stream(format!("{id}\n"))];
        }
        let mut said = self.rest();
        said.push(Message { detail: None, ..Message::aux(serde_json::json!({ "ID": id })) });
        said.push(Message::stream(format!("Successfully built {}\n", built.id.short())));
        let tagged = |name: &image::Reference| Message::stream(format!("Successfully tagged {}\n", name.familiar()));
        said.extend(built.names.iter().map(tagged));
        said
    }

    /// What is said where there is none.
    pub(super) fn failed(&mut self, error: &::build::Error) -> Vec<Message> {
        let mut said = self.rest();
        let message = match error {
            // The first line is what clients and people know.
            ::build::Error::Command { at, .. } | ::build::Error::Instruction(at) => {
                format!("{}\n{}", at.summary(), at.place())
            }
            other => other.to_string(),
        };
        let detail = ErrorDetail::with_code(message.clone(), error.exit_code());
        said.push(Message { error_detail: Some(detail), error: Some(message), ..Message::default() });
        said
    }

    /// What was not told yet.
    fn rest(&mut self) -> Vec<Message> {
        let mut rest: Vec<Message> = self.kept.drain(..).collect();
        rest.extend(self.stages.drain(..).flat_map(|stage| stage.waiting).map(|waiting| waiting.message));
        rest
    }
}

/// A step begins.
fn step(number: usize, total: usize, text: &str) -> String {
    format!("Step {number}/{total} : {text}\n")
}

impl Telling {
    fn hear(&mut self, id: StepId, event: StepEvent, total: usize) {
        let short = |container: &str| container.chars().take(12).collect::<String>();
        let is_output = matches!(event, StepEvent::Output(..));
        let text = match event {
            StepEvent::Downloading(come, whole) => {
                return self.push(Message::counting("Downloading", come, whole.unwrap_or(0)), true);
            }
            // What dockerd's builder says of it: nothing, on a line of its own.
            StepEvent::Downloaded => "\n".to_owned(),
            StepEvent::Began => {
                let text = self.plan.steps.get(id.index).map_or("", String::as_str);
                step(self.first + id.index, total, text)
            }
            StepEvent::Triggers(texts) => {
                let plural = if texts.len() == 1 { "" } else { "s" };
                format!("# Executing {} build trigger{plural}\n", texts.len())
            }
            StepEvent::Cached | StepEvent::CachedFrom(_) => " ---> Using cache\n".to_owned(),
            StepEvent::Fetching(cache) => format!(" ---> Fetching from the cache {cache}\n"),
            StepEvent::Running(container) => format!(" ---> Running in {}\n", short(&container)),
            StepEvent::Output(OutputStream::Stderr, bytes) => {
                format!("\u{1b}[91m{}\u{1b}[0m", String::from_utf8_lossy(&bytes))
            }
            StepEvent::Output(_, bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            StepEvent::Removed(container) => format!("Removing intermediate container {}\n", short(&container)),
            StepEvent::Pulling(reference) => {
                format!("{}: Pulling from {}\n", reference.tag().unwrap_or_default(), reference.path())
            }
            StepEvent::Layer(event) => return self.push(event.into(), true),
            StepEvent::Warning(warning) => format!(" ---> [Warning] {warning}\n"),
            // It is said at the end of all.
            StepEvent::Failed(_) => return,
            StepEvent::Done { image, .. } => {
                self.ended = id.index + 1 == self.plan.steps.len();
                format!(" ---> {}\n", image.short())
            }
        };
        self.push(Message::stream(text), is_output);
    }

    /// Adds what is said later. Of what `clips`, only the last is kept where there is too much of it.
    fn push(&mut self, message: Message, clips: bool) {
        let length = message.stream.as_ref().or(message.status.as_ref()).map_or(0, String::len);
        let output = clips.then_some(length + size_of::<Waiting>());
        self.held += output.unwrap_or(0);
        self.waiting.push(Waiting { message, output });
        if self.held > MOST {
            self.clip();
        }
    }

    /// Lets go of the older half of what commands wrote.
    fn clip(&mut self) {
        let mut over = self.held - MOST / 2;
        let mut first = true;
        for waiting in &mut self.waiting {
            let Some(output) = waiting.output.filter(|_| over > 0) else { continue };
            over = over.saturating_sub(output);
            self.held -= output;
            waiting.output = None;
            let note = "[output clipped: too much of it while another stage was told]\n";
            waiting.message = Message::stream(if std::mem::take(&mut first) { note } else { "" });
        }
        self.waiting.retain(|waiting| waiting.message.stream.as_deref() != Some(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_waits_is_no_more_than_memory_has() {
        let mut words = Words::new(false);
        let plan = |stage| PlannedStage { stage, name: None, steps: vec!["FROM scratch".into(), "RUN yes".into()] };
        words.event(Event::Planned { arguments: Vec::new(), stages: vec![plan(0), plan(1)] });
        let second = |index, event| Event::Step(StepId { stage: 1, index }, event);
        words.event(second(1, StepEvent::Began));
        for line in 0..200_000 {
            let text = Bytes::from(format!("line {line}\n"));
            assert!(words.event(second(1, StepEvent::Output(OutputStream::Stdout, text))).is_empty());
        }
        assert!(words.stages[1].held <= MOST && words.stages[1].waiting.len() < 50_000);
        let said: Vec<String> = words.rest().into_iter().filter_map(|message| message.stream).collect();
        assert_eq!(said[0], "Step 4/4 : RUN yes\n");
        assert!(said[1].starts_with("[output clipped: "), "{}", said[1]);
        assert_eq!(said.last().map(String::as_str), Some("line 199999\n"));
    }

    #[test]
    fn arguments_before_the_first_stage_are_steps() {
        let plan = PlannedStage { stage: 0, name: None, steps: vec!["FROM busybox:$TAG".into()] };
        let arguments = vec!["ARG TAG=latest".to_owned(), "ARG OTHER".to_owned()];
        let mut words = Words::new(false);
        let mut said = words.event(Event::Planned { arguments, stages: vec![plan] });
        said.extend(words.event(Event::Step(StepId { stage: 0, index: 0 }, StepEvent::Began)));
        let said: Vec<String> = said.into_iter().filter_map(|message| message.stream).collect();
        assert_eq!(said, ["Step 1/3 : ARG TAG=latest\n", "Step 2/3 : ARG OTHER\n", "Step 3/3 : FROM busybox:$TAG\n"]);
    }
}
