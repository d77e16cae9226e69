//! Addresses and ports that change hands: nothing of the former owner's comes to the next.

mod world;

use net::{IpamConfig, NetworkSpec, Networks};
use std::net::UdpSocket;
use std::time::Duration;
use world::{Container, eventually, on_a_host, run, spec};

/// The one address that a container can have on the narrow network.
const ADDRESS: &str = "10.1.0.2";

/// A network with room for one container.
fn make_narrow(networks: &Networks) {
    let subnet = IpamConfig { subnet: Some("10.1.0.0/30".parse().unwrap()), ..IpamConfig::default() };
    networks.create(NetworkSpec { ipam: vec![subnet], ..NetworkSpec::bridge("narrow") }).unwrap();
}

fn run_on_narrow(networks: &Networks, name: &str, ports: &[&str]) -> Container {
    let container = run(networks, spec(name, &["narrow"], ports));
    assert_eq!(container.ip().to_string(), ADDRESS);
    container
}

fn bind(whose: &Container, port: u16) -> UdpSocket {
    let socket = whose.namespace.enter(|| UdpSocket::bind(("0.0.0.0", port))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// What a client that does not give up sends arrives.
#[track_caller]
fn reaches(client: &UdpSocket, to: &str, server: &UdpSocket) {
    eventually("a datagram arrives", || {
        // What ICMP said to an earlier one is told here.
        let _ = client.send_to(b"steady", to);
        receive(server).as_deref() == Some("steady")
    });
}

/// The client goes on sending to where another was, and nothing of that comes to the server.
#[track_caller]
fn gets_nothing_of(clients: &[(&UdpSocket, &str)], server: &UdpSocket, host: &Container) {
    let (sender, to) = (bind(host, 0), (ADDRESS, server.local_addr().unwrap().port()));
    eventually("the server can be reached at all", || {
        sender.send_to(b"first", to).unwrap();
        receive(server).is_some()
    });
    for (client, to) in clients {
        for _ in 0..10 {
            let _ = client.send_to(b"steady", to);
        }
    }
    eventually("what the host sends arrives", || {
        sender.send_to(b"last", to).unwrap();
        let said = receive(server);
        assert_ne!(said.as_deref(), Some("steady"), "it was another's");
        said.as_deref() == Some("last")
    });
}

#[test]
fn whoever_stays_in_a_namespace_loses_the_address_before_another_gets_it() {
    on_a_host(|host| {
        let networks = host.networks();
        make_narrow(&networks);
        let owner = run_on_narrow(&networks, "owner", &[]);
        let (before, itself) = (bind(&owner, 5000), host.itself());
        reaches(&bind(&itself, 0), "10.1.0.2:5000", &before);
        // It ends, and somebody else is in its namespace.
        networks.tear_down(owner.sandbox()).unwrap();
        let next = run_on_narrow(&networks, "next", &[]);
        let (after, asked) = (bind(&next, 5000), bind(&itself, 6000));
        reaches(&bind(&itself, 0), "10.1.0.2:5000", &after);
        while let Some(said) = receive(&before) {
            assert_eq!(said, "steady", "from before it ended");
        }
        let _ = before.send_to(b"former", "10.1.0.1:6000");
        eventually("who has the address now is heard", || {
            after.send_to(b"next", "10.1.0.1:6000").unwrap();
            let said = receive(&asked);
            assert_ne!(said.as_deref(), Some("former"));
            said.is_some()
        });
        eventually("the link goes from the namespace", || !owner.sh("ip -o link").contains("eth0"));
        reaches(&bind(&itself, 0), "10.1.0.2:5000", &after);
    });
}

#[test]
fn a_container_that_starts_again_has_its_address_at_once() {
    on_a_host(|host| {
        let networks = host.networks();
        make_narrow(&networks);
        let first = run_on_narrow(&networks, "first", &["5556:5000/udp"]);
        let client = bind(&host.itself(), 0);
        reaches(&client, "127.0.0.1:5556", &bind(&first, 5000));
        networks.tear_down(first.sandbox()).unwrap();
        let again = run_on_narrow(&networks, "first", &["5556:5000/udp"]);
        reaches(&client, "127.0.0.1:5556", &bind(&again, 5000));
    });
}

#[test]
fn datagrams_for_a_published_port_do_not_go_to_who_has_the_address_next() {
    on_a_host(|host| {
        let (stranger, itself) = (host.stranger(), host.itself());
        let networks = host.networks();
        make_narrow(&networks);
        let first = run_on_narrow(&networks, "first", &["5556:5000/udp"]);
        let clients = [(bind(&stranger, 7000), "192.0.2.1:5556"), (bind(&itself, 7000), "127.0.0.1:5556")];
        let server = bind(&first, 5000);
        clients.iter().for_each(|(client, to)| reaches(client, to, &server));
        networks.tear_down(first.sandbox()).unwrap();
        drop((first, server));

        let next = run_on_narrow(&networks, "next", &[]);
        let server = bind(&next, 5000);
        let steady: Vec<_> = clients.iter().map(|(client, to)| (client, *to)).collect();
        gets_nothing_of(&steady, &server, &itself);

        let second = run(&networks, spec("second", &["bridge"], &["5556:5000/udp"]));
        let server = bind(&second, 5000);
        clients.iter().for_each(|(client, to)| reaches(client, to, &server));
    });
}

#[test]
fn a_client_that_sent_before_the_port_was_published_is_heard() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let networks = host.networks();
        let client = bind(&stranger, 7000);
        for _ in 0..10 {
            let _ = client.send_to(b"early", "192.0.2.1:5556");
        }
        let web = run(&networks, spec("web", &["bridge"], &["5556:5000/udp"]));
        reaches(&client, "192.0.2.1:5556", &bind(&web, 5000));
    });
}

#[test]
fn what_was_on_its_way_when_the_daemon_was_killed_is_forgotten_by_the_next() {
    on_a_host(|host| {
        let (stranger, itself) = (host.stranger(), host.itself());
        let networks = host.networks();
        make_narrow(&networks);
        let first = run_on_narrow(&networks, "first", &["5556:5000/udp"]);
        let (client, server) = (bind(&stranger, 7000), bind(&first, 5000));
        reaches(&client, "192.0.2.1:5556", &server);
        drop(networks);
        // It ends while no daemon runs, and somebody stays in its namespace.
        let networks = host.networks();
        let next = run_on_narrow(&networks, "next", &[]);
        let after = bind(&next, 5000);
        gets_nothing_of(&[(&client, "192.0.2.1:5556")], &after, &itself);
        eventually("the link goes from the namespace", || !first.sh("ip -o link").contains("eth0"));
    });
}
