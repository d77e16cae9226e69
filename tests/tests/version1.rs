//! stratus on a server that has control groups of version 1 alone, as distributions of some years ago boot.
//!
//! `cargo xtask server` boots one for it.

use e2e::Server;

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server version1"]
fn limits_of_version_1() {
    let host = Server::install();
    host.sh("stat -f -c %T /sys/fs/cgroup").says("tmpfs");
    host.sh("systemctl enable --now stratus").ok();
    host.import_busybox();
    host.sh("docker info -f '{{.CgroupVersion}}'").says("1");
    host.sh("docker run --rm -m 32m --pids-limit 50 --cpus 0.5 --memory-swap 64m busybox sh -c 'cd /sys/fs/cgroup && cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us'")
        .says("33554432\n67108864\n50\n50000");
    host.sh(
        "docker run -m 8m busybox sh -c 'tail /dev/zero'; docker inspect -f '{{.State.OOMKilled}}' $(docker ps -lq)",
    )
    .says("true");
    host.sh("docker run -d --name frozen busybox sleep 1000 && docker pause frozen && cat /sys/fs/cgroup/freezer/*/$(docker inspect -f '{{.Id}}' frozen)/freezer.state || find /sys/fs/cgroup/freezer -name freezer.state | xargs grep -l FROZEN")
        .mentions("FROZEN");
    host.sh("docker unpause frozen && docker rm -f frozen").ok();

    // As an OCI runtime, with what docker has no word for.
    host.make_base();
    host.sh("mkdir bundle && mv base bundle/rootfs && cd bundle && stratus runtime spec && mv config.json plain.json")
        .ok();
    let change = ".process.terminal = false | .process.args = [\"sleep\", \"1000\"] | .linux.cgroupsPath = \"/by-hand\" \
         | .linux.resources += {hugepageLimits: [{pageSize: \"2MB\", limit: 4194304}]}";
    host.sh(&format!(
        "cd bundle && jq '{change}' plain.json > config.json && stratus runtime create one >/dev/null </dev/null 2>&1"
    ))
    .ok();
    host.sh("cat /sys/fs/cgroup/hugetlb/by-hand/hugetlb.2MB.limit_in_bytes").says("4194304");
    host.sh("stratus runtime events --stats one | jq -c '.data.hugetlb[\"2MB\"]'")
        .says("{\"failcnt\":0,\"max\":0,\"usage\":0}");
    host.sh("stratus runtime delete --force one").ok();
    host.sh("ls -d /sys/fs/cgroup/*/by-hand").fails_with("No such file");
}
