//! `commit`: a container's changes become an image.

use std::sync::Arc;

use image::{NewImageOptions, RunConfig};

use super::Container;

use crate::model::{ContainerConfig, HealthTest, Healthcheck, Phase};
use crate::{Engine, Error, Result};

/// What becomes of a container's changes.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// The container.
    pub container: String,
    /// Name for the image.
    pub reference: Option<String>,
    /// Who made it.
    pub author: String,
    /// What is said about it.
    pub message: String,
    /// The container is frozen meanwhile.
    pub pause: bool,
    /// Instructions as in a Dockerfile.
    pub changes: Vec<String>,
    /// Configuration over the container's own.
    pub config: Option<ContainerConfig>,
}

impl Engine {
    /// Makes an image of a container. Gives its identifier.
    pub async fn commit(&self, request: CommitRequest) -> Result<String> {
        let container = self.0.containers.find(&request.container)?;
        self.own_again(&container).await?;
        let (record, _files) = {
            let life = container.life(&request.container).await?;
            // What is committed is there to the end, even if the container is removed meanwhile.
            (life.record(), container.files.read(&life)?)
        };
        // Whoever has this is waited for by a start, which has the life.
        let guest = self.guest_of_all(&container).await?;
        if matches!(record.state.phase, Phase::Removing | Phase::Dead) {
            return Err(Error::conflict(format!("You cannot commit container {} which is being removed", record.id)));
        }
        let name = request.reference.as_deref().filter(|text| !text.is_empty());
        let name = name.map(crate::images::parse_reference).transpose()?.map(image::Reference::with_default_tag);
        let mut config = record.config.clone();
        if let Some(over) = request.config {
            super::merge::override_with(&mut config, over);
        }
        let options = NewImageOptions {
            name: name.clone(),
            author: request.author,
            message: request.message,
            created_by: record.argv().join(" "),
            config: run_config(&config),
            changes: request.changes,
            platform: None,
        };
        let commit = async |options, upper| {
            self.0.images.commit(record.id.as_str(), upper, options).await.map_err(crate::images::error)
        };
        // A machine's agent holds its container still, and has to be asked for the files meanwhile.
        let still = guest.is_none() && request.pause && self.hold_still(&container).await?;
        let committed = match guest {
            None => commit(options, None).await,
            Some(guest) => match self.copy_of_changes(&record, guest, request.pause).await {
                Ok(copy) => {
                    let committed = commit(options, Some(copy.path().to_owned())).await;
                    copy.remove().await?;
                    committed
                }
                Err(error) => Err(error),
            },
        };
        if still {
            self.move_again(&container).await?;
        }
        let id = committed?;
        let mut more = vec![("comment", String::new()), ("imageID", id.to_string())];
        if let Some(name) = &name {
            self.tell_image("tag", &id, Some(&name.familiar()));
            more.push(("imageRef", name.familiar()));
        }
        self.tell_container(&record, "commit", more);
        Ok(id.to_string())
    }

    /// Freezes a container that runs, until [`move_again`](Self::move_again), while it may still be stopped, killed and
    /// removed. `false`: it does not run.
    async fn hold_still(&self, container: &Arc<Container>) -> Result<bool> {
        let life = container.life(container.id.as_str()).await?;
        let record = life.record();
        if record.state.phase != Phase::Running {
            return Ok(false);
        }
        self.freeze(&record, true).await?;
        *life.held_still.lock() += 1;
        Ok(true)
    }

    async fn move_again(&self, container: &Arc<Container>) -> Result<()> {
        let life = container.life(container.id.as_str()).await;
        let last = {
            let mut holders = container.held_still.lock();
            *holders = holders.saturating_sub(1);
            *holders == 0
        };
        match life {
            Ok(life) if last && life.record().state.phase == Phase::Running => self.freeze(&life.record(), false).await,
            // It was removed, or ended, or somebody paused it.
            _ => Ok(()),
        }
    }
}

/// What an image says about its containers.
fn run_config(config: &ContainerConfig) -> RunConfig {
    RunConfig {
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.iter().map(ToString::to_string).collect(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.as_ref().map(healthcheck),
        args_escaped: false,
        volumes: config.volumes.iter().cloned().collect(),
        working_dir: config.working_dir.clone(),
        on_build: config.on_build.clone().unwrap_or_default(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        shell: config.shell.clone().unwrap_or_default(),
    }
}

fn healthcheck(check: &Healthcheck) -> image::Healthcheck {
    let nanos = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let test = match &check.test {
        HealthTest::Inherit => Vec::new(),
        HealthTest::None => vec!["NONE".to_owned()],
        HealthTest::Command(argv) => std::iter::once("CMD".to_owned()).chain(argv.iter().cloned()).collect(),
        HealthTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
    };
    image::Healthcheck {
        test,
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: check.retries.into(),
    }
}
