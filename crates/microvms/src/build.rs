//! How an image of microVMs is made: a container's machine boots, its program gets ready, and the machine is saved; then one goes on from that, to be tried out.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use engine::model::{ContainerRecord, MICROVM};
use engine::{CreateRequest, Error, ListOptions, LogOptions, RemoveOptions, Result, WaitCondition};
use guest_protocol::plain;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use crate::purpose::{Purpose, Told};
use crate::{Hook, Hooks, ImageVersion, Microvms};

/// Between two looks whether somebody listens at a port.
const PAUSE: Duration = Duration::from_millis(50);
/// How many lines of its log are told of a program that does not get ready.
const LINES: usize = 10;

/// An image to be made.
#[derive(Debug)]
pub struct BuildImage {
    /// Its name: the image gets another version, where there is one.
    pub name: String,
    /// What runs in it. It is run in a microVM, whatever that says.
    pub container: CreateRequest,
    /// When it is ready.
    pub ready: Ready,
    /// What its program is told. Where it has hooks, it says itself when it is ready.
    pub hooks: Option<Hooks>,
}

/// When a machine is ready to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// As soon as its program runs, or when its hook says so.
    Running,
    /// When it listens at a port of TCP, which it has to within so many seconds.
    Listening {
        /// In its container.
        port: u16,
        /// How long it may take.
        seconds: u16,
    },
}

impl Microvms {
    /// Makes a version of an image, for as long as the caller waits for it.
    ///
    /// # Errors
    /// Its program does not run, does not get ready, or refuses a hook; with the last lines that it wrote. Nothing is left then.
    pub async fn build(&self, request: BuildImage) -> Result<ImageVersion> {
        engine::check_saved_name("name of a microVM image", &request.name)?;
        let (mut waits, told) = oneshot::channel();
        let microvms = self.clone();
        // Whoever goes away leaves somebody who takes down what was made.
        tokio::spawn(async move {
            let built = microvms.build_for(request, waits.closed()).await;
            // Nobody may be there any more.
            let _ = waits.send(built);
        });
        told.await.map_err(|_| Error::system("the build of an image of microVMs was lost"))?
    }

    /// See [`Microvms::build`]; until `given_up`.
    async fn build_for(&self, request: BuildImage, given_up: impl Future<Output = ()>) -> Result<ImageVersion> {
        let BuildImage { name, mut container, ready, hooks } = request;
        let of = container.config.image.clone();
        container.host.isolation.clear();
        MICROVM.clone_into(&mut container.host.runtime);
        // Its end is an error, which is told with what it wrote.
        container.host.auto_remove = false;
        container.purpose = Some(Purpose::Build(name.clone()).written()?);
        let created = self.0.engine.create(container).await?;
        let made = tokio::select! {
            made = self.boot_and_save(created.id.as_str(), (name, of), ready, hooks) => made,
            () = given_up => Err(Error::conflict("nobody waits for it any more")),
        };
        let made = match made {
            Ok(version) => Ok(version),
            Err(error) => Err(self.with_log(created.id.as_str(), error).await),
        };
        self.take_away(created.id.as_str()).await;
        let version = made?;
        match self.validate(&version).await {
            Ok(()) => Ok(version),
            Err(error) => {
                self.remove_image(&version.machine_image()).await?;
                Err(error)
            }
        }
    }

    async fn boot_and_save(
        &self,
        container: &str,
        (name, image): (String, String),
        ready: Ready,
        hooks: Option<Hooks>,
    ) -> Result<ImageVersion> {
        self.0.engine.start(container).await?;
        let port = match ready {
            Ready::Listening { port, seconds } => {
                let address = self.address(container).await?;
                self.while_it_runs(container, listens(address, port, seconds)).await?;
                Some(port)
            }
            Ready::Running => None,
        };
        self.tell(hooks.as_ref(), Hook::Ready, container, Bytes::new()).await?;
        self.number(&name.clone(), |version| async move {
            let version =
                ImageVersion { name, version, image, hooks, port, created: engine::model::Timestamp::now(), size: 0 };
            let saved = self.0.engine.save_machine_image(container, &version.machine_image()).await?;
            Ok(ImageVersion { created: saved.created, size: saved.size, ..version })
        })
        .await
    }

    /// Tries out a version, where its program has a hook for that.
    async fn validate(&self, version: &ImageVersion) -> Result<()> {
        if !version.hooks.as_ref().is_some_and(|hooks| hooks.has(Hook::Validate)) {
            return Ok(());
        }
        let purpose = Purpose::Build(version.name.clone()).written()?;
        let tried = self.0.engine.create_of_machine_image(&version.machine_image(), None, purpose, |_, _| {}).await?;
        let id = tried.id.as_str();
        let valid = async {
            self.0.engine.start(id).await?;
            self.tell(version.hooks.as_ref(), Hook::Validate, id, Bytes::new()).await
        };
        let valid = match valid.await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.with_log(id, error).await),
        };
        self.take_away(id).await;
        valid
    }

    /// Tells a container's program by a hook, if it has that.
    pub(crate) async fn tell(&self, hooks: Option<&Hooks>, hook: Hook, container: &str, body: Bytes) -> Result<()> {
        match hooks.filter(|hooks| hooks.has(hook)) {
            Some(hooks) => {
                let address = self.address(container).await?;
                self.while_it_runs(container, hooks.tell(hook, address, body)).await
            }
            None => Ok(()),
        }
    }

    /// Waits for something of a program, which has to run for that.
    async fn while_it_runs(&self, container: &str, work: impl Future<Output = Result<()>>) -> Result<()> {
        let ended = self.0.engine.wait(container, WaitCondition::NotRunning).await?;
        tokio::select! {
            biased;
            done = work => done,
            end = ended => Err(Error::conflict(format!("its program has ended with exit status {}", end.code))),
        }
    }

    /// Where a container that runs is reached from the host.
    async fn address(&self, container: &str) -> Result<IpAddr> {
        address(&self.0.engine.inspect(container, false).await?.record)
    }

    /// An error with the last lines that a container wrote.
    async fn with_log(&self, container: &str, error: Error) -> Error {
        let options = LogOptions { stdout: true, stderr: true, tail: Some(LINES), ..LogOptions::default() };
        let Ok(mut log) = self.0.engine.logs(container, options).await else { return error };
        let mut lines = String::new();
        while let Some(Ok(line)) = log.next().await {
            let text = String::from_utf8_lossy(&line.bytes);
            lines.push_str("\n    ");
            // A stranger's text, on its way to a terminal.
            let text: String = text.trim_end().chars().take(400).collect();
            lines.push_str(&plain::text(&text));
        }
        match lines.is_empty() {
            true => error,
            false => error.followed_by(format!("\nIts program wrote:{lines}")),
        }
    }

    /// Removes the container of a build.
    async fn take_away(&self, container: &str) {
        let options = RemoveOptions { force: true, volumes: true, link: false };
        if let Err(error) = self.0.engine.remove(container, options).await {
            tracing::warn!(container, %error, "could not remove what an image of microVMs was made of, or what was not told whose it is");
        }
    }

    /// Removes what nobody waits for any more, as the daemon was killed: containers of builds, and microVMs that were not told whose they are.
    pub(crate) async fn remove_unfinished(&self) -> Result<()> {
        for listed in self.0.engine.list(&ListOptions { all: true, ..ListOptions::default() }).await? {
            match Purpose::of(&listed.record) {
                None | Some(Purpose::Microvm(Told { begun: true, .. })) => {}
                Some(Purpose::Build(_) | Purpose::Microvm(_)) => {
                    tracing::info!(container = listed.record.name, "removing what was not finished");
                    self.take_away(listed.record.id.as_str()).await;
                }
            }
        }
        Ok(())
    }
}

/// Where a container that runs is reached from the host.
pub(crate) fn address(record: &ContainerRecord) -> Result<IpAddr> {
    if !record.state.phase.is_live() {
        return Err(Error::conflict(format!("its program has ended with exit status {}", record.state.exit_code)));
    }
    let mut networks = record.networks.values();
    let address =
        networks.find_map(|on| on.ipv4.map(|net| IpAddr::from(net.addr())).or(on.ipv6.map(|net| net.addr().into())));
    address.ok_or_else(|| Error::invalid("it is on no network: nobody can tell whether it listens, or ask its hooks"))
}

/// Waits until somebody listens.
async fn listens(address: IpAddr, port: u16, seconds: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let address = SocketAddr::new(address, port);
    loop {
        match timeout_at(until, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => {}
            Err(_) => {
                return Err(Error::conflict(format!("it does not listen at port {port} within {seconds} seconds")));
            }
        }
        let _ = timeout_at(until, sleep(PAUSE)).await;
    }
}
