//! Steps of a build that ask for more than any container has.

use e2e::Daemon;

const INSECURE: &str = "FROM busybox\nRUN grep CapEff /proc/self/status > /sandbox\nRUN --security=insecure mkdir /place && mount -t tmpfs none /place && umount /place && touch /done\n";
const HOST: &str =
    "FROM busybox\nRUN readlink /proc/self/ns/net > /own\nRUN --network=host readlink /proc/self/ns/net > /net\n";

/// Writes a Dockerfile into a directory of its own.
fn write(host: &Daemon, name: &str, text: &str) {
    std::fs::create_dir_all(host.work().join(name)).expect("a directory");
    std::fs::write(host.work().join(name).join("Dockerfile"), text).expect("a Dockerfile");
}

#[test]
fn a_step_has_more_only_where_its_build_and_the_daemon_say_so() {
    let mut host = Daemon::start();
    write(&host, "insecure", INSECURE);
    write(&host, "host", HOST);
    let neither = "security.insecure is not allowed: it takes stratus build --allow security.insecure, and \
                   build-allow-entitlement = [\"security.insecure\"] in the daemon's configuration";
    host.sh("$STRATUS build insecure").exits_with(1).complains(neither);
    host.sh("DOCKER_BUILDKIT=0 docker build insecure").exits_with(1).complains(neither);
    host.sh("$STRATUS build --allow network.host host").exits_with(1).complains(
        "network.host is not allowed: it takes build-allow-entitlement = [\"network.host\"] in the daemon's configuration, too",
    );
    // It is known before anything is done.
    let said = host.sh("$STRATUS build --progress plain insecure");
    assert!(!said.stderr().contains("[2/3] RUN"), "{said}");
    host.sh("$STRATUS build --allow device insecure").exits_with(2).complains("security.insecure and network.host");

    host.restart_with(&["--build-allow-entitlement", "security.insecure", "--build-allow-entitlement", "network.host"]);
    host.sh("$STRATUS build insecure")
        .exits_with(1)
        .complains("is not allowed: it takes stratus build --allow security.insecure, too");
    host.sh("$STRATUS build --allow security.insecure -t insecure insecure").ok();
    host.sh("docker run --rm insecure test -e /done").ok();
    let own = host.sh("docker run --rm insecure cat /sandbox").ok().stdout().to_owned();
    assert!(own.contains("00000000a80425fb"), "the other steps have what any container has: {own}");
    host.sh("$STRATUS build --allow network.host -t host host").ok();
    let net = std::fs::read_link("/proc/self/ns/net").expect("the network's namespace");
    host.sh("docker run --rm host cat /net").says(&net.display().to_string());
    assert_ne!(host.sh("docker run --rm host cat /own").ok().stdout().trim(), net.display().to_string());
}

#[test]
fn what_was_made_with_all_privileges_is_no_other_steps() {
    let host = Daemon::start_with(&["--build-allow-entitlement", "security.insecure"]);
    let command = "grep CapEff /proc/self/status > /caps";
    write(&host, "insecure", &format!("FROM busybox\nRUN --security=insecure {command}\n"));
    write(&host, "sandbox", &format!("FROM busybox\nRUN {command}\n"));
    host.sh("$STRATUS build --allow security.insecure -t insecure insecure").ok();
    host.sh("$STRATUS build -t sandbox sandbox").ok();
    let caps = |image: &str| host.sh(&format!("docker run --rm {image} cat /caps")).ok().stdout().to_owned();
    assert_ne!(caps("insecure"), caps("sandbox"));
    host.sh("$STRATUS build --progress plain --allow security.insecure insecure").ok().complains("CACHED");
}

#[test]
fn a_build_on_the_hosts_network_has_nothing_to_ask_for() {
    let host = Daemon::start();
    write(&host, "host", HOST);
    host.sh("$STRATUS build --network host host").ok();
}
