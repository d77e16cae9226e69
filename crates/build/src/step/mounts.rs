//! What a `RUN` sees of something that is not in its root file system.

use crate::agent;
use crate::cache::Key;
use crate::caches::{Filled, InUse, Made};
use crate::dockerfile::Sharing;
use crate::files::{Files, Selection};
use crate::request::Lender;
use crate::solve::Builder;
use crate::state::State;
use crate::{Error, Result};
use engine::model::{BindOptions, MountKind, MountRequest, TmpfsOptions};
use engine::{Access, Lent, LentMount, Secret};
use image::tree;
use image::{Digest, ImageId, Images, NewLayer};
use rustix::fd::AsFd as _;
use rustix::fs::{AtFlags, OFlags};
use std::any::Any;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// Where sockets of SSH agents are, unless it is said.
const AGENTS: &str = "/run/stratus/ssh-agent";

/// Directories that are each container's own: what is made in them is in no layer.
const OWN: [&str; 3] = ["/dev", "/proc", "/sys"];

/// What is mounted, and what keeps it there.
#[derive(Default)]
pub(crate) struct Mounts {
    pub(crate) requests: Vec<MountRequest>,
    /// Images in the making whose files are mounted.
    pub(crate) images: Vec<(ImageId, Vec<Digest>)>,
    /// What a step depends on.
    parts: Vec<KeyPart>,
    /// What is made ready only for a step that is carried out.
    pending: Vec<Pending>,
    /// What is mounted and no record says.
    lent: Lent,
    /// A variable says where the first agent's socket is.
    has_agent: bool,
    /// What has to stay meanwhile.
    _kept: Vec<Box<dyn Any + Send + Sync>>,
}

/// Something that is not ready yet.
enum Pending {
    /// A directory that outlives the build, and that may be another's alone.
    Cache(CacheMount),
    /// A secret, in a file or in a variable.
    Secret { id: String, target: Option<String>, variable: Option<String>, access: Access, lender: Arc<dyn Lender> },
    /// The socket of an SSH agent.
    Agent { id: String, target: String, access: Access, lender: Arc<dyn Lender> },
    /// Files of the context that are written to: a copy of them.
    Copy { target: String, files: Arc<Files>, source: String },
    /// The same of a stage or an image.
    CopyOf { target: String, part: Part },
}

/// A directory that outlives the build.
pub(crate) struct CacheMount {
    pub(crate) target: String,
    pub(crate) id: String,
    pub(crate) sharing: Sharing,
    pub(crate) made: Made,
    pub(crate) read_only: bool,
    /// What is in it when it is made.
    pub(crate) from: Option<Part>,
}

/// Files of a stage or an image.
#[derive(Clone)]
pub(crate) struct Part {
    pub(crate) state: State,
    pub(crate) source: String,
}

impl Pending {
    /// The id of a directory that is this step's alone.
    fn alone(&self) -> Option<(&String, &CacheMount)> {
        match self {
            Pending::Cache(mount) if mount.sharing == Sharing::Locked => Some((&mount.id, mount)),
            _ => None,
        }
    }
}

/// What a mount adds to a step's key.
enum KeyPart {
    Text(String),
    Chain(Option<Digest>),
    Files(Box<Selection>),
}

/// Something that was made to mount something on.
pub(crate) struct Stub {
    path: PathBuf,
    /// The first of its path that was not there.
    first: PathBuf,
}

impl Mounts {
    /// Adds what a step depends on.
    pub(crate) fn add_to(&self, key: Key) -> Key {
        key.each(&self.parts, |key, part| match part {
            KeyPart::Text(text) => key.text("text").text(text),
            KeyPart::Chain(chain) => key.text("chain").option(chain.as_ref(), Key::digest),
            KeyPart::Files(selection) => key.text("files").digest(&selection.digest(false)),
        })
    }

    /// Adds how something is mounted to what a step depends on.
    fn depend(&mut self, target: &str, read_only: bool) {
        self.parts.push(KeyPart::Text(format!("{target} {read_only}")));
    }

    fn keep(&mut self, what: impl Any + Send + Sync) {
        self._kept.push(Box::new(what));
    }

    fn push(&mut self, kind: MountKind, target: &str, read_only: bool) {
        let request = MountRequest { kind, target: target.to_owned(), read_only, consistency: String::new() };
        self.requests.push(request);
    }

    /// Mounts memory.
    pub(crate) fn memory(&mut self, target: &str, size: Option<u64>) {
        let size = size.unwrap_or(0);
        self.parts.push(KeyPart::Text(format!("tmpfs {size}")));
        self.depend(target, false);
        self.push(MountKind::Tmpfs(TmpfsOptions { size, ..TmpfsOptions::default() }), target, false);
    }

    /// Mounts a directory that outlives the build. What it is filled from makes no difference to a step, as nobody knows what is in it then.
    pub(crate) fn cache(&mut self, mount: CacheMount) {
        self.parts.push(KeyPart::Text(format!("cache {}", mount.id)));
        self.depend(&mount.target, mount.read_only);
        self.pending.push(Pending::Cache(mount));
    }

    /// Mounts a copy of files of another stage, or of an image, to be written to and thrown away.
    pub(crate) fn copy_of_stage(&mut self, target: String, part: Part) {
        self.parts.push(KeyPart::Text(format!("stage {}", part.source)));
        self.parts.push(KeyPart::Chain(part.state.chain()));
        self.depend(&target, false);
        self.pending.push(Pending::CopyOf { target, part });
    }

    /// Mounts files of another stage, or of an image.
    pub(crate) fn stage(&mut self, target: &str, source: &str, state: State) -> Result<()> {
        let id = state.id()?;
        self.parts.push(KeyPart::Text(format!("stage {source}")));
        self.parts.push(KeyPart::Chain(state.chain()));
        let subpath = source.trim_matches('/').to_owned();
        self.depend(target, true);
        self.push(MountKind::Image { source: id.to_string(), subpath }, target, true);
        self.images.push((id, state.diff_ids().to_vec()));
        self.keep(state);
        Ok(())
    }

    /// Mounts files of the context; a copy where they are written to, as files of the context are in layers, too. Blocks. An error
    /// is one line for people.
    pub(crate) fn context(
        &mut self,
        target: String,
        source: &str,
        files: Arc<Files>,
        writable: bool,
    ) -> std::result::Result<(), String> {
        // No more and no less than what the step can see.
        let selection = Box::new(files.whole(source)?);
        self.parts.push(KeyPart::Text("context".into()));
        self.parts.push(KeyPart::Files(selection));
        self.depend(&target, !writable);
        if writable {
            self.pending.push(Pending::Copy { target, files, source: source.to_owned() });
            return Ok(());
        }
        let path = files.path(source)?;
        self.push(bind(&path), &target, true);
        self.keep(files);
        Ok(())
    }

    /// Gives a secret. What is in it makes no difference to what the step depends on: its id does.
    pub(crate) fn secret(
        &mut self,
        id: String,
        target: Option<String>,
        variable: Option<String>,
        access: Access,
        lender: Option<Arc<dyn Lender>>,
    ) {
        self.parts.push(KeyPart::Text(format!("secret {id:?} {target:?} {variable:?} {access:?}")));
        self.pending.extend(lender.map(|lender| Pending::Secret { id, target, variable, access, lender }));
    }

    /// Gives an SSH agent, at a socket.
    pub(crate) fn agent(
        &mut self,
        id: String,
        target: Option<String>,
        access: Access,
        lender: Option<Arc<dyn Lender>>,
    ) {
        self.parts.push(KeyPart::Text(format!("agent {id:?} {target:?} {access:?}")));
        let target = target.unwrap_or_else(|| format!("{AGENTS}/{}", self.pending.len()));
        self.pending.extend(lender.map(|lender| Pending::Agent { id, target, access, lender }));
    }

    /// What a container has beside its record. There is nothing of it afterwards.
    pub(crate) fn take_lent(&mut self) -> Lent {
        std::mem::take(&mut self.lent)
    }

    /// Makes ready what only a step needs that is carried out.
    pub(crate) async fn make_ready(&mut self, builder: &Builder) -> Result<()> {
        let all = std::mem::take(&mut self.pending);
        // Each once, or a step would wait for itself; in one order, or two would for each other.
        let alone: BTreeMap<&String, &CacheMount> = all.iter().filter_map(Pending::alone).collect();
        let mut locked: BTreeMap<String, InUse> = BTreeMap::new();
        for (id, mount) in alone {
            locked.insert(id.clone(), taken(builder, mount).await?);
        }
        for pending in all {
            match pending {
                Pending::Cache(mount) => match locked.get(&mount.id) {
                    Some(own) if mount.sharing != Sharing::Private => {
                        self.push(bind(own.path()), &mount.target, mount.read_only);
                    }
                    _ => {
                        let in_use = taken(builder, &mount).await?;
                        self.push(bind(in_use.path()), &mount.target, mount.read_only);
                        self.keep(in_use);
                    }
                },
                Pending::CopyOf { target, part } => {
                    let files = part.files(builder).await?;
                    self.copy(builder, &target, files, part.source).await?;
                }
                Pending::Copy { target, files, source } => self.copy(builder, &target, files, source).await?,
                Pending::Secret { id, target, variable, access, lender } => {
                    self.give_secret(&id, target, variable, access, &lender).await?;
                }
                Pending::Agent { id, target, access, lender } => self.give_agent(id, target, access, lender).await?,
            }
        }
        self.keep(locked);
        Ok(())
    }

    /// Mounts a copy of files, to be written to.
    async fn copy(&mut self, builder: &Builder, target: &str, files: Arc<Files>, source: String) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("copying files to mount", e);
        let directory = builder.directory().map_err(|e| failed(&e))?;
        let into = directory.path().to_owned();
        let copying = tokio::task::spawn_blocking(move || files.copy_whole(&source, &into)).await;
        let copied = copying.map_err(|e| failed(&e))?.map_err(Error::Invalid)?;
        self.push(bind(&copied), target, false);
        self.keep(directory);
        Ok(())
    }

    /// Puts what is in a secret into memory.
    async fn give_secret(
        &mut self,
        id: &str,
        target: Option<String>,
        variable: Option<String>,
        access: Access,
        lender: &Arc<dyn Lender>,
    ) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::Invalid(format!("secret {id}: {e}"));
        let contents = lender.secret(id).await.map_err(|e| failed(&e))?;
        if let Some(variable) = variable {
            let text = std::str::from_utf8(&contents);
            let text = text.map_err(|_| failed(&"it is not UTF-8, as a variable's value is"))?;
            if text.contains('\0') {
                return Err(failed(&"it has a zero byte, which no variable can have"));
            }
            self.lent.environment.push(Secret(format!("{variable}={text}")));
        }
        if let Some(target) = target {
            let made = tokio::task::spawn_blocking(move || engine::file_in_memory(&contents, access)).await;
            let tree = made.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
            self.lent.mounts.push(LentMount { target, tree, read_only: true });
        }
        Ok(())
    }

    /// Makes a socket, behind which is an agent.
    async fn give_agent(&mut self, id: String, target: String, access: Access, lender: Arc<dyn Lender>) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed(format!("making a socket for SSH agent {id}"), e);
        let made = tokio::task::spawn_blocking(move || engine::socket_in_memory(access)).await;
        let (tree, listener) = made.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        listener.set_nonblocking(true).map_err(|e| failed(&e))?;
        let listener = UnixListener::from_std(listener).map_err(|e| failed(&e))?;
        if !std::mem::replace(&mut self.has_agent, true) {
            self.lent.environment.push(Secret(format!("SSH_AUTH_SOCK={target}")));
        }
        self.lent.mounts.push(LentMount { target, tree, read_only: false });
        let mut carrying = JoinSet::new();
        carrying.spawn(agent::carry(listener, id, lender));
        self.keep(carrying);
        Ok(())
    }

    /// What is going to be made in the root file system to mount these on. Blocks.
    pub(crate) async fn stubs(&self, images: &Images, state: &State) -> Result<Vec<Stub>> {
        let lent = self.lent.mounts.iter().map(|mount| &mount.target);
        let targets = self.requests.iter().map(|request| &request.target).chain(lent).map(PathBuf::from);
        let targets: Vec<PathBuf> = targets.filter(|target| !OWN.iter().any(|own| target.starts_with(own))).collect();
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |e: &dyn std::fmt::Display| Error::failed("looking for places to mount on", e);
        let below = match state.diff_ids() {
            [] => None,
            diff_ids => Some(images.view_layers(diff_ids.to_vec()).await.map_err(|e| failed(&e))?),
        };
        let look = move || targets.into_iter().filter_map(|target| missing(below.as_ref(), &target)).collect();
        tokio::task::spawn_blocking(look).await.map_err(|e| failed(&e))
    }
}

impl Part {
    async fn files(&self, builder: &Builder) -> Result<Arc<Files>> {
        Files::of_state(builder, self.state.clone()).await
    }
}

/// Takes a directory that outlives the build.
async fn taken(builder: &Builder, mount: &CacheMount) -> Result<InUse> {
    let filled = match &mount.from {
        Some(part) => Some(Filled {
            files: part.files(builder).await?,
            source: part.source.clone(),
            scratch: builder.directory().map_err(|e| Error::failed("making a directory", e))?,
        }),
        None => None,
    };
    builder.caches().take(&mount.id, mount.sharing, mount.made, filled).await
}

/// Takes out of a layer what was made to mount something on. Blocks.
pub(crate) fn remove(stubs: &[Stub], layer: &NewLayer) -> Result<()> {
    for Stub { path, first } in stubs {
        layer.remove_mount_point(path, first).map_err(|e| Error::failed("taking out a mount point", e))?;
    }
    Ok(())
}

fn bind(path: &Path) -> MountKind {
    MountKind::Bind { source: path.display().to_string(), options: BindOptions::default() }
}

/// What is not there of a path; `None`: all of it is.
fn missing(below: Option<&image::MountedRootfs>, target: &Path) -> Option<Stub> {
    let is_there = |path: &Path| {
        let Some(below) = below else { return path == Path::new("/") };
        let (parent, name) = tree::split(path.as_os_str().as_bytes());
        let found = tree::open(below.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY);
        let name = if name.is_empty() { b"." } else { name };
        found.is_ok_and(|parent| rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    };
    let ancestors: Vec<&Path> = target.ancestors().collect();
    let first = ancestors.into_iter().rev().find(|path| !is_there(path))?;
    Some(Stub { path: target.to_owned(), first: first.to_owned() })
}
