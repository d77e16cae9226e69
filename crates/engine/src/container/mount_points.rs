//! `-v`, `--mount`, `--tmpfs`, `--volumes-from` and the image's `VOLUME`s become mount points.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::images::Unfinished;
use crate::model::{
    BindOptions, ContainerConfig, ContainerId, HostConfig, MountKind, MountPoint, MountPointKind, MountRequest,
    TmpfsOptions,
};
use crate::volumes::{Claim, Volume, VolumeCreate, Volumes};
use crate::{Engine, Error, Result};

/// The mount points of a container to be made, and the volumes that were made for it.
pub(super) struct MountPoints {
    id: ContainerId,
    pub(super) points: Vec<MountPoint>,
    /// The anonymous ones among them get their records with that of the container.
    pub(super) new_volumes: Vec<Volume>,
    /// Held until the container is found by whoever asks for the volumes' users.
    claims: Vec<Claim>,
}

impl MountPoints {
    /// Those of a container that has none.
    pub(super) fn none(id: &ContainerId) -> Self {
        Self { id: id.clone(), points: Vec::new(), new_volumes: Vec::new(), claims: Vec::new() }
    }
}

impl Engine {
    /// Decides all mount points, and makes the volumes that they need. On an error, what was made is taken away.
    /// Blocks.
    pub(super) fn mount_points(
        &self,
        id: &ContainerId,
        config: &ContainerConfig,
        host: &HostConfig,
        unfinished: Option<&Unfinished>,
    ) -> Result<MountPoints> {
        let mut out = MountPoints::none(id);
        match self.decide(config, host, unfinished, &mut out) {
            Ok(()) => Ok(out),
            Err(error) => {
                self.drop_volumes(out);
                Err(error)
            }
        }
    }

    /// Those of another container, which has their volumes for as long as this takes.
    pub(super) fn shared_mount_points(&self, id: &ContainerId, points: Vec<MountPoint>) -> MountPoints {
        let claims = points.iter().filter_map(MountPoint::volume).map(|name| self.0.volumes.claim(name, id)).collect();
        MountPoints { points, claims, ..MountPoints::none(id) }
    }

    /// Takes volumes away that were made for a container that came to nothing, and that nobody else uses by now. Blocks.
    pub(super) fn drop_volumes(&self, mounts: MountPoints) {
        drop(mounts.claims);
        for volume in mounts.new_volumes {
            // Whoever uses it keeps it.
            if let Err(error) = self.0.volumes.remove(&volume, || self.volume_users(&volume.name)) {
                tracing::warn!(volume = volume.name, %error, "could not take back a volume");
            }
        }
    }

    fn decide(
        &self,
        config: &ContainerConfig,
        host: &HostConfig,
        unfinished: Option<&Unfinished>,
        out: &mut MountPoints,
    ) -> Result<()> {
        for from in &host.volumes_from {
            self.take_over(from, out)?;
        }
        let inherited: BTreeSet<String> = out.points.iter().map(|point| point.target.clone()).collect();
        let mut own = BTreeSet::new();
        let mut claim = |out: &mut MountPoints, target: &str| -> Result<()> {
            if !own.insert(target.to_owned()) {
                return Err(Error::invalid(format!("Duplicate mount point: {target}")));
            }
            out.points.retain(|point| point.target != target);
            Ok(())
        };
        for bind in &host.binds {
            let parsed = ParsedBind::parse(bind)?;
            claim(out, &parsed.target)?;
            let point = self.of_bind(parsed, &host.volume_driver, out)?;
            out.points.push(point);
        }
        for mount in &host.mounts {
            let target = clean_target(kind_text(&mount.kind), &mount.target)?;
            claim(out, &target)?;
            let point = self.of_request(mount, target, unfinished, out)?;
            out.points.push(point);
        }
        for (target, options) in &host.tmpfs {
            let target = absolute_target(target)?;
            claim(out, &target)?;
            out.points
                .push(tmpfs_point(target, options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect()));
        }
        for target in &config.volumes {
            let target = clean_target("volume", target)?;
            if own.contains(&target) || inherited.contains(&target) {
                continue;
            }
            let volume = make(&self.0.volumes, VolumeCreate::default(), out)?;
            out.points.push(volume_point(&volume, target, true));
        }
        Ok(())
    }

    /// `--volumes-from NAME[:ro|rw]`
    fn take_over(&self, from: &str, out: &mut MountPoints) -> Result<()> {
        let (name, mode) = from.split_once(':').unwrap_or((from, ""));
        if !matches!(mode, "" | "ro" | "rw" | "z" | "Z") {
            return Err(Error::invalid(format!("invalid mode: {mode}")));
        }
        // Not found would tell clients that the image is not there.
        let other = self.0.containers.find(name).map_err(|error| Error::invalid(error.to_string()))?.record();
        // Memory is each container's own.
        for point in other.mounts.iter().filter(|point| point.kind != MountPointKind::Tmpfs) {
            let mut point = point.clone();
            if mode == "ro" {
                point.writable = false;
            }
            mode.clone_into(&mut point.mode);
            out.claims.extend(point.volume().map(|name| self.0.volumes.claim(name, &out.id)));
            out.points.retain(|have| have.target != point.target);
            out.points.push(point);
        }
        Ok(())
    }

    fn of_bind(&self, bind: ParsedBind, driver: &str, out: &mut MountPoints) -> Result<MountPoint> {
        let ParsedBind { source, target, mode, writable, propagation, no_copy } = bind;
        let mut point = match source {
            BindSource::Path(source) => MountPoint {
                kind: MountPointKind::Bind,
                name: None,
                source,
                target,
                driver: String::new(),
                mode: mode.clone(),
                writable,
                propagation: if propagation.is_empty() { "rprivate".to_owned() } else { propagation },
                options: vec!["create".to_owned()],
                subpath: String::new(),
                copy_up: false,
                anonymous: false,
            },
            BindSource::Volume(name) => {
                let anonymous = name.is_empty();
                let request = VolumeCreate { name, driver: driver.to_owned(), ..VolumeCreate::default() };
                let volume = make(&self.0.volumes, request, out)?;
                let mut point = volume_point(&volume, target, anonymous);
                if !anonymous {
                    point.mode = if mode.is_empty() { "z".to_owned() } else { mode };
                }
                point
            }
        };
        point.writable = writable;
        point.copy_up &= !no_copy;
        Ok(point)
    }

    fn of_request(
        &self,
        mount: &MountRequest,
        target: String,
        unfinished: Option<&Unfinished>,
        out: &mut MountPoints,
    ) -> Result<MountPoint> {
        let mut point = match &mount.kind {
            MountKind::Bind { source, options } => bind_request(source, options, target, mount.read_only)?,
            MountKind::Volume { name, options } => {
                let request = VolumeCreate {
                    name: name.clone().unwrap_or_default(),
                    driver: options.driver.clone(),
                    options: options.driver_options.clone(),
                    labels: options.labels.clone(),
                };
                let volume = make(&self.0.volumes, request, out)?;
                let mut point = volume_point(&volume, target, name.is_none());
                point.mode = "z".to_owned();
                point.copy_up = !options.no_copy && options.subpath.is_empty();
                point.subpath = subpath("volume", &options.subpath)?;
                point
            }
            MountKind::Tmpfs(options) => tmpfs_point(target, tmpfs_options(options)),
            MountKind::Image { source, subpath: part } => {
                // Not found would tell clients that the container's own image is not there.
                let image = match Unfinished::knows(unfinished, source) {
                    Some(image) => image,
                    None => self.find_image(source).map_err(|error| Error::invalid(error.to_string()))?,
                };
                // Nobody writes to an image, whatever was asked.
                return Ok(image_point(source, &image.to_string(), subpath("image", part)?, target));
            }
        };
        point.writable = !mount.read_only;
        Ok(point)
    }
}

fn make(volumes: &Volumes, request: VolumeCreate, out: &mut MountPoints) -> Result<Arc<Volume>> {
    if request.name.is_empty() {
        let volume = volumes.create_with_container(request)?;
        out.new_volumes.push(volume.clone());
        return Ok(Arc::new(volume));
    }
    out.claims.push(volumes.claim(&request.name, &out.id));
    let (volume, new) = volumes.create(request)?;
    if new {
        out.new_volumes.push((*volume).clone());
    }
    Ok(volume)
}

fn volume_point(volume: &Volume, target: String, anonymous: bool) -> MountPoint {
    MountPoint {
        kind: MountPointKind::Volume,
        name: Some(volume.name.clone()),
        source: volume.mountpoint.to_string_lossy().into_owned(),
        target,
        driver: volume.driver.clone(),
        mode: String::new(),
        writable: true,
        propagation: String::new(),
        options: Vec::new(),
        subpath: String::new(),
        copy_up: true,
        anonymous,
    }
}

fn image_point(reference: &str, id: &str, subpath: String, target: String) -> MountPoint {
    MountPoint {
        kind: MountPointKind::Image,
        name: Some(reference.to_owned()),
        source: id.to_owned(),
        target,
        driver: String::new(),
        mode: String::new(),
        writable: false,
        propagation: "rprivate".to_owned(),
        options: Vec::new(),
        subpath,
        copy_up: false,
        anonymous: false,
    }
}

fn tmpfs_point(target: String, given: Vec<String>) -> MountPoint {
    // Docker's defaults, which the user's options come after.
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for option in given {
        let opposite = option.strip_prefix("no").map_or_else(|| format!("no{option}"), str::to_owned);
        options.retain(|have| *have != opposite && *have != option);
        options.push(option);
    }
    MountPoint {
        kind: MountPointKind::Tmpfs,
        name: None,
        source: String::new(),
        target,
        driver: String::new(),
        mode: String::new(),
        writable: true,
        propagation: String::new(),
        options,
        subpath: String::new(),
        copy_up: false,
        anonymous: false,
    }
}

fn tmpfs_options(options: &TmpfsOptions) -> Vec<String> {
    let mut out = Vec::new();
    if options.size > 0 {
        out.push(format!("size={}", options.size));
    }
    if let Some(mode) = options.mode {
        out.push(format!("mode={mode:o}"));
    }
    out.extend(options.options.iter().map(|pair| pair.join("=")));
    out
}

fn bind_request(source: &str, options: &BindOptions, target: String, read_only: bool) -> Result<MountPoint> {
    let wrong = |why: String| Error::invalid(format!("invalid mount config for type \"bind\": {why}"));
    if source.is_empty() {
        return Err(wrong("field Source must not be empty".to_owned()));
    }
    if !source.starts_with('/') {
        return Err(wrong(format!("invalid mount path: '{source}' mount path must be absolute")));
    }
    if !options.create_mountpoint && std::fs::symlink_metadata(source).is_err() {
        return Err(wrong(format!("bind source path does not exist: {source}")));
    }
    if !options.propagation.is_empty() && !is_propagation(&options.propagation) {
        return Err(wrong(format!("invalid propagation mode: {}", options.propagation)));
    }
    let mut flags = Vec::new();
    if options.create_mountpoint {
        flags.push("create".to_owned());
    }
    if options.non_recursive {
        flags.push("bind".to_owned());
    }
    if read_only && options.read_only_force_recursive {
        if options.propagation != "rprivate" {
            return Err(wrong("BindOptions.ReadOnlyForceRecursive requires Propagation to be \"rprivate\"".to_owned()));
        }
        flags.push("rro".to_owned());
    }
    Ok(MountPoint {
        kind: MountPointKind::Bind,
        name: None,
        source: clean_path(source),
        target,
        driver: String::new(),
        mode: String::new(),
        writable: true,
        propagation: if options.propagation.is_empty() { "rprivate".to_owned() } else { options.propagation.clone() },
        options: flags,
        subpath: String::new(),
        copy_up: false,
        anonymous: false,
    })
}

/// A part of the tree of a mount of this kind.
fn subpath(kind: &str, subpath: &str) -> Result<String> {
    let inside = !subpath.starts_with('/') && !subpath.split('/').any(|part| part == "..");
    if inside {
        return Ok(subpath.to_owned());
    }
    Err(Error::invalid(format!(
        "invalid mount config for type \"{kind}\": subpath must be a relative path within the {kind}: {subpath}"
    )))
}

fn kind_text(kind: &MountKind) -> &'static str {
    match kind {
        MountKind::Bind { .. } => "bind",
        MountKind::Volume { .. } => "volume",
        MountKind::Tmpfs(_) => "tmpfs",
        MountKind::Image { .. } => "image",
    }
}

/// The target of a mount of this kind.
fn clean_target(kind: &str, target: &str) -> Result<String> {
    if target.is_empty() {
        return Err(Error::invalid("invalid mount config: field Target must not be empty"));
    }
    absolute_target(target).map_err(|error| error.context(format_args!("invalid mount config for type \"{kind}\"")))
}

/// A target is absolute, and not the root.
fn absolute_target(target: &str) -> Result<String> {
    if !target.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: '{target}' mount path must be absolute")));
    }
    let clean = clean_path(target);
    if clean == "/" {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean)
}

/// Without `.`, `..` and doubled slashes, as a text.
fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn is_propagation(text: &str) -> bool {
    matches!(text, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave")
}

/// A `-v` understood.
#[derive(Debug, PartialEq, Eq)]
struct ParsedBind {
    source: BindSource,
    target: String,
    mode: String,
    writable: bool,
    propagation: String,
    no_copy: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum BindSource {
    Path(String),
    /// Empty: an anonymous one.
    Volume(String),
}

impl ParsedBind {
    fn parse(spec: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("invalid volume specification: '{spec}'"));
        let parts: Vec<&str> = spec.split(':').collect();
        let (source, target, mode) = match parts[..] {
            [target] => ("", target, ""),
            // A mode needs a source: `/data:ro` would be an anonymous volume that nobody can fill.
            [_, mode] if Mode::parse(mode, true).is_some() => return Err(invalid()),
            [source, target] if !source.is_empty() => (source, target, ""),
            [source, target, mode] if !source.is_empty() => (source, target, mode),
            _ => return Err(invalid()),
        };
        if target.is_empty() {
            return Err(invalid());
        }
        let is_path = source.starts_with('/');
        let parsed = Mode::parse(mode, !is_path).ok_or_else(|| Error::invalid(format!("invalid mode: {mode}")))?;
        let target = clean_target(if is_path { "bind" } else { "volume" }, target)
            .map_err(|error| Error::invalid(format!("invalid volume specification: '{spec}': {error}")))?;
        let source = if is_path { BindSource::Path(clean_path(source)) } else { BindSource::Volume(source.to_owned()) };
        Ok(Self {
            source,
            target,
            mode: mode.to_owned(),
            writable: !parsed.read_only,
            propagation: parsed.propagation,
            no_copy: parsed.no_copy,
        })
    }
}

#[derive(Default)]
struct Mode {
    read_only: bool,
    propagation: String,
    no_copy: bool,
}

impl Mode {
    /// Options parted by commas, each kind once at most.
    fn parse(text: &str, of_volume: bool) -> Option<Self> {
        let mut mode = Self::default();
        let (mut access, mut label, mut copy, mut consistency) = (0, 0, 0, 0);
        for option in text.split(',').filter(|_| !text.is_empty()) {
            match option {
                "ro" | "rw" => {
                    access += 1;
                    mode.read_only = option == "ro";
                }
                "z" | "Z" => label += 1,
                "nocopy" if of_volume => {
                    copy += 1;
                    mode.no_copy = true;
                }
                "consistent" | "cached" | "delegated" | "default" => consistency += 1,
                option if is_propagation(option) && !of_volume && mode.propagation.is_empty() => {
                    option.clone_into(&mut mode.propagation);
                }
                _ => return None,
            }
        }
        [access, label, copy, consistency].iter().all(|count| *count <= 1).then_some(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        let anonymous = ParsedBind::parse("/data").unwrap();
        assert_eq!((anonymous.source, anonymous.target.as_str()), (BindSource::Volume(String::new()), "/data"));
        let named = ParsedBind::parse("db:/data/:ro,nocopy").unwrap();
        assert_eq!(named.source, BindSource::Volume("db".into()));
        assert!(!named.writable && named.no_copy);
        let bind = ParsedBind::parse("/srv/./x/:/x:rw,rslave").unwrap();
        assert_eq!((bind.source, bind.propagation.as_str()), (BindSource::Path("/srv/x".into()), "rslave"));
    }

    #[test]
    fn nonsense_is_refused() {
        for spec in ["", ":", "a:", "/a:ro", "/a:/b:what", "/a:/b:ro,rw", "db:/b:rslave", "/a:/", "a:b", "/a:/b:ro:x"] {
            assert!(ParsedBind::parse(spec).is_err(), "{spec}");
        }
    }

    #[test]
    fn a_tmpfs_option_replaces_its_opposite() {
        let point = tmpfs_point("/t".into(), vec!["exec".into(), "size=1m".into()]);
        assert_eq!(point.options, ["nosuid", "nodev", "exec", "size=1m"]);
    }
}
