//! Carries out policies: what is idle is suspended, what was suspended for long is ended.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use engine::model::{Filters, Phase, Timestamp};
use engine::{ErrorKind, EventQuery, Result};
use tokio::time::sleep;

use crate::activity::Turn;
use crate::policy::{Action, Due, Standing};
use crate::vm::IMAGE_LABEL;
use crate::{Microvm, Microvms, step};

/// How many policies are carried out at a time: all that were idle when a daemon began come due in one moment, and each is some 60 MB on the disk.
pub(crate) const AT_A_TIME: usize = 2;
/// What did not work is tried again after so long.
const PATIENCE: Duration = Duration::from_secs(30);

impl Microvms {
    /// Looks after all microVMs that have a policy, for ever.
    pub(crate) async fn keep_policies(self) {
        let of_microvms = BTreeMap::from([("label".to_owned(), BTreeSet::from([IMAGE_LABEL.to_owned()]))]);
        let query = EventQuery { filters: Filters::new(of_microvms), ..EventQuery::default() };
        let mut events = self.0.engine.events().listen(query);
        loop {
            // Heard before anything is looked at: what happens meanwhile has it looked at again.
            let changed = self.0.changed.notified();
            let next = match self.look_after().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::error!(%error, "could not look after the microVMs' policies");
                    Some(PATIENCE)
                }
            };
            let next = async {
                match next {
                    Some(time) => sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => {}
                () = changed => {}
                Some(_) = events.next() => {}
            }
        }
    }

    /// Begins all that policies want by now, and says after how long something may be wanted next.
    async fn look_after(&self) -> Result<Option<Duration>> {
        let all = self.microvms().await?;
        self.forget_others(&all).await?;
        let mut next: Option<Duration> = None;
        for microvm in &all {
            let due = match self.0.activities.of(microvm.record.id.as_str()).turn() {
                Turn::Free => self.due(microvm),
                Turn::In(time) => Due::In(time),
                Turn::Taken => Due::Never,
            };
            match due {
                Due::Now(action) => self.begin(microvm, action),
                Due::In(time) => next = Some(next.map_or(time, |next| next.min(time))),
                Due::Never => {}
            }
        }
        Ok(next)
    }

    /// Forgets microVMs that are gone. One that is not among these may have been made since they were listed: its tokens that were taken back stay so.
    async fn forget_others(&self, all: &[Microvm]) -> Result<()> {
        let listed = all.iter().map(|microvm| microvm.record.id.as_str()).collect();
        let mut gone = HashSet::new();
        for id in self.0.activities.others(&listed) {
            if let Err(error) = self.0.engine.inspect(&id, false).await
                && error.kind() == ErrorKind::NotFound
            {
                gone.insert(id);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let microvms = self.clone();
        let forgotten = tokio::task::spawn_blocking(move || microvms.0.activities.forget(&gone)).await;
        forgotten.map_err(|error| step("forget microVMs that are gone", error))
    }

    /// What a microVM's policy wants as it is now.
    fn due(&self, microvm: &Microvm) -> Due {
        let policy = microvm.policy();
        let (record, state) = (&microvm.record, &microvm.record.state);
        let standing = match (state.phase, &state.suspended) {
            _ if microvm.state() == "pending" => Standing::Other,
            (Phase::Running, _) => {
                let runs = since(state.started_at.unwrap_or(record.created));
                self.0.activities.of(record.id.as_str()).idle(runs).map_or(Standing::Busy, Standing::Idle)
            }
            // One that was never started goes on from its image in a moment.
            (Phase::Exited, Some(_)) => Standing::Suspended(since(state.finished_at.unwrap_or(record.created))),
            _ => Standing::Other,
        };
        policy.due(since(record.created), standing)
    }

    /// Does what a policy wants beside everything else.
    fn begin(&self, microvm: &Microvm, action: Action) {
        let (microvms, id, name) = (self.clone(), microvm.record.id.to_string(), microvm.record.name.clone());
        let activity = self.0.activities.of(&id);
        if !activity.begin() {
            return;
        }
        tokio::spawn(async move {
            let turn = microvms.0.acting.acquire().await;
            let done = microvms.act(&id, action).await;
            drop(turn);
            match &done {
                Ok(true) => tracing::info!(microvm = name, ?action, "by its policy"),
                Ok(false) => {}
                Err(error) => tracing::warn!(microvm = name, ?action, %error, "its policy can't be carried out"),
            }
            match done {
                Ok(_) => activity.over(),
                // It is asked again when it was idle for that long again.
                Err(error) => activity.refused(error.to_string(), PATIENCE),
            }
            microvms.0.changed.notify_one();
        });
    }

    /// Does that, if it is still wanted once nobody else is at it.
    async fn act(&self, id: &str, action: Action) -> Result<bool> {
        let activity = self.0.activities.of(id);
        let _alone = activity.gate.lock().await;
        let microvm = match self.microvm(id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            microvm => microvm?,
        };
        match self.due(&microvm) {
            Due::Now(wanted) if wanted == action => {}
            _ => return Ok(false),
        }
        match action {
            Action::Suspend => self.suspend_alone(&microvm).await?,
            Action::Terminate => self.terminate_alone(&microvm).await?,
        }
        Ok(true)
    }
}

/// How long ago something was; a clock that was set back makes that nothing.
fn since(time: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now() - time).unwrap_or_default()
}
