//! What machines start from, made once and kept: the kernel, unpacked, and the initramfs.
//!
//! `kernel/` holds `vmlinuz` as it came; `vmlinux`, the kernel within it, where it can be unpacked; `modules/`, those that a guest loads; `initramfs`; and
//! `made-of`, which says what all that is. The directory is made under another name and gets its own when it is whole and on the disk, so what has
//! that name is whole, and machines that start meanwhile have the former one or the new one. A machine that runs keeps the files that it has open.

use crate::error::Error;
use crate::source::Source;
use crate::{Modules, agent_digest, write_initramfs};
use rustix::fs::{FlockOperation, RenameFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What is below the directory.
const KERNEL: &str = "kernel";
const LOCK: &str = "kernel.lock";
/// What is being made, or was when somebody was killed.
const NEW: &str = "kernel.new-";
/// What is below `kernel`.
const VMLINUZ: &str = "vmlinuz";
const VMLINUX: &str = "vmlinux";
const MODULES: &str = "modules";
const INITRAMFS: &str = "initramfs";
const MADE_OF: &str = "made-of";

/// Writes the kernel within a bzImage, an ELF file, into another file, or that file itself where it is one. `Ok(false)`: it can't be unpacked, or not be entered as
/// it is, and machines are to boot the bzImage. `Err`: it is no kernel at all.
pub type Unpack<'a> = &'a dyn Fn(&Path, &mut File) -> Result<bool, String>;

/// What machines start from. All paths are absolute where the directory's was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The kernel to boot: an ELF file, or the bzImage where that can't be unpacked.
    pub kernel: PathBuf,
    /// The kernel as it came.
    pub vmlinuz: PathBuf,
    /// The first root file system: the agent and the modules.
    pub initramfs: PathBuf,
    /// The kernel's version: `6.1.0-56-cloud-amd64`.
    pub version: String,
    /// Where the kernel is from, for people: packages with their versions, or a path.
    pub from: String,
    /// SHA-256 of the agent in the initramfs, as hexadecimal digits. With the version it says what a snapshot was taken of.
    pub agent: String,
}

/// What is in `made-of`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MadeOf {
    version: String,
    from: String,
    agent: String,
    unpacked: bool,
}

/// What is there in `directory`; `None` where nothing was prepared yet. No network, and no program: one small file is read.
///
/// Where it was prepared for another agent than this program's, as after an upgrade, its initramfs is made anew, from the modules that
/// were kept (some 6 MB to write).
pub fn prepared(directory: &Path) -> Result<Option<Prepared>, Error> {
    let kernel = directory.join(KERNEL);
    let Some(made) = MadeOf::read(&kernel)? else { return Ok(None) };
    if made.agent == agent_digest() {
        return Ok(Some(made.found_in(&kernel)));
    }
    let _lock = lock(directory)?;
    // Somebody may have done it meanwhile.
    let Some(mut made) = MadeOf::read(&kernel)? else { return Ok(None) };
    if made.agent != agent_digest() {
        let modules = Modules::read(&kernel.join(MODULES))?;
        replace(&kernel, INITRAMFS, |file| write_initramfs(&modules, BufWriter::new(file)))?;
        made.agent = agent_digest().to_owned();
        replace(&kernel, MADE_OF, |file| Ok(serde_json::to_writer(file, &made)?))?;
    }
    Ok(Some(made.found_in(&kernel)))
}

/// Makes in `directory`, which is made if need be, what machines start from, in place of what was there. Blocks, for a second or as long as fetching takes; `progress` is told
/// each step, for people.
///
/// # Errors
/// Where the source has no kernel, or its kernel lacks what a guest needs. What was there before stays.
pub fn prepare(
    directory: &Path,
    source: &Source,
    unpack: Unpack<'_>,
    progress: &dyn Fn(&str),
) -> Result<Prepared, Error> {
    fs::create_dir_all(directory).map_err(Error::io("make", directory))?;
    let lock = lock(directory)?;
    sweep(directory);
    let scratch = place(directory)?;
    let origin = source.open(scratch.path(), &lock, progress)?;
    let version = origin.files.version()?;
    let new = place(directory)?;
    let path = |name: &str| new.path().join(name);
    fs::copy(&origin.files.kernel, path(VMLINUZ)).map_err(Error::io("copy the kernel", &origin.files.kernel))?;
    // Others' are for root alone at times.
    let readable = fs::Permissions::from_mode(0o644);
    fs::set_permissions(path(VMLINUZ), readable).map_err(Error::io("set the mode of", &path(VMLINUZ)))?;
    progress("unpacking the kernel");
    // Whoever unpacks may want to look at what came of it.
    let vmlinux = File::options().create_new(true).read(true).write(true).open(path(VMLINUX));
    let mut vmlinux = vmlinux.map_err(Error::io("make", &path(VMLINUX)))?;
    let unpacked = unpack(&origin.files.kernel, &mut vmlinux).map_err(Error::Unpack)?;
    if !unpacked {
        progress("it can't be unpacked: machines boot it as it is, and each takes a second more");
        fs::remove_file(path(VMLINUX)).map_err(Error::io("remove", &path(VMLINUX)))?;
    }
    progress(&format!("picking modules of {version}"));
    let modules = Modules::pick(&origin.files.modules)?;
    fs::create_dir(path(MODULES)).map_err(Error::io("make", &path(MODULES)))?;
    modules.write(&path(MODULES))?;
    replace(new.path(), INITRAMFS, |file| write_initramfs(&modules, BufWriter::new(file)))?;
    let made = MadeOf { version, from: origin.from, agent: agent_digest().to_owned(), unpacked };
    replace(new.path(), MADE_OF, |file| Ok(serde_json::to_writer(file, &made)?))?;
    sync_all(new.path())?;
    settle(directory, new)?;
    Ok(made.found_in(&directory.join(KERNEL)))
}

impl MadeOf {
    /// `None` where nothing was made.
    fn read(kernel: &Path) -> Result<Option<MadeOf>, Error> {
        let path = kernel.join(MADE_OF);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("read", &path))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| Error::Damaged { path, reason: error.to_string() })
    }

    fn found_in(&self, kernel: &Path) -> Prepared {
        Prepared {
            kernel: kernel.join(if self.unpacked { VMLINUX } else { VMLINUZ }),
            vmlinuz: kernel.join(VMLINUZ),
            initramfs: kernel.join(INITRAMFS),
            version: self.version.clone(),
            from: self.from.clone(),
            agent: self.agent.clone(),
        }
    }
}

/// Waits until nobody else makes anything there. The programs that fetch hold it, too.
fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).read(true).open(&path);
    let file = file.map_err(Error::io("open", &path))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(Error::io("lock", &path))?;
    Ok(file)
}

/// Removes what those left who were killed. What can't be removed stays: it is in nobody's way.
fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A directory to make something in, which goes with the value.
fn place(directory: &Path) -> Result<TempDir, Error> {
    let made =
        tempfile::Builder::new().prefix(NEW).permissions(fs::Permissions::from_mode(0o755)).tempdir_in(directory);
    made.map_err(Error::io("make a directory in", directory))
}

/// Writes a file under another name, and gives it its own once it is on the disk.
fn replace(directory: &Path, name: &str, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<(), Error> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let mut file = File::create(&new).map_err(Error::io("make", &new))?;
    write(&mut file).and_then(|()| file.sync_all()).map_err(Error::io("write", &new))?;
    fs::rename(&new, &path).map_err(Error::io("give its name to", &path))?;
    sync(directory)
}

/// Gives what was made its name. What had it before goes with `new`.
fn settle(directory: &Path, new: TempDir) -> Result<(), Error> {
    let kernel = directory.join(KERNEL);
    let cwd = rustix::fs::CWD;
    if kernel.exists() {
        let exchanged = rustix::fs::renameat_with(cwd, new.path(), cwd, &kernel, RenameFlags::EXCHANGE);
        exchanged.map_err(Error::io("replace", &kernel))?;
    } else {
        fs::rename(new.path(), &kernel).map_err(Error::io("give its name to", &kernel))?;
        // Nothing has the other name any more.
        let _ = new.keep();
    }
    sync(directory)
}

/// Sees that a directory, and all files in it and below, are on the disk.
fn sync_all(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let path = entry.map_err(Error::io("read", directory))?.path();
        if path.is_dir() { sync_all(&path)? } else { sync(&path)? }
    }
    sync(directory)
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("write to the disk", path))
}
