//! `start`: a record becomes a running process.
//!
//! Everything that blocks (addresses, files, cgroups, the plan) happens in one step on a thread where blocking is
//! allowed; then one request to the keeper clones and executes, and answers when the program runs. The record is written
//! meanwhile, before anybody knows whether that comes about: it keeps what the state was before, and a daemon that was killed
//! in this moment asks the keeper what became of it. A program that waits for its network is recorded once it runs; of one
//! that no record knows, recovery makes an end, as nobody was told that it runs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use keeper::client::{Create, Start};
use keeper::protocol::{Recovery, Request, Stdio, TerminalSize};
use microvm::control::Connection;
use oci_spec::runtime::Spec;
use sandbox::plan::NamespaceKind;
use sandbox::{CompileOptions, InitPlan};

use super::attach::Pending;
use super::links::Link;
use super::machine::{Booted, MachineStart};
use super::step::Lent;
use super::stop::SIGKILL;
use super::template::{Failed, Templates, Wanted};
use super::{Container, Life};
use crate::model::{BeforeStart, ContainerRecord, NetworkMode, Phase, Timestamp, UsernsMode, Within};
use crate::networks::Joined;
use crate::spec::{Identity, SpecContext};
use crate::templates::Template;
use crate::{Engine, Error, Result, Room};

/// What a start made ahead of the process, and what must be taken back if there will be none.
struct Prepared {
    plan: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    net: Option<net::Sandbox>,
    recovery: Recovery,
    log: keeper::protocol::LogConfig,
    /// The program starts at once; else it waits for its network.
    start: bool,
    /// What its machine goes on from, if that is a template.
    template: Option<Arc<Template>>,
    /// The template to be made once its machine runs, if there is one to be made.
    wanted: Option<Box<Wanted>>,
    /// The machine of another container that it comes into.
    within: Option<Within>,
    /// Where what its machine touches is to be kept ([`super::touched`]).
    untold: Option<PathBuf>,
    /// What keeps its volumes served in the machine that it comes into, until it is there.
    keeps: Option<Connection>,
}

impl Engine {
    /// Starts a container. When it returns, its program runs.
    pub async fn start(&self, reference: &str) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        match life.record().state.phase {
            Phase::Running => return Err(Error::not_modified("container already started")),
            Phase::Paused => {
                return Err(Error::conflict("cannot start a paused container, try unpause instead"));
            }
            Phase::Removing | Phase::Dead => return Err(doomed()),
            Phase::Created | Phase::Exited | Phase::Due | Phase::Restarting => {}
        }
        if life.is_doomed() {
            return Err(doomed());
        }
        life.files.settle(&life).await?;
        let _disk = self.take_disk(&life).await?;
        life.abort_tasks();
        let started = self.start_locked(&life, true).await;
        // What is suspended is not lost where it can't go on at the moment.
        if started.is_err() && life.record().host.auto_remove && life.record().state.suspended.is_none() {
            self.remove_locked(life, false).await?;
        }
        started
    }

    /// Starts a container. `by_hand`: not by its restart policy.
    pub(super) async fn start_locked(&self, life: &Life<'_>, by_hand: bool) -> Result<()> {
        let container = life.container();
        let started = self.run(life, by_hand).await;
        self.0.tally.started(started.is_ok());
        match started {
            Ok(record) => {
                self.begin_count(&record);
                self.tell_networks(&record, "connect");
                self.tell_mounts(&record, "mount");
                self.tell_container(&record, "start", []);
                self.join_pending(container).await;
                self.watch_health(container);
                self.machine_has_come(container);
                Ok(())
            }
            Err(error) => {
                container.pending.lock().clear();
                let code = error.exit_code().unwrap_or(128);
                let text = error.to_string();
                self.note(life, None, |record| {
                    record.state.phase = if record.state.has_run { Phase::Exited } else { Phase::Created };
                    record.state.exit_code = code;
                    record.state.error.clone_from(&text);
                })
                .await;
                container.tell_exit(code, &text);
                Err(error)
            }
        }
    }

    /// The record of a run that begins now.
    fn begun(
        &self,
        record: &ContainerRecord,
        net: Option<&net::Sandbox>,
        within: Option<Within>,
        by_hand: bool,
    ) -> ContainerRecord {
        let mut record = record.clone();
        show_network(&mut record, net);
        if let Some((name, id)) = self.network_without_endpoint(&record)
            && let Some(settings) = record.networks.get_mut(&name)
        {
            settings.network_id = id;
        }
        record.net = net.cloned();
        let state = &mut record.state;
        state.phase = Phase::Running;
        state.started_at = Some(Timestamp::now());
        state.exit_code = 0;
        state.error.clear();
        state.oom_killed = false;
        state.has_run = true;
        state.origin = state.suspended.take();
        state.within = within;
        if by_hand {
            state.stopped_by_hand = false;
            state.restart_count = 0;
            state.quick_ends = 0;
        }
        super::health::begin(&mut record);
        record
    }

    /// Name and identifier of the network of a container that is on `host` or on `none`.
    fn network_without_endpoint(&self, record: &ContainerRecord) -> Option<(String, String)> {
        let name = match record.host.network_mode {
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
            _ => return None,
        };
        self.0.networks.get(name).ok().map(|network| (name.to_owned(), network.id.clone()))
    }

    async fn release_run(&self, record: Arc<ContainerRecord>, net: Option<net::Sandbox>) -> Result<()> {
        let engine = self.clone();
        crate::blocking(move || {
            engine.release(&record, net.as_ref());
            Ok(())
        })
        .await
    }

    /// Has it run. On an error nothing is left, and what is its own is what it was.
    async fn run(&self, life: &Life<'_>, by_hand: bool) -> Result<Arc<ContainerRecord>> {
        let container = life.container();
        // Who starts it by hand has taken it.
        let _disk = if by_hand { None } else { self.take_disk(container).await? };
        let record = container.record();
        let run = self.prepare_and_run(life, by_hand).await;
        if run.is_err() && record.is_machine() && record.state.suspended.is_some() {
            let engine = self.clone();
            crate::blocking(move || {
                engine.give_up_brought_back(&record);
                Ok(())
            })
            .await?;
        }
        run
    }

    /// Prepares, has the keeper run it, and writes down that it runs. On an error nothing of that is left. A machine that went on from its template and was lost before its program was asked for boots in its place.
    async fn prepare_and_run(&self, life: &Life<'_>, by_hand: bool) -> Result<Arc<ContainerRecord>> {
        let failed = match self.try_to_run(life, by_hand, None).await {
            Ok(record) => return Ok(record),
            Err(failed) => failed,
        };
        let (template, error) = failed.instead_of()?;
        if life.is_doomed() {
            return Err(error);
        }
        self.boots_instead(&template, &error);
        self.try_to_run(life, by_hand, Some((&template, &error))).await.map_err(|failed| failed.error)
    }

    async fn try_to_run(
        &self,
        life: &Life<'_>,
        by_hand: bool,
        instead_of: Option<(&Template, &Error)>,
    ) -> Result<Arc<ContainerRecord>, Failed> {
        let container = life.container();
        let record = container.record();
        let (engine, prepared_for) = (self.clone(), record.clone());
        let lent = std::mem::take(&mut *container.lent.lock());
        self.look_at_sources(container, &record).await?;
        let booted = self.booted(&record, Templates::unless(instead_of)).await?;
        let mut prepared = crate::blocking(move || engine.prepare(&prepared_for, lent, booted.as_ref())).await?;
        let (template, wanted) = (prepared.template.clone(), prepared.wanted.take());
        let untold = prepared.untold.take();
        let _keeps = prepared.keeps.take();
        let mut net = prepared.net.clone();
        let run = match prepared.start {
            true => self.run_and_record(life, prepared, by_hand).await,
            false => self.run_then_record(life, prepared, &mut net, by_hand).await,
        };
        match run {
            Ok(record) => {
                life.show(record);
                if let Some((template, error)) = instead_of {
                    self.booted_instead(template, error);
                }
                if let Some(wanted) = wanted {
                    self.make_template_beside(wanted);
                }
                if let Some(directory) = untold {
                    self.keep_touched_beside(container, directory);
                }
                Ok(life.record())
            }
            Err(error) => {
                self.release_run(record, net).await?;
                Err(Failed { error, template })
            }
        }
    }

    /// Has the keeper run it, and writes down meanwhile that it does: who looks into the store finds what was before, too.
    async fn run_and_record(&self, life: &Life<'_>, prepared: Prepared, by_hand: bool) -> Result<ContainerRecord> {
        let before = life.record();
        let mut record = self.begun(&before, prepared.net.as_ref(), prepared.within.clone(), by_hand);
        let network_ids = before.networks.iter().map(|(name, settings)| (name.clone(), settings.network_id.clone()));
        let was = BeforeStart { state: before.state.clone(), network_ids: network_ids.collect() };
        record.before_start = Some(Box::new(was));
        let recorded = self.record(&record, None, Room::Ordinary);
        let created = self.create_in_keeper(life.container(), &before, prepared);
        let (recorded, created) = tokio::join!(recorded, Box::pin(created));
        record.before_start = None;
        record.state.pid = created?;
        self.recorded_or_killed(recorded, record).await
    }

    /// Has the keeper make its process, connects that, lets its program begin, and writes it down.
    async fn run_then_record(
        &self,
        life: &Life<'_>,
        prepared: Prepared,
        net: &mut Option<net::Sandbox>,
        by_hand: bool,
    ) -> Result<ContainerRecord> {
        let before = life.record();
        let pid = self.create_in_keeper(life.container(), &before, prepared).await?;
        if let Err(error) = self.connect_and_start(&before, pid, net).await {
            self.forget(before.id.as_str()).await;
            return Err(error);
        }
        let mut record = self.begun(&before, net.as_ref(), None, by_hand);
        record.state.pid = pid;
        let recorded = self.record(&record, None, Room::Ordinary).await;
        self.recorded_or_killed(recorded, record).await
    }

    /// What runs without a record, as the disk is full, is ended again; so is what would lose what it writes, as it can't have for its own what was brought back of its snapshot.
    async fn recorded_or_killed(&self, recorded: Result<()>, record: ContainerRecord) -> Result<ContainerRecord> {
        let kept = match recorded {
            Ok(()) if record.is_machine() && record.state.origin.is_some() => {
                let (engine, record) = (self.clone(), record.clone());
                crate::blocking(move || engine.keep_brought_back(&record)).await
            }
            recorded => recorded,
        };
        if let Err(error) = kept {
            // The news of its end has the keeper forget it; it may have come by itself in this moment.
            let kill = Request::Signal { id: record.id.to_string(), signal: SIGKILL };
            let _ = self.keeper().await?.call(kill).await;
            return Err(error);
        }
        Ok(record)
    }

    /// The network namespace of a container with a user namespace belongs to that, so it is there only once the process
    /// is: then it is connected, and the program starts. `net` is what was made, also on an error: the caller releases it.
    async fn connect_and_start(
        &self,
        record: &Arc<ContainerRecord>,
        pid: u32,
        net: &mut Option<net::Sandbox>,
    ) -> Result<()> {
        let (engine, connected) = (self.clone(), record.clone());
        let (namespace, made) = crate::blocking(move || {
            let namespace = net::NetNs::of_process(pid).map_err(crate::networks::error)?;
            let made = engine.network_in(&namespace, &connected)?;
            Ok((namespace, made))
        })
        .await?;
        *net = Some(made.clone());
        let (engine, connected) = (self.clone(), record.clone());
        crate::blocking(move || {
            engine.write_files(&connected, Some(&made))?;
            engine.attach_dns(&connected, Some(&made), namespace);
            Ok(())
        })
        .await?;
        self.keeper().await?.call(Start { id: record.id.to_string() }).await.map(drop).map_err(crate::keeper_error)
    }

    async fn create_in_keeper(
        &self,
        container: &Arc<Container>,
        record: &ContainerRecord,
        prepared: Prepared,
    ) -> Result<u32> {
        let keeper = self.keeper().await?;
        let pending = std::mem::take(&mut *container.pending.lock());
        // For who boots in its place, should it not go on.
        let kept = pending.iter().filter(|_| prepared.template.is_some()).map(Pending::try_clone);
        // Nothing else needs them: no start is to fail for want of descriptors.
        let kept: Vec<_> = kept.filter_map(Result::ok).collect();
        let (attach, inputs): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .map(|pending| ((pending.wanted, pending.sink), (pending.wanted.stdin, pending.input)))
            .unzip();
        let call = Create {
            id: container.id.to_string(),
            plan: prepared.plan,
            plan_descriptors: prepared.descriptors,
            stdio: stdio(record),
            log: prepared.log,
            attach,
            recovery: prepared.recovery,
            start: prepared.start,
            bound: record.step,
        };
        let created = keeper.call(call).await.map_err(|error| {
            let error = crate::keeper_error(error);
            if error.may_be_of_saved() {
                container.pending.lock().extend(kept);
            }
            error
        })?;
        for warning in created.warnings {
            tracing::warn!(container = %container.id.short(), warning, "started with less than was asked");
        }
        if let Some(descriptor) = created.stdin {
            let descriptor = self.watched_or_killed(container.id.as_str(), descriptor).await?;
            for (_, input) in inputs.into_iter().filter(|(wants, _)| *wants) {
                input.send_replace(Some(descriptor.clone()));
            }
        }
        Ok(created.pid)
    }

    /// Attachments that came while the container was being started.
    async fn join_pending(&self, container: &Arc<Container>) {
        let late = std::mem::take(&mut *container.pending.lock());
        for pending in late {
            if let Err(error) = self.join_running(container.id.as_str(), pending).await {
                tracing::warn!(container = %container.id.short(), %error, "could not attach");
            }
        }
    }

    /// Volumes, network, files, cgroup and plan. On an error nothing is left.
    fn prepare(&self, record: &ContainerRecord, lent: Lent, machine: Option<&Booted>) -> Result<Prepared> {
        let sources = self.acquire_volumes(record)?;
        let network = match self.network_of(record) {
            Ok(network) => network,
            Err(error) => {
                self.release_volumes(record);
                return Err(error);
            }
        };
        let (namespace, net) = network.unzip();
        let prepared = self.prepare_rest(record, namespace, net.clone(), sources, lent, machine);
        if prepared.is_err() {
            self.release(record, net.as_ref());
        }
        prepared
    }

    fn prepare_rest(
        &self,
        record: &ContainerRecord,
        namespace: Option<net::NetNs>,
        net: Option<net::Sandbox>,
        sources: BTreeMap<String, String>,
        lent: Lent,
        machine: Option<&Booted>,
    ) -> Result<Prepared> {
        self.write_files(record, net.as_ref())?;
        let start = !connects_late(record);
        if record.argv().first().is_some_and(String::is_empty) {
            return Err(crate::link::no_program(crate::link::STEPS));
        }
        let identity = self.identify(record, &record.config.user, &record.host.group_add)?;
        let trees = self.mount_trees(record, &sources)?;
        let links = self.links_of(record)?.iter().flat_map(Link::environment).collect();
        let mut joined = self.joined_namespaces(record)?;
        let namespaces = std::mem::take(&mut joined.descriptors);
        let mut spec = self.spec_of(record, &identity, joined, sources, links)?;
        let log = self.log_config(record)?;
        if let Some(booted) = machine {
            if let Some(namespace) = &namespace {
                self.attach_dns(record, net.as_ref(), namespace.try_clone().map_err(crate::networks::error)?);
            }
            let machine = match self.comes_into(record)? {
                Some(owner) => self.member_start(record, &owner, &spec, trees, booted)?,
                None => self.machine_start(record, &spec, trees, booted, namespace.zip(net.as_ref()))?,
            };
            let recovery = Recovery { cgroups: machine.directories };
            let MachineStart { plan, descriptors, template, wanted, within, untold, keeps, .. } = machine;
            return Ok(Prepared {
                plan,
                descriptors,
                net,
                recovery,
                log,
                start,
                template,
                wanted,
                within,
                untold,
                keeps,
            });
        }
        let cgroup = self.0.placements.create(record, &spec)?;
        let mut options = CompileOptions {
            rootfs: Some(self.root_file_system(&record.id)?),
            cgroup: Some(cgroup.placement),
            init: record.host.init.unwrap_or(self.0.config.init),
            wait_for_start: !start,
            seccomp: crate::spec::default_filter(record)?,
            trees,
            ..CompileOptions::default()
        };
        let mut descriptors = Vec::new();
        for (slot, (kind, namespace)) in (0..).zip(namespaces) {
            options.namespace_fds.push((kind, slot));
            descriptors.push(namespace);
        }
        if let Some(namespace) = namespace {
            let slot = u8::try_from(descriptors.len()).map_err(|error| Error::system(error.to_string()))?;
            options.namespace_fds.push((NamespaceKind::Network, slot));
            let copy = namespace.try_clone().map_err(crate::networks::error)?;
            self.attach_dns(record, net.as_ref(), copy);
            descriptors.push(namespace.into());
        }
        lent.add_to(&mut spec, &mut options, &mut descriptors)?;
        let bundle = self.0.config.run_dir.join("bundle");
        let plan = InitPlan::compile(&spec, &bundle, &options).map_err(|error| Error::invalid(error.to_string()))?;
        // Here, where nobody waits for a file system that hangs but who wants this one started.
        let opened = sandbox::open_trees(&plan);
        descriptors.extend(
            opened.map_err(|error| Error::system(format!("{}: {error}", crate::link::STEPS)).with_exit_code(128))?,
        );
        let plan = plan.to_bytes().map_err(|error| Error::system(error.to_string()))?;
        let recovery = Recovery { cgroups: cgroup.directories };
        let (template, wanted, within, untold, keeps) = (None, None, None, None, None);
        Ok(Prepared { plan, descriptors, net, recovery, log, start, template, wanted, within, untold, keeps })
    }

    fn spec_of(
        &self,
        record: &ContainerRecord,
        identity: &Identity,
        joined: Joined,
        sources: BTreeMap<String, String>,
        links: Vec<String>,
    ) -> Result<Spec> {
        let context = SpecContext {
            cgroup: &self.0.placements.path(record),
            network_namespace: joined.network.as_deref(),
            joins_host_network: record.host.network_mode == NetworkMode::Host,
            ipc_namespace: joined.ipc,
            pid_namespace: joined.pid,
            user_namespace: (record.host.userns_mode == UsernsMode::Private).then(crate::system::id_range),
            files: &self.container_files(record),
            shared_shm: joined.shm.as_deref(),
            sources,
            links,
            identity,
            apparmor: self.0.confinement.profile(record, record.host.privileged)?,
            pure_cgroup_v2: self.0.placements.is_pure_v2(),
        };
        crate::spec::build(record, &context)
    }

    /// The specification of a container that runs, for a further process in it: made anew from the record, as keeping
    /// it would cost every container 20 KB. Namespaces of others, which it joined at its start, are its own by now.
    pub(super) fn spec_of_running(&self, record: &ContainerRecord, identity: &Identity) -> Result<Spec> {
        self.spec_of(record, identity, Joined::default(), BTreeMap::new(), Vec::new())
    }

    /// Takes back what belongs to a run: network, cgroup, volumes. Never fails: what can't be taken back is told.
    pub(super) fn release(&self, record: &ContainerRecord, net: Option<&net::Sandbox>) {
        self.remove_cgroup(record);
        self.release_shared(record, net);
    }

    /// Takes back what other containers may wait for: network and volumes.
    pub(super) fn release_shared(&self, record: &ContainerRecord, net: Option<&net::Sandbox>) {
        self.detach_dns(&record.id);
        let gone = self.0.guests.lock().goes(&record.id).or_else(|| record.state.within.clone());
        gone.iter().for_each(|within| self.leave_volumes(within));
        self.forget_file_server(&record.id);
        self.remove_machine(record);
        if let Some(net) = net
            && let Err(error) = self.0.networks.tear_down(net)
        {
            tracing::warn!(container = %record.id.short(), %error, "could not take back its network");
        }
        self.release_volumes(record);
    }

    /// Removes a container's cgroup, after the end of what is left in it.
    pub(super) fn remove_cgroup(&self, record: &ContainerRecord) {
        if let Err(error) = self.0.placements.remove(record) {
            tracing::warn!(container = %record.id.short(), %error, "could not remove its cgroup");
        }
    }
}

fn doomed() -> Error {
    Error::conflict("container is marked for removal and cannot be started")
}

/// A terminal's size is that of the user's window where the client told it.
fn stdio(record: &ContainerRecord) -> Stdio {
    if record.config.tty {
        let (rows, columns) = record.host.console_size.unwrap_or_default();
        return Stdio::Terminal { size: TerminalSize { rows, columns } };
    }
    Stdio::Pipes { stdin: record.config.open_stdin, stdin_once: record.config.stdin_once }
}

/// Puts what the network gave into the record, where clients read it; `None` takes it out.
pub(super) fn show_network(record: &mut ContainerRecord, net: Option<&net::Sandbox>) {
    for settings in record.networks.values_mut() {
        *settings = crate::model::EndpointSettings {
            request: std::mem::take(&mut settings.request),
            network_id: std::mem::take(&mut settings.network_id),
            ..Default::default()
        };
    }
    record.ports.clear();
    let Some(net) = net else { return };
    for endpoint in &net.endpoints {
        let known = record.networks.iter_mut().find(|(name, own)| crate::networks::is_of(endpoint, name, own));
        if let Some((_, settings)) = known {
            crate::networks::fill(settings, endpoint, &record.id, &record.name);
        }
    }
    for port in &net.ports {
        let key = crate::networks::exposed(port);
        let binding = crate::model::PortBinding {
            host_ip: Some(port.host.ip()),
            host_ports: Some((port.host.port(), port.host.port())),
        };
        record.ports.entry(key).or_default().push(binding);
    }
}

/// Whether the network namespace is made with the process, and connected after it.
pub(crate) fn connects_late(record: &ContainerRecord) -> bool {
    let own = !matches!(record.host.network_mode, NetworkMode::Host | NetworkMode::Container(_));
    own && record.host.userns_mode == UsernsMode::Private
}
