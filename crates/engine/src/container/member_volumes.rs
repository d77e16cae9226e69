//! Volumes of containers that are in the machine of another one: one process for each such machine serves them, by a file system that comes into it with the first of them that has some.
//!
//! Which volumes those are is known only as containers come. So the process sees a directory in which there are places for them, `CONTAINER.N`, and each is mounted there in its mount namespace alone,
//! from outside: it could not. It is held by the keeper, in the cgroup of the machine, and ends with its connection to that. A place that is removed takes its mount along (rmdir(2)).
//!
//! Which process that is the machine says, by the number that it has: a daemon that was killed in the middle of this leaves others, and places that are nobody's ([`Engine::sweep_member_volumes`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keeper::client::Create;
use keeper::protocol::{EntryInfo, LogConfig, Recovery, State as Held, Stdio};
use microvm::Volumes;
use microvm::container::ServerHost;
use microvm::control::{Connection, FileServerId};
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sandbox::{CompileOptions, InitPlan, MountTree, RootFs};

use super::machine::{not_so, refused};
use crate::model::{ContainerId, ContainerRecord, Within};
use crate::{Engine, Error, Result};

/// What is behind a container's identifier in that of what the keeper holds for it; behind it comes the process's number.
const NAME: &str = ".files.";
/// How long a machine may take to say what serves volumes in it, to one whom nobody waits for.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// The processes that serve, by the containers whose machines they do that for.
#[derive(Default)]
pub(crate) struct FileServers(Mutex<BTreeMap<ContainerId, Arc<Mutex<Servers>>>>);

/// Those of one machine. It is connected with one of them at most.
type Servers = BTreeMap<FileServerId, Arc<Server>>;

/// One of them.
struct Server {
    pidfd: OwnedFd,
}

impl FileServers {
    /// Whether there is one for a machine, or was since its start.
    pub(super) fn have(&self, owner: &ContainerId) -> bool {
        self.0.lock().contains_key(owner)
    }

    /// Whether what the keeper holds is known to be one of a machine that has not ended.
    pub(super) fn know(&self, entry: &EntryInfo) -> bool {
        let Some((owner, id)) = parse(&entry.id) else { return false };
        let of_it = self.all().into_iter().find(|(other, _)| other.as_str() == owner);
        of_it.is_some_and(|(_, servers)| servers.lock().contains_key(&id))
    }

    /// Those of a machine, for one who begins one or has something mounted there.
    fn of(&self, owner: &ContainerId) -> Arc<Mutex<Servers>> {
        Arc::clone(self.0.lock().entry(owner.clone()).or_default())
    }

    /// All of them.
    fn all(&self) -> Vec<(ContainerId, Arc<Mutex<Servers>>)> {
        self.0.lock().iter().map(|(owner, servers)| (owner.clone(), Arc::clone(servers))).collect()
    }
}

/// What the keeper calls one.
fn name(owner: &ContainerId, id: FileServerId) -> String {
    format!("{owner}{NAME}{:08x}", id.0)
}

/// Whose it is, and which, by that name.
fn parse(name: &str) -> Option<(&str, FileServerId)> {
    let (owner, number) = name.split_once(NAME)?;
    Some((owner, FileServerId(u32::from_str_radix(number, 16).ok()?)))
}

/// Ends those that a machine is not connected with.
fn end_others(servers: &mut Servers, serves: Option<FileServerId>) {
    servers.retain(|id, server| {
        let stays = serves == Some(*id);
        if !stays {
            // One that has ended is as good.
            let _ = pidfd_send_signal(&server.pidfd, Signal::KILL);
        }
        stays
    });
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
        let (server, machine) = self.server_of(owner)?;
        // Beside others: one whose file system is slow holds up nobody.
        let mounted = sandbox::mount_in(server.pidfd.as_fd(), &self.places(&owner.id), volumes.mounts(), trees);
        mounted.map_err(|error| Error::system(format!("{}: {error}", crate::link::STEPS)).with_exit_code(128))?;
        Ok(machine)
    }

    /// What serves volumes in a machine, begun if need be, and the connection for which it stays.
    fn server_of(&self, owner: &ContainerRecord) -> Result<(Arc<Server>, Connection)> {
        let servers = self.0.file_servers.of(&owner.id);
        // Of all that come at the same time one begins it.
        let mut servers = servers.lock();
        let mut machine = self.machine_connection(&owner.id)?;
        let serves = machine.keep_files().map_err(|error| Error::system(error.to_string()))?;
        end_others(&mut servers, serves);
        let server = match serves {
            Some(id) => servers.get(&id).cloned().ok_or_else(|| {
                let why = "nobody knows what serves volumes in the microVM of container";
                Error::conflict(format!("{why} {}: restart it", owner.name))
            })?,
            None => {
                let (id, server) = self.begin_server(owner, &mut machine)?;
                let server = Arc::new(server);
                servers.insert(id, Arc::clone(&server));
                server
            }
        };
        Ok((server, machine))
    }

    /// Begins a process that serves what is mounted in the places of a machine, and connects it with that.
    fn begin_server(&self, owner: &ContainerRecord, machine: &mut Connection) -> Result<(FileServerId, Server)> {
        let id = FileServerId(rand::random());
        let name = name(&owner.id, id);
        let socket = self.machine_dir(&owner.id).join("files");
        let call = self.file_server_call(owner, name.clone(), &socket)?;
        let created = async { self.keeper().await?.call(call).await.map_err(crate::keeper_error) };
        let runtime = tokio::runtime::Handle::current();
        let pid = runtime.block_on(created)?.pid;
        let connected = Server::of_process(pid).and_then(|server| {
            let path = socket.join(microvm::files::SOCKET);
            let connection = UnixStream::connect(&path);
            let connection =
                connection.map_err(|error| Error::step(format!("connect to {}", path.display()), error))?;
            let plugged = machine.files(id, connection.as_fd()).map_err(|error| Error::system(error.to_string()))?;
            plugged.map_err(not_so).map(|()| (id, server))
        });
        if connected.is_err() {
            // Nobody has a connection to it.
            let kill = keeper::protocol::Request::Signal { id: name, signal: super::stop::SIGKILL };
            let _ = runtime.block_on(async { self.keeper().await?.call(kill).await.map_err(crate::keeper_error) });
        }
        connected
    }

    /// How the keeper is to start it, with places in which nothing is.
    fn file_server_call(&self, owner: &ContainerRecord, name: String, socket: &Path) -> Result<Create> {
        let (directory, places) = (self.machine_dir(&owner.id), self.places(&owner.id));
        for made in [&*places, socket] {
            // What an earlier one has left is mounted nowhere any more.
            let _ = fs::remove_dir_all(made);
            fs::create_dir(made).map_err(|error| Error::step(format!("make {}", made.display()), error))?;
        }
        let host = ServerHost { program: self.0.config.program.clone(), volumes: places, socket: socket.to_owned() };
        let spec = microvm::container::serving(&host).map_err(refused)?;
        let options = CompileOptions {
            rootfs: Some(RootFs::Path(directory.join("root"))),
            cgroup: Some(self.0.placements.placement(owner)?),
            program_reports: true,
            ..CompileOptions::default()
        };
        let plan = InitPlan::compile(&spec, &directory, &options).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Create {
            id: name,
            plan: plan.to_bytes().map_err(|error| Error::system(error.to_string()))?,
            plan_descriptors: Vec::new(),
            stdio: Stdio::Pipes { stdin: false, stdin_once: false },
            log: LogConfig::None,
            attach: Vec::new(),
            recovery: Recovery { cgroups: Vec::new() },
            start: true,
            bound: false,
        })
    }

    /// Takes away what a container had mounted that is gone from a machine.
    pub(super) fn leave_volumes(&self, within: &Within) {
        let places = self.places(&within.owner);
        numbered(&places).filter(|(number, _)| *number == within.number).for_each(|(_, place)| remove_place(&place));
    }

    /// Takes what the keeper holds for the machine of a container that runs for one of its servers, if it is one: from now on it is known.
    pub(super) fn adopt_file_server(&self, entry: &EntryInfo) {
        let Some((owner, id)) = parse(&entry.id) else { return };
        let Some(owner) = self.0.containers.by_id(owner) else { return };
        if entry.state != Held::Running || !owner.record().state.phase.is_live() {
            return;
        }
        // One that has ended meanwhile serves nobody.
        if let Ok(server) = Server::of_process(entry.pid) {
            self.0.file_servers.of(&owner.id).lock().insert(id, Arc::new(server));
        }
    }

    /// Forgets what served the machine of a container that has ended.
    pub(super) fn forget_file_server(&self, owner: &ContainerId) {
        self.0.file_servers.0.lock().remove(owner);
    }

    /// Takes away what a daemon has left that was killed in the middle of a start: what was mounted for one that did not come, and servers that no machine is connected with. Blocks.
    pub(super) fn sweep_member_volumes(&self) {
        for (owner, servers) in self.0.file_servers.all() {
            let places = self.places(&owner);
            let found: Vec<_> = numbered(&places).collect();
            // After that: whoever comes is known before anything is mounted for it.
            let live = self.numbers_within(&owner);
            for (_, place) in found.iter().filter(|(number, _)| !live.contains(number)) {
                tracing::info!(place = %place.display(), "taking a volume out of a microVM, whose container is not there");
                remove_place(place);
            }
            let mut servers = servers.lock();
            let asked = self
                .patient_connection(&owner, SAYS_WITHIN)
                .and_then(|mut machine| machine.keep_files().map_err(|error| Error::system(error.to_string())));
            match asked {
                Ok(serves) => end_others(&mut servers, serves),
                // The next one that comes asks again.
                Err(error) => {
                    tracing::debug!(machine = %owner.short(), %error, "it does not say what serves volumes in it")
                }
            }
        }
    }

    /// The numbers of containers that are in a machine, or are about to come.
    fn numbers_within(&self, owner: &ContainerId) -> BTreeSet<u32> {
        let mut numbers = self.0.guests.lock().numbers(owner);
        let records = self.0.containers.all().into_iter().map(|container| container.record());
        let live = records.filter(|record| record.state.phase.is_live());
        numbers.extend(
            live.filter_map(|record| record.state.within.clone())
                .filter(|within| within.owner == *owner)
                .map(|within| within.number),
        );
        numbers
    }

    /// The directory that the process sees which serves the machine of a container.
    fn places(&self, owner: &ContainerId) -> PathBuf {
        self.machine_dir(owner).join("volumes")
    }
}

/// Places for volumes, each with the number of its container.
fn numbered(places: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = fs::read_dir(places).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.split_once('.')?.0.parse().ok()?;
        Some((number, entry.path()))
    })
}

fn remove_place(place: &Path) {
    match fs::remove_dir(place).or_else(|_| fs::remove_file(place)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(place = %place.display(), %error, "could not take a volume out of a microVM");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_name() {
        let owner = ContainerRecord::sample().id;
        let name = name(&owner, FileServerId(0xa));
        assert_eq!(parse(&name), Some((owner.as_str(), FileServerId(0xa))));
        assert_eq!(parse(owner.as_str()), None);
        assert_eq!(parse(&format!("{owner}{NAME}another")), None);
    }
}
