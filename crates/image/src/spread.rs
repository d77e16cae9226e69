//! Where a file system puts directories that have nothing to do with each other.

use rustix::fs::IFlags;
use std::fs::File;

/// Tells ext4 that the directories in here have nothing to do with each other (`chattr +T`), so that each gets a group of
/// blocks of its own. An ext4 without a journal gives no inode away anew for a minute and longer after its removal,
/// and looks, for each new one, at all of these in its group: with all containers in one group, the search took
/// more time than everything else that a daemon does to create and start a container; with all layers in one, as
/// much as unpacking one that replaces another. Other file systems know no such thing, and need none.
pub(crate) fn spread(directory: &File) {
    const TOP_OF_HIERARCHIES: IFlags = IFlags::from_bits_retain(0x0002_0000);
    if let Ok(flags) = rustix::fs::ioctl_getflags(directory)
        && !flags.contains(TOP_OF_HIERARCHIES)
    {
        let _ = rustix::fs::ioctl_setflags(directory, flags | TOP_OF_HIERARCHIES);
    }
}
