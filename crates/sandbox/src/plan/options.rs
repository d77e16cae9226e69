//! The words of fstab that stand in a mount's `options`, as runc understands them.

use super::{PlanError, Text, cstring};

/// What the options of one mount come to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) bind: bool,
    pub(crate) recursive_bind: bool,
    pub(crate) remount: bool,
    /// `MOUNT_ATTR_*` to set and to clear on the mount itself.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// The same on it and everything below it (`rro`, `rnosuid`, …).
    pub(crate) recursive_set: u64,
    pub(crate) recursive_clear: u64,
    /// `MS_SHARED` and the like, in the order given.
    pub(crate) propagation: Vec<u64>,
    pub(crate) copy_up: bool,
    pub(crate) idmap: Option<IdmapOption>,
    /// The rest: flags and parameters of the file system.
    pub(crate) parameters: Vec<(Text<'static>, Option<Text<'static>>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdmapOption {
    This,
    Recursive,
}

use libc::{
    MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
};

/// The three bits of the access-time mode, which can only be changed together.
const ATIME: u64 = 0x70;

/// Name, attributes to set, attributes to clear.
const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", MOUNT_ATTR_RDONLY, 0),
    ("rw", 0, MOUNT_ATTR_RDONLY),
    ("nosuid", MOUNT_ATTR_NOSUID, 0),
    ("suid", 0, MOUNT_ATTR_NOSUID),
    ("nodev", MOUNT_ATTR_NODEV, 0),
    ("dev", 0, MOUNT_ATTR_NODEV),
    ("noexec", MOUNT_ATTR_NOEXEC, 0),
    ("exec", 0, MOUNT_ATTR_NOEXEC),
    ("nodiratime", MOUNT_ATTR_NODIRATIME, 0),
    ("diratime", 0, MOUNT_ATTR_NODIRATIME),
    ("nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0),
    ("symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW),
    ("relatime", 0, ATIME),
    ("norelatime", 0, ATIME),
    ("noatime", MOUNT_ATTR_NOATIME, ATIME),
    ("atime", 0, ATIME),
    ("strictatime", MOUNT_ATTR_STRICTATIME, ATIME),
    ("nostrictatime", 0, ATIME),
];

#[cfg(feature = "runtime-cli")]
/// Options of the super block rather than of the mount, which every file system understands by name.
const SUPER_BLOCK: &[&str] = &["sync", "dirsync", "lazytime", "mand"];
/// Their opposites are the default, and there is nothing to do for them.
const NO_OPERATION: &[&str] =
    &["defaults", "async", "nolazytime", "nomand", "loud", "silent", "iversion", "noiversion", "acl", "noacl"];

const PROPAGATION: &[(&str, u64)] = &[
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("unbindable", libc::MS_UNBINDABLE),
    ("runbindable", libc::MS_UNBINDABLE | libc::MS_REC),
];

/// The flags of a propagation mode.
pub(crate) fn propagation(name: &str) -> Option<u64> {
    PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, flags)| *flags)
}

/// `key=value` or `flag`, as a file system takes it.
pub(crate) fn parameter(option: &str) -> Result<(Text<'static>, Option<Text<'static>>), PlanError> {
    Ok(match option.split_once('=') {
        Some((key, value)) => (cstring("mounts.options", key)?, Some(cstring("mounts.options", value)?)),
        None => (cstring("mounts.options", option)?, None),
    })
}

impl Options {
    pub(crate) fn parse<S: AsRef<str>>(options: &[S]) -> Result<Self, PlanError> {
        let mut parsed = Self::default();
        for option in options.iter().map(AsRef::as_ref) {
            parsed.take(option)?;
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &str) -> Result<(), PlanError> {
        if let Some((_, set, clear)) = ATTRIBUTES.iter().find(|(name, ..)| *name == option) {
            // The last word counts, as in fstab.
            self.set = self.set & !clear | set;
            self.clear = self.clear & !(set & !ATIME) | clear;
            return Ok(());
        }
        let recursive = option.strip_prefix('r').and_then(|rest| ATTRIBUTES.iter().find(|(name, ..)| *name == rest));
        if let Some((_, set, clear)) = recursive {
            self.recursive_set = self.recursive_set & !clear | set;
            self.recursive_clear = self.recursive_clear & !(set & !ATIME) | clear;
            return Ok(());
        }
        if let Some(flags) = propagation(option) {
            self.propagation.push(flags);
            return Ok(());
        }
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive_bind) = (true, true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(IdmapOption::This),
            "ridmap" => self.idmap = Some(IdmapOption::Recursive),
            "" => {}
            _ if NO_OPERATION.contains(&option) => {}
            _ => self.parameters.push(parameter(option)?),
        }
        Ok(())
    }
}

/// Every option that is understood by name, for the `features` command.
#[cfg(feature = "runtime-cli")]
pub(crate) fn mount_option_names() -> Vec<String> {
    let mut names: Vec<String> =
        ATTRIBUTES.iter().flat_map(|(name, ..)| [(*name).to_owned(), format!("r{name}")]).collect();
    names.extend(PROPAGATION.iter().map(|(name, _)| (*name).to_owned()));
    names.extend(SUPER_BLOCK.iter().chain(NO_OPERATION).map(|name| (*name).to_owned()));
    names.extend(["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"].map(str::to_owned));
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_word_counts() {
        let options = Options::parse(&["ro", "rw", "nosuid", "size=64m", "rprivate"]).unwrap();
        assert_eq!(options.set, MOUNT_ATTR_NOSUID);
        assert_eq!(options.clear, MOUNT_ATTR_RDONLY);
        assert_eq!(options.parameters, [(c"size".into(), Some(c"64m".into()))]);
        assert_eq!(options.propagation, [libc::MS_PRIVATE | libc::MS_REC]);
    }

    #[test]
    fn recursive_words_apply_to_the_whole_tree() {
        let options = Options::parse(&["rbind", "rro", "rnoexec"]).unwrap();
        assert!(options.bind && options.recursive_bind);
        assert_eq!(options.recursive_set, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC);
        assert_eq!(options.set, 0);
    }

    #[test]
    fn access_time_modes_replace_each_other() {
        let options = Options::parse(&["noatime", "strictatime"]).unwrap();
        assert_eq!((options.set, options.clear), (MOUNT_ATTR_STRICTATIME, ATIME));
    }

    proptest! {
        #[test]
        fn no_word_is_both_set_and_cleared(words in proptest::collection::vec("[a-z]{0,12}|r?ro|rw|r?nosuid|suid|noatime|relatime", 0..12)) {
            let options = Options::parse(&words).unwrap();
            prop_assert_eq!(options.set & options.clear & !ATIME, 0);
            prop_assert_eq!(options.recursive_set & options.recursive_clear & !ATIME, 0);
        }
    }
}
