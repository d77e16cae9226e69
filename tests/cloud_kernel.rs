//! The distribution's kernel for clouds, for tests of several crates that boot machines.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory with the kernel and its modules (`cloud-kernel.sh` says which), which are fetched once.
pub(crate) fn directory() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| Path::new(&env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    let directory = cache.join("stratus/cloud-kernel");
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("tests/cloud-kernel.sh"));
    let script = above.into_iter().find(|script| script.exists()).expect("the script is in the workspace");
    let fetched = Command::new(script).arg(&directory).stdin(Stdio::null()).status().unwrap();
    assert!(fetched.success(), "the kernel could not be fetched");
    directory
}

/// Makes in a directory what the kernel's package has: the paths of the kernel, and of its modules in directories with its version's name and `modules.builtin`.
#[allow(dead_code, reason = "not every crate prepares it")]
pub(crate) fn as_packaged(place: &Path) -> (PathBuf, PathBuf) {
    let cached = directory();
    let vmlinuz = cached.join("vmlinuz");
    let image = fs::read(&vmlinuz).unwrap();
    // The kernel's Documentation/arch/x86/boot.rst, `kernel_version`: a text, whose first word is the version.
    let at = 0x200 + usize::from(u16::from_le_bytes([image[0x20e], image[0x20f]]));
    let version = image[at..].split(|byte| *byte == b' ').next().unwrap();
    let modules = place.join("modules").join(std::str::from_utf8(version).unwrap());
    for (number, entry) in fs::read_dir(cached).unwrap().flatten().enumerate() {
        if entry.path().extension().is_some_and(|ending| ending == "ko") {
            let directory = modules.join("kernel").join(["fs", "drivers/virtio", "net"][number % 3]);
            fs::create_dir_all(&directory).unwrap();
            fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
        }
    }
    fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\nkernel/drivers/virt/vmgenid.ko\n").unwrap();
    (vmlinuz, modules)
}
