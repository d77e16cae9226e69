//! The root file system.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, Spec};
use serde::{Deserialize, Serialize};

use super::{PlanError, Text, cstring, options};

/// `mount(2)` takes its options in one page, the terminating NUL included.
const MOUNT_DATA_MAX: usize = 4095;

/// Where the container's root comes from.
#[derive(Debug, Clone)]
pub enum RootFs {
    /// A directory that is there already.
    Path(PathBuf),
    /// An overlay that the new process mounts in its own mount namespace: the host's mount table never has it, and
    /// nothing stays behind whatever kills the process.
    Overlay {
        /// The directory that the names in `lower` start from.
        layers_dir: PathBuf,
        /// The read-only layers, the top one first, as short relative names (below 30 bytes lets more than a hundred
        /// of them fit where the kernel takes its options in one page).
        lower: Vec<String>,
        /// Where changes go. Given together with `work`; without both the root is read-only.
        upper: Option<PathBuf>,
        /// An empty directory in the same file system as `upper`; in a container with a user namespace, in the same
        /// directory as well.
        work: Option<PathBuf>,
        /// Further options of overlayfs (`metacopy=on`, `volatile`, …).
        options: Vec<String>,
        /// An existing directory to mount on; by default `rootfs` in the bundle.
        mount_point: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) enum RootSource<'p> {
    Path(Text<'p>),
    Overlay(OverlayPlan<'p>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct OverlayPlan<'p> {
    pub(crate) layers_dir: Text<'p>,
    pub(crate) lower: Vec<Text<'p>>,
    pub(crate) upper: Option<(Text<'p>, Text<'p>)>,
    pub(crate) options: Vec<(Text<'p>, Option<Text<'p>>)>,
    /// All of it in the form that `mount(2)` takes, where it fits into a page.
    pub(crate) data: Option<Text<'p>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct RootPlan<'p> {
    pub(crate) source: RootSource<'p>,
    pub(crate) mount_point: Text<'p>,
    pub(crate) readonly: bool,
    /// `MS_SLAVE | MS_REC` or what `linux.rootfsPropagation` says.
    pub(crate) propagation: u64,
    pub(crate) no_pivot: bool,
}

pub(crate) fn compile(
    rootfs: &RootFs,
    spec: &Spec,
    linux: &Linux,
    bundle: &Path,
    no_pivot: bool,
) -> Result<RootPlan<'static>, PlanError> {
    let (source, mount_point) = match rootfs {
        RootFs::Path(path) => {
            let path = cstring("root.path", path.as_os_str().as_bytes())?;
            (RootSource::Path(path.clone()), path)
        }
        RootFs::Overlay { mount_point, .. } => {
            let mount_point = mount_point.clone().unwrap_or_else(|| bundle.join("rootfs"));
            (RootSource::Overlay(overlay_plan(rootfs)?), cstring("root.path", mount_point.as_os_str().as_bytes())?)
        }
    };
    let propagation = match linux.rootfs_propagation().as_deref() {
        None | Some("") => libc::MS_SLAVE | libc::MS_REC,
        Some(name) => options::propagation(name).ok_or_else(|| {
            PlanError::invalid("linux.rootfsPropagation", format!("{name:?} is not a propagation mode"))
        })?,
    };
    let readonly = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    Ok(RootPlan { source, mount_point, readonly, propagation, no_pivot })
}

/// The plan of what is an overlay.
pub(super) fn overlay_plan(rootfs: &RootFs) -> Result<OverlayPlan<'static>, PlanError> {
    let RootFs::Overlay { layers_dir, lower, upper, work, options, .. } = rootfs else {
        return Err(PlanError::invalid("root", "is no overlay"));
    };
    let upper = match (upper, work) {
        (Some(upper), Some(work)) => Some((upper.as_path(), work.as_path())),
        (None, None) => None,
        _ => return Err(PlanError::invalid("root", "an overlay needs both upper and work, or neither")),
    };
    overlay(layers_dir, lower, upper, options)
}

fn overlay(
    layers_dir: &Path,
    lower: &[String],
    upper: Option<(&Path, &Path)>,
    options: &[String],
) -> Result<OverlayPlan<'static>, PlanError> {
    if lower.is_empty() {
        return Err(PlanError::invalid("root", "an overlay needs at least one lower layer"));
    }
    let clean = |what: &str, bytes: &[u8]| -> Result<(), PlanError> {
        if bytes.iter().any(|byte| matches!(byte, b':' | b',' | b'\\')) {
            let name = String::from_utf8_lossy(bytes);
            let reason = format!("overlayfs can't take {what} {name:?}: it contains ':', ',' or '\\'");
            return Err(PlanError::invalid("root", reason));
        }
        Ok(())
    };
    let mut data = format!("lowerdir={}", lower.join(":")).into_bytes();
    for name in lower {
        clean("the layer", name.as_bytes())?;
        if name.is_empty() || name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return Err(PlanError::invalid("root", format!("the layer {name:?} is not a name below layers_dir")));
        }
    }
    let mut dirs = None;
    if let Some((upper, work)) = upper {
        for (what, path) in [("upper", upper), ("work", work)] {
            clean(what, path.as_os_str().as_bytes())?;
            if !path.is_absolute() {
                return Err(PlanError::invalid("root", format!("{what} {} is not absolute", path.display())));
            }
        }
        data.extend_from_slice(b",upperdir=");
        data.extend_from_slice(upper.as_os_str().as_bytes());
        data.extend_from_slice(b",workdir=");
        data.extend_from_slice(work.as_os_str().as_bytes());
        dirs = Some((cstring("root", upper.as_os_str().as_bytes())?, cstring("root", work.as_os_str().as_bytes())?));
    }
    for option in options {
        data.push(b',');
        data.extend_from_slice(option.as_bytes());
    }
    let fits = data.len() <= MOUNT_DATA_MAX;
    Ok(OverlayPlan {
        layers_dir: cstring("root", layers_dir.as_os_str().as_bytes())?,
        lower: lower.iter().map(|name| cstring("root", name.as_str())).collect::<Result<_, _>>()?,
        upper: dirs,
        options: options.iter().map(|option| options::parameter(option)).collect::<Result<_, _>>()?,
        data: if fits { Some(cstring("root", data)?) } else { None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lower: &[String]) -> Result<OverlayPlan<'static>, PlanError> {
        overlay(Path::new("/l"), lower, Some((Path::new("/u"), Path::new("/w"))), &[])
    }

    #[test]
    fn a_hundred_and_twenty_short_names_fit_into_a_page() {
        let lower: Vec<String> = (0..120).map(|i| format!("{i:0>26}")).collect();
        assert!(plan(&lower).unwrap().data.is_some());
        let lower: Vec<String> = (0..200).map(|i| format!("{i:0>26}")).collect();
        assert!(plan(&lower).unwrap().data.is_none());
    }

    #[test]
    fn a_layer_cannot_leave_the_layers_directory_or_smuggle_in_another() {
        for name in ["a:b", "a,upperdir=x", "../x", "/x", "", "a\\b"] {
            assert!(plan(&[name.to_owned()]).is_err(), "{name}");
        }
    }
}
