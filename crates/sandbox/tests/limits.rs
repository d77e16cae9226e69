//! A person limits what a container may use.

mod support;

use serde_json::{Value, json};
use support::Bundle;

#[test]
fn limits_are_in_the_cgroup_and_can_be_changed() {
    let mut bundle = Bundle::new("exec sleep 1000");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864, "reservation": 33_554_432 });
    bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 50 });
    bundle.spec["linux"]["resources"]["cpu"] =
        json!({ "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0" });
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let event: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.id])).unwrap();
    let data = &event["data"];
    assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some(bundle.id.as_str())));
    assert_eq!(data["memory"]["usage"]["limit"], 67_108_864);
    assert_eq!(data["pids"]["limit"], 50);
    assert_eq!(data["pids"]["current"], 1);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert_eq!(bundle.ok(&["exec", &bundle.id, "nproc"]), "1\n");
    bundle.ok(&["update", "--memory", "128m", "--pids-limit", "60", "--cpu-quota", "-1", &bundle.id]);
    let event: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.id])).unwrap();
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 128 << 20);
    assert_eq!(event["data"]["pids"]["limit"], 60);
    std::fs::write(bundle.path("resources.json"), r#"{"pids":{"limit":70}}"#).unwrap();
    bundle.ok(&["update", "-r", bundle.path("resources.json").to_str().unwrap(), &bundle.id]);
    let event: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.id])).unwrap();
    assert_eq!(event["data"]["pids"]["limit"], 70);
}

/// Where the controllers are mounted with version 1; `make server` has a machine for version 2.
#[test]
fn block_devices_and_swappiness_are_limited_on_version_1() {
    let layout = sandbox::cgroup::Layout::detect().unwrap();
    let mounted = |controller| layout.hierarchy(controller).map(|hierarchy| hierarchy.mount_point().to_owned());
    let (Some(blkio), Some(memory)) = (mounted("blkio"), mounted("memory")) else {
        return eprintln!("this machine limits block devices by version 2, or not at all");
    };
    let mut bundle = Bundle::new("exec sleep 1000");
    let disk = std::fs::metadata("/").unwrap();
    let device = whole_disk(&disk);
    let rate = |rate: u64| json!([{ "major": device.0, "minor": device.1, "rate": rate }]);
    bundle.spec["linux"]["resources"]["blockIO"] = json!({
        "throttleReadBpsDevice": rate(10 << 20),
        "throttleWriteBpsDevice": rate(20 << 20),
        "throttleReadIOPSDevice": rate(300),
        "throttleWriteIOPSDevice": rate(400),
    });
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 67_108_864, "swappiness": 17 });
    bundle.create();
    let read = |directory: &std::path::Path, file: &str| {
        let path = directory.join(format!("sandbox-test-{}", bundle.id)).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    for (what, limit) in [("read_bps", 10 << 20), ("write_bps", 20 << 20), ("read_iops", 300), ("write_iops", 400)] {
        let shown = read(&blkio, &format!("blkio.throttle.{what}_device"));
        assert_eq!(shown, format!("{}:{} {limit}\n", device.0, device.1), "{what}");
    }
    assert_eq!(read(&memory, "memory.swappiness"), "17\n");
}

/// The whole disk that a file system is on: limits are of disks, and not of their partitions.
fn whole_disk(file: &std::fs::Metadata) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let number = |device: u64| (rustix::fs::major(device), rustix::fs::minor(device));
    let (major, minor) = number(file.dev());
    let partition = std::path::PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if !partition.join("partition").exists() {
        return (major, minor);
    }
    let parent = std::fs::canonicalize(partition).unwrap().parent().unwrap().join("dev");
    let text = std::fs::read_to_string(parent).unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

/// Makes a container, and shows its limits of huge pages and what it says of their use.
const ON_VERSION_1: &str = r#"
    set -e
    state() { "$RUNTIME" --root "$STATE" "$@"; }
    leave() { state delete --force "$ID" >/dev/null 2>&1 || true; }
    trap leave EXIT
    state create "$ID" >/dev/null 2>errors || { cat errors >&2; exit 1; }
    cat "$MOUNTED/sandbox-test-$ID"/hugetlb.2MB.*limit_in_bytes
    state events --stats "$ID"
"#;

/// Where the controller is mounted with version 1. To take it away from version 2, where others use it meanwhile, is no way.
#[test]
fn huge_pages_are_limited_on_version_1() {
    let layout = sandbox::cgroup::Layout::detect().unwrap();
    let Some(mounted) = layout.hierarchy("hugetlb").map(|hierarchy| hierarchy.mount_point().to_owned()) else {
        return eprintln!("this machine limits huge pages by version 2, which `make server` tries, or not at all");
    };
    let mut bundle = Bundle::new("exec sleep 1000");
    bundle.spec["linux"]["resources"]["hugepageLimits"] = json!([{ "pageSize": "2MB", "limit": 4 << 20 }]);
    bundle.save();
    let output = std::process::Command::new("sh")
        .args(["-c", ON_VERSION_1])
        .current_dir(bundle.dir.path())
        .env("MOUNTED", mounted)
        .env("RUNTIME", support::example("runtime"))
        .env("STATE", bundle.path("state"))
        .env("ID", &bundle.id)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = said.lines().collect();
    let (event, limits) = lines.split_last().unwrap();
    // That of what is used, and where the kernel has it that of what is reserved.
    assert!(!limits.is_empty() && limits.iter().all(|limit| *limit == "4194304"), "{limits:?}");
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["data"]["hugetlb"]["2MB"], json!({ "usage": 0, "max": 0, "failcnt": 0 }));
}

#[test]
fn a_process_that_forks_without_end_meets_its_limit() {
    let mut bundle = Bundle::new("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; echo not reached");
    bundle.spec["linux"]["resources"]["pids"] = json!({ "limit": 4 });
    let output = bundle.run_any();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("fork"), "{output:?}");
}

#[test]
fn a_memory_hog_is_killed_and_counted() {
    let mut bundle = Bundle::new("read go < /go; tail /dev/zero");
    bundle.spec["linux"]["resources"]["memory"] = json!({ "limit": 16_777_216 });
    rustix::fs::mknodat(rustix::fs::CWD, bundle.rootfs().join("go"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let group = sandbox::cgroup::Cgroup::new(&format!("/sandbox-test-{}", bundle.id)).unwrap();
    let watch = group.oom_watch().unwrap().unwrap();
    let pid = bundle.pid();
    std::fs::write(bundle.rootfs().join("go"), "go\n").unwrap();
    use rustix::event::{PollFd, PollFlags};
    rustix::event::poll(&mut [PollFd::new(&watch, PollFlags::IN)], None).unwrap();
    bundle.wait(pid);
    assert_eq!(group.oom_kills().unwrap(), 1);
}

#[test]
fn only_the_listed_devices_can_be_used() {
    let mut bundle = Bundle::new("head -c1 /dev/kmsg 2>&1; head -c1 /dev/zero | wc -c");
    bundle.spec["linux"]["devices"] = json!([{ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 }]);
    let output = bundle.run();
    assert!(output.contains("Operation not permitted") && output.ends_with("1\n"), "{output}");
}

#[test]
fn a_container_frozen_and_killed_takes_everything_with_it() {
    let mut bundle = Bundle::new("sleep 1000 & sleep 1001 & exec sleep 1002");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid");
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let group = sandbox::cgroup::Cgroup::new(&format!("/sandbox-test-{}", bundle.id)).unwrap();
    bundle.ok(&["delete", "--force", &bundle.id]);
    assert!(!group.exists());
}

#[test]
fn a_cgroup_that_is_in_use_is_left_alone() {
    let first = Bundle::new("exec sleep 1000");
    first.create();
    first.ok(&["start", &first.id]);
    let mut second = Bundle::new("true");
    second.spec["linux"]["cgroupsPath"] = first.spec["linux"]["cgroupsPath"].clone();
    let output = second.run_any();
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not empty"), "{output:?}");
    assert_eq!(first.status(), "running");
}

#[test]
fn an_instance_cleans_up_after_itself_by_name() {
    let parent = format!("/sandbox-test-clean-{}", std::process::id());
    let group = sandbox::cgroup::Cgroup::new(&format!("{parent}/a/b")).unwrap();
    group.create(&Default::default()).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    for (_, directory) in group.directories() {
        std::fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    assert_eq!(group.processes().unwrap(), [child.id() as i32]);
    group.freeze().unwrap();
    // Its parent, this test, reaps it while the cgroup is waited for.
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    sandbox::cgroup::clean(&parent).unwrap();
    assert!(!reaper.join().unwrap().success());
    assert!(!sandbox::cgroup::Cgroup::new(&parent).unwrap().exists());
}

/// In the hybrid layout too, whose v2 tree has no controllers: it is what kills everything at once.
#[test]
fn a_container_has_a_cgroup_of_its_own_in_every_hierarchy() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.create();
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    let layout = sandbox::cgroup::Layout::detect().unwrap();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap(), fields.next().unwrap());
        let mounted = match controllers.split(',').next().unwrap() {
            "" => layout.v2().is_some(),
            controller => layout.hierarchy(controller).is_some(),
        };
        assert!(!mounted || path == format!("/sandbox-test-{}", bundle.id), "{line}");
    }
    // What is started later belongs there, too.
    bundle.ok(&["start", &bundle.id]);
    let further = bundle.ok(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]);
    let first = bundle.ok(&["exec", &bundle.id, "cat", "/proc/1/cgroup"]);
    assert_eq!(further, first);
}

/// The device filter of version 2 works wherever a v2 tree is mounted, with or without controllers.
#[test]
fn unified_settings_go_to_the_v2_tree() {
    let Some(mount) = sandbox::cgroup::Layout::detect().unwrap().v2() else { return };
    let path = format!("/sandbox-test-unified-{}", std::process::id());
    let group = sandbox::cgroup::Cgroup::new(&path).unwrap();
    let resources = serde_json::from_value(json!({ "unified": { "cgroup.max.descendants": "7" } })).unwrap();
    group.create(&resources).unwrap();
    let read = std::fs::read_to_string(mount.join(&path[1..]).join("cgroup.max.descendants")).unwrap();
    assert_eq!(read.trim(), "7");
    let wrong = serde_json::from_value(json!({ "unified": { "../x": "7" } })).unwrap();
    assert!(group.update(&wrong).is_err());
    group.delete().unwrap();
}

/// Two first starts at once: the one finds the parent that the other has made and not filled yet.
#[test]
fn a_parent_without_cpus_is_filled_first() {
    let Some(cpusets) = sandbox::cgroup::Layout::detect().unwrap().hierarchy("cpuset") else { return };
    let parent = format!("/sandbox-test-empty-{}", std::process::id());
    let group = sandbox::cgroup::Cgroup::new(&format!("{parent}/child")).unwrap();
    std::fs::create_dir(cpusets.mount_point().join(&parent[1..])).unwrap();
    let made = group.create(&Default::default());
    let cpus = group.directory("cpuset").map(|directory| std::fs::read_to_string(directory.join("cpuset.cpus")));
    sandbox::cgroup::clean(&parent).unwrap();
    made.unwrap();
    assert_ne!(cpus.unwrap().unwrap().trim(), "");
}
