//! Volumes of containers that are in the machine of another one: one process for each such machine serves them, by a file system that comes into it with the first of them that has some.
//!
//! Which volumes those are is known only as containers come. So the process sees a directory in which there are places for them, `CONTAINER.N`, and each is mounted there in its mount namespace alone,
//! from outside: it could not. It is held by the keeper, in the cgroup of the machine, and ends with its connection to that. A place that is removed takes its mount along (rmdir(2)).

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keeper::client::Create;
use keeper::protocol::{EntryInfo, LogConfig, Recovery, State as Held, Stdio};
use microvm::Volumes;
use microvm::container::ServerHost;
use microvm::control::Connection;
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandbox::{CompileOptions, InitPlan, MountTree, RootFs};

use super::machine::{not_so, refused};
use crate::model::{ContainerId, ContainerRecord, Within};
use crate::{Engine, Error, Result};

/// What is behind a container's identifier in that of what the keeper holds for it.
const NAME: &str = ".files.";

/// The processes that serve, by the containers whose machines they do that for.
#[derive(Default)]
pub(crate) struct FileServers(Mutex<BTreeMap<ContainerId, Arc<Mutex<Option<Server>>>>>);

/// One of them.
struct Server {
    pidfd: OwnedFd,
}

impl FileServers {
    /// Whether there is one for a machine, or was since its start.
    pub(super) fn have(&self, owner: &ContainerId) -> bool {
        self.0.lock().contains_key(owner)
    }

    /// That of a machine, for one who begins it or has something mounted there.
    fn of(&self, owner: &ContainerId) -> Arc<Mutex<Option<Server>>> {
        Arc::clone(self.0.lock().entry(owner.clone()).or_default())
    }
}

impl Server {
    fn of_process(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::system("what serves volumes has no process"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty());
        let pidfd = pidfd.map_err(|error| Error::step("open the process that serves volumes".to_owned(), error))?;
        Ok(Self { pidfd })
    }
}

impl Engine {
    /// Serves what a container has of the host that is to come into a machine. That stays there for as long as the connection lasts, and then as the container runs. Blocks.
    pub(super) fn serve_volumes(
        &self,
        owner: &ContainerRecord,
        volumes: &Volumes,
        trees: &BTreeMap<PathBuf, MountTree>,
    ) -> Result<Connection> {
        let places = self.places(&owner.id);
        let server = self.0.file_servers.of(&owner.id);
        // Held until all is there: others may come at the same time.
        let mut server = server.lock();
        let mut machine = self.machine_connection(&owner.id)?;
        let is_there = machine.keep_files().map_err(|error| Error::system(error.to_string()))?;
        if !is_there {
            // One that nobody is connected with, as a daemon was killed in the middle of this.
            if let Some(other) = server.take() {
                let _ = rustix::process::pidfd_send_signal(&other.pidfd, rustix::process::Signal::KILL);
            }
            *server = Some(self.begin_server(owner, &places, &mut machine)?);
        }
        let Some(server) = &*server else {
            return Err(Error::conflict(format!(
                "nobody knows what serves volumes in the microVM of container {}: restart it",
                owner.name
            )));
        };
        let mounted = sandbox::mount_in(server.pidfd.as_fd(), &places, volumes.mounts(), trees);
        mounted.map_err(|error| Error::system(format!("{}: {error}", crate::link::STEPS)).with_exit_code(128))?;
        Ok(machine)
    }

    /// Begins a process that serves what is mounted in `places`, and connects it with a machine.
    fn begin_server(&self, owner: &ContainerRecord, places: &Path, machine: &mut Connection) -> Result<Server> {
        let directory = self.machine_dir(&owner.id);
        let socket = directory.join("files");
        for made in [places, &socket] {
            // What an earlier one has left is mounted nowhere any more.
            let _ = fs::remove_dir_all(made);
            fs::create_dir(made).map_err(|error| Error::step(format!("make {}", made.display()), error))?;
        }
        let host =
            ServerHost { program: self.0.config.program.clone(), volumes: places.to_owned(), socket: socket.clone() };
        let spec = microvm::container::serving(&host).map_err(refused)?;
        let options = CompileOptions {
            rootfs: Some(RootFs::Path(directory.join("root"))),
            cgroup: Some(self.0.placements.placement(owner)?),
            program_reports: true,
            ..CompileOptions::default()
        };
        let plan = InitPlan::compile(&spec, &directory, &options).map_err(|error| Error::invalid(error.to_string()))?;
        let call = Create {
            id: format!("{}{NAME}{:08x}", owner.id, rand::random::<u32>()),
            plan: plan.to_bytes().map_err(|error| Error::system(error.to_string()))?,
            plan_descriptors: Vec::new(),
            stdio: Stdio::Pipes { stdin: false, stdin_once: false },
            log: LogConfig::None,
            attach: Vec::new(),
            recovery: Recovery { cgroups: Vec::new() },
            start: true,
            bound: false,
        };
        let id = call.id.clone();
        let created = async { self.keeper().await?.call(call).await.map_err(crate::keeper_error) };
        let runtime = tokio::runtime::Handle::current();
        let server = Server::of_process(runtime.block_on(created)?.pid)?;
        let path = socket.join(microvm::files::SOCKET);
        let connection = UnixStream::connect(&path);
        let connection = connection.map_err(|error| Error::step(format!("connect to {}", path.display()), error));
        let plugged = connection.and_then(|connection| {
            let plugged = machine.files(connection.as_fd()).map_err(|error| Error::system(error.to_string()))?;
            plugged.map_err(not_so)
        });
        if plugged.is_err() {
            // Nobody has a connection to it.
            let kill = keeper::protocol::Request::Signal { id, signal: super::stop::SIGKILL };
            let _ = runtime.block_on(async { self.keeper().await?.call(kill).await.map_err(crate::keeper_error) });
        }
        plugged.map(|()| server)
    }

    /// Takes away what a container had mounted that is gone from a machine.
    pub(super) fn leave_volumes(&self, within: &Within) {
        let own = format!("{}.", within.number);
        for entry in fs::read_dir(self.places(&within.owner)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&own) {
                let path = entry.path();
                let removed = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
                if let Err(error) = removed {
                    tracing::warn!(path = %path.display(), %error, "could not take a volume out of a microVM");
                }
            }
        }
    }

    /// Whether the keeper holds it for the machine of a container that runs: then it is known from now on.
    pub(super) fn adopt_file_server(&self, entry: &EntryInfo) -> bool {
        let owner = entry.id.split_once(NAME).and_then(|(owner, _)| self.0.containers.by_id(owner));
        let Some(owner) = owner.filter(|owner| owner.record().state.phase.is_live()) else { return false };
        if entry.state != Held::Running {
            return false;
        }
        match Server::of_process(entry.pid) {
            Ok(server) => {
                *self.0.file_servers.of(&owner.id).lock() = Some(server);
                true
            }
            Err(_) => false,
        }
    }

    /// Forgets what served the machine of a container that has ended.
    pub(super) fn forget_file_server(&self, owner: &ContainerId) {
        self.0.file_servers.0.lock().remove(owner);
    }

    /// The directory that the process sees which serves the machine of a container.
    fn places(&self, owner: &ContainerId) -> PathBuf {
        self.machine_dir(owner).join("volumes")
    }
}
