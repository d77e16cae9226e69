//! Waiting for a container's end.

use std::future::Future;

use keeper::protocol::ExitStatus;

use super::Turn;
use crate::{Engine, Result};

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// That it does not run; at once if it does not.
    #[default]
    NotRunning,
    /// Its next end.
    NextExit,
    /// That it is no more.
    Removed,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitResult {
    /// Exit code of the container's last run.
    pub code: i32,
    /// Why it could not be started, where that is all there is to tell, or why nobody knows how it ended.
    pub error: Option<String>,
}

impl Engine {
    /// Waits as `condition` says. The first await registers the wait, so that nothing that happens after it is
    /// missed; the future that it gives is the wait itself.
    pub async fn wait(
        &self,
        reference: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = WaitResult> + Send + use<>> {
        let container = self.0.containers.find(reference)?;
        let mut turns = container.turns();
        let exits_before = turns.borrow_and_update().exits;
        let done = move |turn: &Turn| match condition {
            WaitCondition::NotRunning => turn.removed || turn.exits > exits_before || !turn.phase.is_live(),
            WaitCondition::NextExit => turn.removed || turn.exits > exits_before,
            WaitCondition::Removed => turn.removed,
        };
        // How it ended nobody saw: a client that would go by this number is to know.
        let unknown = i32::from(ExitStatus::Unknown.shell_code());
        Ok(async move {
            // The sender lives as long as the container, which the wait keeps alive.
            let _alive = container;
            match turns.wait_for(done).await {
                Ok(turn) => {
                    // Who waits for a next end or for a removal hears how it came, and the one who started it what failed.
                    let told = condition == WaitCondition::NotRunning || turn.exit_code == unknown;
                    let error = Some(turn.error.clone()).filter(|error| told && !error.is_empty());
                    WaitResult { code: turn.exit_code, error }
                }
                Err(_) => WaitResult { code: 0, error: None },
            }
        })
    }
}
