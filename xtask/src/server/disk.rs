//! The server's disk: made once from the distribution's packages, kept in the user's cache, made anew when what it is made
//! from changes. A machine that boots from it writes elsewhere.

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's releases with the glibc that they have: what was built on one that is newer does not run there.
const RELEASES: [Release; 2] =
    [Release { name: "bookworm", number: 12, glibc: (2, 36) }, Release { name: "trixie", number: 13, glibc: (2, 41) }];

/// A server as its administrator gets it, and what the tests use there.
const PACKAGES: &str = "apparmor,systemd-sysv,linux-image-cloud-amd64,udev,dbus,iproute2,nftables,ca-certificates,libseccomp2,\
    libgcc-s1,busybox-static,curl,docker-registry,firewalld,jq,netbase,procps,qemu-user-static,skopeo,strace";

/// Another processor's program, for what is built by an emulator: its package, its place there, and its place on the disk.
const FOREIGN: Foreign = Foreign {
    architecture: "arm64",
    package: "busybox-static",
    file: "bin/busybox",
    place: "usr/local/share/busybox.aarch64",
};

struct Foreign {
    architecture: &'static str,
    package: &'static str,
    file: &'static str,
    place: &'static str,
}

/// What comes along with those packages and has nothing to do here, or not before its test: it would only take the tests' time.
const IDLE: [&str; 4] = ["apt-daily.timer", "apt-daily-upgrade.timer", "docker-registry.service", "firewalld.service"];

/// In GiB: big enough for all that the tests put there. It takes what is in it.
const SIZE: u64 = 6;

/// Runs what is on the second disk, and ends the machine. Nobody logs in.
const UNIT: &str = "\
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStartPre=mount -o ro /dev/vdb /mnt
ExecStart=/mnt/run
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
";

struct Release {
    name: &'static str,
    number: u32,
    glibc: (u32, u32),
}

/// A disk with a system on it, and what boots it.
pub(super) struct Disk {
    release: &'static Release,
    directory: PathBuf,
}

impl Disk {
    /// What is on it, for people.
    pub(super) fn name(&self) -> String {
        format!("Debian {}", self.release.number)
    }

    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("disk.ext4")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.directory.join("initrd")
    }

    fn recipe(&self) -> PathBuf {
        self.directory.join("recipe")
    }
}

/// The disk from the cache; made where there is none, or one of another recipe.
pub(super) fn find_or_make() -> Result<Disk> {
    let release = release()?;
    let cache = cache()?;
    let lock = File::create(cache.join("lock")).context("cannot lock the cache of servers' disks")?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock the cache of servers' disks")?;
    let disk = Disk { release, directory: cache.join(release.name) };
    let Foreign { architecture, package, file, place } = FOREIGN;
    let foreign = format!("{package}:{architecture} {file} at {place}");
    let recipe = format!("{}\n{PACKAGES}\n{foreign}\nwithout {}\n{SIZE}G\n{UNIT}", release.name, IDLE.join(", "));
    if fs::read_to_string(disk.recipe()).is_ok_and(|made_from| made_from == recipe) {
        return Ok(disk);
    }
    println!("Making the disk of a server with {}: that takes a minute or two, once.", disk.name());
    let making = cache.join("making");
    remove(&making)?;
    fs::create_dir(&making).with_context(|| format!("cannot create {}", making.display()))?;
    let unfinished = Disk { release, directory: making };
    make(&unfinished)?;
    // Last of all: what has a recipe is whole.
    fs::write(unfinished.recipe(), recipe).context("cannot write the disk's recipe")?;
    remove(&disk.directory)?;
    fs::rename(&unfinished.directory, &disk.directory).context("cannot put the disk into its place")?;
    Ok(disk)
}

/// The oldest release on which what is built here runs.
fn release() -> Result<&'static Release> {
    let told = output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let ours = parse_glibc(&told).with_context(|| format!("getconf GNU_LIBC_VERSION says {told:?}"))?;
    let runs_it = RELEASES.iter().find(|release| release.glibc >= ours);
    runs_it.context("what is built here runs on no release of Debian that is known here: add it to RELEASES")
}

fn parse_glibc(told: &str) -> Option<(u32, u32)> {
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

fn cache() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::home_dir()) {
        (Some(base), _) if !base.is_empty() => PathBuf::from(base),
        (_, Some(home)) => home.join(".cache"),
        (_, None) => bail!("there is no place for a cache: set XDG_CACHE_HOME"),
    };
    let cache = base.join("stratus/server");
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    Ok(cache)
}

fn make(disk: &Disk) -> Result<()> {
    let (archive, tree) = (disk.directory.join("root.tar"), disk.directory.join("root"));
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase"]).arg(format!("--include={PACKAGES}"));
    mmdebstrap.arg("--aptopt=Acquire::Languages \"none\"").arg(disk.release.name).arg(&archive);
    run(mmdebstrap.args(sources(disk.release)?))?;
    fs::create_dir(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("--numeric-owner").arg("-C").arg(&tree))?;
    settle(&tree)?;
    add_foreign(disk, &tree)?;
    take(&tree, "vmlinuz", &disk.kernel())?;
    take(&tree, "initrd.img", &disk.initrd())?;
    format(&tree, &disk.image(), SIZE)?;
    remove(&tree)?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

/// Puts [`FOREIGN`] into its place. Its package is unpacked, and nothing of it runs.
fn add_foreign(disk: &Disk, tree: &Path) -> Result<()> {
    let Foreign { architecture, package, file, place } = FOREIGN;
    let (archive, unpacked) = (disk.directory.join("foreign.tar"), disk.directory.join("foreign"));
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=extract"]).arg(format!("--architectures={architecture}"));
    mmdebstrap.arg(format!("--include={package}")).arg(disk.release.name).arg(&archive);
    run(mmdebstrap.args(sources(disk.release)?))?;
    fs::create_dir(&unpacked).with_context(|| format!("cannot create {}", unpacked.display()))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&unpacked))?;
    let (from, to) = (unpacked.join(file), tree.join(place));
    fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    remove(&unpacked)?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

/// Makes a file that is a disk of so many GiB, with what is below `tree` on it.
pub(super) fn format(tree: &Path, image: &Path, size: u64) -> Result<()> {
    let made = File::create(image).and_then(|file| file.set_len(size << 30));
    made.with_context(|| format!("cannot create {}", image.display()))?;
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(image))
}

/// From where this machine has Debian's packages itself, in the words of sources.list(5). None: mmdebstrap knows where.
fn sources(release: &Release) -> Result<Vec<String>> {
    const FORMAT: &str = "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)";
    let told = output(Command::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]))?;
    let mut lines: Vec<String> = told.lines().filter_map(|target| source(target, release.name)).collect();
    lines.sort();
    lines.dedup();
    // Without the release itself, its updates are of no use.
    let is_whole = lines.iter().any(|line| line.contains(&format!(" {} ", release.name)));
    Ok(if is_whole { lines } else { Vec::new() })
}

/// `Debian main bookworm http://mirror/debian/`
fn source(target: &str, release: &str) -> Option<String> {
    let mut words = target.split_whitespace();
    let (origin, component, suite, uri) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let is_of = matches!(suite.strip_prefix(release), Some("" | "-updates" | "-security"));
    (origin == "Debian" && component == "main" && is_of).then(|| format!("deb {uri} {suite} main"))
}

/// What an installer would have asked for, and the unit that runs the tests.
fn settle(tree: &Path) -> Result<()> {
    let unit = Path::new("etc/systemd/system/second-disk.service");
    let write = |path: &Path, text: &str| {
        let path = tree.join(path);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write(Path::new("etc/hostname"), "server\n")?;
    write(Path::new("etc/hosts"), "127.0.0.1 localhost server\n::1 localhost\n")?;
    write(Path::new("etc/fstab"), "/dev/vda / ext4 rw 0 1\n")?;
    write(unit, UNIT)?;
    let units = tree.join("etc/systemd/system");
    let link =
        |to: &str, path: &Path| symlink(to, path).with_context(|| format!("cannot link {} to {to}", path.display()));
    for idle in IDLE {
        link("/dev/null", &units.join(idle))?;
    }
    link("/etc/systemd/system/second-disk.service", &units.join("multi-user.target.wants/second-disk.service"))
}

/// Copies the newest kernel, or what it begins with.
fn take(tree: &Path, name: &str, to: &Path) -> Result<()> {
    let boot = tree.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let kernels = entries.flatten().map(|entry| entry.path());
    let found = kernels.filter(|path| file_name(path).starts_with(&format!("{name}-"))).max();
    let found = found.with_context(|| format!("there is no {name} in {}", boot.display()))?;
    fs::copy(&found, to).with_context(|| format!("cannot copy {}", found.display()))?;
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a program that says on its standard error what it does.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_debians_own() {
        let bookworm = |target| source(target, "bookworm");
        let security = "Debian main bookworm-security http://m/debian-security/";
        assert_eq!(bookworm(security).as_deref(), Some("deb http://m/debian-security/ bookworm-security main"));
        assert_eq!(
            bookworm("Debian main bookworm http://m/debian/").as_deref(),
            Some("deb http://m/debian/ bookworm main")
        );
        assert_eq!(bookworm("Debian main trixie http://m/debian/"), None);
        assert_eq!(bookworm("Debian main bookworm-backports http://m/debian/"), None);
        assert_eq!(bookworm("Debian contrib bookworm http://m/debian/"), None);
        assert_eq!(bookworm("Somebody main bookworm http://m/debian/"), None);
        assert_eq!(bookworm(""), None);
    }

    #[test]
    fn versions_of_glibc() {
        assert_eq!(parse_glibc("glibc 2.36\n"), Some((2, 36)));
        assert_eq!(parse_glibc("glibc 2.36.9000"), Some((2, 36)));
        assert_eq!(parse_glibc("musl 1.2"), None);
    }
}
