//! `RUN`: something is executed in a container of the image as far as it is, and what it changed becomes a layer.

use super::mounts::{Mounts, remove as remove_stubs};
use crate::progress::{Progress, StepEvent, StepId};
use crate::request::Leaves;
use crate::solve::Builder;
use crate::state::State;
use crate::{Error, Result};
use engine::model::{ContainerConfig, ContainerId, HostConfig, NetworkMode};
use engine::{AttachOptions, CreateRequest, Engine, RemoveOptions, Unfinished, WaitCondition, WaitResult};
use image::{Digest, KeptLayers, RunConfig, Times};
use jiff::Timestamp;
use std::time::Duration;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The name of the machine that a command sees: the same everywhere.
const HOSTNAME: &str = "build";

/// What is executed, and how.
pub(crate) struct Running {
    pub(crate) argv: Vec<String>,
    /// `NAME=value`
    pub(crate) env: Vec<String>,
    /// Limits, networks, mounts.
    pub(crate) host: HostConfig,
    /// The time of what it changes.
    pub(crate) time: i64,
    /// How long it may take.
    pub(crate) at_most: Option<Duration>,
    /// The name of the machine that it sees; `None`: the same everywhere.
    pub(crate) hostname: Option<String>,
    /// Whether its container stays.
    pub(crate) leaves: Leaves,
}

/// How a command ended.
pub(crate) enum Ended {
    /// Well.
    Well(Option<KeptLayers>),
    /// With a code.
    Badly(i32),
    /// With a code, as it needed more memory than it may have.
    OutOfMemory(i32),
    /// It was killed, as it took longer than it may.
    TooLong(Duration),
}

/// Executes it.
pub(crate) async fn run(
    builder: &Builder,
    state: &State,
    running: Running,
    mut mounts: Mounts,
    progress: &Progress,
    step: StepId,
) -> Result<Ended> {
    let id = state.id()?;
    // Who is in another container's network has its name, too.
    let has_name = !matches!(running.host.network_mode, NetworkMode::Container(_));
    let hostname = running.hostname.unwrap_or_else(|| HOSTNAME.to_owned());
    let config = ContainerConfig {
        hostname: if has_name { hostname } else { String::new() },
        user: state.config.config.user.clone(),
        working_dir: state.config.config.working_dir.clone(),
        env: running.env,
        cmd: Some(running.argv),
        image: id.short(),
        attach_stdout: true,
        attach_stderr: true,
        ..ContainerConfig::default()
    };
    let engine = builder.engine();
    mounts.make_ready(builder).await?;
    let stubs = mounts.stubs(engine.image_store(), state).await?;
    let mut host = running.host;
    host.mounts.extend(mounts.requests.iter().cloned());
    let unfinished = Unfinished {
        id,
        run: RunConfig::default(),
        diff_ids: state.diff_ids().to_vec(),
        mounted: mounts.images.clone(),
    };
    let request = CreateRequest { config, host, unfinished: Some(unfinished), ..CreateRequest::default() };
    let failed = |e: engine::Error| Error::failed("running a command", e);
    // A build that is given up in this moment leaves no container behind: it is made to its end, and goes then.
    let made = tokio::spawn({
        let (engine, going) = (engine.clone(), builder.going());
        async move {
            let created = engine.create(request).await?;
            Ok((StepContainer { engine, id: Some(created.id), mounts, going: Some(going) }, created.warnings))
        }
    });
    let made = made.await.map_err(|e| Error::failed("running a command", e))?;
    let (mut container, warnings) = made.map_err(failed)?;
    let name = container.name();
    progress.step(step, StepEvent::Running(name.clone()));
    for warning in warnings {
        progress.step(step, StepEvent::Warning(warning));
    }
    let options = AttachOptions { stdout: true, stderr: true, stream: true, ..AttachOptions::default() };
    let mut attached = engine.attach(&name, options).await.map_err(failed)?;
    let wait = engine.wait(&name, WaitCondition::NextExit).await.map_err(failed)?;
    let since = Timestamp::now().as_second();
    engine.lend(&name, container.mounts.take_lent()).map_err(failed)?;
    if let Err(error) = Box::pin(engine.start(&name)).await {
        if running.leaves.failed {
            container.leave(Vec::new()).await.map_err(failed)?;
        }
        return Err(failed(error));
    }
    let ending = async {
        while let Some(chunk) = attached.output.next().await {
            progress.step(step, StepEvent::Output(chunk.stream, chunk.bytes));
        }
        wait.await
    };
    let code = match running.at_most {
        None => Ok(ending.await),
        Some(at_most) => tokio::time::timeout(at_most, ending).await.map_err(|_| at_most),
    };
    let code = match code {
        // Nobody saw how it ended: a code would be none of its own.
        Ok(WaitResult { error: Some(why), .. }) => return Err(Error::failed("running a command", why)),
        other => other.map(|ended| ended.code),
    };
    // One that was killed runs on until it is removed.
    let stays = match &code {
        Ok(0) => running.leaves.done,
        Ok(_) => running.leaves.failed,
        Err(_) => false,
    };
    let ended = match code {
        Err(at_most) => Ended::TooLong(at_most),
        Ok(0) => {
            let times = Times { since, becomes: running.time };
            let layer = engine.take_changes(&name).await.map_err(failed)?;
            let removing = tokio::task::spawn_blocking(move || remove_stubs(&stubs, &layer).map(|()| layer)).await;
            let layer = removing.map_err(|e| Error::failed("keeping what it changed", e))??;
            Ended::Well(layer.finish(Some(times)).await.map_err(|e| Error::failed("keeping what it changed", e))?)
        }
        Ok(code) if engine.inspect(&name, false).await.is_ok_and(|details| details.record.state.oom_killed) => {
            Ended::OutOfMemory(code)
        }
        Ok(code) => Ended::Badly(code),
    };
    if stays {
        let made = match &ended {
            Ended::Well(Some(kept)) => kept.layers.iter().map(|layer| layer.diff_id).collect(),
            _ => Vec::new(),
        };
        container.leave(made).await.map_err(failed)?;
        return Ok(ended);
    }
    container.remove().await.map_err(failed)?;
    progress.step(step, StepEvent::Removed(name));
    Ok(ended)
}

/// A step's container. It goes with whoever builds, however that ends, and what it has mounted goes after it.
struct StepContainer {
    engine: Engine,
    id: Option<ContainerId>,
    mounts: Mounts,
    /// The daemon does not end before.
    going: Option<TaskTrackerToken>,
}

impl StepContainer {
    fn name(&self) -> String {
        self.id.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// Removes it, also where nobody waits for that any more.
    async fn remove(mut self) -> engine::Result<()> {
        let Some(removal) = self.removal() else { return Ok(()) };
        tokio::spawn(removal).await.unwrap_or(Ok(()))
    }

    /// Leaves it to whoever wants to look at it; where that fails, it goes.
    async fn leave(mut self, made: Vec<Digest>) -> engine::Result<()> {
        self.engine.leave_step(&self.name(), made).await?;
        self.id = None;
        Ok(())
    }

    fn removal(&mut self) -> Option<impl Future<Output = engine::Result<()>> + Send + 'static> {
        let id = self.id.take()?;
        let (engine, mounts, going) = (self.engine.clone(), std::mem::take(&mut self.mounts), self.going.take());
        Some(async move {
            let removed = remove(&engine, &id).await;
            if let Err(error) = &removed {
                tracing::warn!(container = %id.short(), %error, "a step's container could not be removed");
            }
            // Nothing writes to them any more, and whoever waits for one of them may have it.
            drop(mounts);
            drop(going);
            removed
        })
    }
}

impl Drop for StepContainer {
    fn drop(&mut self) {
        if let Some(removal) = self.removal() {
            tokio::spawn(removal);
        }
    }
}

/// Removes a step's container, whatever it does.
pub(crate) async fn remove(engine: &Engine, id: &ContainerId) -> engine::Result<()> {
    let options = RemoveOptions { force: true, volumes: true, ..RemoveOptions::default() };
    engine.remove(id.as_str(), options).await
}
