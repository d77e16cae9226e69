//! Sandboxes for tests: busybox in namespaces of its own, nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use sandbox::{CompileOptions, ExecOptions, ExecPlan, InitPlan};
use serde_json::json;

/// Which parts of the host a sandbox shares.
#[derive(Clone, Default)]
pub struct Sharing {
    /// The namespace of processes.
    pub processes: bool,
    /// A directory, which is at the same place inside.
    pub directory: Option<PathBuf>,
    /// Whether it is root in a user namespace, and not on the host.
    pub not_root: bool,
}

pub fn init(argv: &[&str], terminal: bool, wait: bool, sharing: &Sharing) -> Vec<u8> {
    let options = CompileOptions { wait_for_start: wait, ..CompileOptions::default() };
    let spec = spec(argv, terminal, sharing);
    InitPlan::compile(&spec, root(), &options).unwrap().to_bytes().unwrap()
}

pub fn exec(argv: &[&str], terminal: bool) -> Vec<u8> {
    let spec = spec(argv, terminal, &Sharing::default());
    let process = spec.process().as_ref().unwrap();
    ExecPlan::compile(process, &spec, &ExecOptions::default()).unwrap().to_bytes().unwrap()
}

fn spec(argv: &[&str], terminal: bool, sharing: &Sharing) -> Spec {
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "uts"}), json!({"type": "ipc"})];
    if !sharing.processes {
        namespaces.push(json!({"type": "pid"}));
    }
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}),
    ];
    if let Some(directory) = &sharing.directory {
        mounts.push(json!({"destination": directory, "type": "bind", "source": directory, "options": ["bind"]}));
    }
    let mut linux = json!({});
    if sharing.not_root {
        namespaces.push(json!({"type": "user"}));
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        linux = json!({"uidMappings": ids, "gidMappings": ids});
    }
    linux["namespaces"] = json!(namespaces);
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": argv,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "oomScoreAdj": 0,
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": root()},
        "mounts": mounts,
        "linux": linux,
    });
    serde_json::from_value(spec).unwrap()
}

/// A root file system with busybox, made once for all tests.
fn root() -> &'static Path {
    static ROOT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keeper-rootfs-1");
        if !root.exists() {
            let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            fill(new.path());
            fs::set_permissions(new.path(), fs::Permissions::from_mode(0o755)).unwrap();
            // Another test program may have been faster; its result is the same.
            _ = fs::rename(new.path(), &root);
        }
        root
    })
}

fn fill(root: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    fs::copy(busybox.expect("apt-get install busybox-static"), root.join("bin/busybox")).unwrap();
    for applet in ["cat", "echo", "head", "printf", "sed", "seq", "sh", "sleep", "stty", "tr", "true"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("bin/garbage"), "\u{1}\u{2}\u{3}").unwrap();
    fs::set_permissions(root.join("bin/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
}
