//! Which cgroup file systems are mounted where.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::CgroupError;
use crate::plan::Text;

/// One v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    name: String,
    controllers: Vec<String>,
    mount_point: PathBuf,
}

impl Hierarchy {
    /// The last part of its mount point (`cpu,cpuacct`, `memory`, `systemd`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its controllers; a hierarchy without has its name, as `name=systemd`.
    pub fn controllers(&self) -> &[String] {
        &self.controllers
    }

    /// Where it is mounted.
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// The options that mount it once more.
    pub(crate) fn mount_parameters(&self) -> Vec<(Text<'static>, Option<Text<'static>>)> {
        let text = |text: &str| Text::from(CString::new(text).unwrap_or_default());
        let mut parameters = Vec::new();
        for controller in &self.controllers {
            match controller.strip_prefix("name=") {
                Some(name) => parameters.extend([(text("none"), None), (text("name"), Some(text(name)))]),
                None => parameters.push((text(controller), None)),
            }
        }
        parameters
    }
}

/// What is mounted on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    v1: Vec<Hierarchy>,
    v2: Option<PathBuf>,
}

impl Layout {
    /// Reads the caller's mount table, once in the life of the process.
    pub fn detect() -> Result<&'static Self, CgroupError> {
        static LAYOUT: OnceLock<Layout> = OnceLock::new();
        if let Some(layout) = LAYOUT.get() {
            return Ok(layout);
        }
        let path = Path::new("/proc/self/mountinfo");
        let table = std::fs::read_to_string(path).map_err(CgroupError::io("read", path))?;
        let layout = Self::of_mount_table(&table);
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(CgroupError::NotMounted);
        }
        Ok(LAYOUT.get_or_init(|| layout))
    }

    /// The v1 hierarchies, each once.
    pub fn v1(&self) -> &[Hierarchy] {
        &self.v1
    }

    /// Where the v2 tree is mounted.
    pub fn v2(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    /// Whether there is nothing but v2.
    pub fn is_unified(&self) -> bool {
        self.v1.is_empty()
    }

    /// The v1 hierarchy of a controller.
    pub fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|known| known == controller))
    }

    /// What the text of `/proc/PID/mountinfo` says (see proc(5)).
    pub fn of_mount_table(table: &str) -> Self {
        let mut layout = Self::default();
        for line in table.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let mut mount = mount.split(' ').skip(3);
            let (Some(root), Some(point)) = (mount.next(), mount.next()) else { continue };
            let mut filesystem = filesystem.split(' ');
            let (fstype, options) = (filesystem.next().unwrap_or(""), filesystem.nth(1).unwrap_or(""));
            let point = PathBuf::from(unescape(point));
            match fstype {
                "cgroup2" if layout.v2.is_none() => layout.v2 = Some(point),
                // A part of a hierarchy, bound somewhere for a container, is not the hierarchy.
                "cgroup" if root == "/" || !root.contains("/..") => layout.add(point, options),
                _ => {}
            }
        }
        layout
    }

    fn add(&mut self, mount_point: PathBuf, options: &str) {
        const FLAGS: &[&str] =
            &["rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods", "none"];
        let controllers: Vec<String> = options
            .split(',')
            .filter(|option| !option.is_empty() && !FLAGS.contains(option) && !option.starts_with("release_agent="))
            .map(str::to_owned)
            .collect();
        if controllers.is_empty() || self.v1.iter().any(|known| known.controllers == controllers) {
            return;
        }
        let name = match mount_point.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => controllers.join(","),
        };
        self.v1.push(Hierarchy { name, controllers, mount_point });
    }
}

/// Octal escapes of blanks in mountinfo.
pub(crate) fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hybrid_layout_has_both() {
        let layout = Layout::of_mount_table(
            "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert!(!layout.is_unified());
        assert_eq!(layout.v2(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(layout.hierarchy("cpuacct").unwrap().name(), "cpu,cpuacct");
        assert_eq!(layout.hierarchy("name=systemd").unwrap().name(), "systemd");
        assert_eq!(layout.hierarchy("memory"), None);
    }

    #[test]
    fn pure_v2_has_no_hierarchies() {
        let layout = Layout::of_mount_table("31 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(layout.is_unified());
    }

    proptest! {
        #[test]
        fn what_is_mounted_is_found(
            points in prop::collection::vec("[a-z ,\t\n\\\\]{1,12}", 0..6),
            unified in prop::option::of("[a-z ]{1,12}"),
            noise in "[a-z0-9 /:,.]{0,40}",
        ) {
            let escape = |text: &str| -> String {
                let octal = |c: char| match c {
                    ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(c)),
                    _ => c.to_string(),
                };
                text.chars().map(octal).collect()
            };
            let mut table = format!("{noise}\n");
            let mut wanted = Layout::default();
            for (number, name) in points.iter().enumerate() {
                let point = format!("/sys/fs/cgroup/{name}");
                let controllers = vec![format!("first{number}"), format!("second{number}")];
                let options = controllers.join(",");
                table += &format!("{number} 30 0:27 / {} rw shared:9 - cgroup cgroup rw,{options}\n", escape(&point));
                // The same once more, elsewhere, is no other.
                table += &format!("{number} 30 0:27 / /elsewhere rw - cgroup cgroup rw,{options}\n");
                wanted.v1.push(Hierarchy { name: name.clone(), controllers, mount_point: point.into() });
            }
            if let Some(name) = unified {
                let point = format!("/run/{name}");
                table += &format!("99 24 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", escape(&point));
                wanted.v2 = Some(point.into());
            }
            let layout = Layout::of_mount_table(&table);
            prop_assert_eq!(&layout, &wanted);
            for hierarchy in wanted.v1() {
                for controller in hierarchy.controllers() {
                    prop_assert_eq!(layout.hierarchy(controller), Some(hierarchy));
                }
            }
        }

        #[test]
        fn any_table_gives_each_hierarchy_once(table in "([a-z0-9 \\-/:,.\\n]{0,20}( - cgroup2? cgroup [a-z,]{0,8}\n)?){0,8}") {
            let layout = Layout::of_mount_table(&table);
            let mut seen = std::collections::BTreeSet::new();
            for hierarchy in layout.v1() {
                prop_assert!(!hierarchy.controllers().is_empty() && !hierarchy.name().is_empty());
                prop_assert!(seen.insert(hierarchy.controllers().to_vec()), "{layout:?}");
            }
        }
    }
}
