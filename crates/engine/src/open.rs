//! The engine's start: every part is opened, and what runs is taken up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::registry::Registries;
use image::{Images, ImagesConfig, Platform, UnpackLimits};
use store::{Collection, Store};

use crate::apparmor::Confinement;
use crate::container::{Container, Execs, Placements, Registry};
use crate::machine_images::MachineImages;
use crate::machine_program::MachineProgram;
use crate::metering::Metering;
use crate::model::ContainerRecord;
use crate::snapshots::Snapshots;
use crate::templates::Templates;
use crate::volumes::Volumes;
use crate::{Engine, EngineConfig, Error, Events, Inner, Result, names_service};

/// Where a data directory has its store.
pub(crate) fn store_file(data_dir: &Path) -> PathBuf {
    data_dir.join("stratus.db")
}

impl Engine {
    /// Opens the data directory and takes up what runs. Must be called within a tokio runtime.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        let engine = crate::blocking(move || Self::open_parts(config)).await?;
        engine.prepare_confinement();
        engine.recover().await?;
        // Who is killed before has its policies to begin yet, and so has the next one.
        mark_boot(&engine.0.config.run_dir)?;
        tokio::spawn(engine.clone().meter_for_ever());
        tokio::spawn(engine.clone().forget_old_execs());
        // It takes some milliseconds, which nobody has to wait for who wants no machine.
        let looking = engine.clone();
        tokio::task::spawn_blocking(move || match looking.driver_of_machines() {
            Err(lack) if lack.is_of_what_was_asked_for() => tracing::warn!("{lack}"),
            _ => {}
        });
        Ok(engine)
    }

    /// Beside the rest of the start: who starts a container before that is done waits for it.
    fn prepare_confinement(&self) {
        let engine = self.clone();
        if self.0.confinement.is_there() {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = engine.0.confinement.load_default() {
                    tracing::error!(%error, "containers can't be confined by AppArmor");
                }
            });
        }
    }

    fn open_parts(config: EngineConfig) -> Result<Self> {
        for directory in [config.data_dir.clone(), config.run_dir.join("bundle/rootfs")] {
            make(&directory)?;
        }
        let store = Store::open(store_file(&config.data_dir)).map_err(|error| Error::system(error.to_string()))?;
        let records: Collection<ContainerRecord> = Collection::new(&store, "container/");
        let listed = records.list().map_err(|error| Error::step("read the containers", error))?;
        let containers = Registry::default();
        let mut running = Vec::new();
        for item in listed.items {
            if item.value.state.phase.is_live() {
                running.extend(item.value.net.clone());
            }
            containers.insert(Arc::new(Container::new(item.value)));
        }
        // Its program starts beside what follows. Not before the store was found good: where that is refused, everything
        // stays as it is.
        let keeper = crate::link::KeeperLink::open(&config);
        let networks = net::Networks::open(net_config(&config, &store)?, running).map_err(crate::networks::error)?;
        let images = Images::open(ImagesConfig {
            root: config.data_dir.join("images"),
            rootfs: config.data_dir.join("containers"),
            store: store.clone(),
            platform: Platform::host(),
            limits: UnpackLimits::default(),
        })
        .map_err(crate::images::error)?;
        Ok(Self(Arc::new(Inner {
            instance_id: instance_id(&store)?,
            booted: is_first_since_boot(&config.run_dir)?.into(),
            recovering: Default::default(),
            records,
            containers,
            execs: Execs::default(),
            leaving: Arc::default(),
            volumes: Volumes::open(&store, config.data_dir.join("volumes"))?,
            images,
            intermediates: std::sync::OnceLock::new(),
            registries: Registries::new(config.registries.clone()),
            networks,
            names: names_service::Names::default(),
            placements: Placements::new(&config.cgroup_parent)?,
            guests: parking_lot::Mutex::default(),
            file_servers: Default::default(),
            machine_driver: std::sync::OnceLock::new(),
            machine_program: MachineProgram::new(config.machines.program, &config.machines.directory, &boot_id()?),
            machine_images: MachineImages::open(&store)?,
            file_machine_turns: crate::container::file_machine_turns(),
            templates: Arc::new(Templates::open(config.machines.directory.join("templates"), &boot_id()?)),
            snapshots: Arc::new(Snapshots::open(&store, config.machines.directory.join("snapshots"))?),
            keeper,
            events: Events::default(),
            log_changes: Default::default(),
            metering: Metering::open(&store, config.usage)?,
            tally: crate::tally::Tally::default(),
            users: Default::default(),
            confinement: Confinement::new(&config.net.instance, &config.run_dir),
            config,
        })))
    }
}

fn make(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|error| Error::step(format!("create {}", directory.display()), error))
}

fn net_config(config: &EngineConfig, store: &Store) -> Result<net::NetConfig> {
    let instance =
        config.net.instance.parse().map_err(|error: net::InstanceError| Error::invalid(error.to_string()))?;
    let mut out = net::NetConfig::new(instance, store.clone());
    out.forwarder = Some(Arc::new(net::forward::ForwardClient::new(&config.run_dir, &config.program)));
    out.bridge_name.clone_from(&config.net.bridge);
    out.ip_forward_drop = config.net.ip_forward_drop;
    if !config.net.address_pools.is_empty() {
        out.address_pools.clone_from(&config.net.address_pools);
    }
    Ok(out)
}

/// A name of this data directory that stays.
fn instance_id(store: &Store) -> Result<String> {
    const KEY: &str = "engine/instance-id";
    if let Some(entry) = store.get(KEY).map_err(|error| Error::step("read the instance's name", error))? {
        return Ok(String::from_utf8_lossy(&entry.value).into_owned());
    }
    let bytes: [u8; 16] = rand::random();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    let id = parts.join("-");
    store.txn().put(KEY, id.as_bytes()).commit().map_err(|error| Error::step("record the instance's name", error))?;
    Ok(id)
}

/// Whether no daemon of this run directory has been here since the machine's boot: then policies start what they keep
/// running. The run directory may outlive a boot, so it is the boot's own identifier that tells.
fn is_first_since_boot(run_dir: &Path) -> Result<bool> {
    let now = boot_id()?;
    Ok(std::fs::read_to_string(run_dir.join("boot_id")).map_or(true, |before| before != now))
}

/// From now on, a daemon of this run directory is not the first since the machine's boot.
fn mark_boot(run_dir: &Path) -> Result<()> {
    let path = run_dir.join("boot_id");
    std::fs::write(&path, boot_id()?).map_err(|error| Error::step(format!("write {}", path.display()), error))
}

fn boot_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(PATH).map_err(|error| Error::step(format!("read {PATH}"), error))
}
