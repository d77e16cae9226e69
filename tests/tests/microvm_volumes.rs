//! Volumes of containers in microVMs: what a container has mounted, its machine has, by a process that serves files and sees nothing else.

#[path = "../cloud_kernel.rs"]
mod cloud_kernel;

use e2e::Daemon;

/// A daemon whose microVMs have a kernel.
fn host() -> Daemon {
    let host = Daemon::start();
    let (vmlinuz, modules) = cloud_kernel::as_packaged(&host.work().join("kernel"));
    let data = host.data();
    host.slowly(&format!(
        "$STRATUS microvm kernel --use {} --modules {} --data-dir {}",
        vmlinuz.display(),
        modules.display(),
        data.display()
    ))
    .ok();
    host
}

#[test]
fn a_named_volume_is_the_same_to_machines_and_containers() {
    let host = host();
    host.slowly("docker run --rm --runtime microvm -v data:/data busybox sh -c 'echo from a machine > /data/file; chown 7:8 /data/file; chmod 640 /data/file'")
        .ok();
    host.sh("docker run --rm -v data:/data busybox sh -c 'cat /data/file; stat -c \"%u %g %a\" /data/file; echo more >> /data/file'")
        .says("from a machine\n7 8 640");
    host.slowly("docker run --rm --runtime microvm -v data:/data:ro busybox sh -c 'cat /data/file; touch /data/no'")
        .exits_with(1)
        .prints("from a machine\nmore")
        .complains("Read-only file system");
}
