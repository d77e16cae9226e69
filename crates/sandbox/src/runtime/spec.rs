//! `spec`: a specification to start from.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::{Value, json};

use super::cli::Spec;
use super::{Result, RuntimeError};
use crate::cgroup::Layout;

/// `spec`.
pub(super) fn write(options: &Spec) -> Result<()> {
    let path = options.bundle.join("config.json");
    let text = serde_json::to_string_pretty(&template(options.rootless)).map_err(RuntimeError::json(&path))?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            RuntimeError::Usage(format!("file {} exists. Remove it first", path.display()))
        }
        _ => RuntimeError::file("write", &path)(error),
    })?;
    writeln!(file, "{text}").map_err(RuntimeError::file("write", &path))
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn template(rootless: bool) -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut namespaces = vec!["pid", "network", "ipc", "uts", "mount"];
    if Layout::detect().is_ok_and(Layout::is_unified) {
        namespaces.push("cgroup");
    }
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    let mut linux = json!({
        "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
            "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    let mut sys = mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
    if rootless {
        namespaces.retain(|kind| *kind != "network");
        namespaces.push("user");
        let own = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        linux["uidMappings"] = own(rustix::process::geteuid().as_raw());
        linux["gidMappings"] = own(rustix::process::getegid().as_raw());
        linux["resources"] = json!({});
        sys = mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
    } else {
        devpts.push("gid=5");
    }
    linux["namespaces"] = namespaces.iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "stratus",
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts", &devpts),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            sys,
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": linux,
    })
}
