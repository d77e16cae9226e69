//! Machines with kernels of their own: what comes in by an endpoint's link is theirs, and nothing of the namespace answers for them.

mod world;

use net::{EndpointSpec, NetworkSpec, Sandbox};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use world::guest::{Guest, machine};
use world::{Container, eventually, on_a_host, run, sh, spec};

/// As long as something may take that shall come about.
const LONG: std::time::Duration = std::time::Duration::from_secs(60);
fn six(name: &str) -> NetworkSpec {
    NetworkSpec { enable_ipv6: true, ..NetworkSpec::bridge(name) }
}

/// A port at an address that is good on the link `eth0` only.
fn on_link(asker: &Container, ip: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(ip, port, 0, asker.sandbox().endpoints[0].link_index).into()
}

#[test]
fn a_machine_is_reached_as_any_container() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("other")).unwrap();
        let place = run(&networks, machine("m", &["bridge"], &["8080:80", "5353:53/udp"]));
        let neighbour = run(&networks, spec("n", &["bridge"], &[]));
        let far = run(&networks, spec("f", &["other"], &[]));
        let machine = Guest::boot(&place);
        let guest = &machine.inside;
        for server in [guest, &neighbour, &stranger] {
            server.serve(80);
            server.serve_udp(53);
        }
        assert_eq!(stranger.ask("192.0.2.1:8080").to_string(), "192.0.2.2", "the stranger's address is kept");
        assert_eq!(stranger.ask_udp("192.0.2.1:5353").to_string(), "192.0.2.2");
        for address in ["127.0.0.1:8080", "192.0.2.1:8080", "172.17.0.1:8080"] {
            host.itself().ask(address);
        }
        host.itself().ask_udp("127.0.0.1:5353");
        assert_eq!(host.itself().ask((place.ip(), 80)).to_string(), "172.17.0.1");
        assert_eq!(neighbour.ask((place.ip(), 80)), neighbour.ip());
        assert_eq!(guest.ask((neighbour.ip(), 80)), place.ip());
        assert_eq!(guest.ask("192.0.2.2:80").to_string(), "192.0.2.1");
        assert_eq!(guest.ask_udp("192.0.2.2:53").to_string(), "192.0.2.1");
        neighbour.ask("192.0.2.1:8080");
        far.ask("192.0.2.1:8080");
        guest.ask("192.0.2.1:8080");
        far.cannot_reach((place.ip(), 80));
        let counted = &networks.statistics(place.sandbox(), None).unwrap()[0];
        assert!(counted.name == "eth0" && counted.rx_bytes > 0 && counted.tx_bytes > 0, "{counted:?}");
    });
}

#[test]
fn a_machine_has_ipv6_where_its_network_has() {
    on_a_host(|host| {
        let networks = host.networks();
        networks.create(six("six")).unwrap();
        let place = run(&networks, machine("m", &["six"], &["8080:80"]));
        let neighbour = run(&networks, spec("n", &["six"], &[]));
        let machine = Guest::boot(&place);
        let guest = &machine.inside;
        guest.serve(80);
        neighbour.serve(80);
        assert_eq!(neighbour.ask((place.ip6(), 80)), neighbour.ip6());
        assert_eq!(guest.ask((neighbour.ip6(), 80)), place.ip6());
        assert_eq!(guest.ask((neighbour.ip(), 80)), place.ip());
        host.itself().ask((place.ip6(), 80));
        // The address that it has made of its own link's, which others find out by its neighbour advertisements.
        let shown = guest.sh("ip -6 -o addr show eth0 scope link");
        let own = shown.split_whitespace().find(|word| word.starts_with("fe80:")).unwrap();
        let own: Ipv6Addr = own.split_once('/').unwrap().0.parse().unwrap();
        eventually("its own address is reached", || neighbour.try_ask(on_link(&neighbour, own, 80), LONG).is_ok());
    });
}

#[test]
fn the_tap_is_as_its_user_needs_it_and_the_machine_is_told_everything() {
    on_a_host(|host| {
        let networks = host.networks();
        let mut options = NetworkSpec::bridge("jumbo");
        options.options.insert("com.docker.network.driver.mtu".into(), "4000".into());
        networks.create(options).unwrap();
        let mut wanted = machine("m", &["bridge", "jumbo"], &[]);
        wanted.endpoints[1].link_name = Some("wan".into());
        wanted.endpoints[1].gateway_priority = 1;
        wanted.endpoints[1].sysctls.insert("net.ipv4.conf.IFNAME.log_martians".into(), "1".into());
        let place = run(&networks, wanted);
        let links = place.sh("ip -d -o link");
        let tap = links.lines().find(|line| line.contains(" tap0:")).unwrap();
        for word in ["type tap", "pi off", "vnet_hdr on", "persist on", "mtu 1500", "UP"] {
            assert!(tap.contains(word), "{word}: {tap}");
        }
        assert!(tap.contains("user nobody") || tap.contains("user 65534"), "{tap}");
        assert!(!tap.contains("multi_queue on"), "{tap}");
        assert!(links.lines().any(|line| line.contains(" tap1:") && line.contains("mtu 4000")), "{links}");

        let [first, second] = &place.sandbox().guest_interfaces()[..] else { panic!() };
        assert_eq!((&*first.name, &*first.tap, first.mtu), ("eth0", "tap0", 1500));
        assert_eq!(first.mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!(first.addresses, ["172.17.0.2/16".parse().unwrap()]);
        assert_eq!((first.default_gateway(false), &first.routes[..]), (None, &[][..]));
        assert_eq!((&*second.name, &*second.tap, second.mtu), ("wan", "tap1", 4000));
        assert_eq!(second.default_gateway(false), Some("172.18.0.1".parse().unwrap()));
        assert_eq!(second.default_gateway(true), None);
        assert_eq!(second.sysctls, [("net/ipv4/conf/wan/log_martians".to_owned(), "1".to_owned())]);
        assert_eq!(place.sh("cat /proc/sys/net/ipv4/conf/wan/log_martians"), "0\n", "it is the machine's");
        let container = run(&networks, spec("c", &["bridge"], &[]));
        assert!(container.sandbox().guest_interfaces().is_empty());
        assert!(!container.sh("ip -o link").contains("tap"));
        Guest::boot(&place);
    });
}

#[test]
fn a_machine_has_the_link_layer_address_that_it_was_given_and_no_other() {
    on_a_host(|host| {
        let networks = host.networks();
        let place = run(&networks, machine("m", &["bridge"], &[]));
        let neighbour = run(&networks, spec("n", &["bridge"], &[]));
        let machine = Guest::boot(&place);
        let guest = &machine.inside;
        neighbour.serve(80);
        assert_eq!(guest.ask((neighbour.ip(), 80)), place.ip());
        let own = place.sandbox().endpoints[0].mac;
        let known = || host.itself().sh("ip -o neigh show; bridge fdb show");
        for other in [neighbour.sandbox().endpoints[0].mac.to_string(), "02:42:ac:11:00:99".to_owned()] {
            neighbour.sh("ip neigh flush all");
            let before = known();
            let change = |mac: &str| {
                guest.sh(&format!("ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up"));
            };
            change(&other);
            guest.cannot_reach((neighbour.ip(), 80));
            let learnt = known();
            let lines_of = |text: &str| text.lines().filter(|line| line.contains(&other)).count();
            assert_eq!(lines_of(&before), lines_of(&learnt), "{learnt}");
            change(&own.to_string());
            eventually("it is heard again", || guest.try_ask((neighbour.ip(), 80).into(), LONG).is_ok());
        }
    });
}

#[test]
fn nothing_of_the_namespace_answers_in_the_machines_place() {
    on_a_host(|host| {
        let networks = host.networks();
        networks.create(six("six")).unwrap();
        let place = run(&networks, machine("m", &["six"], &["8080:80"]));
        let neighbour = run(&networks, spec("n", &["six"], &[]));
        for link in ["eth0", "tap0"] {
            let addresses = place.sh(&format!("ip -o addr show {link}"));
            assert!(!addresses.contains("inet"), "{addresses}");
        }
        assert_eq!(place.sh("ip -4 route; ip -6 route"), "");
        for asker in [&neighbour, &host.itself()] {
            asker.cannot_reach((place.ip(), 80));
            asker.cannot_reach((place.ip6(), 80));
        }
        let said = networks.statistics(place.sandbox(), None).unwrap()[0].tx_packets;
        assert_eq!(said, 0, "nobody in there has said a word, not even of itself");
        // Also where somebody gives it the addresses: what comes in is the machine's all the same.
        place.sh(&format!(
            "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6
             ip addr add {}/16 dev eth0; ip addr add {}/64 dev eth0 nodad; ip addr add fe80::77/64 dev eth0 nodad",
            place.ip(),
            place.ip6()
        ));
        place.serve(80);
        let silent = |what: &str| {
            for asker in [&neighbour, &host.itself()] {
                asker.cannot_reach((place.ip(), 80));
                asker.cannot_reach((place.ip6(), 80));
            }
            host.itself().cannot_reach("127.0.0.1:8080");
            neighbour.cannot_reach(on_link(&neighbour, "fe80::77".parse().unwrap(), 80));
            let known = neighbour.sh(&format!("ip neigh show {}; ip neigh show {}", place.ip(), place.ip6()));
            assert!(!known.contains("lladdr"), "{what}: {known}");
        };
        silent("nobody is attached");
        let attached = place.namespace.enter(|| sandbox::tap::attach("tap0")).unwrap().unwrap();
        silent("a machine is silent");
        // It was asked.
        let mut frame = [0; 2048];
        assert!(rustix::io::read(&attached, &mut frame[..]).unwrap() > 10);
        // The loopback is the namespace's own.
        assert_eq!(place.ask("127.0.0.11:80").to_string(), "127.0.0.1");
        assert!(place.ask("[::1]:80").is_loopback());
    });
}

#[test]
fn a_running_machine_is_connected_and_disconnected() {
    on_a_host(|host| {
        let networks = host.networks();
        networks.create(six("other")).unwrap();
        let mut place = run(&networks, machine("m", &["bridge"], &["8080:80"]));
        let far = run(&networks, spec("f", &["other"], &[]));
        let mut guest = Guest::boot(&place);
        guest.inside.serve(80);
        let on =
            |network: &str| EndpointSpec { network: network.into(), gateway_priority: 1, ..EndpointSpec::default() };
        let endpoint = networks.connect(&place.namespace, place.sandbox.as_mut().unwrap(), on("other")).unwrap();
        assert_eq!((&*endpoint.link_name, &*endpoint.tap.unwrap().name), ("eth1", "tap1"));
        guest.configure(&place);
        let interfaces = place.sandbox().guest_interfaces();
        assert_eq!(interfaces.iter().map(|one| one.routes.len()).collect::<Vec<_>>(), [0, 2], "the routes have moved");
        let other = interfaces[1].addresses.clone();
        far.ask((other[0].addr(), 80));
        far.ask((other[1].addr(), 80));
        host.itself().ask("127.0.0.1:8080");
        assert!(!place.sh("ip -o addr").contains("eth1"), "the namespace has no address of it");

        networks.disconnect(&place.namespace, place.sandbox.as_mut().unwrap(), "bridge").unwrap();
        let links = place.sh("ip -o link");
        assert!(!links.contains("eth0") && !links.contains("tap0") && links.contains("tap1"), "{links}");
        guest.configure(&place);
        host.itself().ask("127.0.0.1:8080");
        let back = networks.connect(&place.namespace, place.sandbox.as_mut().unwrap(), on("bridge")).unwrap();
        assert_eq!((&*back.link_name, &*back.tap.unwrap().name), ("eth0", "tap0"));
        // What does not come about leaves nothing.
        let mut invalid = on("third");
        networks.create(NetworkSpec::bridge("third")).unwrap();
        invalid.sysctls.insert("net.ipv4.conf.eth0.forwarding".into(), "1".into());
        networks.connect(&place.namespace, place.sandbox.as_mut().unwrap(), invalid).unwrap_err();
        place.sh("ip tuntap add tap2 mode tap");
        let refused = networks.connect(&place.namespace, place.sandbox.as_mut().unwrap(), on("third")).unwrap_err();
        assert_eq!(refused.to_string(), "cannot make the tap tap2: Device or resource busy (os error 16)");
        assert!(!place.sh("ip -o link").contains("eth2"));
        assert_eq!(place.sandbox().endpoints.len(), 2);
    });
}

#[test]
fn a_machine_outlives_the_daemon_and_takes_everything_with_it() {
    on_a_host(|host| {
        let networks = host.networks();
        let place = run(&networks, machine("m", &["bridge"], &["8080:80"]));
        let guest = Guest::boot(&place);
        guest.inside.serve(80);
        drop(networks);
        host.itself().ask("127.0.0.1:8080");
        // A daemon was killed while it connected the machine.
        place.sh("ip tuntap add tap5 mode tap");
        let networks = host.networks_with(vec![place.sandbox().clone()]);
        networks.settle(&place.namespace, place.sandbox()).unwrap();
        let links = place.sh("ip -o link");
        assert!(!links.contains("tap5") && links.contains("tap0"), "{links}");
        assert_eq!(place.sh("ip route"), "");
        host.itself().ask("127.0.0.1:8080");
        networks.tear_down(place.sandbox()).unwrap();
        let link = place.sandbox().endpoints[0].host_link.clone();
        drop((guest, place));
        eventually("the links are gone", || !sh("ip -o link").contains(&link));
    });
}

#[test]
fn records_of_earlier_versions_are_read() {
    on_a_host(|host| {
        let networks = host.networks();
        let place = run(&networks, spec("c", &["bridge"], &[]));
        let mut record = serde_json::to_value(place.sandbox()).unwrap();
        record.as_object_mut().unwrap().remove("tap_owner");
        record["endpoints"][0].as_object_mut().unwrap().remove("tap");
        let read: Sandbox = serde_json::from_value(record).unwrap();
        assert_eq!(&read, place.sandbox());
    });
}
