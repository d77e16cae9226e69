//! How a template of machines is made: a machine of its shape in which nothing runs, held by the keeper as any other, is booted, saved, and ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use microvm::container::{Host, USER, at};
use microvm::control::Connection;
use microvm::driver::Extent;
use microvm::{Backing, Card, DiskLimits, Hardware, Limits, MachinePlan, Volumes};

use super::disk::DISK;
use super::machine::{Booted, MachineStart, refused};

use crate::model::ContainerId;
use crate::templates::{NewTemplate, Shape, Template};
use crate::{Engine, Error, Result};

/// A template that machines could go on from.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) shape: Shape,
    /// What it boots.
    pub(super) kernel: guest_image::Prepared,
}

/// Whether machines go on from templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Templates {
    /// Where there is one that fits, and the daemon was not told otherwise.
    Used,
    /// It boots.
    Not,
}

impl Templates {
    /// Of a machine that boots instead of going on from one, if it does.
    pub(super) fn unless(instead_of: Option<(&Template, &Error)>) -> Self {
        if instead_of.is_some() { Self::Not } else { Self::Used }
    }
}

/// A start that came to nothing.
pub(super) struct Failed {
    pub(super) error: Error,
    /// What its machine was to go on from, if that was a template.
    pub(super) template: Option<Arc<Template>>,
}

impl Failed {
    /// What a machine is to boot instead of, and why it did not go on; else the start has come to nothing.
    pub(super) fn instead_of(self) -> Result<(Arc<Template>, Error)> {
        match self.template {
            Some(template) if self.error.may_be_of_saved() => Ok((template, self.error)),
            _ => Err(self.error),
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, template: None }
    }
}

/// The addresses of a template's network cards, which nobody else ever sees.
pub(super) fn addresses(count: usize) -> Vec<[u8; 6]> {
    (0..count).map(|number| [0x02, 0, 0, 0, 0, u8::try_from(number).unwrap_or(u8::MAX)]).collect()
}

impl Engine {
    /// Has a template made, for the next machine of that shape. Nobody waits for it.
    pub(super) fn make_template_beside(&self, wanted: Box<Wanted>) {
        let engine = self.clone();
        tokio::spawn(async move {
            if let Err(error) = engine.make_template(wanted).await {
                tracing::warn!(%error, "could not make a template of microVMs: those of this shape go on being booted");
            }
        });
    }

    /// A machine did not go on from its template, and is to boot in its place.
    pub(super) fn boots_instead(&self, template: &Template, error: &Error) {
        tracing::warn!(%error, "a microVM did not go on from its template, and is booted in its place");
        if error.is_of_saved() {
            self.0.templates.discard(template);
        }
    }

    /// It boots, where it did not go on: nothing of its container's, which it has looked at as well, was to blame. Another template may be made.
    pub(super) fn booted_instead(&self, template: &Template, error: &Error) {
        if !error.is_of_saved() {
            tracing::warn!("the microVM boots: its template goes");
            self.0.templates.discard(template);
        }
    }

    async fn make_template(&self, wanted: Box<Wanted>) -> Result<()> {
        let Some(new) = self.0.templates.begin(&wanted.shape)? else { return Ok(()) };
        let id = new.machine.clone();
        let saved = match self.boot(&id, &wanted).await {
            Ok(()) => self.save_template(&id, new).await,
            Err(error) => Err(error),
        };
        // The machine rests until it is ended.
        if let Err(error) = self.end_beside(&id).await {
            tracing::warn!(%error, "could not remove what a template's machine left");
        }
        let (new, machine) = saved?;
        drop(machine);
        // Whoever prepared another kernel meanwhile may have had it boot that.
        let again = self.shape_again(&wanted)?;
        if again != wanted.shape {
            return Err(Error::system("what machines boot was replaced in the middle of it"));
        }
        crate::blocking(move || new.keep()).await
    }

    fn shape_again(&self, Wanted { shape, kernel }: &Wanted) -> Result<Shape> {
        shape.as_of_now(self.machine_programs()?, kernel)
    }

    /// Boots a machine until its agent is there.
    async fn boot(&self, id: &ContainerId, wanted: &Wanted) -> Result<()> {
        let (engine, of, shape) = (self.clone(), id.clone(), wanted.shape.clone());
        let kernel = wanted.kernel.clone();
        let start = crate::blocking(move || engine.template_start(&of, &shape, kernel)).await?;
        self.boot_beside(id, start).await
    }

    /// Saves the machine, which rests while the connection is there.
    async fn save_template(&self, id: &ContainerId, new: NewTemplate) -> Result<(NewTemplate, Connection)> {
        let (engine, of) = (self.clone(), id.clone());
        crate::blocking(move || {
            let mut machine = engine.machine_connection(&of)?;
            let saved = machine.save(new.files()).map_err(|error| Error::system(error.to_string()))?;
            match saved.map_err(|failure| Error::system(format!("save the machine: {failure}")))?.extent {
                Extent::Whole => Ok((new, machine)),
                Extent::Difference => {
                    Err(Error::system("the machine saved a difference to what it did not go on from"))
                }
            }
        })
        .await
    }

    /// Makes the plan of its process. Blocks.
    fn template_start(&self, id: &ContainerId, shape: &Shape, kernel: guest_image::Prepared) -> Result<MachineStart> {
        let addresses = addresses(shape.mtus.len());
        let cards = (0..).zip(shape.mtus.iter().zip(addresses));
        let (send, receive) = (Limits::default(), Limits::default());
        let cards = cards.map(|(number, (mtu, mac))| Card { tap: tap(number), mac, mtu: *mtu, send, receive });
        let plan = MachinePlan {
            driver: shape.driver.clone(),
            hardware: Hardware {
                vcpus: shape.vcpus,
                processor: shape.processor,
                memory: shape.memory,
                most_memory: shape.most_memory,
                kernel: at::KERNEL.into(),
                initramfs: at::INITRAMFS.into(),
                layers: Vec::new(),
                upper: shape.disk.map(|_| at::UPPER.into()),
                limits: DiskLimits::default(),
                cards: microvm::places(cards),
                volumes: shape.has_volumes.then(|| at::VOLUMES.into()),
                files_place: true,
                console: false,
            },
            origin: None,
            backing: Backing::Mapped,
            container: None,
            start_timeout: self.0.config.machines.start_timeout,
            control: at::SOCKET.into(),
            scratch: at::SCRATCH.into(),
        };
        let directory = self.machine_dir(id);
        let (layers, snapshots) = (Vec::new(), Vec::new());
        let booted = Booted { kernel, layers, origin: None, snapshots, templates: Templates::Not };
        let host = self.write_machine(&directory, &plan, &booted, Vec::new(), Volumes::default())?;
        let host = Host { upper: shape.disk.map(|size| empty_disk(&directory, size)).transpose()?, ..host };
        let outside = microvm::container::outside(None, &shape.driver, &host).map_err(refused)?;
        let namespace = self.with_taps(shape.mtus.len())?;
        let cgroup = self.0.placements.create_beside(id, &outside)?;
        self.machine_process(&outside, &directory, cgroup, Default::default(), Some(namespace))
    }

    /// A network namespace in which there is nothing but the other ends of so many cards.
    fn with_taps(&self, count: usize) -> Result<net::NetNs> {
        let namespace = self.0.networks.new_namespace().map_err(crate::networks::error)?;
        let made = namespace.enter(|| (0..count).try_for_each(|number| sandbox::tap::make(&tap(number), USER)));
        made.map_err(crate::networks::error)?.map_err(|error| Error::system(error.to_string()))?;
        Ok(namespace)
    }
}

/// A disk of so many bytes, beside a machine's plan, for a guest that does not look at it.
fn empty_disk(directory: &Path, size: u64) -> Result<PathBuf> {
    let path = directory.join(DISK);
    let made = microvm::disk::make(&path, size, rand::random());
    made.map_err(|error| Error::step(format!("make the disk {}", path.display()), error))?;
    Ok(path)
}

/// The other end of a template's card.
fn tap(number: usize) -> String {
    format!("tap{number}")
}
