//! Who reaches whom: containers, the host, and a stranger outside, over real connections.

mod world;

use net::NetworkSpec;
use world::{on_a_host, run, sh, spec};

#[test]
fn a_container_reaches_the_outside_under_the_hosts_address() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let c = run(&networks, spec("c", &["bridge"], &[]));
        stranger.serve(80);
        assert_eq!(c.ask("192.0.2.2:80").to_string(), "192.0.2.1");
    });
}

#[test]
fn containers_of_one_network_reach_each_other_directly() {
    on_a_host(|host| {
        let networks = host.networks();
        let (a, b) = (run(&networks, spec("a", &["bridge"], &[])), run(&networks, spec("b", &["bridge"], &[])));
        assert_eq!((a.ip().to_string(), b.ip().to_string()), ("172.17.0.2".into(), "172.17.0.3".into()));
        assert_eq!(b.sandbox().endpoints[0].mac.to_string(), "02:42:ac:11:00:03");
        b.serve(80);
        assert_eq!(a.ask((b.ip(), 80)), a.ip());
        assert_eq!(host.itself().ask((b.ip(), 80)).to_string(), "172.17.0.1");
        assert!(a.sh("ip addr show eth0").contains("02:42:ac:11:00:02"));
        assert!(!a.sh("ip -6 addr show eth0").contains("inet6"));
        assert!(a.sh("ip -6 addr show lo").contains("::1"));
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    published_port("0");
}

/// As where dockerd or Kubernetes runs: frames on bridges go through the IP rules.
#[test]
fn a_published_port_is_reached_from_everywhere_with_bridged_frames_filtered() {
    published_port("1");
}

fn published_port(bridge_nf: &'static str) {
    on_a_host(move |host| {
        filter_bridged(bridge_nf);
        let stranger = host.stranger();
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("other")).unwrap();
        let web = run(&networks, spec("web", &["bridge"], &["8080:80"]));
        let (neighbour, far) =
            (run(&networks, spec("n", &["bridge"], &[])), run(&networks, spec("f", &["other"], &[])));
        web.serve(80);
        assert_eq!(stranger.ask("192.0.2.1:8080").to_string(), "192.0.2.2", "the stranger's address is kept");
        for address in ["127.0.0.1:8080", "127.8.8.8:8080", "192.0.2.1:8080", "172.17.0.1:8080"] {
            host.itself().ask(address);
        }
        neighbour.ask("192.0.2.1:8080");
        neighbour.ask("172.17.0.1:8080");
        far.ask("192.0.2.1:8080");
        web.ask("192.0.2.1:8080");
    });
}

fn filter_bridged(value: &str) {
    sh(&format!("for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $f ] || echo {value} > $f; done"));
}

#[test]
fn udp_is_published_too() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let dns = run(&networks, spec("dns", &["bridge"], &["53:5353/udp"]));
        dns.serve_udp(5353);
        assert_eq!(stranger.ask_udp("192.0.2.1:53").to_string(), "192.0.2.2");
        host.itself().ask_udp("127.0.0.1:53");
        dns.ask_udp("192.0.2.1:53");
    });
}

#[test]
fn what_is_not_published_is_not_reached_from_outside_of_the_network() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("other")).unwrap();
        let web = run(&networks, spec("web", &["bridge"], &["127.0.0.1:8080:80"]));
        let far = run(&networks, spec("far", &["other"], &[]));
        web.serve(80);
        stranger.sh("ip route add 172.16.0.0/12 via 192.0.2.1; ip route add 127.0.0.5/32 via 192.0.2.1 || true");
        stranger.cannot_reach((web.ip(), 80));
        stranger.cannot_reach("192.0.2.1:8080");
        far.cannot_reach((web.ip(), 80));
        far.cannot_reach("172.18.0.1:8080");
        assert_eq!(host.itself().ask("127.0.0.1:8080").to_string(), "172.17.0.1");
    });
}

#[test]
fn a_forged_packet_to_the_hosts_loopback_is_dropped() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let web = run(&networks, spec("web", &["bridge"], &["127.0.0.1:8080:80"]));
        web.serve(80);
        host.itself().serve(9000);
        // Both may route 127.0.0.0/8 over their wires from here on.
        for (who, link, via) in [(&stranger, "cable1", "192.0.2.1"), (&web, "eth0", "172.17.0.1")] {
            who.sh(&format!(
                "echo 1 > /proc/sys/net/ipv4/conf/{link}/route_localnet
                 ip addr del 127.0.0.1/8 dev lo; ip route del table local local 127.0.0.0/8 dev lo 2>/dev/null || true
                 ip route add 127.0.0.0/8 via {via} dev {link}"
            ));
        }
        stranger.cannot_reach("127.0.0.1:8080");
        web.cannot_reach("127.0.0.1:9000");
        web.cannot_reach("127.0.0.1:8080");
    });
}

#[test]
fn an_internal_network_has_no_way_out_or_in() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        networks.create(NetworkSpec { internal: true, ..NetworkSpec::bridge("inside") }).unwrap();
        let (a, b) =
            (run(&networks, spec("a", &["inside"], &[])), run(&networks, spec("b", &["inside"], &["8080:80"])));
        let web = run(&networks, spec("web", &["bridge"], &["8081:80"]));
        for container in [&b, &web, &stranger] {
            container.serve(80);
        }
        a.ask((b.ip(), 80));
        host.itself().ask((b.ip(), 80));
        assert!(b.sandbox().ports.is_empty(), "there is nowhere to publish from");
        assert!(!a.sh("ip route").contains("default"));
        // Even with a route of its own making.
        a.sh("ip route add default via 172.18.0.1");
        a.cannot_reach("192.0.2.2:80");
        a.cannot_reach("192.0.2.1:8081");
        a.cannot_reach((web.ip(), 80));
        web.cannot_reach((b.ip(), 80));
    });
}

#[test]
fn members_without_icc_do_not_reach_each_other() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        filter_bridged("0");
        let mut apart = NetworkSpec::bridge("apart");
        apart.options.insert("com.docker.network.bridge.enable_icc".into(), "false".into());
        networks.create(apart).unwrap();
        let (a, b) = (run(&networks, spec("a", &["apart"], &[])), run(&networks, spec("b", &["apart"], &["8080:80"])));
        b.serve(80);
        stranger.serve(80);
        a.cannot_reach((b.ip(), 80));
        a.sh(&format!("ip route add {}/32 via 172.18.0.1", b.ip()));
        a.cannot_reach((b.ip(), 80));
        a.ask("192.0.2.2:80");
        a.ask("192.0.2.1:8080");
        host.itself().ask((b.ip(), 80));
    });
}

#[test]
fn a_network_without_masquerading_keeps_its_addresses() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let mut plain = NetworkSpec::bridge("plain");
        plain.options.insert("com.docker.network.bridge.enable_ip_masquerade".into(), "false".into());
        networks.create(plain).unwrap();
        let a = run(&networks, spec("a", &["plain"], &["8080:80"]));
        stranger.serve(80);
        a.serve(80);
        stranger.sh("ip route add 172.16.0.0/12 via 192.0.2.1");
        assert!(stranger.sh("ip route get 172.18.0.2").contains("192.0.2.1"));
        assert_eq!(a.ask("192.0.2.2:80"), a.ip());
        a.ask("192.0.2.1:8080");
    });
}

#[test]
fn ipv6_goes_out_comes_in_and_stays_among_members() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let six = networks.create(NetworkSpec { enable_ipv6: true, ..NetworkSpec::bridge("six") }).unwrap();
        assert!(six.subnets_v6().next().unwrap().0.to_string().starts_with("fd"), "a unique local subnet");
        let (a, b) = (run(&networks, spec("a", &["six"], &["8080:80"])), run(&networks, spec("b", &["six"], &[])));
        a.serve(80);
        stranger.serve(80);
        assert_eq!(b.ask((a.ip6(), 80)), b.ip6());
        assert_eq!(b.ask("[2001:db8::2]:80").to_string(), "2001:db8::1");
        assert_eq!(stranger.ask("[2001:db8::1]:8080").to_string(), "2001:db8::2");
        assert_eq!(stranger.ask("192.0.2.1:8080").to_string(), "192.0.2.2");
        a.ask("[2001:db8::1]:8080");
        b.ask("[2001:db8::1]:8080");
        host.itself().ask("[2001:db8::1]:8080");
        stranger.sh("ip -6 route add fd00::/8 via 2001:db8::1");
        stranger.cannot_reach((b.ip6(), 80));
    });
}

#[test]
fn the_default_bridge_can_have_ipv6() {
    on_a_host(|host| {
        let mut config = host.config();
        config.bridge_ipv6 = Some("fd00:1:2:3::/64".parse().unwrap());
        let networks = net::Networks::open(config, Vec::new()).unwrap();
        let first = run(&networks, spec("a", &["bridge"], &[]));
        world::eventually("an endpoint is prepared", || networks.prepared() > 0);
        let second = run(&networks, spec("b", &["bridge"], &[]));
        first.serve(80);
        assert_eq!(second.ask((first.ip6(), 80)).to_string(), "fd00:1:2:3::3");
    });
}

#[test]
fn members_of_several_networks_leave_by_the_preferred_one() {
    on_a_host(|host| {
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("a-net")).unwrap();
        networks.create(NetworkSpec::bridge("b-net")).unwrap();
        let mut wanted = spec("c", &["b-net", "a-net"], &["8080:80"]);
        wanted.endpoints[0].gateway_priority = 0;
        let c = run(&networks, wanted);
        assert!(c.sh("ip route show default").contains("dev eth1"), "a-net sorts first");
        assert_eq!(c.sandbox().ports[0].target, c.sandbox().endpoints[1].ipv4.unwrap().addr());
        let mut wanted = spec("d", &["b-net", "a-net"], &[]);
        wanted.endpoints[0].gateway_priority = 1;
        let d = run(&networks, wanted);
        assert!(d.sh("ip route show default").contains("dev eth0"), "b-net has the priority");
        c.serve(80);
        d.ask((c.ip(), 80));
        assert!(sh("ip route").contains("172.18.0.0/16"));
    });
}

/// Two cables, and a stranger at each; the other one is 198.51.100.2.
fn second_stranger(host: &world::Host) -> world::Container {
    let other = host.stranger_at("wire", "198.51.100");
    other.sh("ip route add default via 198.51.100.1");
    other
}

#[test]
fn a_host_that_is_made_to_forward_is_no_router_for_others() {
    on_a_host(|host| {
        let (here, there) = (host.stranger(), second_stranger(&host));
        // A new namespace has what the machine has.
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        here.sh("ip route add default via 192.0.2.1");
        here.serve(80);
        let networks = host.networks();
        let second = net::Networks::open(host.second_config(), Vec::new()).unwrap();
        let check = |networks: &net::Networks, name: &str| {
            there.cannot_reach("192.0.2.2:80");
            assert_eq!(run(networks, spec(name, &["bridge"], &[])).ask("192.0.2.2:80").to_string(), "192.0.2.1");
        };
        check(&networks, "a");
        // Another instance relies on what the first has switched on.
        check(&second, "b");
        let web = run(&second, spec("web", &["bridge"], &["8081:80"]));
        web.serve(80);
        here.ask("192.0.2.1:8081");
        // It is remembered.
        drop(networks);
        there.cannot_reach("192.0.2.2:80");
        let networks = host.networks();
        check(&networks, "c");
        drop(networks);
        let mut config = host.config();
        config.ip_forward_drop = false;
        let networks = net::Networks::open(config, Vec::new()).unwrap();
        there.ask("192.0.2.2:80");
        drop(networks);
    });
}

#[test]
fn a_host_that_forwards_already_goes_on() {
    on_a_host(|host| {
        let (here, there) = (host.stranger(), second_stranger(&host));
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        here.sh("ip route add default via 192.0.2.1");
        here.serve(80);
        let networks = host.networks();
        networks.create(NetworkSpec { enable_ipv6: true, ..NetworkSpec::bridge("six") }).unwrap();
        there.ask("192.0.2.2:80");
    });
}

#[test]
fn the_hosts_loopback_is_routed_only_where_a_port_is_published_there() {
    on_a_host(|host| {
        let _stranger = host.stranger();
        let networks = host.networks();
        let routed = || sh("cat /proc/sys/net/ipv4/conf/stratus0/route_localnet").trim() == "1";
        assert!(!routed());
        let elsewhere = run(&networks, spec("elsewhere", &["bridge"], &["192.0.2.1:8080:80"]));
        assert!(!routed());
        let (a, b) = (
            run(&networks, spec("a", &["bridge"], &["127.0.0.1:8081:80"])),
            run(&networks, spec("b", &["bridge"], &["8082:80"])),
        );
        assert!(routed());
        networks.tear_down(a.sandbox()).unwrap();
        b.serve(80);
        host.itself().ask("127.0.0.1:8082");
        drop(networks);
        assert!(routed(), "ports are reached while no daemon runs");
        let networks =
            net::Networks::open(host.config(), vec![elsewhere.sandbox().clone(), b.sandbox().clone()]).unwrap();
        host.itself().ask("127.0.0.1:8082");
        networks.tear_down(b.sandbox()).unwrap();
        assert!(!routed());
        let c = run(&networks, spec("c", &["bridge"], &["8083:80"]));
        c.serve(80);
        host.itself().ask("127.0.0.1:8083");
        drop(networks);
        // It ended while no daemon ran.
        let networks = net::Networks::open(host.config(), vec![elsewhere.sandbox().clone()]).unwrap();
        assert!(!routed());
        drop(networks);
    });
}

#[test]
fn neighbours_on_the_wire_reach_nothing_that_is_not_published_to_them() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("other")).unwrap();
        let web = run(&networks, spec("web", &["bridge"], &["127.0.0.1:8080:80"]));
        let far = run(&networks, spec("far", &["other"], &[]));
        web.serve(80);
        web.serve(81);
        host.itself().serve(9000);
        // To an unpublished port, and to the one that is published on the host's loopback only.
        for asker in [&stranger, &far] {
            asker.sh(&format!("ip route replace {}/32 via $(ip -4 route get 192.0.2.1 | grep -o 'via [^ ]*' | cut -d' ' -f2 | grep . || echo 192.0.2.1)", web.ip()));
            asker.cannot_reach((web.ip(), 81));
            asker.cannot_reach((web.ip(), 80));
            asker.cannot_reach("192.0.2.1:8080");
        }
        // From an address of 127.0.0.0/8, as if it were the host itself.
        let forged =
            r#"ip addr add 127.0.0.9/32 dev eth0 2>/dev/null; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"#;
        far.sh(forged);
        let heard = host.namespace.enter(|| std::net::UdpSocket::bind("0.0.0.0:9001")).unwrap().unwrap();
        heard.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let gateway = "172.18.0.1:9001";
        let forger = far.namespace.enter(|| std::net::UdpSocket::bind("127.0.0.9:0")).unwrap().unwrap();
        let honest = far.namespace.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        world::eventually("what comes from its own address arrives", || {
            let _ = forger.send_to(b"forged", gateway);
            honest.send_to(b"honest", gateway).unwrap();
            let mut buffer = [0; 16];
            let Ok((length, _)) = heard.recv_from(&mut buffer) else { return false };
            assert_eq!(&buffer[..length], b"honest");
            true
        });
    });
}
