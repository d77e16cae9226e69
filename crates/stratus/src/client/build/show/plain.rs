//! A build as lines for files and for programs that read on: nothing that was written is changed later, and each line says of which
//! step it is.

use std::fmt::Write as _;

use build::Told;

use super::course::{Course, Id, News, State, Step, time};
use crate::client::human;

/// Writes lines.
#[derive(Debug, Default)]
pub(super) struct Plain {
    course: Course,
}

impl Plain {
    pub(super) fn course(&self) -> &Course {
        &self.course
    }

    /// What is written of what is told.
    pub(super) fn hear(&mut self, told: Told) -> String {
        let at = told.at;
        let mut text = String::new();
        for (id, news) in self.course.hear(told) {
            self.news(&mut text, id, news, at);
        }
        text
    }

    /// What is written of steps that were given up, as another one failed.
    pub(super) fn given_up(&self) -> String {
        let running = self.course.steps().filter(|step| matches!(step.state, State::Running { .. }));
        running.map(|step| format!("#{} CANCELED\n\n", step.number)).collect()
    }

    fn news(&self, text: &mut String, id: Id, news: News, at: std::time::Duration) {
        let Some(step) = self.course.step(id) else { return };
        let number = step.number;
        // Writing to a string never fails.
        match news {
            News::Began => _ = writeln!(text, "#{number} {}", step.title),
            News::Lines(lines) => {
                for line in lines {
                    let since = line.at.saturating_sub(step.began);
                    let _ = writeln!(text, "#{number} {}.{:03} {}", since.as_secs(), since.subsec_millis(), line.text);
                }
            }
            News::Warning(warning) => {
                let since = at.saturating_sub(step.began);
                let _ = writeln!(text, "#{number} {}.{:03} WARNING: {warning}", since.as_secs(), since.subsec_millis());
            }
            News::Ended => _ = writeln!(text, "#{number} {}\n", ended(step)),
        }
    }
}

fn ended(step: &Step) -> String {
    let size = step.size.map_or_else(String::new, |size| format!(" {}", human::decimal(size)));
    match &step.state {
        State::Done { made, took } => {
            let how = made.cached().unwrap_or_else(|| format!("DONE {}", time(*took)));
            format!("{how}{size}")
        }
        State::Failed { why, .. } => format!("ERROR: {why}"),
        State::Waiting | State::Running { .. } => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use build::{Event, PlannedStage, StepEvent, StepId};
    use engine::OutputStream;
    use std::time::Duration;

    #[test]
    fn each_line_says_of_which_step_it_is() {
        let mut plain = Plain::default();
        let steps = vec!["FROM busybox".to_owned(), "RUN make".to_owned()];
        let stage =
            |stage, name: Option<&str>| PlannedStage { stage, name: name.map(str::to_owned), steps: steps.clone() };
        let planned = Event::Planned { arguments: Vec::new(), stages: vec![stage(0, Some("build")), stage(2, None)] };
        assert_eq!(plain.hear(Told { at: Duration::ZERO, platform: None, event: planned }), "");
        let mut hear = |at, stage, event| {
            let id = StepId { stage, index: 1 };
            plain.hear(Told { at: Duration::from_millis(at), platform: None, event: Event::Step(id, event) })
        };
        let output = |text: &str| StepEvent::Output(OutputStream::Stdout, text.to_owned().into());
        let done = |size| StepEvent::Done { image: format!("sha256:{}", "a".repeat(64)).parse().expect("an id"), size };
        assert_eq!(hear(1000, 0, StepEvent::Began), "#2 [build 2/2] RUN make\n");
        assert_eq!(hear(1000, 2, StepEvent::Began), "#4 [stage-2 2/2] RUN make\n");
        assert_eq!(hear(1512, 0, output("one\ntwo")), "#2 0.512 one\n");
        assert_eq!(hear(1600, 2, StepEvent::Cached), "");
        assert_eq!(hear(1600, 2, done(Some(1500))), "#4 CACHED 1.50kB\n\n");
        assert_eq!(plain.given_up(), "#2 CANCELED\n\n");
        let told = |event| Told {
            at: Duration::from_millis(2250),
            platform: None,
            event: Event::Step(StepId { stage: 0, index: 1 }, event),
        };
        assert_eq!(plain.hear(told(done(None))), "#2 0.512 two\n#2 DONE 1.2s\n\n");
        assert_eq!(plain.given_up(), "");
    }
}
