//! Networks: who reaches whom, under which name, and from where.

use e2e::{Daemon, eventually};

/// A web server that says `text` on port 80 of a container.
fn serve(host: &Daemon, name: &str, text: &str, flags: &str) {
    host.sh(&format!(
        "docker run -d --name {name} {flags} busybox sh -c 'mkdir /www; echo {text} > /www/index.html; exec httpd -f -h /www -p 80'"
    ))
    .ok();
    eventually("the server to listen", || {
        host.sh(&format!("docker exec {name} netstat -ltn")).stdout().contains(":80 ")
    });
}

#[test]
fn the_default_bridge() {
    let host = Daemon::start();
    serve(&host, "web", "hello", "");
    let address = host.sh("docker inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web").text().to_owned();
    host.sh("docker inspect -f '{{.NetworkSettings.IPAddress}}' web").says(&address);
    host.sh(&format!("curl -s http://{address}")).says("hello");
    host.sh(&format!("docker run --rm busybox wget -qO- http://{address}")).says("hello");
    // Names are for networks of one's own; here there are links.
    host.sh("docker run --rm busybox wget -qO- http://web").fails_with("bad address");
    host.sh("docker run --rm --link web:alias busybox wget -qO- http://alias").says("hello");
    host.sh("docker network ls --format '{{.Name}} {{.Driver}} {{.Scope}}' | sort")
        .says("bridge bridge local\nhost host local\nnone null local");
    host.sh("docker network inspect bridge -f '{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}'")
        .mentions(&format!("web {address}/24"));
    host.sh("docker network rm bridge").fails_with("bridge is a pre-defined network and cannot be removed");
    host.sh("docker run --rm --add-host here:10.1.2.3 --add-host gate:host-gateway busybox grep -c -e '10.1.2.3.here' -e gate /etc/hosts").says("2");
    host.sh(
        "docker run --rm --dns 10.9.8.7 --dns-search example.org --dns-option ndots:3 busybox cat /etc/resolv.conf",
    )
    .mentions("nameserver 10.9.8.7")
    .mentions("search example.org")
    .mentions("options ndots:3");
    host.sh("docker run --rm --mac-address 02:42:ac:11:00:99 busybox cat /sys/class/net/eth0/address")
        .says("02:42:ac:11:00:99");
}

#[test]
fn one_of_ones_own() {
    let host = Daemon::start();
    let id = host.sh("docker network create --label tier=back net").text().to_owned();
    assert_eq!(id.len(), 64);
    host.sh("docker network create net").fails_with("network with name net already exists");
    serve(&host, "web", "hello", "--network net --network-alias www");
    for name in ["web", "www", "web.net"] {
        host.sh(&format!("docker run --rm --network net busybox wget -qO- http://{name}")).says("hello");
    }
    host.sh("docker run --rm --network net busybox nslookup web 127.0.0.11").mentions("Name:\tweb");
    host.sh("docker run --rm --network net busybox wget -qO- http://nobody").fails_with("bad address");
    host.sh("docker run --rm busybox wget -qO- http://web").fails_with("bad address");
    host.sh("docker network inspect net -f '{{.Labels.tier}} {{.Driver}} {{.Internal}} {{.EnableIPv6}} {{len .Containers}}'").says("back bridge false false 1");
    host.sh("docker network ls -f label=tier -f driver=bridge --format '{{.Name}}'").says("net");
    host.sh("docker network ls -f 'name=^n.t$' --format '{{.Name}}'").says("net");
    host.sh("docker network ls -f 'name=^bridge$' --format '{{.Name}}'").says("bridge");
    host.sh("docker network ls -f 'name=^idge$' --format '{{.Name}}'").says("");
    host.sh("docker network rm net").fails_with("has active endpoints");
    host.sh("docker ps -f network=net --format '{{.Names}}'").says("web");
    host.sh("docker rm -f web && docker network rm net").mentions("net");
    host.sh("docker network inspect net").fails_with("network net not found");
    host.sh("docker run --rm --network nowhere busybox true").exits_with(125).complains("network nowhere not found");
}

#[test]
fn connecting_and_leaving() {
    let host = Daemon::start();
    host.sh("docker network create one && docker network create two").ok();
    serve(&host, "web", "hello", "--network one");
    host.sh("docker run -d --name client --network two busybox sleep 1000").ok();
    host.sh("docker exec client wget -qO- http://web").fails_with("bad address");
    host.sh("docker network connect --alias other one client && docker exec client wget -qO- http://web").says("hello");
    host.sh("docker exec client ls /sys/class/net").mentions("eth1");
    host.sh("docker exec web nslookup other").mentions("Address");
    host.sh("docker inspect -f '{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{end}}' client").says("one two");
    host.sh("docker network connect one client").fails_with("endpoint with name client already exists in network one");
    host.sh("docker network disconnect one client && docker exec client wget -qO- http://web")
        .fails_with("bad address");
    host.sh("docker network disconnect one client").fails_with("is not connected to");
    host.sh("docker network connect nowhere client").fails_with("network nowhere not found");
    // One that does not run joins with its start.
    host.sh("docker create --name later --network two busybox wget -qO- http://web && docker network connect one later && docker start -a later").mentions("hello");
    host.sh("docker rm -f web client later && docker network prune -f").mentions("one").mentions("two");
}

#[test]
fn names_are_seen_by_who_came_from_the_default_bridge() {
    let host = Daemon::start();
    host.sh("docker network create shop").ok();
    serve(&host, "db", "hello", "--network shop");
    host.sh("docker run -d --name client busybox sleep 1000").ok();
    host.sh("docker exec client wget -qO- http://db").fails_with("bad address");
    host.sh("docker network connect shop client && docker exec client wget -qO- http://db").says("hello");
    host.sh("docker restart -t 0 client && docker exec client wget -qO- http://db").mentions("hello");
    host.sh("docker network disconnect bridge client && docker exec client wget -qO- http://db").says("hello");
    host.sh("docker network connect bridge client && docker network disconnect shop client").ok();
    host.sh("docker exec client grep 127.0.0.11 /etc/resolv.conf").exits_with(1);
    host.sh("docker create --name later busybox wget -qO- http://db && docker network connect shop later && docker start -a later")
        .mentions("hello");
}

#[test]
fn addresses_of_ones_choice() {
    let host = Daemon::start();
    let subnet = |n: u8| format!("10.{}.{n}", 192 + (host.port() - 21_000) / 20);
    let net = subnet(200);
    host.sh(&format!("docker network create --subnet {net}.0/24 --gateway {net}.254 --ip-range {net}.128/25 net")).ok();
    host.sh("docker run --rm --network net busybox ip route").mentions(&format!("default via {net}.254"));
    host.sh(&format!("docker run -d --name fixed --network net --ip {net}.7 busybox sleep 1000")).ok();
    host.sh("docker inspect -f '{{.NetworkSettings.Networks.net.IPAddress}} {{.NetworkSettings.Networks.net.Gateway}} {{.NetworkSettings.Networks.net.IPPrefixLen}}' fixed")
        .says(&format!("{net}.7 {net}.254 24"));
    host.sh(&format!("docker run --rm --network net --ip {net}.7 busybox true"))
        .exits_with(125)
        .complains("Address already in use");
    host.sh("docker run --rm --network bridge --ip 10.0.0.9 busybox true")
        .exits_with(125)
        .complains("user specified IP address is supported on user defined networks only");
    host.sh(&format!("docker network create --subnet {net}.0/25 overlaps"))
        .fails_with("Pool overlaps with other one on this address space");
    host.sh("docker run --rm --network net busybox ip -4 addr show eth0").mentions(&format!("inet {net}.1"));
}

#[test]
fn without_a_way_out() {
    let host = Daemon::start();
    host.sh("docker network create --internal inside").ok();
    serve(&host, "web", "hello", "--network inside");
    host.sh("docker run --rm --network inside busybox wget -qO- http://web").says("hello");
    host.sh("docker run --rm --network inside busybox ip route").omits("default");
    host.sh("docker run --rm --network none busybox ls /sys/class/net").says("lo");
    host.sh("docker run --rm --network none busybox ping -c 1 -W 1 127.0.0.1").mentions("1 packets received");
    let own = host.sh("readlink /proc/self/ns/net").text().to_owned();
    host.sh("docker run --rm --network host busybox readlink /proc/self/ns/net").says(&own);
    host.sh("docker run --rm --network container:web busybox wget -qO- http://localhost").says("hello");
    host.sh("docker run --rm --network container:web -p 80:80 busybox true")
        .exits_with(125)
        .complains("conflicting options");
    host.sh("docker run --rm --network container:nobody busybox true")
        .exits_with(125)
        .complains("No such container: nobody");
}

#[test]
fn ipv6() {
    let host = Daemon::start();
    host.sh("docker network create --ipv6 --subnet fd00:e2e:6::/64 net").ok();
    serve(&host, "web", "hello", "--network net -p $PORT:80");
    let address =
        host.sh("docker inspect -f '{{.NetworkSettings.Networks.net.GlobalIPv6Address}}' web").text().to_owned();
    assert!(address.starts_with("fd00:e2e:6::"), "{address}");
    host.sh(&format!("docker run --rm --network net busybox wget -qO- 'http://[{address}]'")).says("hello");
    host.sh("docker run --rm --network net busybox nslookup -type=aaaa web 127.0.0.11").mentions(&address);
    host.sh("curl -s http://[::1]:$PORT").says("hello");
}

/// The network of a container with a user namespace of its own is made after its process. The stock client has no word for
/// it (`--userns` takes `host` alone), so the command of this project is the one that asks.
#[test]
fn a_user_namespace_of_its_own() {
    let host = Daemon::start();
    host.sh("docker network create apart").ok();
    host.sh("docker run -d --name peer --network apart busybox sleep 1000").ok();
    let inside = host.sh(
        "$STRATUS run --rm --userns private --network apart busybox sh -c 'cat /proc/self/uid_map; ping -c1 -W5 peer >/dev/null && echo reached'",
    );
    inside.mentions("65536").mentions("reached").omits("4294967295");
    // One that fails after its network was made gives it back.
    host.sh("$STRATUS run --rm --userns private --network apart busybox no-such-program").exits_with(127);
    for (flags, why) in [
        ("--pid host", "cannot share the host PID namespace when user namespaces are enabled"),
        (
            "--network container:peer",
            "cannot share another container's network namespace with a user namespace of its own",
        ),
    ] {
        host.sh(&format!("$STRATUS run --rm --userns private {flags} busybox true")).exits_with(125).complains(why);
    }
    host.sh("docker network inspect apart -f '{{range .Containers}}{{.Name}} {{end}}'").says("peer");
    host.sh("docker rm -f peer && docker network rm apart").ok();
}

#[test]
fn who_shares_a_network_loses_it_with_its_owner() {
    let host = Daemon::start();
    serve(&host, "owner", "owner", "");
    let address = host.sh("docker inspect -f '{{.NetworkSettings.IPAddress}}' owner").text().to_owned();
    host.sh("docker run -d --name guest --network container:owner busybox sleep 1000").ok();
    host.sh("docker exec guest ip -4 addr show eth0").mentions(&address);
    host.sh("docker rm -f owner").ok();
    eventually("the guest to lose the link", || !host.sh("docker exec guest ip link").stdout().contains("eth0"));
    eventually("the address to be given out again", || {
        host.sh("docker run --rm busybox hostname -i").stdout().trim() == address
    });
    host.sh("docker exec guest cat /proc/net/dev").mentions("lo:");
}

/// A kernel may have been built without what a network takes; then that is what it says.
fn has(made: &e2e::Outcome, part: &str) -> bool {
    let is_there = made.code() == 0;
    assert!(is_there || made.stderr().contains(&format!("needs {part}.")), "{}", made.stderr());
    is_there
}

#[test]
fn beside_the_host_on_a_link_of_its_own() {
    let host = Daemon::start();
    // The link is a bridge's, and on the bridge is somebody else's machine, a router.
    let parent = format!("lan{}", host.port());
    host.sh(&format!("docker network create -o com.docker.network.bridge.name={parent} wire")).ok();
    host.sh("docker run -d --name router --network wire --cap-add NET_ADMIN busybox sleep 1000").ok();
    host.sh("docker exec router ip addr add 198.51.100.1/24 dev eth0").ok();
    // Each has an address of its own: the router remembers for a while which card had one.
    for (driver, part, address) in [("macvlan", "MACVLAN", "198.51.100.9"), ("ipvlan", "IPVLAN", "198.51.100.19")] {
        let create = format!("docker network create -d {driver} -o parent={parent}");
        host.sh(&format!("{create} --subnet 198.51.100.0/24 --gateway 198.51.100.1 lan")).ok();
        host.sh(&format!("{create} --subnet 198.51.100.0/25 two"))
            .fails_with("Pool overlaps with other one on this address space");
        host.sh(&format!("{create} two")).fails_with(&format!("is already using parent interface {parent}"));
        let run = format!("docker run -d --name web --network lan --ip {address} -p 8080:80 busybox sleep 1000");
        let first = host.sh(&run);
        if has(&first, part) {
            host.sh("docker exec web sh -c 'mkdir /www; echo hello > /www/index.html; httpd -h /www'").ok();
            host.sh("docker run --rm --network lan busybox wget -qO- http://web").says("hello");
            host.sh(&format!("docker exec router wget -qO- http://{address}")).says("hello");
            host.sh("docker exec web ip route").mentions("default via 198.51.100.1");
            host.sh("docker port web").says("");
            host.sh("docker stats --no-stream --format '{{.NetIO}}' web | grep -c '^0B' || true").says("0");
            host.sh("docker restart -t 0 web && docker network disconnect lan web && docker network connect lan web")
                .ok();
            host.sh("docker network inspect -f '{{.Driver}} {{.Options}} {{len .Containers}}' lan")
                .says(&format!("{driver} map[parent:{parent}] 1"));
        }
        host.sh("docker rm -f web && docker network rm lan").ok();
    }
    let refused = |what: &str| host.sh(&format!("docker network create {what} x"));
    refused("-d macvlan -o parent=lo").fails_with("loopback interface is not a valid macvlan parent");
    refused("-d macvlan -o parent=none0").fails_with("invalid subinterface vlan name none0");
    refused("-d ipvlan -o ipvlan_mode=l7").fails_with("requested ipvlan mode 'l7' is not valid");
    host.sh(&format!("docker network create -d ipvlan -o parent={parent} lan")).ok();
    host.sh("docker create --name mac --network lan --mac-address 02:00:00:00:00:01 busybox && docker start mac")
        .fails_with("ipvlan interfaces do not support custom mac address assignment");
}

#[test]
fn on_a_parent_that_is_made() {
    let host = Daemon::start();
    let parent = format!("lan{}", host.port());
    host.sh(&format!("docker network create -o com.docker.network.bridge.name={parent} wire")).ok();
    if has(&host.sh(&format!("docker network create -d macvlan -o parent={parent}.7 tagged")), "VLAN_8021Q") {
        host.sh(&format!("ip -d link show {parent}.7")).mentions("id 7");
        host.sh(&format!("docker network rm tagged && ip -o link | grep -c {parent}.7 || true")).mentions("0");
    }
    for (driver, mode, part) in [
        ("macvlan", "macvlan_mode=bridge", "MACVLAN"),
        ("ipvlan", "ipvlan_mode=l2", "IPVLAN"),
        ("ipvlan", "ipvlan_mode=l3", "IPVLAN"),
    ] {
        let made = host.sh(&format!("docker network create -d {driver} -o {mode} nowhere"));
        if !has(&made, "DUMMY") {
            return;
        }
        if has(&host.sh("docker run --rm --network nowhere busybox true"), part) {
            serve(&host, "web", "hello", "--network nowhere");
            host.sh("docker run --rm --network nowhere busybox wget -qO- http://web").says("hello");
            host.sh("docker rm -f web").ok();
        }
        let link = format!("dm-{}", &made.text()[..12]);
        host.sh(&format!("ip -o link | grep -c {link}")).says("1");
        host.sh(&format!("docker network rm nowhere && ip -o link | grep -c {link} || true")).mentions("0");
    }
}
