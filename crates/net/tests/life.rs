//! Networks and sandboxes through their lives: made, changed while they run, found again after a restart, taken out.

mod world;

use net::{EndpointSpec, Error, IpamConfig, NetConfig, NetNs, NetworkSpec, Networks, PortError};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use world::{Host, eventually, on_a_host, run, sh, spec};

fn on(network: &str) -> EndpointSpec {
    EndpointSpec { network: network.into(), ..EndpointSpec::default() }
}

fn subnet(text: &str) -> IpamConfig {
    IpamConfig { subnet: Some(text.parse().unwrap()), ..IpamConfig::default() }
}

/// A bridge network with one subnet that the user chose.
fn chosen(name: &str, text: &str) -> NetworkSpec {
    NetworkSpec { ipam: vec![subnet(text)], ..NetworkSpec::bridge(name) }
}

/// What of the instance is in the kernel.
fn traces() -> String {
    sh("ip -o link | grep -o 't1-[^@:]*\\|stratus[^@:]*\\|br-[0-9a-f]*' || true; nft list tables")
}

#[test]
fn the_predefined_networks_are_there_and_stay() {
    on_a_host(|host| {
        let networks = host.networks();
        let names: Vec<String> = networks.list().into_iter().map(|network| network.name).collect();
        assert_eq!(names, ["bridge", "host", "none"]);
        for name in ["bridge", "host", "none"] {
            assert!(matches!(networks.remove(name), Err(Error::PredefinedRemove(_))));
            assert!(matches!(networks.create(NetworkSpec::bridge(name)), Err(Error::PredefinedCreate(_))));
        }
        let error = networks.set_up(spec("c", &["host"], &[])).unwrap_err();
        assert!(matches!(error, Error::NoEndpoints(_)), "{error}");
        let alone = networks.new_namespace().unwrap();
        let links = alone.enter(|| sh("ip -o link")).unwrap();
        assert!(links.contains("lo:") && links.contains("LOOPBACK,UP") && !links.contains("eth0"));
    });
}

#[test]
fn networks_are_made_found_and_removed() {
    on_a_host(|host| {
        let networks = host.networks();
        let made = networks.create(chosen("front", "10.1.0.0/24")).unwrap();
        assert_eq!(made.ipam[0].gateway, Some("10.1.0.1".parse().unwrap()));
        assert!(sh(&format!("ip addr show br-{}", &made.id[..12])).contains("10.1.0.1/24"));
        for name in ["front", &made.id, &made.id[..8]] {
            assert_eq!(networks.get(name).unwrap(), made);
        }
        assert!(matches!(networks.get("back"), Err(Error::NotFound(_))));
        assert!(matches!(networks.create(NetworkSpec::bridge("front")), Err(Error::NameTaken(_))));

        let member = run(&networks, spec("member", &["front"], &[]));
        assert_eq!(networks.endpoints(&made.id)[0].names(), ["member", "memberxxxxxx"]);
        let error = networks.remove("front").unwrap_err().to_string();
        let endpoint = &networks.endpoints(&made.id)[0].endpoint.id[..12];
        let whose = format!("(name:\"member\" id:\"{endpoint}\")");
        assert_eq!(error, format!("error while removing network: network front has active endpoints {whose}"));
        networks.tear_down(member.sandbox()).unwrap();
        networks.remove("front").unwrap();
        assert!(!traces().contains("br-"));
        assert!(!sh("nft list table inet stratus-t1").contains("10.1.0"));
        assert!(matches!(networks.get("front"), Err(Error::NotFound(_))));
    });
}

#[test]
fn subnets_keep_clear_of_each_other_and_of_the_hosts_routes() {
    on_a_host(|host| {
        sh("ip link add vpn0 type bridge; ip link set vpn0 up; ip addr add 172.18.5.1/24 dev vpn0");
        sh("ip route add 10.9.0.0/16 dev vpn0");
        let mut config = host.second_config();
        config.address_pools = vec![net::AddressPool { base: "10.9.0.0/16".parse().unwrap(), size: 24 }];
        let refused = Networks::open(config, Vec::new()).err().unwrap().to_string();
        assert!(
            refused.contains("as 10.9.0.0/16 is routed by vpn0 on this machine; others are named with"),
            "{refused}"
        );
        let networks = host.networks();
        let automatic = networks.create(NetworkSpec::bridge("a")).unwrap();
        assert_eq!(automatic.ipam[0].subnet, Some("172.19.0.0/16".parse().unwrap()));
        for taken in ["172.17.3.0/24", "172.16.0.0/12", "172.18.0.0/16", "172.19.0.0/24"] {
            let error = networks.create(chosen("b", taken)).unwrap_err();
            assert_eq!(error.to_string(), "Pool overlaps with other one on this address space", "{taken}");
        }
        networks.create(chosen("within-a-wider-route", "10.9.1.0/24")).unwrap();
        let mut config = host.second_config();
        config.address_pools = vec![net::AddressPool { base: "10.200.0.0/23".parse().unwrap(), size: 24 }];
        let small = Networks::open(config, Vec::new()).unwrap();
        small.create(NetworkSpec::bridge("last")).unwrap();
        assert_eq!(
            small.create(NetworkSpec::bridge("one-more")).unwrap_err().to_string(),
            "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
        );
    });
}

#[test]
fn what_cannot_be_is_refused() {
    on_a_host(|host| {
        let networks = host.networks();
        let with = |change: &dyn Fn(&mut IpamConfig)| {
            let mut wanted = chosen("x", "10.1.0.0/24");
            change(&mut wanted.ipam[0]);
            wanted
        };
        let option = |key: &str, value: &str| {
            let mut wanted = NetworkSpec::bridge("x");
            wanted.options.insert(key.into(), value.into());
            wanted
        };
        for (what, wanted) in [
            ("no name", NetworkSpec::bridge("")),
            ("a name with a slash", NetworkSpec::bridge("a/b")),
            ("host bits", chosen("x", "10.1.0.1/24")),
            ("a subnet of one address", chosen("x", "10.1.0.1/32")),
            ("everything", chosen("x", "0.0.0.0/0")),
            ("a gateway elsewhere", with(&|c| c.gateway = Some("10.2.0.1".parse().unwrap()))),
            ("the network's address as gateway", with(&|c| c.gateway = Some("10.1.0.0".parse().unwrap()))),
            ("a range elsewhere", with(&|c| c.ip_range = Some("10.2.0.0/28".parse().unwrap()))),
            (
                "an auxiliary address elsewhere",
                with(&|c| c.aux_addresses = [("a".to_owned(), "1.2.3.4".parse().unwrap())].into()),
            ),
            (
                "a gateway without a subnet",
                with(&|c| (c.subnet, c.gateway) = (None, Some("10.1.0.1".parse().unwrap()))),
            ),
            ("no family", NetworkSpec { enable_ipv4: false, ..NetworkSpec::bridge("x") }),
            ("a long bridge name", option("com.docker.network.bridge.name", "sixteen-letters-")),
            ("a flag that is none", option("com.docker.network.bridge.enable_icc", "maybe")),
            ("a tiny MTU", option("com.docker.network.driver.mtu", "12")),
        ] {
            let before = traces();
            assert!(networks.create(wanted).is_err(), "{what}");
            assert_eq!(traces(), before, "{what} leaves nothing behind");
        }
        assert_eq!(networks.list().len(), 3);
    });
}

#[test]
fn fixed_addresses_follow_dockers_rules() {
    on_a_host(|host| {
        let networks = host.networks();
        networks.create(chosen("fixed", "10.1.0.0/24")).unwrap();
        networks.create(NetworkSpec::bridge("automatic")).unwrap();
        let at = |name: &str, network: &str, ip: &str| {
            let mut wanted = spec(name, &[network], &[]);
            wanted.endpoints[0].ipv4 = Some(ip.parse().unwrap());
            networks.set_up(wanted)
        };
        let (namespace, _) = at("first", "fixed", "10.1.0.77").unwrap();
        assert!(namespace.enter(|| sh("ip addr show eth0")).unwrap().contains("10.1.0.77/24"));
        for (network, ip, text) in [
            ("fixed", "10.1.0.77", "Address already in use"),
            ("fixed", "10.1.0.1", "Address already in use"),
            ("fixed", "10.2.0.1", "invalid address 10.2.0.1: it does not belong to any of this network's subnets"),
            (
                "automatic",
                "172.18.0.9",
                "user specified IP address is supported only when connecting to networks with user configured subnets",
            ),
            ("bridge", "172.17.0.9", "user specified IP address is supported on user defined networks only"),
        ] {
            assert!(at("second", network, ip).unwrap_err().to_string().contains(text), "{network} {ip}");
        }
    });
}

#[test]
fn a_full_network_says_so_and_an_address_that_is_given_back_is_used_again() {
    on_a_host(|host| {
        let networks = host.networks();
        let made = networks.create(chosen("tiny", "10.1.0.0/29")).unwrap();
        let members: Vec<_> = (0..5).map(|n| run(&networks, spec(&format!("c{n}"), &["tiny"], &[]))).collect();
        let error = networks.set_up(spec("late", &["tiny"], &[])).unwrap_err().to_string();
        assert_eq!(error, format!("no available IPv4 addresses on this network's address pools: tiny ({})", made.id));
        networks.tear_down(members[2].sandbox()).unwrap();
        networks.tear_down(members[2].sandbox()).unwrap();
        assert_eq!(run(&networks, spec("late", &["tiny"], &[])).ip(), members[2].ip());
    });
}

#[test]
fn a_port_that_is_taken_is_refused_in_dockers_words() {
    on_a_host(|host| {
        let networks = host.networks();
        let first = run(&networks, spec("first", &["bridge"], &["8080:80"]));
        for wanted in ["8080:80", "127.0.0.1:8080:80"] {
            let error = networks.set_up(spec("second", &["bridge"], &[wanted])).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("driver failed programming external connectivity on endpoint second ("), "{text}");
            assert!(text.ends_with(":8080 failed: port is already allocated"), "{text}");
        }
        // Not of another protocol.
        let other = run(&networks, spec("udp", &["bridge"], &["8080:80/udp"]));
        assert_eq!(other.ip().to_string(), "172.17.0.3", "a refusal gives the address back");

        let _process = TcpListener::bind("0.0.0.0:9090").unwrap();
        let error = networks.set_up(spec("third", &["bridge"], &["9090:80"])).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("failed to bind host port for 0.0.0.0:9090:172.17.0.4:80/tcp: address already in use"),
            "{error}"
        );
        let error = networks.set_up(spec("third", &["bridge"], &["203.0.113.9:9091:80"])).unwrap_err();
        assert!(error.to_string().contains("cannot assign requested address"), "{error}");
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "no process can take a published port");

        networks.tear_down(first.sandbox()).unwrap();
        let again = run(&networks, spec("again", &["bridge"], &["8080:80"]));
        again.serve(80);
        host.itself().ask("127.0.0.1:8080");
    });
}

#[test]
fn ephemeral_ports_and_ranges_take_what_is_free() {
    on_a_host(|host| {
        let networks = host.networks();
        let ports =
            |name: &str, wanted: &[&str]| run(&networks, spec(name, &["bridge"], wanted)).sandbox().ports.clone();
        sh("echo 50000 50003 > /proc/sys/net/ipv4/ip_local_port_range");
        let _process = TcpListener::bind("0.0.0.0:50001").unwrap();
        assert_eq!(ports("a", &["80"])[0].host.port(), 50000);
        assert_eq!(ports("b", &["80"])[0].host.port(), 50002);
        let one = ports("c", &["80"]);
        assert_eq!(one[0].host, "0.0.0.0:50003".parse::<SocketAddr>().unwrap());
        let error = networks.set_up(spec("d", &["bridge"], &["80"])).unwrap_err();
        assert!(matches!(error, Error::Publish { source, .. } if matches!(*source, PortError::Exhausted)));
        assert_eq!(ports("e", &["7000-7002:80"])[0].host.port(), 7000);
        assert_eq!(ports("f", &["7000-7002:80"])[0].host.port(), 7001);
    });
}

#[test]
fn a_connection_that_was_cut_short_leaves_the_routes_of_before() {
    on_a_host(|host| {
        let networks = host.networks();
        networks.create(NetworkSpec { enable_ipv6: true, ..NetworkSpec::bridge("a") }).unwrap();
        networks.create(NetworkSpec { enable_ipv6: true, ..NetworkSpec::bridge("z") }).unwrap();
        networks.create(NetworkSpec { internal: true, ..NetworkSpec::bridge("inside") }).unwrap();
        let c = run(&networks, spec("c", &["z"], &[]));
        let alone = run(&networks, spec("alone", &["inside"], &[]));
        let of_before = |family: &str| c.sh(&format!("ip {family} route show default"));
        let before = (of_before("-4"), of_before("-6"));
        assert!(before.0.contains("dev eth0") && before.1.contains("dev eth0"), "{before:?}");
        // Nobody writes down what came of it.
        let recorded = [c.sandbox.clone().unwrap(), alone.sandbox.clone().unwrap()];
        for (container, recorded) in [(&c, &recorded[0]), (&alone, &recorded[1])] {
            networks.connect(&container.namespace, &mut recorded.clone(), on("a")).unwrap();
            assert!(container.sh("ip route show default").contains("dev eth1"));
        }
        drop(networks);

        let networks = host.networks_with(recorded.to_vec());
        networks.settle(&c.namespace, &recorded[0]).unwrap();
        networks.settle(&alone.namespace, &recorded[1]).unwrap();
        for container in [&c, &alone] {
            eventually("the new link to go", || !container.sh("ip link").contains("eth1"));
        }
        assert_eq!((of_before("-4"), of_before("-6")), before);
        assert_eq!(alone.sh("ip route show default"), "");
    });
}

#[test]
fn a_running_sandbox_connects_and_disconnects() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("a")).unwrap();
        networks.create(NetworkSpec::bridge("z")).unwrap();
        let mut c = run(&networks, spec("c", &["z"], &["8080:80"]));
        let peer = run(&networks, spec("peer", &["a"], &[]));
        c.serve(80);
        stranger.ask("192.0.2.1:8080");

        let mut sandbox = c.sandbox.take().unwrap();
        let wanted = EndpointSpec { aliases: vec!["www".into()], ..on("a") };
        let endpoint = networks.connect(&c.namespace, &mut sandbox, wanted).unwrap();
        assert_eq!(endpoint.link_name, "eth1");
        assert!(c.sh("ip route show default").contains("dev eth1"), "a sorts before z");
        assert!(networks.endpoints(&endpoint.network).iter().any(|e| e.names().contains(&"www")));
        peer.ask((endpoint.ipv4.unwrap().addr().into(), 80));
        stranger.ask("192.0.2.1:8080");
        let again = networks.connect(&c.namespace, &mut sandbox, on("a")).unwrap_err();
        assert_eq!(again.to_string(), "endpoint with name c already exists in network a");

        networks.disconnect(&c.namespace, &mut sandbox, "a").unwrap();
        assert!(!c.sh("ip link").contains("eth1"));
        assert!(c.sh("ip route show default").contains("dev eth0"));
        stranger.ask("192.0.2.1:8080");
        let error = networks.disconnect(&c.namespace, &mut sandbox, "a").unwrap_err().to_string();
        assert!(error.ends_with("is not connected to network a"), "{error}");

        networks.disconnect(&c.namespace, &mut sandbox, "z").unwrap();
        assert!(sandbox.ports.is_empty() && sandbox.endpoints.is_empty());
        assert!(c.sh("ip route").is_empty());
        stranger.cannot_reach("192.0.2.1:8080");
        TcpListener::bind("0.0.0.0:8080").expect("the port is free again");

        networks.connect(&c.namespace, &mut sandbox, on("bridge")).unwrap();
        stranger.ask("192.0.2.1:8080");
        networks.rename(&mut sandbox, "renamed");
        let bridge = networks.get("bridge").unwrap();
        assert_eq!(networks.endpoints(&bridge.id)[0].name, "renamed");
    });
}

#[test]
fn a_link_name_that_the_sandbox_took_itself_is_passed_over() {
    on_a_host(|host| {
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("a")).unwrap();
        let c = run(&networks, spec("c", &["bridge"], &[]));
        c.sh("ip link add eth1 type bridge");
        let mut sandbox = c.sandbox().clone();
        assert_eq!(networks.connect(&c.namespace, &mut sandbox, on("a")).unwrap().link_name, "eth2");
    });
}

#[test]
fn endpoints_can_have_a_name_a_mac_and_sysctls() {
    on_a_host(|host| {
        let networks = host.networks();
        let mut wanted = spec("c", &["bridge"], &[]);
        wanted.endpoints[0].link_name = Some("front".into());
        wanted.endpoints[0].mac = Some("02:00:00:00:00:07".parse().unwrap());
        wanted.endpoints[0].sysctls.insert("net.ipv4.conf.IFNAME.log_martians".into(), "1".into());
        let c = run(&networks, wanted.clone());
        assert!(c.sh("ip link show front").contains("02:00:00:00:00:07"));
        assert_eq!(c.sh("cat /proc/sys/net/ipv4/conf/front/log_martians").trim(), "1");
        wanted.id = "other".into();
        for bad in [
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.log_martians",
            "net.ipv4.conf.IFNAME.../../x",
            "kernel.core_pattern",
        ] {
            wanted.endpoints[0].sysctls = [(bad.to_owned(), "1".to_owned())].into();
            assert!(matches!(networks.set_up(wanted.clone()), Err(Error::InvalidSysctl(_))), "{bad}");
        }
    });
}

#[test]
fn counters_are_the_sandboxs_own_view() {
    on_a_host(|host| {
        let networks = host.networks();
        let c = run(&networks, spec("c", &["bridge"], &[]));
        c.serve(80);
        host.itself().ask((c.ip(), 80));
        let links = networks.statistics(c.sandbox(), None).unwrap();
        assert_eq!(links[0].name, "eth0");
        let inside: u64 =
            c.sh("cat /sys/class/net/eth0/statistics/rx_bytes 2>/dev/null || echo 0").trim().parse().unwrap();
        let _ = inside;
        assert!(links[0].rx_packets >= 3 && links[0].tx_bytes > 0, "{links:?}");
    });
}

/// A connection of a container that lasts, to see whether it notices anything.
struct Lasting(TcpStream, TcpStream);

impl Lasting {
    fn from(host: &Host, namespace: &NetNs) -> Lasting {
        let listener = host.namespace.enter(|| TcpListener::bind("0.0.0.0:0")).unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = namespace.enter(|| TcpStream::connect(("172.17.0.1", port))).unwrap().unwrap();
        Lasting(client, listener.accept().unwrap().0)
    }

    fn still_works(&mut self) {
        self.0.write_all(b"x").unwrap();
        self.1.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn a_restart_finds_everything_and_disturbs_nothing() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let front = networks.create(chosen("front", "10.1.0.0/24")).unwrap();
        let c = run(&networks, spec("c", &["bridge", "front"], &["8080:80"]));
        let ended = run(&networks, spec("ended", &["front"], &["8081:80"]));
        c.serve(80);
        let mut lasting = Lasting::from(&host, &c.namespace);
        let link = sh("ip -o link show stratus0");
        drop(networks);
        stranger.ask("192.0.2.1:8080");
        lasting.still_works();

        let networks = Networks::open(host.config(), vec![c.sandbox().clone()]).unwrap();
        lasting.still_works();
        stranger.ask("192.0.2.1:8080");
        assert_eq!(sh("ip -o link show stratus0"), link, "the bridge is the same");
        assert_eq!(networks.get("front").unwrap(), front);
        assert_eq!(networks.endpoints(&front.id).len(), 1);
        assert_ne!(run(&networks, spec("d", &["bridge"], &[])).ip(), c.ip());
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "the port is held again");
        stranger.cannot_reach("192.0.2.1:8081");
        TcpListener::bind("0.0.0.0:8081").expect("nobody's port is free");
        let stale = &ended.sandbox().endpoints[0].host_link;
        eventually("the link of a sandbox that nobody knows is gone", || !traces().contains(stale.as_str()));
        networks.tear_down(c.sandbox()).unwrap();
        networks.remove("front").unwrap();
    });
}

#[test]
fn after_a_reboot_everything_is_made_again() {
    on_a_host(|host| {
        let networks = host.networks();
        let front = networks.create(NetworkSpec { enable_ipv6: true, ..chosen("front", "10.1.0.0/24") }).unwrap();
        drop(networks);
        net::clean(&world::instance()).unwrap();
        let networks = host.networks();
        assert_eq!(networks.get("front").unwrap(), front);
        let (a, b) = (run(&networks, spec("a", &["front"], &[])), run(&networks, spec("b", &["front"], &[])));
        a.serve(80);
        b.ask((a.ip6(), 80));
    });
}

#[test]
fn clean_takes_out_what_is_ours_and_only_that() {
    on_a_host(|host| {
        sh("ip link add t1-theirs type bridge; ip link add br-theirs type bridge; nft add table inet stratus-t11");
        let before = traces();
        let networks = host.networks();
        networks.create(NetworkSpec::bridge("front")).unwrap();
        let c = run(&networks, spec("c", &["bridge", "front"], &["8080:80"]));
        drop(networks);
        assert_ne!(traces(), before);
        net::clean(&world::instance()).unwrap();
        assert_eq!(traces(), before);
        net::clean(&world::instance()).unwrap();
        drop(c);
    });
}

#[test]
fn a_bridge_of_somebody_elses_is_used_and_left() {
    on_a_host(|host| {
        sh("ip link add theirs0 type bridge; ip link set theirs0 up; ip addr add 10.7.0.1/24 dev theirs0");
        let networks = host.networks();
        let mut wanted = chosen("theirs", "10.8.0.0/24");
        wanted.options.insert("com.docker.network.bridge.name".into(), "theirs0".into());
        networks.create(wanted.clone()).unwrap();
        let error = networks.create(NetworkSpec { name: "twice".into(), ipam: Vec::new(), ..wanted }).unwrap_err();
        assert!(matches!(error, Error::BridgeNameTaken { .. }), "{error}");
        assert!(sh("ip addr show theirs0").contains("10.7.0.1/24"));
        networks.remove("theirs").unwrap();
        assert!(sh("ip addr show theirs0").contains("10.7.0.1/24"));
        let mut dummy = NetworkSpec::bridge("no-bridge");
        dummy.options.insert("com.docker.network.bridge.name".into(), "lo".into());
        assert!(networks.create(dummy).unwrap_err().to_string().contains("is no bridge"));
        assert!(networks.get("no-bridge").is_err());
    });
}

/// As it is for the millisecond in which another daemon makes it, and for good where that was killed in it.
#[test]
fn a_bridge_that_another_instance_is_making_is_refused() {
    on_a_host(|host| {
        sh("ip link add stratus0 type bridge && ip link set stratus0 group 0x73747261");
        let before = sh("ip -o addr show stratus0 && ip -o link show stratus0");
        let error = Networks::open(host.config(), Vec::new()).map(drop).expect_err("it is another's");
        assert!(matches!(&error, Error::BridgeInTheMaking(link) if link == "stratus0"), "{error}");
        assert_eq!(sh("ip -o addr show stratus0 && ip -o link show stratus0"), before);
        // An administrator's is in no such group.
        sh("ip link set stratus0 group 0");
        let networks = host.networks();
        let c = run(&networks, spec("c", &["bridge"], &[]));
        assert!(c.sh("ip addr show eth0").contains("inet "));
    });
}

#[test]
fn a_bridge_of_another_instance_is_refused_and_left_as_it_is() {
    on_a_host(|host| {
        let everything = || sh("ip -4 -o address; nft list ruleset");
        let first = host.networks();
        let theirs = chosen("front", "10.8.0.0/24");
        let named = |spec: &NetworkSpec, link: &str| {
            let mut spec = spec.clone();
            spec.options.insert("com.docker.network.bridge.name".into(), link.into());
            spec
        };
        first.create(named(&theirs, "front0")).unwrap();
        assert_eq!(net::owner_of_bridge("stratus0", &world::instance()).unwrap(), Some(world::instance()));
        assert_eq!(net::owner_of_bridge("nobodys0", &world::instance()).unwrap(), None);
        let before = everything();
        let is_theirs = |error: &Error, name: &str| matches!(error, Error::BridgeOfAnother { link, owner } if link == name && *owner == world::instance());
        // As the default bridge of a second instance: nothing at all is made.
        for link in ["stratus0", "front0"] {
            let config = NetConfig { bridge_name: link.into(), ..host.second_config() };
            let store = config.store.clone();
            let error = Networks::open(config, Vec::new()).map(drop).unwrap_err();
            assert!(is_theirs(&error, link), "{error}");
            assert_eq!(everything(), before);
            assert!(store.list("net/").unwrap().entries.is_empty());
        }
        // As one of its networks.
        let second = Networks::open(host.second_config(), Vec::new()).unwrap();
        let with_its_own = everything();
        let error = second.create(named(&NetworkSpec::bridge("back"), "front0")).unwrap_err();
        assert!(is_theirs(&error, "front0"), "{error}");
        assert!(second.get("back").is_err());
        assert_eq!(everything(), with_its_own);
        drop(second);
        net::clean(&host.second_config().instance).unwrap();
        assert_eq!(everything(), before);
    });
}

#[test]
fn prepared_endpoints_are_used_refilled_and_of_no_account() {
    on_a_host(|host| {
        let networks = host.networks();
        assert_eq!(networks.prepared(), 0, "nothing is prepared before the first start");
        let first = run(&networks, spec("c0", &["bridge"], &[]));
        for n in 1..20 {
            eventually("the stock is filled", || networks.prepared() == 2);
            let c = run(&networks, spec(&format!("c{n}"), &["bridge"], &[]));
            c.serve(80);
            assert_eq!(first.ask((c.ip(), 80)), first.ip());
            networks.tear_down(c.sandbox()).unwrap();
        }
        drop(networks);
        // What serves lives on.
        eventually("their links go with them", || sh("ip -o link | grep -c t1-") == "20\n");
    });
}

#[test]
fn a_container_without_a_network_takes_a_namespace_that_was_made_ahead() {
    on_a_host(|host| {
        let networks = host.networks();
        assert_eq!(networks.prepared_namespaces(), 0, "nothing is prepared before the first start");
        let inode = |namespace: &NetNs| rustix::fs::fstat(namespace).unwrap().st_ino;
        let mut taken = BTreeMap::new();
        for n in 0..10 {
            let (namespace, sandbox) = networks.set_up(spec(&format!("c{n}"), &[], &[])).unwrap();
            assert!(sandbox.endpoints.is_empty());
            let links = namespace.enter(|| sh("ip -br link")).unwrap();
            assert!(links.starts_with("lo ") && links.contains(",UP,") && links.lines().count() == 1, "{links}");
            assert!(taken.insert(inode(&namespace), namespace).is_none(), "nobody else has it");
            eventually("the stock is filled", || networks.prepared_namespaces() == 2);
        }
    });
}

#[test]
fn many_at_once_get_addresses_and_ports_of_their_own() {
    on_a_host(|host| {
        let networks = host.networks();
        let namespace = &host.namespace;
        let started: Vec<(NetNs, net::Sandbox)> = std::thread::scope(|scope| {
            let one = |n: usize| {
                let networks = &networks;
                move || networks.set_up(spec(&format!("c{n}"), &["bridge"], &["80"])).unwrap()
            };
            // A published port is bound where the caller is: on this test's host.
            let threads: Vec<_> = (0..40).map(|n| scope.spawn(move || namespace.enter(one(n)).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let addresses: BTreeSet<_> = started.iter().map(|(_, s)| s.endpoints[0].ipv4).collect();
        let ports: BTreeSet<_> = started.iter().map(|(_, s)| s.ports[0].host.port()).collect();
        assert_eq!((addresses.len(), ports.len()), (40, 40));
        for (_, sandbox) in &started {
            networks.tear_down(sandbox).unwrap();
        }
        assert_eq!(networks.endpoints(&networks.get("bridge").unwrap().id).len(), 0);
        assert!(!sh("nft list map inet stratus-t1 any4").contains("elements"));
    });
}

#[test]
fn a_namespace_of_a_user_namespace_is_set_up_too() {
    on_a_host(|host| {
        let networks = host.networks();
        let mut child = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c", "echo ready; read _"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        let namespace = NetNs::of_process(child.id()).unwrap();
        let sandbox = networks.set_up_in(&namespace, spec("c", &["bridge"], &[])).unwrap();
        let c = world::Container { namespace, sandbox: Some(sandbox) };
        c.serve(80);
        assert_eq!(host.itself().ask((c.ip(), 80)).to_string(), "172.17.0.1");
        assert!(!c.sh("ip -6 addr show eth0").contains("inet6"));
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}

/// The kernel takes a bridge and the alias that says whose it is by two messages. This is what is there between the two.
#[test]
fn a_bridge_that_was_being_made_is_known() {
    on_a_host(|host| {
        let networks = host.networks();
        let made = networks.create(chosen("front", "10.1.0.0/24")).unwrap();
        let bridge = format!("br-{}", &made.id[..12]);
        drop(networks);
        let whose = || sh(&format!("ip -d link show {bridge}"));
        assert!(whose().contains("link/ether 02:42:"), "{}", whose());
        let nobodys = |name: &str| sh(&format!("ip link set {name} alias ''; ip link show {name}"));
        assert!(!nobodys(&bridge).contains("alias"));
        assert_eq!(net::owner_of_bridge(&bridge, &world::instance()).unwrap(), Some(world::instance()));
        // To others it is somebody's who has not said who.
        let to_another = net::owner_of_bridge(&bridge, &"t2".parse().unwrap()).expect_err("it is in the making");
        assert!(matches!(&to_another, Error::BridgeInTheMaking(link) if *link == bridge), "{to_another}");
        let networks = host.networks();
        assert!(whose().contains("alias stratus-t1"), "{}", whose());
        nobodys(&bridge);
        networks.remove("front").unwrap();
        assert!(!traces().contains("br-"));
        drop(networks);
        nobodys("stratus0");
        assert_eq!(net::clean(&world::instance()).unwrap().bridges, 1);
        assert!(!traces().contains("stratus0"));
    });
}

#[test]
fn a_bridge_of_an_administrators_gives_back_what_it_was_given() {
    on_a_host(|host| {
        sh("ip link add theirs type bridge; ip addr add 10.1.0.7/24 dev theirs; ip addr add 10.2.0.1/24 dev theirs");
        let addresses = || sh("ip -o -4 addr show dev theirs | awk '{print $4}' | sort").trim().replace('\n', " ");
        let on_theirs = |name: &str, net: &str| {
            let mut wanted = chosen(name, net);
            wanted.options.insert("com.docker.network.bridge.name".into(), "theirs".into());
            wanted
        };
        let networks = host.networks();
        networks.create(on_theirs("front", "10.1.0.0/24")).unwrap();
        assert_eq!(addresses(), "10.1.0.1/24 10.1.0.7/24 10.2.0.1/24");
        // Also after a start that found everything as it is.
        drop(networks);
        let networks = host.networks();
        networks.remove("front").unwrap();
        assert_eq!(addresses(), "10.1.0.7/24 10.2.0.1/24");
        // What was there before is nobody's to take away.
        networks.create(on_theirs("back", "10.2.0.0/24")).unwrap();
        networks.remove("back").unwrap();
        assert_eq!(addresses(), "10.1.0.7/24 10.2.0.1/24");
        // One that was taken away meanwhile, as by a reboot, is given again, and taken.
        networks.create(on_theirs("front", "10.1.0.0/24")).unwrap();
        drop(networks);
        sh("ip addr del 10.1.0.1/24 dev theirs");
        drop(host.networks());
        assert_eq!(addresses(), "10.1.0.1/24 10.1.0.7/24 10.2.0.1/24");
        net::clean(&world::instance()).unwrap();
        assert_eq!(net::take_back(&world::instance(), &host.store).unwrap(), 1);
        assert_eq!(addresses(), "10.1.0.7/24 10.2.0.1/24");
        assert_eq!(net::take_back(&world::instance(), &host.store).unwrap(), 0);
    });
}

#[test]
fn an_address_that_was_given_before_the_machine_was_started_anew_is_the_administrators() {
    on_a_host(|host| {
        sh("ip link add theirs type bridge");
        let addresses = || sh("ip -o -4 addr show dev theirs | awk '{print $4}'").trim().to_owned();
        let mut wanted = chosen("front", "10.1.0.0/24");
        wanted.options.insert("com.docker.network.bridge.name".into(), "theirs".into());
        let made = host.networks().create(wanted).unwrap();
        assert_eq!(addresses(), "10.1.0.1/24");
        let records: store::Collection<net::Network> = store::Collection::new(&host.store, "net/network/");
        let age = || {
            let mut network = records.get(&made.id).unwrap().unwrap().value;
            assert!(!network.given.is_empty());
            network.given_boot = "another".to_owned();
            records.put(&made.id, &network).unwrap();
        };
        age();
        assert_eq!(net::take_back(&world::instance(), &host.store).unwrap(), 0);
        assert_eq!(addresses(), "10.1.0.1/24");
        // One that the administrator's bridge does not have is given anew, and taken.
        sh("ip addr del 10.1.0.1/24 dev theirs");
        drop(host.networks());
        assert_eq!(addresses(), "10.1.0.1/24");
        age();
        let networks = host.networks();
        networks.remove("front").unwrap();
        assert_eq!(addresses(), "10.1.0.1/24");
    });
}

#[test]
fn a_default_bridge_of_an_administrators_gives_back_what_it_was_given() {
    on_a_host(|host| {
        sh("ip link add theirs type bridge; ip addr add 10.1.0.7/24 dev theirs");
        let addresses = || sh("ip -o -4 addr show dev theirs | awk '{print $4}' | sort").trim().replace('\n', " ");
        let mut config = host.config();
        config.bridge_name = "theirs".into();
        config.bridge_address = Some("10.3.0.1/24".parse().unwrap());
        drop(Networks::open(config.clone(), Vec::new()).unwrap());
        assert_eq!(addresses(), "10.1.0.7/24 10.3.0.1/24");
        config.bridge_address = Some("10.4.0.1/24".parse().unwrap());
        drop(Networks::open(config, Vec::new()).unwrap());
        assert_eq!(addresses(), "10.1.0.7/24 10.4.0.1/24");
        drop(host.networks());
        assert_eq!(addresses(), "10.1.0.7/24");
    });
}
