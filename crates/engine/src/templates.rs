//! Templates of machines: each was booted until its agent was there, and saved before anything ran in it. A machine of the same shape goes on from
//! it in place of booting.
//!
//! They are a cache. One is made behind the first machine of its shape that boots, and is there until the host is booted anew (a kernel knows the
//! processor that it was booted on), or others were wanted since. Nothing of any container was ever in one, and nothing depends on it but the
//! machines that it is the memory of while they run, which keep its files open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use guest_image::Prepared;
use image::Digest;
use microvm::driver::Driver;
use microvm::{Hardware, MemorySize, Processor, SnapshotFiles, VcpuCount};
use parking_lot::Mutex;
use serde::Serialize;

use crate::model::ContainerId;
use crate::snapshots::{NewFiles, remove};
use crate::{Error, Result};

/// The most that are kept: one takes what a kernel and its agent have touched, some 60 MB.
const MOST: usize = 8;
/// What the names of those begin with that are not whole.
const NEW: &str = "new-";

/// What two machines have to have in common for one to go on as the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Shape {
    /// By what it is run.
    pub(crate) driver: Driver,
    /// Processors.
    pub(crate) vcpus: VcpuCount,
    /// What kind of processors.
    pub(crate) processor: Processor,
    /// Memory.
    pub(crate) memory: MemorySize,
    /// The most that it may come to have.
    pub(crate) most_memory: MemorySize,
    /// Of each of its network cards, bytes of the largest packet.
    pub(crate) mtus: Vec<u16>,
    /// It has a file server, which the guest has not mounted anything of.
    pub(crate) has_volumes: bool,
    /// Bytes of the disk that it writes to, of which the guest has looked at nothing yet.
    pub(crate) disk: Option<u64>,
    /// The files that it is run by, and boots.
    files: Vec<Stamp>,
}

/// A file, as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Stamp {
    path: PathBuf,
    inode: u64,
    length: u64,
    changed: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path);
        let metadata = metadata.map_err(|error| Error::step(format!("look at {}", path.display()), error))?;
        let (inode, length, changed) = (metadata.ino(), metadata.len(), metadata.modified().ok());
        Ok(Self { path: path.to_owned(), inode, length, changed })
    }
}

impl Shape {
    /// The shape of a machine of these parts, of which the disk that it writes to has so many bytes, if it has one, and which is run by `programs`.
    pub(crate) fn new(
        programs: [&Path; 2],
        driver: &Driver,
        kernel: &Prepared,
        hardware: &Hardware,
        disk: Option<u64>,
    ) -> Result<Self> {
        let Hardware { vcpus, processor, memory, most_memory, .. } = *hardware;
        Ok(Self {
            driver: driver.clone(),
            vcpus,
            processor,
            memory,
            most_memory,
            mtus: hardware.cards.iter().flatten().map(|card| card.mtu).collect(),
            has_volumes: hardware.volumes.is_some(),
            disk,
            files: stamps(programs, driver, kernel)?,
        })
    }

    /// What a machine of these parts would have now, as what it is run by and boots may be another meanwhile.
    pub(crate) fn as_of_now(&self, programs: [&Path; 2], kernel: &Prepared) -> Result<Self> {
        Ok(Self { files: stamps(programs, &self.driver, kernel)?, ..self.clone() })
    }

    /// What a template of it is called in a boot of the host.
    fn name(&self, boot: &str) -> Result<String> {
        let text = serde_json::to_vec(self).map_err(|error| Error::system(format!("name a template: {error}")))?;
        Ok(format!("{boot}-{}", Digest::of(&text).hex()))
    }
}

fn stamps(programs: [&Path; 2], driver: &Driver, kernel: &Prepared) -> Result<Vec<Stamp>> {
    let files = programs.into_iter().chain([kernel.kernel.as_path(), &kernel.initramfs]).chain(driver.program());
    files.map(Stamp::of).collect()
}

/// All templates.
pub(crate) struct Templates {
    root: PathBuf,
    /// What stands for this boot of the host in names.
    boot: String,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// With when it was wanted last.
    known: BTreeMap<String, (Arc<Template>, Instant)>,
    /// Those that are being made, and those that could not be.
    tried: BTreeMap<String, Tried>,
    /// The machines that are booted for those that are being made.
    machines: BTreeSet<ContainerId>,
}

/// What came of making a template so far. One that can't be made is not tried behind each machine that boots in its place; but what hindered it, as a full disk, may be gone.
#[derive(Default)]
struct Tried {
    being_made: bool,
    failures: u32,
    /// How many boots go by until it is tried again: twice as many after each failure.
    boots: u32,
}

/// After so many failures no more boots go by between two tries: some five hundred.
const FAILURES: u32 = 9;

impl Tried {
    /// Whether it is to be made behind a boot.
    fn begin(&mut self) -> bool {
        let begins = !self.being_made && self.boots == 0;
        self.being_made |= begins;
        self.boots = self.boots.saturating_sub(1);
        begins
    }

    fn failed(&mut self) {
        self.being_made = false;
        self.failures = (self.failures + 1).min(FAILURES);
        self.boots = (1 << self.failures) - 1;
    }
}

/// A template. Its files are there until this is dropped.
pub(crate) struct Template {
    pub(crate) directory: PathBuf,
    is_unwanted: AtomicBool,
}

impl Drop for Template {
    fn drop(&mut self) {
        if *self.is_unwanted.get_mut() {
            remove(&self.directory);
        }
    }
}

/// A template that is being made: dropped, it was never there.
pub(crate) struct NewTemplate {
    templates: Arc<Templates>,
    name: String,
    made: NewFiles,
    /// What the machine is called that is saved into it.
    pub(crate) machine: ContainerId,
}

impl Templates {
    /// Finds those of this boot, and sweeps others.
    pub(crate) fn open(root: PathBuf, boot_id: &str) -> Self {
        let boot: String = boot_id.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            match entry.file_name().into_string() {
                Ok(name) if name.starts_with(&format!("{boot}-")) => {
                    let template = Template { directory: entry.path(), is_unwanted: AtomicBool::new(false) };
                    known.insert(name, (Arc::new(template), Instant::now()));
                }
                _ => remove(&entry.path()),
            }
        }
        Self { root, boot, inner: Mutex::new(Inner { known, ..Inner::default() }) }
    }

    /// The template of a shape, if there is one.
    pub(crate) fn find(&self, shape: &Shape) -> Result<Option<Arc<Template>>> {
        let name = shape.name(&self.boot)?;
        let mut inner = self.inner.lock();
        let Some((template, wanted)) = inner.known.get_mut(&name) else { return Ok(None) };
        if template.directory.is_dir() {
            *wanted = Instant::now();
            return Ok(Some(template.clone()));
        }
        // Somebody wanted the room.
        inner.known.remove(&name);
        Ok(None)
    }

    /// A machine could not go on from it: the next one boots, and another template is made behind that.
    pub(crate) fn discard(&self, template: &Template) {
        template.is_unwanted.store(true, Ordering::Relaxed);
        self.inner.lock().known.retain(|_, (known, _)| known.directory != template.directory);
    }

    /// Makes the two empty files of a template; `None`: one is there, is being made, or could not be made by now.
    pub(crate) fn begin(self: &Arc<Self>, shape: &Shape) -> Result<Option<NewTemplate>> {
        let name = shape.name(&self.boot)?;
        let mut inner = self.inner.lock();
        if inner.known.contains_key(&name) || !inner.tried.entry(name.clone()).or_default().begin() {
            return Ok(None);
        }
        let machine = ContainerId::random();
        inner.machines.insert(machine.clone());
        drop(inner);
        let made = NewFiles::make(&self.root, &format!("{NEW}{name}"));
        if made.is_err() {
            self.inner.lock().given_up(&name, &machine);
        }
        Ok(Some(NewTemplate { templates: self.clone(), name, made: made?, machine }))
    }

    /// Whether a machine is booted for a template; `id` may be the first digits of its name.
    pub(crate) fn boots(&self, id: &str) -> bool {
        self.inner.lock().machines.iter().any(|machine| machine.as_str().starts_with(id))
    }
}

impl NewTemplate {
    /// Its two files.
    pub(crate) fn files(&self) -> &SnapshotFiles {
        &self.made.files
    }

    /// It is whole: machines go on from it from now on. Where there are too many, the one goes that was not wanted for the longest.
    ///
    /// # Errors
    /// Somebody could still change it: the next machine of its shape has another one made. Or it can't be kept at all. Blocks.
    pub(crate) fn keep(mut self) -> Result<()> {
        if let Err(error) = self.made.seal() {
            self.templates.inner.lock().tried.remove(&self.name);
            return Err(error);
        }
        let directory = self.templates.root.join(&self.name);
        let renamed = fs::rename(self.made.directory(), &directory);
        if let Err(error) = renamed {
            // One that was thrown away may be there until nobody begins with it any more.
            self.templates.inner.lock().tried.remove(&self.name);
            return Err(Error::step(format!("keep {}", directory.display()), error));
        }
        self.made.keep();
        let template = Arc::new(Template { directory, is_unwanted: AtomicBool::new(false) });
        let mut inner = self.templates.inner.lock();
        inner.tried.remove(&self.name);
        inner.known.insert(std::mem::take(&mut self.name), (template, Instant::now()));
        while inner.known.len() > MOST {
            let oldest = inner.known.iter().min_by_key(|(_, (_, wanted))| *wanted).map(|(name, _)| name.clone());
            let Some((unwanted, _)) = oldest.and_then(|name| inner.known.remove(&name)) else { break };
            unwanted.is_unwanted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Inner {
    /// Nothing came of it, where it was not kept.
    fn given_up(&mut self, name: &str, machine: &ContainerId) {
        self.machines.remove(machine);
        if let Some(tried) = self.tried.get_mut(name) {
            tried.failed();
        }
    }
}

impl Drop for NewTemplate {
    fn drop(&mut self) {
        self.templates.inner.lock().given_up(&self.name, &self.machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(memory: u64) -> Shape {
        Shape {
            driver: Driver::Kvm,
            vcpus: VcpuCount::new(1).unwrap(),
            processor: Processor::Host,
            memory: MemorySize::from_mib(memory).unwrap(),
            most_memory: MemorySize::from_mib(1024).unwrap(),
            mtus: vec![1500],
            has_volumes: false,
            disk: None,
            files: Vec::new(),
        }
    }

    fn names(root: &Path) -> usize {
        fs::read_dir(root).unwrap().count()
    }

    #[test]
    fn a_template_is_there_once_it_is_whole_until_the_host_boots_anew() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("templates");
        let templates = Arc::new(Templates::open(root.clone(), "0a1b-2c3d"));
        let new = templates.begin(&shape(128)).unwrap().unwrap();
        assert!(templates.begin(&shape(128)).unwrap().is_none(), "it is being made");
        assert!(templates.find(&shape(128)).unwrap().is_none());
        new.keep().unwrap();
        assert!(templates.begin(&shape(128)).unwrap().is_none(), "it is there");
        assert!(templates.find(&shape(128)).unwrap().is_some());
        assert!(templates.find(&shape(256)).unwrap().is_none());

        let given_up = templates.begin(&shape(256)).unwrap().unwrap();
        assert_eq!(names(&root), 2);
        drop(given_up);
        assert_eq!(names(&root), 1);
        for boots in [1, 3, 7] {
            for _ in 0..boots {
                assert!(templates.begin(&shape(256)).unwrap().is_none(), "it is not tried again at once");
            }
            assert!(templates.begin(&shape(256)).unwrap().is_some());
        }

        fs::create_dir(root.join("new-0a1b2c3d-half")).unwrap();
        let later = Templates::open(root.clone(), "0a1b-2c3d");
        assert!(later.find(&shape(128)).unwrap().is_some());
        assert_eq!(names(&root), 1);
        let elsewhere = Templates::open(root.clone(), "ffff");
        assert!(elsewhere.find(&shape(128)).unwrap().is_none());
        assert_eq!(names(&root), 0);
    }

    #[test]
    fn what_somebody_could_change_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let templates = Arc::new(Templates::open(root.path().join("templates"), "0"));
        let new = templates.begin(&shape(128)).unwrap().unwrap();
        let kept = new.files().memory.try_clone().unwrap();
        new.keep().unwrap_err();
        drop(kept);
        assert!(templates.find(&shape(128)).unwrap().is_none());
        templates.begin(&shape(128)).unwrap().unwrap().keep().unwrap();
        assert!(templates.find(&shape(128)).unwrap().is_some());
    }

    #[test]
    fn the_one_goes_that_nobody_wanted_for_the_longest_but_not_from_under_whoever_begins_with_it() {
        let root = tempfile::tempdir().unwrap();
        let templates = Arc::new(Templates::open(root.path().join("templates"), "0"));
        for memory in 1..=MOST as u64 {
            templates.begin(&shape(100 + memory)).unwrap().unwrap().keep().unwrap();
        }
        drop(templates.find(&shape(101)).unwrap().unwrap());
        let begins = templates.inner.lock().known[&shape(102).name("0").unwrap()].0.clone();
        templates.begin(&shape(100)).unwrap().unwrap().keep().unwrap();
        assert!(templates.find(&shape(101)).unwrap().is_some());
        assert!(templates.find(&shape(102)).unwrap().is_none());
        assert!(begins.directory.join("state").exists());
        let directory = begins.directory.clone();
        drop(begins);
        assert!(!directory.exists());

        let bad = templates.find(&shape(101)).unwrap().unwrap();
        templates.discard(&bad);
        let directory = bad.directory.clone();
        drop(bad);
        assert!(!directory.exists());
        assert!(templates.begin(&shape(101)).unwrap().is_some());
    }
}
