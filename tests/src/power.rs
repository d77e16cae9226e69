//! A disk whose power can go.

use std::path::PathBuf;

use crate::Daemon;

impl Daemon {
    /// Moves all that the daemon keeps to an ext4 of its own, on a disk that is a file of an XFS: such a file can be copied at an
    /// instant, by sharing its blocks, and the copy has what had come to the disk by then. What was written and not synced is in
    /// the memory of ext4, and not in the copy.
    ///
    /// # Panics
    /// When the kernel does not let us.
    pub fn move_to_disk_with_power(&mut self) {
        let disks = self.disks().display().to_string();
        self.sh(&format!(
            "truncate -s 2G place && mkfs.xfs -q -m reflink=1 place && mkdir {disks} && mount -o loop place {disks} \
             && truncate -s 600M {disks}/now && mkfs.ext4 -q {disks}/now"
        ))
        .ok();
        self.move_to(&format!("mount -o loop {disks}/now"));
        self.sh("sync").ok();
    }

    /// The power goes at this instant, and the machine is booted again.
    ///
    /// # Panics
    /// When the disk can't be used again, or the daemon does not start upon it.
    pub fn lose_power(&mut self) {
        let (disks, data) = (self.disks().display().to_string(), self.data().display().to_string());
        self.sh(&format!("cp --reflink=always {disks}/now {disks}/then")).ok();
        self.kill9();
        // What is synced from now on comes to a disk that nobody has any more.
        self.sh(&format!("umount -l {data} && mv {disks}/then {disks}/now && mount -o loop {disks}/now {data}")).ok();
        self.restart();
    }

    /// Where the disks are.
    pub(crate) fn disks(&self) -> PathBuf {
        self.path("disks")
    }
}
