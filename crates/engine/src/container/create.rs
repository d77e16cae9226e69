//! `create`: a request becomes a record, with a root file system and volumes, and nothing runs yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::mount_points::MountPoints;
use super::registry::NameReservation;
use super::{Container, merge, names, validate};
use crate::events::EventKind;
use crate::images::{ResolvedImage, Unfinished};
use crate::model::{
    CgroupNamespace, ContainerConfig, ContainerId, ContainerRecord, EndpointRequest, EndpointSettings, HostConfig,
    IpcMode, MountPoint, NetworkMode, PidMode, State, Timestamp, UtsMode,
};
use crate::{Engine, Error, Result, Volume};

/// A container to be made.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// Its name; `None`: a new one.
    pub name: Option<String>,
    /// Platform of the image, `os/arch[/variant]`.
    pub platform: Option<String>,
    /// What runs.
    pub config: ContainerConfig,
    /// How it runs here.
    pub host: HostConfig,
    /// What is asked of its endpoints, by network.
    pub endpoints: BTreeMap<String, EndpointRequest>,
    /// An image that is being built, which the container is made of instead of the one that `config` names.
    pub unfinished: Option<Unfinished>,
    /// The identifier of its image, where that is more than what `config` calls it.
    pub image: Option<String>,
    /// Where it is to begin: a copy goes on from a snapshot.
    pub state: State,
    /// What it is made for ([`ContainerRecord::purpose`]).
    pub purpose: Option<String>,
    /// The mount points of another container, which it shares, in place of those that it would have.
    pub mounts: Option<Vec<MountPoint>>,
}

/// A container that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its identifier.
    pub id: ContainerId,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes a container. When it returns, the container is in the store.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        let CreateRequest {
            name,
            platform,
            mut config,
            mut host,
            endpoints,
            unfinished,
            image,
            state,
            purpose,
            mounts,
        } = request;
        let id = ContainerId::random();
        let reservation = self.reserve_name(name.as_deref(), &id)?;
        if config.image.is_empty() {
            return Err(Error::invalid("no image specified: name the image to run"));
        }
        let unfinished = unfinished.as_ref();
        let image = match unfinished {
            Some(unfinished) => unfinished.into(),
            None => {
                let image = image.as_deref().unwrap_or(&config.image);
                self.resolve_image(image, platform.as_deref()).await?
            }
        };
        merge::merge(&mut config, &image.run)?;
        let mut warnings = super::adapt::adapt(&mut host.resources, self.0.placements.limits())?;
        warnings.extend(super::adapt::unkept_oom_score(host.oom_score_adj));
        validate::container(&config, &host)?;
        validate::storage(&host, crate::system::filesystem(&self.0.config.data_dir))?;
        for link in &host.links {
            let name = link.split(':').next().unwrap_or_default();
            // Not found would tell clients that the image is not there.
            let missing = |error| Error::invalid(format!("could not get container for {name}: {error}"));
            self.0.containers.find(name).map_err(missing)?;
        }
        // A name may be given away again; an identifier is for ever.
        if let NetworkMode::Container(shared) = &host.network_mode
            && let Ok(shared) = self.0.containers.find(shared)
        {
            let shared = shared.record();
            host.network_mode = NetworkMode::Container(shared.id.to_string());
            config.hostname.clone_from(&shared.config.hostname);
            config.domainname.clone_from(&shared.config.domainname);
        }
        let mut record = self.new_record(&id, reservation.name(), config, host, endpoints, &image)?;
        record.state = state;
        record.purpose = purpose;
        if record.argv().is_empty() {
            return Err(Error::invalid("no command specified"));
        }
        super::logging::check(&record.host.log)?;
        let mounts = match mounts {
            Some(points) => self.shared_mount_points(&id, points),
            None => self.mount_points_of(&record, unfinished).await?,
        };
        record.mounts.clone_from(&mounts.points);
        if let Err(error) = self.make(&record, (&image, unfinished), &mounts.new_volumes, reservation).await {
            let engine = self.clone();
            crate::blocking(move || {
                engine.drop_volumes(mounts);
                Ok(())
            })
            .await?;
            return Err(error);
        }
        for volume in &mounts.new_volumes {
            let attributes = BTreeMap::from([("driver".to_owned(), volume.driver.clone())]);
            self.0.events.tell(EventKind::Volume, "create", &volume.name, attributes);
        }
        self.tell_container(&record, "create", []);
        Ok(Created { id, warnings })
    }

    /// Writes down what a container is for from now on ([`ContainerRecord::purpose`]).
    ///
    /// # Errors
    /// There is no such container, or the disk is full.
    pub async fn set_purpose(&self, reference: &str, purpose: String) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        self.change(&life, |record| record.purpose = Some(purpose)).await?;
        Ok(())
    }

    async fn mount_points_of(&self, record: &ContainerRecord, unfinished: Option<&Unfinished>) -> Result<MountPoints> {
        let ContainerRecord { config, host, .. } = record;
        let asked = !(host.volumes_from.is_empty()
            && host.binds.is_empty()
            && host.mounts.is_empty()
            && host.tmpfs.is_empty()
            && config.volumes.is_empty());
        if !asked {
            return Ok(MountPoints::none(&record.id));
        }
        let (engine, id, config, host) = (self.clone(), record.id.clone(), config.clone(), host.clone());
        let unfinished = unfinished.cloned();
        crate::blocking(move || engine.mount_points(&id, &config, &host, unfinished.as_ref())).await
    }

    /// Directories and record; the name's reservation is kept when all is there.
    async fn make(
        &self,
        record: &ContainerRecord,
        (image, unfinished): (&ResolvedImage, Option<&Unfinished>),
        new_volumes: &[Volume],
        reservation: NameReservation<'_>,
    ) -> Result<()> {
        let (engine, id, base) = (self.clone(), record.id.clone(), image.base.clone());
        let mounted: Vec<_> =
            crate::images::mounted_images(record).map(|id| Unfinished::mounted(unfinished, id)).collect();
        let rootfs = crate::blocking(move || {
            engine.0.images.begin_rootfs(id.as_str(), &base, &mounted).map_err(crate::images::error)
        })
        .await?;
        self.fill_volumes(record, new_volumes).await?;
        self.put_record(record, &rootfs, new_volumes).await?;
        rootfs.keep();
        self.0.containers.insert(Arc::new(Container::new(record.clone())));
        reservation.keep();
        Ok(())
    }

    fn reserve_name(&self, wanted: Option<&str>, id: &ContainerId) -> Result<NameReservation<'_>> {
        if let Some(wanted) = wanted.filter(|name| !name.is_empty()) {
            return self.0.containers.reserve(names::check(wanted)?, id);
        }
        let mut attempt = 0;
        loop {
            match self.0.containers.reserve(&names::random(attempt), id) {
                Ok(reservation) => return Ok(reservation),
                Err(error) if attempt >= 20 => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    fn new_record(
        &self,
        id: &ContainerId,
        name: &str,
        config: ContainerConfig,
        host: HostConfig,
        endpoints: BTreeMap<String, EndpointRequest>,
        image: &ResolvedImage,
    ) -> Result<ContainerRecord> {
        let mut record = ContainerRecord {
            id: id.clone(),
            name: name.to_owned(),
            created: Timestamp::now(),
            image_id: image.base.image().map(ToString::to_string).unwrap_or_default(),
            image_manifest: image.manifest.clone(),
            platform: "linux".to_owned(),
            networks: networks(&config, &host, endpoints)?,
            config,
            host,
            mounts: Vec::new(),
            ports: BTreeMap::new(),
            net: None,
            connecting: false,
            step: matches!(image.base, image::Base::Layers { .. }),
            state: State::default(),
            before_start: None,
            purpose: None,
        };
        self.apply_defaults(&mut record);
        Ok(record)
    }

    /// What the client left open, as dockerd fills it in and shows it.
    fn apply_defaults(&self, record: &mut ContainerRecord) {
        let daemon = &self.0.config;
        let shares_network = matches!(record.host.network_mode, NetworkMode::Container(_));
        if record.config.hostname.is_empty() && !shares_network {
            record.config.hostname = match (record.host.uts_mode, &record.host.network_mode) {
                (UtsMode::Host, _) | (_, NetworkMode::Host) => crate::system::host_name(),
                _ => record.id.short().to_owned(),
            };
        }
        if record.host.network_mode == NetworkMode::Default {
            record.host.network_mode = NetworkMode::Bridge;
        }
        let host = &mut record.host;
        if host.log.driver.is_empty() {
            host.log.driver.clone_from(&daemon.log.driver);
        }
        if host.log.driver == daemon.log.driver {
            for (name, value) in &daemon.log.options {
                host.log.options.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        if host.cgroup_namespace == CgroupNamespace::Default {
            let private = self.0.placements.is_pure_v2() && !host.privileged;
            host.cgroup_namespace = if private { CgroupNamespace::Private } else { CgroupNamespace::Host };
        }
        if host.resources.oom_kill_disable.is_none() && !self.0.placements.is_pure_v2() {
            host.resources.oom_kill_disable = Some(false);
        }
        if host.shm_size == 0 && host.ipc_mode != IpcMode::Host {
            host.shm_size = crate::spec::SHM_SIZE;
        }
        if host.runtime.is_empty() {
            // A step of a build is no container that somebody asked for, and `--isolation` says it, too.
            let says = record.step || !matches!(host.isolation.as_str(), "" | "default");
            host.runtime = if says { crate::DEFAULT_RUNTIME.to_owned() } else { daemon.runtime.clone() };
        }
        let resources = &mut host.resources;
        if resources.memory > 0 && resources.memory_swap == 0 {
            resources.memory_swap = resources.memory.saturating_mul(2);
        }
        for default in &daemon.ulimits {
            if !resources.ulimits.iter().any(|own| own.name == default.name) {
                resources.ulimits.push(default.clone());
            }
        }
        if host.masked_paths.is_none() && !host.privileged {
            host.masked_paths = Some(crate::spec::masked_paths());
        }
        if host.readonly_paths.is_none() && !host.privileged {
            host.readonly_paths = Some(crate::spec::READONLY_PATHS.map(str::to_owned).to_vec());
        }
        let open = host.privileged || host.pid_mode == PidMode::Host || host.ipc_mode == IpcMode::Host;
        if open && !host.security_opt.iter().any(|option| option.starts_with("label")) {
            host.security_opt.push("label=disable".to_owned());
        }
        let unconfined = crate::spec::SecurityOptions::parse(&host.security_opt)
            .is_ok_and(|security| security.system_paths_unconfined);
        if unconfined {
            host.masked_paths = Some(Vec::new());
            host.readonly_paths = Some(Vec::new());
        }
    }
}

/// The networks that the container will be on: that of its mode, and those that the client named besides.
fn networks(
    config: &ContainerConfig,
    host: &HostConfig,
    mut endpoints: BTreeMap<String, EndpointRequest>,
) -> Result<BTreeMap<String, EndpointSettings>> {
    let first = match &host.network_mode {
        NetworkMode::Default | NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(_) => {
            if let Some(name) = endpoints.keys().next() {
                return Err(Error::invalid(format!(
                    "conflicting options: cannot attach to network {name} and share another container's"
                )));
            }
            return Ok(BTreeMap::new());
        }
        NetworkMode::Network(name) => name.clone(),
    };
    if let Some(default) = endpoints.remove("default") {
        endpoints.entry(first.clone()).or_insert(default);
    }
    let user_defined = matches!(host.network_mode, NetworkMode::Network(_));
    let own = endpoints.entry(first).or_default();
    if own.mac.is_none() {
        own.mac.clone_from(&config.mac_address);
    }
    if !user_defined && (own.ipv4.is_some() || own.ipv6.is_some()) {
        return Err(Error::invalid("user specified IP address is supported on user defined networks only"));
    }
    if !user_defined && !own.aliases.is_empty() {
        return Err(Error::invalid("network-scoped aliases are only supported for user-defined networks"));
    }
    if user_defined {
        own.links.extend(host.links.iter().filter(|link| !own.links.contains(link)).cloned().collect::<Vec<_>>());
    }
    let settings = |request| EndpointSettings { request, ..EndpointSettings::default() };
    Ok(endpoints.into_iter().map(|(name, request)| (name, settings(request))).collect())
}
