//! What the daemon says while it builds, and what came of it: documents of one line each.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use build::dockerfile::{Mistake, Mistakes, Position, Span};
use build::{Built, Error, Event, ExportEvent, Found, Graph, PlannedStage, StepEvent, StepId, Told};
use engine::OutputStream;
use image::{Descriptor, ImageId, Platform, ProgressEvent, Reference};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

use crate::client::Heard;
use crate::wire::refused;

/// Bytes of a line. What a command writes in one go is less; a Dockerfile's steps are in one, with six bytes for each control character in it.
pub(crate) const LINE: usize = 7 * crate::ask::LINE;

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Said {
    /// Something happened, so many microseconds after the begin.
    Told {
        at: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        platform: Option<Platform>,
        event: Telling,
    },
    /// Built: the last that is said.
    Built {
        id: ImageId,
        names: Vec<String>,
        platforms: Vec<Platform>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        descriptor: Option<Descriptor>,
    },
    /// What there would be to do: the last that is said of a look.
    Looked(Graph),
    /// There is no image: the last that is said.
    Failed(Failure),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Telling {
    /// What is going to be done, before anything is.
    Planned { arguments: Vec<String>, stages: Vec<PlannedStage> },
    /// What is likely not meant in the file.
    Checked(Vec<Found>),
    /// Something happened to a step.
    Step { stage: usize, index: usize, what: Happened },
    /// Something happened to an export.
    Export { number: usize, what: ExportEvent },
}

/// What happened to a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Happened {
    Began,
    Triggers(Vec<String>),
    Cached,
    CachedFrom(String),
    Fetching(String),
    Running(String),
    Output { error: bool, written: Written },
    Removed(String),
    Pulling(String),
    Layer(ProgressEvent),
    Downloading(u64, Option<u64>),
    Downloaded,
    Warning(String),
    Failed(String),
    Done { image: ImageId, size: Option<u64> },
}

/// What a command wrote, which need not be text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Written {
    Text(String),
    Base64(String),
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Failure {
    /// The Dockerfile is none.
    Language(Vec<Place>),
    /// An instruction can't be carried out.
    Instruction(Place),
    /// A command failed.
    Command { at: Place, code: i32 },
    /// What was asked for can't be.
    Invalid(String),
    /// Something on the way there failed.
    Failed { doing: String, reason: String },
}

/// Something wrong in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    file: String,
    /// Line and column, both from 1.
    from: (u32, u32),
    to: (u32, u32),
    text: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    suggestion: Option<String>,
}

impl From<Told> for Said {
    fn from(Told { at, platform, event }: Told) -> Said {
        let event = match event {
            Event::Planned { arguments, stages } => Telling::Planned { arguments, stages },
            Event::Checked(found) => Telling::Checked(found),
            Event::Step(StepId { stage, index }, event) => Telling::Step { stage, index, what: event.into() },
            Event::Export(number, what) => Telling::Export { number, what },
        };
        let platform = platform.map(|platform| (*platform).clone());
        Said::Told { at: u64::try_from(at.as_micros()).unwrap_or(u64::MAX), platform, event }
    }
}

impl From<StepEvent> for Happened {
    fn from(event: StepEvent) -> Happened {
        match event {
            StepEvent::Began => Happened::Began,
            StepEvent::Triggers(texts) => Happened::Triggers(texts),
            StepEvent::Cached => Happened::Cached,
            StepEvent::CachedFrom(name) => Happened::CachedFrom(name),
            StepEvent::Fetching(name) => Happened::Fetching(name),
            StepEvent::Running(container) => Happened::Running(container),
            StepEvent::Output(stream, bytes) => Happened::Output {
                error: stream == OutputStream::Stderr,
                written: match String::from_utf8(bytes.into()) {
                    Ok(text) => Written::Text(text),
                    Err(error) => Written::Base64(BASE64.encode(error.as_bytes())),
                },
            },
            StepEvent::Removed(container) => Happened::Removed(container),
            StepEvent::Pulling(reference) => Happened::Pulling(reference.to_string()),
            StepEvent::Warning(warning) => Happened::Warning(warning),
            StepEvent::Layer(event) => Happened::Layer(event),
            StepEvent::Downloading(current, total) => Happened::Downloading(current, total),
            StepEvent::Downloaded => Happened::Downloaded,
            StepEvent::Failed(why) => Happened::Failed(why),
            StepEvent::Done { image, size } => Happened::Done { image, size },
        }
    }
}

impl From<Result<Built, Error>> for Said {
    fn from(end: Result<Built, Error>) -> Said {
        match end {
            Ok(Built { id, names, platforms, descriptor }) => {
                Said::Built { id, names: names.iter().map(Reference::to_string).collect(), platforms, descriptor }
            }
            Err(error) => Said::Failed(error.into()),
        }
    }
}

/// What is heard, as a program has it: the document that the daemon sent.
pub fn document(heard: &Heard) -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(match heard {
        Heard::Told(told) => Said::from(told.clone()),
        Heard::Looked(graph) => Said::Looked(graph.clone()),
        Heard::End(end) => Said::from(end.clone()),
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Language(mistakes) => Failure::Language(mistakes.iter().map(Place::from).collect()),
            Error::Instruction(mistake) => Failure::Instruction(Place::from(&*mistake)),
            Error::Command { at, code } => Failure::Command { at: Place::from(&*at), code },
            Error::Invalid(message) => Failure::Invalid(message),
            Error::Failed { doing, reason } => Failure::Failed { doing, reason },
        }
    }
}

impl From<&Mistake> for Place {
    fn from(mistake: &Mistake) -> Place {
        let Span { start, end } = mistake.span;
        Place {
            file: mistake.file.clone(),
            from: (start.line, start.column),
            to: (end.line, end.column),
            text: mistake.text.clone(),
            message: mistake.message.clone(),
            suggestion: mistake.suggestion.clone(),
        }
    }
}

impl From<Place> for Mistake {
    fn from(place: Place) -> Mistake {
        let position = |(line, column)| Position { line, column };
        Mistake {
            file: place.file,
            span: Span { start: position(place.from), end: position(place.to) },
            text: place.text,
            message: place.message,
            suggestion: place.suggestion,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Language(places) => places.into_iter().map(Mistake::from).collect::<Mistakes>().into(),
            Failure::Instruction(place) => Mistake::from(place).into(),
            Failure::Command { at, code } => Error::Command { at: Arc::new(at.into()), code },
            Failure::Invalid(message) => Error::Invalid(message),
            Failure::Failed { doing, reason } => Error::Failed { doing, reason },
        }
    }
}

impl TryFrom<Said> for Heard {
    type Error = std::io::Error;

    fn try_from(said: Said) -> Result<Heard, std::io::Error> {
        Ok(match said {
            Said::Told { at, platform, event } => {
                let event = match event {
                    Telling::Planned { arguments, stages } => Event::Planned { arguments, stages },
                    Telling::Checked(found) => Event::Checked(found),
                    Telling::Step { stage, index, what } => Event::Step(StepId { stage, index }, what.try_into()?),
                    Telling::Export { number, what } => Event::Export(number, what),
                };
                Heard::Told(Told { at: Duration::from_micros(at), platform: platform.map(Arc::new), event })
            }
            Said::Looked(graph) => Heard::Looked(graph),
            Said::Built { id, names, platforms, descriptor } => {
                let names =
                    names.iter().map(|name| Reference::parse(name).map_err(refused)).collect::<Result<_, _>>()?;
                Heard::End(Ok(Built { id, names, platforms, descriptor }))
            }
            Said::Failed(failure) => Heard::End(Err(failure.into())),
        })
    }
}

impl TryFrom<Happened> for StepEvent {
    type Error = std::io::Error;

    fn try_from(happened: Happened) -> Result<StepEvent, std::io::Error> {
        Ok(match happened {
            Happened::Began => StepEvent::Began,
            Happened::Triggers(texts) => StepEvent::Triggers(texts),
            Happened::Cached => StepEvent::Cached,
            Happened::CachedFrom(name) => StepEvent::CachedFrom(name),
            Happened::Fetching(name) => StepEvent::Fetching(name),
            Happened::Running(container) => StepEvent::Running(container),
            Happened::Output { error, written } => {
                let bytes = match written {
                    Written::Text(text) => text.into_bytes(),
                    Written::Base64(text) => BASE64.decode(text).map_err(refused)?,
                };
                StepEvent::Output(if error { OutputStream::Stderr } else { OutputStream::Stdout }, bytes.into())
            }
            Happened::Removed(container) => StepEvent::Removed(container),
            Happened::Pulling(reference) => StepEvent::Pulling(Reference::parse(&reference).map_err(refused)?),
            Happened::Warning(warning) => StepEvent::Warning(warning),
            Happened::Layer(event) => StepEvent::Layer(event),
            Happened::Downloading(current, total) => StepEvent::Downloading(current, total),
            Happened::Downloaded => StepEvent::Downloaded,
            Happened::Failed(why) => StepEvent::Failed(why),
            Happened::Done { image, size } => StepEvent::Done { image, size },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use build::dockerfile::{Source, parse};

    fn through(said: impl Into<Said>) -> Heard {
        let line = serde_json::to_string(&said.into()).expect("JSON");
        let said: Said = serde_json::from_str(&line).expect("the same");
        said.try_into().expect("what it was")
    }

    #[test]
    fn mistakes_are_told_on_the_other_side_as_on_this_one() {
        let error = Error::from(parse(Source::new("Dockerfile", "FORM a\nRUN\n")).expect_err("mistakes"));
        let Heard::End(Err(heard)) = through(Err::<Built, _>(error.clone())) else { panic!("an end") };
        assert_eq!(heard.to_string(), error.to_string());
        assert!(heard.to_string().contains("did you mean FROM?"));
    }

    #[test]
    fn what_commands_write_need_not_be_text() {
        for bytes in [&b"text\n"[..], b"\xff\0"] {
            let id = StepId { stage: 1, index: 2 };
            let event = Event::Step(id, StepEvent::Output(OutputStream::Stderr, bytes.into()));
            let told = Told { at: Duration::from_micros(7), platform: None, event };
            let Heard::Told(Told {
                at,
                platform: None,
                event: Event::Step(heard, StepEvent::Output(OutputStream::Stderr, came)),
            }) = through(told)
            else {
                panic!("what a command wrote")
            };
            assert_eq!(at, Duration::from_micros(7));
            assert_eq!((heard, &came[..]), (id, bytes));
        }
    }
}
