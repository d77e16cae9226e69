//! Mounts: the long form in `HostConfig`, and the mount points of a container.

use std::collections::BTreeMap;
use std::path::Path;

use engine::model::{
    BindOptions, ContainerRecord, MountKind, MountPoint, MountPointKind, MountRequest, TmpfsOptions, VolumeOptions,
};
use serde::{Deserialize, Serialize};

use super::config::{is_false, is_zero};
use crate::error::{ApiError, Result};

/// `HostConfig.Mounts[]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "Mount", rename_all = "PascalCase")]
pub(crate) struct MountBody {
    #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    #[serde(skip_serializing_if = "is_false")]
    read_only: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    consistency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_options: Option<BindBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_options: Option<VolumeBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_options: Option<ImageBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmpfs_options: Option<TmpfsBody>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "BindOptions", rename_all = "PascalCase")]
struct BindBody {
    #[serde(skip_serializing_if = "String::is_empty")]
    propagation: String,
    #[serde(skip_serializing_if = "is_false")]
    non_recursive: bool,
    #[serde(skip_serializing_if = "is_false")]
    create_mountpoint: bool,
    #[serde(skip_serializing_if = "is_false")]
    read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "is_false")]
    read_only_force_recursive: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "VolumeOptions", rename_all = "PascalCase")]
struct VolumeBody {
    #[serde(skip_serializing_if = "is_false")]
    no_copy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    subpath: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_config: Option<DriverBody>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Driver", rename_all = "PascalCase")]
struct DriverBody {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ImageOptions", rename_all = "PascalCase")]
struct ImageBody {
    #[serde(skip_serializing_if = "String::is_empty")]
    subpath: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "TmpfsOptions", rename_all = "PascalCase")]
struct TmpfsBody {
    #[serde(skip_serializing_if = "is_zero")]
    size_bytes: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    options: Vec<Vec<String>>,
}

impl MountBody {
    /// The engine's form of it.
    ///
    /// # Errors
    /// 400 in dockerd's words for a mount that no [`MountKind`] can stand for.
    pub(crate) fn into_model(self) -> Result<MountRequest> {
        self.check()?;
        let kind = match self.kind.as_str() {
            "bind" => MountKind::Bind { source: self.source, options: self.bind_options.unwrap_or_default().into() },
            "volume" => MountKind::Volume {
                name: Some(self.source).filter(|name| !name.is_empty()),
                options: self.volume_options.unwrap_or_default().into(),
            },
            "tmpfs" => MountKind::Tmpfs(self.tmpfs_options.unwrap_or_default().try_into()?),
            // `check` lets no other kind through.
            _ => MountKind::Image { source: self.source, subpath: self.image_options.unwrap_or_default().subpath },
        };
        Ok(MountRequest { kind, target: self.target, read_only: self.read_only, consistency: self.consistency })
    }

    /// Fields that must, and that must not be given for the kind.
    fn check(&self) -> Result<()> {
        let kind = self.kind.as_str();
        let options = [
            ("bind", "BindOptions", self.bind_options.is_some()),
            ("volume", "VolumeOptions", self.volume_options.is_some()),
            ("image", "ImageOptions", self.image_options.is_some()),
            ("tmpfs", "TmpfsOptions", self.tmpfs_options.is_some()),
        ];
        if self.target.is_empty() {
            return Err(self.refusal("field Target must not be empty"));
        }
        if options.iter().all(|(of, _, _)| *of != kind) {
            return Err(self.refusal("mount type unknown"));
        }
        if matches!(kind, "bind" | "image") && self.source.is_empty() {
            return Err(self.refusal("field Source must not be empty"));
        }
        if let Some((_, field, _)) = options.iter().find(|(of, _, given)| *given && *of != kind) {
            return Err(self.refusal(&format!("field {field} must not be specified")));
        }
        match kind {
            "tmpfs" if !self.source.is_empty() => Err(self.refusal("field Source must not be specified")),
            "volume" if self.source.is_empty() && self.read_only => {
                Err(self.refusal("must not set ReadOnly mode when using anonymous volumes"))
            }
            "volume"
                if self.source.is_empty() && self.volume_options.as_ref().is_some_and(|o| !o.subpath.is_empty()) =>
            {
                Err(self.refusal("must not set Subpath when using anonymous volumes"))
            }
            _ => Ok(()),
        }
    }

    fn refusal(&self, reason: &str) -> ApiError {
        ApiError::bad_request(format!("invalid mount config for type {:?}: {reason}", self.kind))
    }
}

impl From<&MountRequest> for MountBody {
    fn from(mount: &MountRequest) -> Self {
        let body = Self {
            target: mount.target.clone(),
            read_only: mount.read_only,
            consistency: mount.consistency.clone(),
            ..Self::default()
        };
        match &mount.kind {
            MountKind::Bind { source, options } => Self {
                kind: "bind".to_owned(),
                source: source.clone(),
                bind_options: Some(BindBody::from(options)).filter(|body| *body != BindBody::default()),
                ..body
            },
            MountKind::Volume { name, options } => Self {
                kind: "volume".to_owned(),
                source: name.clone().unwrap_or_default(),
                volume_options: Some(VolumeBody::from(options)).filter(|body| *body != VolumeBody::default()),
                ..body
            },
            MountKind::Tmpfs(options) => Self {
                kind: "tmpfs".to_owned(),
                tmpfs_options: Some(TmpfsBody::from(options)).filter(|body| *body != TmpfsBody::default()),
                ..body
            },
            MountKind::Image { source, subpath } => Self {
                kind: "image".to_owned(),
                source: source.clone(),
                image_options: (!subpath.is_empty()).then(|| ImageBody { subpath: subpath.clone() }),
                ..body
            },
        }
    }
}

impl From<BindBody> for BindOptions {
    fn from(body: BindBody) -> Self {
        Self {
            propagation: body.propagation,
            non_recursive: body.non_recursive,
            create_mountpoint: body.create_mountpoint,
            read_only_non_recursive: body.read_only_non_recursive,
            read_only_force_recursive: body.read_only_force_recursive,
        }
    }
}

impl From<&BindOptions> for BindBody {
    fn from(options: &BindOptions) -> Self {
        Self {
            propagation: options.propagation.clone(),
            non_recursive: options.non_recursive,
            create_mountpoint: options.create_mountpoint,
            read_only_non_recursive: options.read_only_non_recursive,
            read_only_force_recursive: options.read_only_force_recursive,
        }
    }
}

impl From<VolumeBody> for VolumeOptions {
    fn from(body: VolumeBody) -> Self {
        let driver = body.driver_config.unwrap_or_default();
        Self {
            no_copy: body.no_copy,
            labels: body.labels,
            driver: driver.name,
            driver_options: driver.options,
            subpath: body.subpath,
        }
    }
}

impl From<&VolumeOptions> for VolumeBody {
    fn from(options: &VolumeOptions) -> Self {
        let driver = DriverBody { name: options.driver.clone(), options: options.driver_options.clone() };
        Self {
            no_copy: options.no_copy,
            labels: options.labels.clone(),
            subpath: options.subpath.clone(),
            driver_config: Some(driver).filter(|driver| *driver != DriverBody::default()),
        }
    }
}

impl TryFrom<TmpfsBody> for TmpfsOptions {
    type Error = ApiError;

    fn try_from(body: TmpfsBody) -> Result<Self> {
        let size = u64::try_from(body.size_bytes)
            .map_err(|_| ApiError::bad_request("invalid mount config for type \"tmpfs\": size must not be negative"))?;
        Ok(Self { size, mode: body.mode.filter(|mode| *mode != 0), options: body.options })
    }
}

impl From<&TmpfsOptions> for TmpfsBody {
    fn from(options: &TmpfsOptions) -> Self {
        let size_bytes = i64::try_from(options.size).unwrap_or(i64::MAX);
        Self { size_bytes, mode: options.mode, options: options.options.clone() }
    }
}

/// `Mounts[]` of a container.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MountPointBody {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Name", skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "Source")]
    source: String,
    #[serde(rename = "Destination")]
    destination: String,
    #[serde(rename = "Driver", skip_serializing_if = "String::is_empty")]
    driver: String,
    #[serde(rename = "Mode")]
    mode: String,
    #[serde(rename = "RW")]
    writable: bool,
    #[serde(rename = "Propagation")]
    propagation: String,
}

/// The mount points of a container. Those in memory that were asked for in the short form are in `HostConfig` alone.
pub(crate) fn mount_points(record: &ContainerRecord) -> Vec<MountPointBody> {
    let short = |mount: &MountPoint| {
        let same = |target: &String| Path::new(target) == Path::new(&mount.target);
        mount.kind == MountPointKind::Tmpfs && record.host.tmpfs.keys().any(same)
    };
    record.mounts.iter().filter(|mount| !short(mount)).map(MountPointBody::from).collect()
}

impl From<&MountPoint> for MountPointBody {
    fn from(mount: &MountPoint) -> Self {
        let source = match mount.kind {
            MountPointKind::Tmpfs => String::new(),
            _ => mount.source.clone(),
        };
        Self {
            kind: mount.kind.name(),
            name: mount.name.clone().unwrap_or_default(),
            source,
            destination: mount.target.clone(),
            driver: mount.driver.clone(),
            mode: mount.mode.clone(),
            writable: mount.writable,
            propagation: mount.propagation.clone(),
        }
    }
}
