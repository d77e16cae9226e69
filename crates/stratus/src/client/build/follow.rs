//! What is heard while it builds, shown to its end.

use std::io;
use std::pin::pin;

use api_build::{Client, Heard};
use build::{Built, Graph};
use tokio::time::MissedTickBehavior;

use super::super::error::{Error, Result};
use super::super::output;
use super::show::{Display, How, TICK};

/// What came of it.
pub(super) enum End {
    Built(Box<Built>),
    Looked(Graph),
}

/// Shows a build to its end. `what` is built, as a title has it.
pub(super) async fn follow(client: &mut Client, how: How, what: String) -> Result<End> {
    let mut display = Display::new(how, what);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let heard = {
            let mut next = pin!(client.next());
            loop {
                tokio::select! {
                    biased;
                    heard = &mut next => break heard,
                    _ = ticks.tick() => display.draw()?,
                }
            }
        };
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => {
                display.end(None)?;
                return Err(broken(error));
            }
        };
        if how == How::Json && !matches!(heard, Heard::Looked(_)) {
            output::document_line(&api_build::document(&heard)?)?;
        }
        match heard {
            Heard::Told(told) => display.hear(told)?,
            Heard::Looked(graph) => return Ok(End::Looked(graph)),
            Heard::End(Ok(built)) => {
                display.end(Some(true))?;
                return Ok(End::Built(Box::new(built)));
            }
            Heard::End(Err(error)) => {
                display.end(Some(false))?;
                return Err(failed(&error));
            }
        }
    }
}

fn broken(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Broken("it did not say what came of the build".to_owned()),
        io::ErrorKind::Other => Error::Failed(error.to_string()),
        _ => Error::Answer(error.to_string()),
    }
}

/// Why there is no image. Of what stands somewhere the first line says what is wrong, and where comes below it.
fn failed(error: &build::Error) -> Error {
    Error::Failed(match error {
        build::Error::Command { at, .. } | build::Error::Instruction(at) => format!("{}\n{}", at.summary(), at.place()),
        other => other.to_string(),
    })
}
