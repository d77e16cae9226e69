//! A build in the classic builder's words, as clients parse them. Stages that are built side by side are told one after the other, in the
//! order of the file: what the later ones do waits until the earlier ones are told.

use ::build::{Built, Event, PlannedStage, StepEvent, StepId};
use engine::OutputStream;
use std::collections::VecDeque;

use crate::progress::{ErrorDetail, Message};

/// Turns events into messages.
pub(super) struct Words {
    quiet: bool,
    began: bool,
    /// Steps of all stages.
    total: usize,
    /// Stages that are not told yet, the present one first.
    stages: VecDeque<Telling>,
}

/// A stage that is being told.
struct Telling {
    plan: PlannedStage,
    /// The number of its first step.
    first: usize,
    /// What is said of it once those before it are told.
    waiting: Vec<Message>,
    /// It is done.
    ended: bool,
}

impl Words {
    pub(super) fn new(quiet: bool) -> Words {
        Words { quiet, began: false, total: 0, stages: VecDeque::new() }
    }

    /// Whether anything was done: what goes wrong from here on is told in the stream.
    pub(super) fn began(&self) -> bool {
        self.began
    }

    /// What is said of an event.
    pub(super) fn event(&mut self, event: Event) -> Vec<Message> {
        self.began = true;
        match event {
            Event::Planned(stages) => {
                for plan in stages {
                    let first = self.total + 1;
                    self.total += plan.steps.len();
                    self.stages.push_back(Telling { plan, first, waiting: Vec::new(), ended: false });
                }
                Vec::new()
            }
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
            told.append(&mut stage.waiting);
            if !stage.ended {
                break;
            }
            self.stages.pop_front();
        }
        if self.quiet { Vec::new() } else { told }
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
            ::build::Error::Command { at, .. } => format!("{}\n{at}", at.summary()),
            other => other.to_string(),
        };
        let detail = ErrorDetail::with_code(message.clone(), error.exit_code());
        said.push(Message { error_detail: Some(detail), error: Some(message), ..Message::default() });
        said
    }

    fn rest(&mut self) -> Vec<Message> {
        let rest = self.stages.drain(..).flat_map(|stage| stage.waiting);
        if self.quiet { Vec::new() } else { rest.collect() }
    }
}

impl Telling {
    fn hear(&mut self, id: StepId, event: StepEvent, total: usize) {
        let short = |container: &str| container.chars().take(12).collect::<String>();
        let text = match event {
            StepEvent::Began => {
                let text = self.plan.steps.get(id.index).map_or("", String::as_str);
                format!("Step {}/{total} : {text}\n", self.first + id.index)
            }
            StepEvent::Triggers(texts) => {
                let plural = if texts.len() == 1 { "" } else { "s" };
                format!("# Executing {} build trigger{plural}\n", texts.len())
            }
            StepEvent::Cached => " ---> Using cache\n".to_owned(),
            StepEvent::Running(container) => format!(" ---> Running in {}\n", short(&container)),
            StepEvent::Output(OutputStream::Stderr, bytes) => {
                format!("\u{1b}[91m{}\u{1b}[0m", String::from_utf8_lossy(&bytes))
            }
            StepEvent::Output(_, bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            StepEvent::Removed(container) => format!("Removing intermediate container {}\n", short(&container)),
            StepEvent::Warning(warning) => format!(" ---> [Warning] {warning}\n"),
            StepEvent::Done(image) => {
                self.ended = id.index + 1 == self.plan.steps.len();
                format!(" ---> {}\n", image.short())
            }
        };
        self.waiting.push(Message::stream(text));
    }
}
