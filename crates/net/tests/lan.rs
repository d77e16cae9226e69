//! Networks of the drivers `macvlan` and `ipvlan`: on a host whose parent is the cable to a stranger.

mod world;

use ipnet::IpNet;
use net::{Driver, Error, IpamConfig, NetworkSpec, clean};
use std::collections::BTreeMap;
use world::{instance, on_a_host, run, sh, spec};

/// A network of a parent's on the stranger's subnet, from .128 on.
fn lan(name: &str, driver: Driver, options: &[(&str, &str)]) -> NetworkSpec {
    let subnet = IpamConfig {
        subnet: Some("192.0.2.0/24".parse().unwrap()),
        ip_range: Some("192.0.2.128/25".parse::<IpNet>().unwrap()),
        gateway: Some("192.0.2.2".parse().unwrap()),
        ..IpamConfig::default()
    };
    let options: BTreeMap<String, String> =
        options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    NetworkSpec { driver, options, ipam: vec![subnet], ..NetworkSpec::bridge(name) }
}

#[test]
fn containers_are_on_the_parents_network_by_addresses_of_their_own() {
    are_on_the_parents_network(Driver::Macvlan, "bridge");
}

#[test]
fn containers_are_on_the_parents_network_by_its_address() {
    are_on_the_parents_network(Driver::Ipvlan, "l2");
}

fn are_on_the_parents_network(driver: Driver, mode: &'static str) {
    on_a_host(move |host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let (name, option) = ("lan", format!("{}_mode", driver.as_str()));
        networks.create(lan(name, driver, &[("parent", "cable0"), (&option, mode)])).unwrap();
        // Not every kernel has it.
        if let Err(error) =
            networks.set_up(spec("first", &[name], &[])).map(|(_, first)| networks.tear_down(&first).unwrap())
        {
            assert!(driver == Driver::Ipvlan && matches!(error, Error::KernelLacks { .. }), "{error}");
            return eprintln!("not tried: {error}");
        }
        let (a, b) = (run(&networks, spec("a", &[name], &["8080:80"])), run(&networks, spec("b", &[name], &[])));
        [&a, &stranger].into_iter().for_each(|one| one.serve(80));
        // As they are: nothing is translated.
        assert_eq!(stranger.ask((a.ip(), 80)), stranger_ip());
        assert_eq!(a.ask((stranger_ip(), 80)), a.ip());
        assert_eq!(b.ask((a.ip(), 80)), b.ip());
        assert!(a.sandbox().ports.is_empty(), "nothing is published");
        assert!(a.sh("ip route show default").contains("via 192.0.2.2 dev eth0"));
        let mac = a.sh("cat /sys/class/net/eth0/address 2>/dev/null; ip -o link show eth0");
        assert!(mac.contains(&a.sandbox().endpoints[0].mac.to_string()), "{mac}");
        assert!(networks.statistics(a.sandbox(), None).unwrap().is_empty(), "it has no end on the host");
        // Again, while what it had before is on its way out: nobody is told that its address is in use.
        networks.tear_down(b.sandbox()).unwrap();
        drop(b);
        let again = run(&networks, spec("b", &[name], &[]));
        assert_eq!(again.ask((stranger_ip(), 80)), again.ip());
        networks.tear_down(a.sandbox()).unwrap();
        networks.tear_down(again.sandbox()).unwrap();
        networks.remove(name).unwrap();
    });
}

fn stranger_ip() -> std::net::IpAddr {
    "192.0.2.2".parse().unwrap()
}

#[test]
fn a_running_sandbox_comes_and_goes() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        networks.create(lan("mac", Driver::Macvlan, &[("parent", "cable0"), ("macvlan_mode", "private")])).unwrap();
        let (a, b) = (run(&networks, spec("a", &["bridge"], &[])), run(&networks, spec("b", &["mac"], &[])));
        let mut sandbox = a.sandbox().clone();
        let wanted = net::EndpointSpec { network: "mac".into(), ..Default::default() };
        let endpoint = networks.connect(&a.namespace, &mut sandbox, wanted).unwrap();
        assert_eq!(endpoint.link_name, "eth1");
        let ip = std::net::IpAddr::from(endpoint.ipv4.unwrap().addr());
        a.serve(80);
        stranger.ask((ip, 80));
        b.cannot_reach((ip, 80));
        networks.disconnect(&a.namespace, &mut sandbox, "mac").unwrap();
        assert!(!a.sh("ip -o link").contains("eth1"));
        stranger.cannot_reach((ip, 80));
    });
}

#[test]
fn a_parent_that_is_not_there_is_made_and_goes_again() {
    on_a_host(|host| {
        let _stranger = host.stranger();
        let networks = host.networks();
        // Not every kernel has it.
        let vlan = networks.create(lan("vlan", Driver::Macvlan, &[("parent", "cable0.7")]));
        match &vlan {
            Ok(_) => assert!(sh("ip -d link show cable0.7").contains("id 7")),
            Err(error) => assert!(matches!(error, Error::KernelLacks { .. }), "{error}"),
        }
        let nowhere = NetworkSpec { driver: Driver::Macvlan, ..NetworkSpec::bridge("nowhere") };
        let nowhere = match networks.create(nowhere) {
            Ok(nowhere) => nowhere,
            Err(error) => {
                assert!(matches!(error, Error::KernelLacks { .. }), "{error}");
                return eprintln!("not tried: {error}");
            }
        };
        let dummy = nowhere.lan.unwrap().parent;
        assert!(sh(&format!("ip -d link show {dummy}")).contains("dummy"));
        let (a, b) = (run(&networks, spec("a", &["nowhere"], &[])), run(&networks, spec("b", &["nowhere"], &[])));
        a.serve(80);
        b.ask((a.ip(), 80));
        assert!(a.sandbox().endpoints[0].gateway.is_none());
        // Another daemon takes up what is there, and takes out what belongs to nobody.
        let running = vec![a.sandbox().clone(), b.sandbox().clone()];
        drop(networks);
        sh(
            "ip link add dm-left type dummy && ip link set dm-left group 0x7374726c && ip link set dm-left alias \"$(ip link show cable0.7 | sed -n 's/ *alias //p')\"",
        );
        let networks = host.networks_with(running);
        b.ask((a.ip(), 80));
        world::eventually("what belongs to nobody to go", || !sh("ip -o link").contains("dm-left"));
        for one in [&a, &b] {
            networks.tear_down(one.sandbox()).unwrap();
        }
        if vlan.is_ok() {
            networks.remove("vlan").unwrap();
        }
        assert!(!sh("ip -o link").contains("cable0.7"));
        drop(networks);
        clean(&instance()).unwrap();
        assert!(!sh("ip -o link").contains(&dummy));
        assert!(sh("ip -o link").contains("cable0"), "a parent of the host's stays");
    });
}

#[test]
fn what_cannot_be_is_refused() {
    on_a_host(|host| {
        let _stranger = host.stranger();
        let networks = host.networks();
        networks.create(lan("first", Driver::Macvlan, &[("parent", "cable0")])).unwrap();
        let refused = |spec: NetworkSpec| networks.create(spec).expect_err("refused").to_string();
        let other =
            |name, driver, options: &[(&str, &str)]| NetworkSpec { ipam: Vec::new(), ..lan(name, driver, options) };
        let said = refused(other("second", Driver::Macvlan, &[("parent", "cable0")]));
        assert!(said.contains("is already using parent interface cable0"), "{said}");
        let said = refused(other("second", Driver::Macvlan, &[("parent", "nosuch")]));
        assert_eq!(said, "invalid subinterface vlan name nosuch, example formatting is eth0.10");
        let said = refused(other("second", Driver::Ipvlan, &[("parent", "nosuch.3")]));
        assert_eq!(said, "-o parent interface was not found on the host: nosuch");
        // Not every kernel has what a parent of nobody's is made of.
        if networks.create(NetworkSpec { driver: Driver::Ipvlan, ..NetworkSpec::bridge("shared") }).is_ok() {
            let mut machine = spec("m", &["shared"], &[]);
            machine.tap_owner = Some(0);
            assert!(matches!(networks.set_up(machine), Err(Error::NotForMachines(_))));
            networks.remove("shared").unwrap();
        }
        assert_eq!(networks.list().len(), 4, "what was refused left nothing");
    });
}
