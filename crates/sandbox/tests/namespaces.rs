//! A person chooses which namespaces are new, joined, or the host's.

mod support;

use serde_json::json;
use support::Bundle;

#[test]
fn root_in_a_user_namespace_is_nobody_outside() {
    let mut bundle =
        Bundle::new("id -u; cat /proc/self/uid_map; touch /made; ls -ln /dev/null | cut -c1-10; exec sleep 1000");
    bundle.with_user_namespace();
    bundle.create();
    let pid = bundle.pid();
    bundle.ok(&["start", &bundle.id]);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t100000\t100000"), "{status}");
    let exec = bundle.ok(&["exec", &bundle.id, "sh", "-c", "id -u; cat /proc/self/uid_map; hostname"]);
    assert!(exec.starts_with("0\n") && exec.contains("100000"), "{exec}");
    bundle.wait_for_output("crw-rw-rw-");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait(pid);
    let output = bundle.output();
    assert!(output.starts_with("0\n") && output.contains("crw-rw-rw-"), "{output}");
    let made = std::fs::metadata(bundle.rootfs().join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_000);
}

#[test]
fn a_user_namespace_without_a_network_of_its_own_sees_the_hosts_sys() {
    let mut bundle = Bundle::new("test -d /sys/class && echo sys");
    bundle.with_user_namespace();
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
    assert_eq!(bundle.run(), "sys\n");
}

#[test]
fn clocks_can_be_set_off() {
    let mut bundle = Bundle::new("cut -d. -f1 /proc/uptime");
    bundle.namespace("time");
    bundle.spec["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1_000_000 } });
    let uptime: u64 = bundle.run().trim().parse().unwrap();
    assert!(uptime > 1_000_000, "{uptime}");
}

#[test]
fn another_containers_namespaces_can_be_joined() {
    let first = Bundle::new("hostname first; exec sleep 1000");
    first.create();
    first.ok(&["start", &first.id]);
    let pid = first.pid();
    let mut second = Bundle::new("ps; readlink /proc/self/ns/net; readlink /proc/self/ns/pid");
    second.spec["hostname"] = json!(null);
    second.spec["linux"]["namespaces"] = json!([
        { "type": "mount" }, { "type": "ipc" },
        { "type": "pid", "path": format!("/proc/{pid}/ns/pid") },
        { "type": "network", "path": format!("/proc/{pid}/ns/net") },
        { "type": "uts", "path": format!("/proc/{pid}/ns/uts") },
    ]);
    let output = second.run();
    assert!(output.contains("sleep 1000"), "{output}");
    let network = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert!(output.contains(network.to_str().unwrap()), "{output}");
}

#[test]
fn a_pod_shares_a_user_namespace_and_each_has_its_own_processes() {
    let mut first = Bundle::new("exec sleep 1000");
    first.with_user_namespace();
    first.create();
    first.ok(&["start", &first.id]);
    let pid = first.pid();
    let mut second = Bundle::new("echo $$; readlink /proc/self/ns/user; id -u");
    second.with_user_namespace();
    let namespaces = second.spec["linux"]["namespaces"].as_array_mut().unwrap();
    for namespace in namespaces.iter_mut() {
        for (kind, file) in [("user", "user"), ("network", "net"), ("ipc", "ipc")] {
            if namespace["type"] == kind {
                namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
            }
        }
    }
    let output = second.run();
    let user = std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(&lines[..3], ["1", user.to_str().unwrap(), "0"]);
}

#[test]
fn a_cgroup_namespace_shows_the_containers_cgroup_as_root() {
    let mut bundle = Bundle::new(
        "grep -e pids -e ^0: /proc/self/cgroup; cd /sys/fs/cgroup; test -d pids && cd pids; cat cgroup.procs | wc -l",
    );
    bundle.namespace("cgroup");
    let output = bundle.run();
    assert!(output.contains("pids:/\n") || output.starts_with("0::/\n"), "{output}");
    assert!(output.trim().ends_with(['2', '3']), "{output}");
}

#[test]
fn a_network_device_moves_in_with_its_address() {
    let mut bundle = Bundle::new("cat /proc/net/dev; cat /proc/net/fib_trie");
    let name = format!("sb{}", &bundle.id[bundle.id.len() - 5..]);
    let ip = |args: &[&str]| assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
    let peer = format!("{name}p");
    ip(&["link", "add", &name, "type", "veth", "peer", "name", &peer]);
    ip(&["addr", "add", "10.213.7.1/24", "dev", &name]);
    bundle.spec["linux"]["netDevices"] = json!({ name: { "name": "inner0" } });
    let output = bundle.run();
    assert!(output.contains("inner0:") && output.contains("10.213.7.1"), "{output}");
}
