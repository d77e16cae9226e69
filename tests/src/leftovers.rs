//! What of a daemon is in the kernel. After it was taken down: nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Everything in the kernel that belongs to the daemon with this name and directory, a line each.
pub(crate) fn find(instance: &str, directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    if instance.is_empty() {
        // It never came so far as to have a name.
        return found;
    }
    cgroups(Path::new("/sys/fs/cgroup"), instance, 3, &mut found);
    for link in names_in(Path::new("/sys/class/net")) {
        if link.contains(instance) {
            found.push(format!("link {link}"));
        }
    }
    let tables = Command::new("nft").args(["list", "tables"]).output().expect("nft is installed");
    for table in String::from_utf8_lossy(&tables.stdout).lines().filter(|line| line.contains(instance)) {
        found.push(format!("nftables {table}"));
    }
    let directory = format!("{}/", directory.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    for mount in mounts.lines().filter(|line| line.contains(&directory)) {
        found.push(format!("mount {mount}"));
    }
    for process in
        names_in(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    {
        // It may have ended meanwhile.
        let Ok(arguments) = fs::read(format!("/proc/{process}/cmdline")) else { continue };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(&directory) {
            found.push(format!("process {process}: {arguments}"));
        }
    }
    found
}

fn cgroups(below: &Path, instance: &str, depth: u8, found: &mut Vec<String>) {
    for name in names_in(below) {
        let path = below.join(&name);
        if !path.is_dir() || path.is_symlink() {
            continue;
        }
        if name.contains(instance) {
            found.push(format!("cgroup {}", path.display()));
        } else if depth > 1 {
            cgroups(&path, instance, depth - 1, found);
        }
    }
}

/// The names of a directory's entries; none, where it is not there.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
