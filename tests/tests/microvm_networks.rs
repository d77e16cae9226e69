//! `docker network connect` and `disconnect` of containers in microVMs that run: network cards that come and go.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

fn interfaces(host: &Daemon, name: &str) -> String {
    host.slowly(&format!("docker exec {name} ls /sys/class/net"))
        .text()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// The address of a container on a network, as the daemon says it.
fn address(host: &Daemon, name: &str, network: &str) -> String {
    let format = format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}");
    host.sh(&format!("docker inspect -f '{format}' {name}")).text().to_owned()
}

/// A web server in a container.
fn serve(host: &Daemon, name: &str, network: &str) {
    let serve = format!("mkdir /www; echo hello from {name} > /www/index.html; httpd -f -h /www");
    host.sh(&format!("docker run -d --name {name} --network {network} busybox sh -c '{serve}'")).ok();
}

#[test]
fn networks_are_come_to_and_left_while_it_runs() {
    let mut host = host();
    for network in ["one", "two", "three"] {
        host.sh(&format!("docker network create {network}")).ok();
    }
    serve(&host, "web", "one");
    serve(&host, "far", "three");
    host.slowly("docker run -d --name client --network two --runtime microvm busybox sleep 100000").ok();
    assert_eq!(interfaces(&host, "client"), "eth0 lo");
    host.slowly("docker exec client wget -qO- http://web").fails_with("bad address");

    host.slowly("docker network connect --alias other one client").ok();
    assert_eq!(interfaces(&host, "client"), "eth0 eth1 lo");
    host.slowly("docker exec client wget -qO- http://web").says("hello from web");
    let own = address(&host, "client", "one");
    host.slowly("docker exec client ip -4 addr show eth1").mentions(&format!("inet {own}/"));
    host.slowly("docker exec client cat /etc/hosts").mentions(&own).mentions(&address(&host, "client", "two"));
    let mac = host.sh("docker inspect -f '{{.NetworkSettings.Networks.one.MacAddress}}' client").text().to_owned();
    host.slowly("docker exec client cat /sys/class/net/eth1/address").says(&mac);
    host.slowly("docker exec web ping -c 1 -W 20 client").mentions("1 packets received");
    host.slowly("docker exec web ping -c 1 -W 20 other").mentions("1 packets received");

    // The daemon is killed in between: the next one goes on with it.
    host.kill9();
    host.restart();
    host.slowly("docker network connect three client").ok();
    host.slowly("docker exec client wget -qO- http://far").says("hello from far");
    host.slowly("docker network disconnect one client").ok();
    assert_eq!(interfaces(&host, "client"), "eth0 eth2 lo");
    host.slowly("docker exec client wget -qO- http://web").fails_with("bad address");
    host.sh("docker exec web ping -c 1 -W 5 client").fails_with("bad address");

    // Also the card that it began with, whose network gave the way out.
    host.slowly("docker network disconnect two client").ok();
    assert_eq!(interfaces(&host, "client"), "eth2 lo");
    host.slowly("docker exec client ip -4 route").mentions("default via").mentions("eth2").omits("eth0");
    host.slowly("docker exec client wget -qO- http://far").says("hello from far");
    host.slowly("docker network connect one client").ok();
    host.slowly("docker exec client wget -qO- http://web").says("hello from web");

    // With the next start it has all of them from the beginning.
    host.slowly("docker restart -t 0 client").ok();
    host.slowly("docker exec client wget -qO- http://web").says("hello from web");
    host.slowly("docker exec client wget -qO- http://far").says("hello from far");
    host.sh("docker rm -f client web far && docker network rm one two three").ok();
}

#[test]
fn there_are_so_many_places_and_one_that_is_left_is_free_again() {
    let host = host();
    host.slowly("docker run -d --name client --runtime microvm busybox sleep 100000").ok();
    for n in 1..=4 {
        host.sh(&format!("docker network create n{n}")).ok();
    }
    for n in 1..=3 {
        host.slowly(&format!("docker network connect n{n} client")).ok();
    }
    host.slowly("docker network connect n4 client")
        .fails_with("a microVM that runs has places for 4 network cards, and all are taken");
    host.sh("docker inspect -f '{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{end}}' client")
        .says("bridge n1 n2 n3");
    host.slowly("docker network disconnect n2 client && docker network connect n4 client").ok();
    let own = address(&host, "client", "n4");
    host.slowly("docker exec client ip -4 addr").mentions(&format!("inet {own}/"));
    // One that is paused does nothing with its cards.
    host.sh("docker pause client && docker network disconnect n4 client").fails_with("unpause it first");
    host.sh("docker unpause client").ok();
    host.slowly("docker stop -t 0 client && docker network connect n2 client && docker start client").ok();
    assert_eq!(interfaces(&host, "client"), "eth0 eth1 eth2 eth3 eth4 lo");
    host.sh("docker rm -f client && docker network rm n1 n2 n3 n4").ok();
}

#[test]
fn what_is_saved_has_the_cards_that_came() {
    let host = host();
    for network in ["zoo", "ark"] {
        host.sh(&format!("docker network create {network}")).ok();
    }
    serve(&host, "web", "ark");
    host.slowly("docker run -d --name client --network zoo --runtime microvm busybox sleep 100000").ok();
    host.slowly("docker network connect ark client").ok();
    // The first one goes, and comes again: it is behind the other one then.
    host.slowly("docker network disconnect zoo client && docker network connect zoo client").ok();
    let hears = |name: &str| {
        host.slowly(&format!("docker exec {name} wget -qO- http://web")).says("hello from web");
        for network in ["zoo", "ark"] {
            let own = address(&host, name, network);
            host.slowly(&format!("docker exec {name} ip -4 addr")).mentions(&format!("inet {own}/"));
            host.sh(&format!("docker run --rm --network {network} busybox ping -c 1 -W 20 {own}"))
                .mentions("1 packets received");
        }
    };
    hears("client");
    host.slowly("$STRATUS suspend client").ok();
    host.sh("docker network create later && docker network connect later client")
        .exits_with(1)
        .complains("container client is suspended");
    host.slowly("$STRATUS resume client && docker network rm later").ok();
    eventually("it goes on", || host.sh("docker inspect -f '{{.State.Status}}' client").stdout() == "running\n");
    hears("client");
    host.slowly("$STRATUS fork client --name copy").says("copy");
    hears("copy");
    hears("client");
    // Cards of what goes on from a snapshot go, and come.
    host.slowly("docker network disconnect ark copy").ok();
    host.slowly("docker exec copy wget -qO- http://web").fails_with("bad address");
    host.slowly("docker network connect ark copy").ok();
    hears("copy");
    host.sh("docker rm -f client copy web && docker network rm zoo ark").ok();
}

#[test]
fn one_is_beside_the_host_on_a_link_of_its_own() {
    let host = host();
    // The link is a bridge's, and on the bridge is somebody else's machine, a router.
    let parent = format!("lan{}", host.port());
    host.sh(&format!("docker network create -o com.docker.network.bridge.name={parent} wire")).ok();
    host.sh("docker run -d --name router --network wire --cap-add NET_ADMIN busybox sleep 1000").ok();
    host.sh("docker exec router ip addr add 198.51.100.1/24 dev eth0").ok();
    let create = |driver: &str, parent: &str| format!("docker network create -d {driver} -o parent={parent}");
    host.sh(&format!(
        "{} --ipv6 --subnet 198.51.100.0/24 --gateway 198.51.100.1 --subnet fd00:51::/64 lan",
        create("macvlan", &parent)
    ))
    .ok();
    let first = host.slowly("docker run -d --name web --network lan --ip 198.51.100.9 --runtime microvm busybox sh -c 'mkdir /www; echo hello >/www/index.html; httpd -f -h /www'");
    if !first.stderr().contains("MACVLAN") {
        first.ok();
        // From beside it, from beyond the parent, by name, and by IPv6, for which it is in groups that its own kernel knows.
        eventually("it to serve", || {
            host.sh("docker exec router wget -qO- http://198.51.100.9").stdout().trim_end() == "hello"
        });
        host.sh("docker run --rm --network lan busybox wget -qO- http://web").says("hello");
        let six = "docker inspect -f '{{(index .NetworkSettings.Networks \"lan\").GlobalIPv6Address}}' web";
        host.sh(&format!("docker run --rm --network lan busybox wget -qO- http://[$({six})]")).says("hello");
        host.slowly("docker exec web ip route").mentions("default via 198.51.100.1");
        host.slowly("docker exec web ping -c 1 198.51.100.1").ok();
        host.sh("docker stats --no-stream --format '{{.NetIO}}' web | grep -c '^0B' || true").says("0");
        // It goes and comes while it runs, and after a suspension.
        host.slowly("docker network disconnect lan web && docker network connect --ip 198.51.100.10 lan web").ok();
        host.sh("docker exec router wget -qO- http://198.51.100.10").says("hello");
        host.slowly("$STRATUS suspend web && $STRATUS resume web").ok();
        host.sh("docker exec router wget -qO- http://198.51.100.10").says("hello");
    }
    host.sh("docker rm -f web; docker network rm lan").ok();
    host.sh(&format!("{} lan", create("ipvlan", &parent))).ok();
    host.sh("docker run --rm --network lan --runtime microvm busybox true")
        .exits_with(125)
        .complains("network lan: a microVM can be on a bridge or on macvlan, and not on ipvlan");
    host.sh("docker rm -f router; docker network rm lan wire").ok();
}
