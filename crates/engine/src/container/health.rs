//! Health checks: a program run in the container now and then, and what its exit codes add up to.

use std::sync::Arc;
use std::time::Duration;

use super::Container;
use super::exec::ExecConfig;
use crate::model::{
    ContainerRecord, Health, HealthResult, HealthStatus, HealthTest, Healthcheck, Phase, State, Timestamp,
};
use crate::{Engine, Result};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a check's output that are kept.
const OUTPUT: usize = 4096;

/// Durations and counts with their defaults.
struct Check {
    argv: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    /// `None`: the container has no check.
    fn of(record: &ContainerRecord) -> Option<Self> {
        let check: &Healthcheck = record.config.healthcheck.as_ref()?;
        let argv = match &check.test {
            HealthTest::Inherit | HealthTest::None => return None,
            HealthTest::Command(argv) => argv.clone(),
            HealthTest::Shell(line) => {
                let shell = record.config.shell.clone().filter(|shell| !shell.is_empty());
                let mut argv = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                argv.push(line.clone());
                argv
            }
        };
        let or = |own: Duration, default: Duration| if own.is_zero() { default } else { own };
        Some(Self {
            argv,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: check.start_period,
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: if check.retries == 0 { RETRIES } else { check.retries },
        })
    }
}

/// A run begins: nothing is known yet.
pub(super) fn begin(record: &mut ContainerRecord) {
    record.state.health = Check::of(record).map(|_| Health {
        status: HealthStatus::Starting,
        failing_streak: 0,
        log: Default::default(),
    });
}

impl Engine {
    /// Begins to check a container that runs, if it has a check.
    pub(super) fn watch_health(&self, container: &Arc<Container>) {
        let Some(check) = Check::of(&container.record()) else { return };
        let (engine, checked) = (self.clone(), container.clone());
        let task = tokio::spawn(async move { engine.check_for_ever(&checked, &check).await });
        container.tasks.lock().push(task.abort_handle());
    }

    async fn check_for_ever(&self, container: &Arc<Container>, check: &Check) {
        loop {
            let state = &container.record().state;
            let starting = in_start_period(state, check);
            tokio::time::sleep(if starting { check.start_interval } else { check.interval }).await;
            match container.record().state.phase {
                Phase::Running => {}
                // A frozen container can't answer: it is asked again later.
                Phase::Paused => continue,
                _ => return,
            }
            let result = self.check_once(container, check).await;
            if let Err(error) = self.take_result(container, check, result).await {
                tracing::warn!(container = %container.id.short(), %error, "could not record a health check");
            }
        }
    }

    async fn check_once(&self, container: &Arc<Container>, check: &Check) -> HealthResult {
        let start = Timestamp::now();
        let config = ExecConfig { argv: check.argv.clone(), stdout: true, stderr: true, ..ExecConfig::default() };
        let run = tokio::time::timeout(check.timeout, self.exec_capture(container, config, OUTPUT)).await;
        let (exit_code, output) = match run {
            Ok(Ok((code, output))) => (code, String::from_utf8_lossy(&output).into_owned()),
            Ok(Err(error)) => (-1, error.to_string()),
            Err(_) => (-1, format!("Health check exceeded timeout ({})", Timeout(check.timeout))),
        };
        HealthResult { start, end: Timestamp::now(), exit_code, output }
    }

    async fn take_result(&self, container: &Arc<Container>, check: &Check, result: HealthResult) -> Result<()> {
        let before = container.record().state.health.as_ref().map(|health| health.status);
        let record = self.change_live(container, |record| count(&mut record.state, check, result)).await?;
        let now = record.state.health.as_ref().map(|health| health.status);
        if let Some(now) = now.filter(|_| now != before) {
            self.tell_container(&record, &format!("health_status: {}", now.name()), []);
        }
        Ok(())
    }
}

/// As Go writes durations, where the seconds are whole.
struct Timeout(Duration);

impl std::fmt::Display for Timeout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 60, seconds % 60, self.0.subsec_millis()) {
            (0, 0, millis) => write!(f, "{millis}ms"),
            (0, seconds, 0) => write!(f, "{seconds}s"),
            (minutes, seconds, 0) => write!(f, "{minutes}m{seconds}s"),
            _ => write!(f, "{}s", self.0.as_secs_f64()),
        }
    }
}

fn in_start_period(state: &State, check: &Check) -> bool {
    let starting = state.health.as_ref().is_some_and(|health| health.status == HealthStatus::Starting);
    let ran = state.started_at.and_then(|started| Duration::try_from(Timestamp::now() - started).ok());
    starting && !check.start_period.is_zero() && ran.is_none_or(|ran| ran < check.start_period)
}

/// One more result: failures count beyond the start period only, until there are too many in a row.
fn count(state: &mut State, check: &Check, result: HealthResult) {
    let forgiven = in_start_period(state, check);
    let Some(health) = &mut state.health else { return };
    if result.exit_code == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if !forgiven {
        health.failing_streak += 1;
        if health.failing_streak >= check.retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    if health.log.len() == KEPT {
        health.log.pop_front();
    }
    health.log.push_back(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthResult {
        HealthResult { start: Timestamp::now(), end: Timestamp::now(), exit_code, output: String::new() }
    }

    fn check(start_period: Duration) -> Check {
        Check {
            argv: Vec::new(),
            interval: INTERVAL,
            timeout: TIMEOUT,
            start_period,
            start_interval: START_INTERVAL,
            retries: 2,
        }
    }

    fn starting() -> State {
        let health = Health { status: HealthStatus::Starting, failing_streak: 0, log: Default::default() };
        State { health: Some(health), started_at: Some(Timestamp::now()), ..State::default() }
    }

    fn status(state: &State) -> HealthStatus {
        state.health.as_ref().unwrap().status
    }

    #[test]
    fn too_many_failures_in_a_row_make_it_unhealthy_and_one_success_heals() {
        let (mut state, check) = (starting(), check(Duration::ZERO));
        count(&mut state, &check, result(1));
        assert_eq!(status(&state), HealthStatus::Starting);
        count(&mut state, &check, result(1));
        assert_eq!(status(&state), HealthStatus::Unhealthy);
        count(&mut state, &check, result(0));
        assert_eq!(status(&state), HealthStatus::Healthy);
    }

    #[test]
    fn the_start_period_forgives() {
        let (mut state, check) = (starting(), check(Duration::from_secs(3600)));
        for _ in 0..9 {
            count(&mut state, &check, result(1));
        }
        assert_eq!(status(&state), HealthStatus::Starting);
        assert_eq!(state.health.unwrap().log.len(), KEPT);
    }
}
