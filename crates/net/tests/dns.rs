//! The embedded DNS server, asked from network namespaces as containers have them. The host's own name server is a small
//! one of the test's.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use net::NetNs;
use net::dns::resolv::{Overrides, ResolvConf, for_user_network};
use net::dns::{DnsConfig, DnsServer, Link, SERVER_ADDRESS, SandboxDns, Upstreams, Zones};

const ID: &str = "sandbox";

fn namespace() -> NetNs {
    thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        NetNs::of_this_thread().unwrap()
    })
    .join()
    .unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn sandbox(id: &str) -> SandboxDns {
    SandboxDns { id: id.into(), upstreams: Upstreams::Host, is_external: true, ndots_set: false, port: None }
}

/// A runtime in a thread of its own, as the daemon has one.
struct Runtime {
    handle: tokio::runtime::Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Runtime {
    fn new() -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let thread = thread::spawn(move || drop(runtime.block_on(stopped)));
        Runtime { handle, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().map(|thread| thread.join());
    }
}

/// A daemon with one container, `web`, whose network is `front`; `db` is another container there.
struct World {
    namespace: NetNs,
    port: u16,
    zones: Arc<Zones>,
    server: DnsServer,
    host: HostServer,
    dir: tempfile::TempDir,
    runtime: Runtime,
}

impl World {
    fn new() -> Self {
        Self::with(sandbox(ID), |_| {})
    }

    fn with(dns: SandboxDns, change: impl FnOnce(&mut DnsConfig)) -> Self {
        let zones = Arc::new(Zones::new());
        zones.publish("n", "front", ID, ["web", "0123456789ab"], &[ip("10.0.0.2"), ip("fd00::2")]);
        zones.publish("n", "front", "db", ["db", "data"], &[ip("10.0.0.3")]);
        zones.join(ID, "n", &[Link { alias: "base".into(), name: "db".into() }]);
        let host = HostServer::start();
        let dir = tempfile::tempdir().unwrap();
        let mut config = DnsConfig {
            host_resolv_conf: dir.path().join("resolv.conf"),
            upstream_port: host.address.port(),
            ..DnsConfig::default()
        };
        change(&mut config);
        std::fs::write(&config.host_resolv_conf, format!("nameserver {}\n", host.address.ip())).unwrap();
        let runtime = Runtime::new();
        let namespace = namespace();
        let server = {
            let _inside = runtime.handle.enter();
            DnsServer::start(zones.clone(), config)
        };
        let port = server.attach(namespace.try_clone().unwrap().into(), dns).unwrap();
        World { namespace, port, zones, server, host, dir, runtime }
    }

    fn host_resolv_conf(&self, text: &str) {
        std::fs::write(self.dir.path().join("resolv.conf"), text).unwrap();
    }

    fn udp(&self) -> UdpSocket {
        udp_in(&self.namespace)
    }

    fn tcp(&self) -> TcpStream {
        self.namespace.enter(|| TcpStream::connect((SERVER_ADDRESS, 53)).unwrap()).unwrap()
    }

    fn ask(&self, query: &Message) -> Message {
        ask(&self.udp(), query)
    }

    fn addresses(&self, name: &str, kind: RecordType) -> Vec<String> {
        addresses(&self.ask(&query(name, kind)))
    }
}

fn udp_in(namespace: &NetNs) -> UdpSocket {
    let connect = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect((SERVER_ADDRESS, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket
    };
    namespace.enter(connect).unwrap()
}

fn ask(socket: &UdpSocket, query: &Message) -> Message {
    socket.send(&query.to_vec().unwrap()).unwrap();
    let mut buffer = vec![0; 65_536];
    let len = socket.recv(&mut buffer).unwrap();
    let reply = Message::from_vec(&buffer[..len]).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

fn ask_tcp(stream: &mut TcpStream, query: &Message) -> Message {
    let bytes = query.to_vec().unwrap();
    stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut reply = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut reply).unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn addresses(reply: &Message) -> Vec<String> {
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    let mut found: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    found.sort();
    found
}

/// The host's name server: what it says to a name depends on the name.
struct HostServer {
    address: SocketAddr,
    /// The names that were asked for, and the source ports and identifiers.
    asked: Arc<Mutex<Vec<(String, u16, u16)>>>,
}

impl HostServer {
    fn start() -> Self {
        Self::on(Ipv4Addr::LOCALHOST, 0)
    }

    fn on(address: Ipv4Addr, port: u16) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((address, port)).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<(String, u16, u16)>>> = Arc::default();
        thread::spawn({
            let asked = asked.clone();
            move || {
                let mut buffer = [0; 65_536];
                while let Ok((len, from)) = udp.recv_from(&mut buffer) {
                    for (reply, spoofed) in Self::replies(&buffer[..len], from, &asked) {
                        if spoofed {
                            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().send_to(&reply, from).unwrap();
                        } else {
                            udp.send_to(&reply, from).unwrap();
                        }
                    }
                }
            }
        });
        thread::spawn({
            let asked = asked.clone();
            move || {
                for stream in tcp.incoming() {
                    let mut stream = stream.unwrap();
                    let from = stream.peer_addr().unwrap();
                    let mut len = [0; 2];
                    stream.read_exact(&mut len).unwrap();
                    let mut query = vec![0; u16::from_be_bytes(len).into()];
                    stream.read_exact(&mut query).unwrap();
                    for (reply, _) in Self::replies(&query, from, &asked) {
                        stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
                        stream.write_all(&reply).unwrap();
                    }
                }
            }
        });
        HostServer { address, asked }
    }

    /// The replies to a query, and whether each comes from somebody else.
    fn replies(query: &[u8], from: SocketAddr, asked: &Mutex<Vec<(String, u16, u16)>>) -> Vec<(Vec<u8>, bool)> {
        let query = Message::from_vec(query).unwrap();
        let name = query.queries[0].name().to_ascii();
        asked.lock().unwrap().push((name.clone(), from.port(), query.metadata.id));
        // Back comes what was asked, with whatever else was in it.
        let mut reply = query.clone().into_response();
        reply.metadata.recursion_available = true;
        let record = |last| Record::from_rdata(query.queries[0].name().clone(), 60, RData::A(A::new(192, 0, 2, last)));
        let answer = |last| {
            let mut reply = query.clone().into_response();
            reply.metadata.recursion_available = true;
            reply.add_answer(record(last));
            reply
        };
        let bytes = |message: &Message| message.to_vec().unwrap();
        match name.as_str() {
            "silent.example." => vec![],
            "nx.example." => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                vec![(bytes(&reply), false)]
            }
            "fails.example." => {
                reply.metadata.response_code = ResponseCode::ServFail;
                vec![(bytes(&reply), false)]
            }
            "big.example." => {
                for last in 0..200 {
                    reply.add_answer(record(last));
                }
                vec![(bytes(&reply), false)]
            }
            "forged.example." => {
                let mut other_id = answer(66);
                other_id.metadata.id ^= 1;
                let mut other_question = answer(67);
                other_question.queries[0].set_name(Name::from_ascii("bank.example.").unwrap());
                vec![
                    (bytes(&other_id), false),
                    (bytes(&other_question), false),
                    (vec![0; 3], false),
                    (bytes(&answer(68)), true),
                    (bytes(&answer(1)), false),
                ]
            }
            _ => vec![(bytes(&answer(1)), false)],
        }
    }

    fn was_asked(&self, name: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|(asked, ..)| asked == name)
    }
}

#[test]
fn names_of_containers_over_udp_and_tcp() {
    let world = World::new();
    assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);
    assert_eq!(world.addresses("DB.front.", RecordType::A), ["10.0.0.3"]);
    assert_eq!(world.addresses("base.", RecordType::A), ["10.0.0.3"]);
    assert_eq!(world.addresses("0123456789ab.", RecordType::AAAA), ["fd00::2"]);
    assert_eq!(world.addresses("db.", RecordType::AAAA), [""; 0]);
    assert_eq!(world.addresses("3.0.0.10.in-addr.arpa.", RecordType::PTR), ["db.front."]);
    let mut tcp = world.tcp();
    for _ in 0..2 {
        assert_eq!(addresses(&ask_tcp(&mut tcp, &query("web.", RecordType::A))), ["10.0.0.2"]);
    }
    assert!(!world.host.was_asked("db."), "names of containers stay here");

    world.zones.publish("n", "front", "late", ["late"], &[ip("10.0.0.9")]);
    assert_eq!(world.addresses("late.", RecordType::A), ["10.0.0.9"]);
    world.zones.forget("late");
    assert_eq!(world.addresses("late.", RecordType::A), ["192.0.2.1"], "now somebody else's");
}

#[test]
fn a_program_of_the_c_library_finds_names() {
    let world = World::new();
    let made = for_user_network(&ResolvConf::parse("search corp.example\n", "x"), &Overrides::default());
    let file = world.dir.path().join("for-the-container");
    std::fs::write(&file, made.text).unwrap();
    let getent = |name: &str| {
        // With loopback addresses alone the C library would not ask for others (AI_ADDRCONFIG).
        let script = "ip address replace 10.0.0.2/32 dev lo && mount --bind \"$1\" \"$(readlink -f /etc/resolv.conf)\" && exec getent ahostsv4 \"$2\"";
        let run =
            || Command::new("unshare").args(["-m", "sh", "-c", script, "sh"]).arg(&file).arg(name).output().unwrap();
        let output = world.namespace.enter(run).unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(getent("db"), "10.0.0.3");
    assert_eq!(getent("db.front"), "10.0.0.3");
    assert_eq!(getent("www.example"), "192.0.2.1");
}

#[test]
fn a_containers_own_name_server_has_port_53() {
    let world = World::new();
    let bind = || {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.send_to(b"mine", (Ipv4Addr::LOCALHOST, 53)).unwrap();
        let mut buffer = [0; 10];
        let len = udp.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"mine");
        (udp, tcp)
    };
    let _bound = world.namespace.enter(bind).unwrap();
    assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);
    assert_eq!(addresses(&ask_tcp(&mut world.tcp(), &query("db.", RecordType::A))), ["10.0.0.3"]);
}

#[test]
fn other_names_go_to_the_hosts_server_and_back_as_they_are() {
    let world = World::new();
    let mut asked = query("www.example.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1400).set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![1, 2, 3]));
    asked.set_edns(edns.clone());
    let reply = world.ask(&asked);
    assert_eq!(addresses(&reply), ["192.0.2.1"]);
    let option = reply.edns.as_ref().unwrap().option(EdnsCode::Unknown(65_001));
    assert_eq!(option, edns.option(EdnsCode::Unknown(65_001)), "what nobody here knows passes");
    let reply = ask_tcp(&mut world.tcp(), &query("tcp.example.", RecordType::A));
    assert_eq!(addresses(&reply), ["192.0.2.1"]);

    assert_eq!(world.ask(&query("nx.example.", RecordType::A)).metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(addresses(&world.ask(&query("www.example.", RecordType::TXT))), ["192.0.2.1"]);

    // Ports and identifiers that cannot be guessed.
    for _ in 0..20 {
        world.ask(&query("www.example.", RecordType::A));
    }
    let seen = world.host.asked.lock().unwrap().clone();
    let distinct = |of: fn(&(String, u16, u16)) -> u16| seen.iter().map(of).collect::<std::collections::HashSet<_>>();
    assert!(distinct(|(_, port, _)| *port).len() > 10);
    assert!(distinct(|(_, _, id)| *id).len() > 20);
}

#[test]
fn a_reply_that_was_not_asked_for_is_not_taken() {
    let world = World::new();
    assert_eq!(world.addresses("forged.example.", RecordType::A), ["192.0.2.1"]);
}

#[test]
fn the_hosts_servers_are_read_live_and_tried_in_order() {
    let world = World::new();
    let second = HostServer::on(Ipv4Addr::new(127, 0, 0, 2), world.host.address.port());

    world.host_resolv_conf("nameserver 127.0.0.2\n");
    assert_eq!(world.addresses("www.example.", RecordType::A), ["192.0.2.1"]);
    assert!(second.was_asked("www.example.") && !world.host.was_asked("www.example."));

    // The first has nobody at its port, the second refuses to say, the third is not asked any more.
    world.host_resolv_conf("nameserver 127.0.0.3\nnameserver 127.0.0.1\nnameserver 127.0.0.2\n");
    assert_eq!(world.addresses("other.example.", RecordType::A), ["192.0.2.1"]);
    assert!(world.host.was_asked("other.example.") && !second.was_asked("other.example."));
    let failed = world.ask(&query("fails.example.", RecordType::A));
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert!(world.host.was_asked("fails.example.") && second.was_asked("fails.example."), "both were asked");

    world.host_resolv_conf("# nobody\n");
    assert_eq!(world.ask(&query("www.example.", RecordType::A)).metadata.response_code, ResponseCode::ServFail);
    std::fs::remove_file(world.dir.path().join("resolv.conf")).unwrap();
    assert_eq!(world.ask(&query("www.example.", RecordType::A)).metadata.response_code, ResponseCode::ServFail);
    assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);
}

#[test]
fn nothing_leaves_an_internal_network() {
    let world = World::with(SandboxDns { is_external: false, ..sandbox(ID) }, |_| {});
    assert_eq!(world.ask(&query("secret.example.", RecordType::A)).metadata.response_code, ResponseCode::ServFail);
    assert!(!world.host.was_asked("secret.example."));
    assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);

    assert!(world.server.update(ID, |dns| dns.is_external = true), "it joins another network");
    assert_eq!(world.addresses("www.example.", RecordType::A), ["192.0.2.1"]);
    assert!(!world.server.update("other", |_| {}));
}

#[test]
fn bare_names_stay_where_ndots_was_chosen() {
    let world = World::with(SandboxDns { ndots_set: true, ..sandbox(ID) }, |_| {});
    assert_eq!(world.addresses("unknown.", RecordType::A), [""; 0]);
    assert!(!world.host.was_asked("unknown."));
}

#[test]
fn servers_of_the_containers_own_are_asked_from_its_namespace() {
    let mut dns = sandbox(ID);
    // The first is the embedded server itself, which must not ask itself for ever.
    dns.upstreams = Upstreams::Sandbox(vec![SERVER_ADDRESS.into(), ip("127.0.0.1")]);
    let world = World::with(SandboxDns { is_external: false, ..dns }, |_| {});
    let port = world.host.address.port();
    assert_eq!(world.ask(&query("www.example.", RecordType::A)).metadata.response_code, ResponseCode::ServFail);
    let inside = world.namespace.enter(|| HostServer::on(Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(world.addresses("www.example.", RecordType::A), ["192.0.2.1"]);
    assert_eq!(addresses(&ask_tcp(&mut world.tcp(), &query("tcp.example.", RecordType::A))), ["192.0.2.1"]);
    assert!(inside.was_asked("www.example.") && inside.was_asked("tcp.example."));
    assert!(world.host.asked.lock().unwrap().is_empty());
}

#[test]
fn servers_of_a_machines_own_are_asked_from_the_host() {
    let on_a_host = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
        let script = "ip link set lo up; ip addr add 192.0.2.53/32 dev lo";
        assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success());
        let mut dns = sandbox(ID);
        // The host's loopback is not the machine's.
        dns.upstreams =
            Upstreams::Sandbox(vec![ip("127.0.0.1"), ip("::ffff:127.0.0.1"), ip("192.0.2.53")]).of_machine();
        assert_eq!(Upstreams::Host.of_machine(), Upstreams::Host);
        let world = World::with(dns, |_| {});
        let server = HostServer::on(Ipv4Addr::new(192, 0, 2, 53), world.host.address.port());
        assert_eq!(world.addresses("www.example.", RecordType::A), ["192.0.2.1"]);
        assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);
        assert!(server.was_asked("www.example.") && world.host.asked.lock().unwrap().is_empty());
        // On internal networks alone, names would carry data out.
        world.server.update(ID, |dns| dns.is_external = false);
        assert_eq!(world.ask(&query("out.example.", RecordType::A)).metadata.response_code, ResponseCode::ServFail);
        assert!(!server.was_asked("out.example."));
    };
    thread::scope(|scope| scope.spawn(on_a_host).join().unwrap());
}

#[test]
fn a_long_reply_is_cut_for_clients_that_take_no_more() {
    let world = World::new();
    let short = world.ask(&query("big.example.", RecordType::A));
    assert!(short.metadata.truncation);
    assert_eq!(short.queries.len(), 1);
    assert_eq!(ask_tcp(&mut world.tcp(), &query("big.example.", RecordType::A)).answers.len(), 200);
    let mut large = query("big.example.", RecordType::A);
    large.set_edns(Edns::new());
    large.edns.as_mut().unwrap().set_max_payload(8192);
    let reply = world.ask(&large);
    assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 200));
}

#[test]
fn too_many_queries_are_refused_and_names_of_containers_are_not() {
    let world = World::with(sandbox(ID), |config| config.max_forwarded_per_sandbox = 4);
    let socket = world.udp();
    let mut pending = HashMap::new();
    for _ in 0..10 {
        let asked = query("silent.example.", RecordType::A);
        socket.send(&asked.to_vec().unwrap()).unwrap();
        pending.insert(asked.metadata.id, ());
    }
    let mut buffer = [0; 512];
    for _ in 0..6 {
        let len = socket.recv(&mut buffer).unwrap();
        let reply = Message::from_vec(&buffer[..len]).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        pending.remove(&reply.metadata.id);
    }
    assert_eq!(pending.len(), 4, "these are under way");
    assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);
    // The server that says nothing is given up, and its place is free again.
    for _ in 0..4 {
        let len = socket.recv(&mut buffer).unwrap();
        let reply = Message::from_vec(&buffer[..len]).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        pending.remove(&reply.metadata.id).unwrap();
    }
    assert_eq!(world.addresses("www.example.", RecordType::A), ["192.0.2.1"]);
}

#[test]
fn whoever_asks_too_fast_waits_and_others_do_not() {
    let world = World::with(sandbox(ID), |config| config.max_queries_per_second = 20);
    let other = namespace();
    world.zones.publish("m", "back", "other", ["other"], &[ip("10.0.1.2")]);
    world.zones.join("other", "m", &[]);
    world.server.attach(other.try_clone().unwrap().into(), sandbox("other")).unwrap();
    let began = std::time::Instant::now();
    let socket = world.udp();
    for _ in 0..60 {
        socket.send(&query("db.", RecordType::A).to_vec().unwrap()).unwrap();
    }
    // A namespace of its own, at a pace of its own.
    assert_eq!(addresses(&ask(&udp_in(&other), &query("other.", RecordType::A))), ["10.0.1.2"]);
    for _ in 0..60 {
        socket.recv(&mut [0; 512]).unwrap();
    }
    assert!(began.elapsed() >= Duration::from_millis(1900), "20 at once, and the others at 20 a second");
}

#[test]
fn a_new_daemon_takes_over_the_port() {
    let mut world = World::new();
    let old = world.udp();
    assert_eq!(addresses(&ask(&old, &query("db.", RecordType::A))), ["10.0.0.3"]);
    let restart = |world: &mut World, port: Option<u16>| {
        let config = DnsConfig {
            host_resolv_conf: world.dir.path().join("resolv.conf"),
            upstream_port: world.host.address.port(),
            ..DnsConfig::default()
        };
        // As a killed daemon would, the old one takes its runtime along.
        world.runtime = Runtime::new();
        let _inside = world.runtime.handle.enter();
        world.server = DnsServer::start(world.zones.clone(), config);
        let namespace: OwnedFd = world.namespace.try_clone().unwrap().into();
        world.server.attach(namespace, SandboxDns { port, ..sandbox(ID) }).unwrap()
    };
    let port = Some(world.port);
    assert_eq!(restart(&mut world, port), world.port);
    assert_eq!(addresses(&ask(&old, &query("db.", RecordType::A))), ["10.0.0.3"], "clients notice nothing");

    // The port is gone: another one, and port 53 leads there.
    world.server.detach(ID);
    let taken = eventually(|| world.namespace.enter(|| UdpSocket::bind((SERVER_ADDRESS, world.port)).ok()).unwrap());
    assert_ne!(restart(&mut world, port), world.port);
    drop(taken);
    assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);
    // A port of another namespace is no port of this one.
    let fresh = namespace();
    let server = &world.server;
    server.attach(fresh.try_clone().unwrap().into(), SandboxDns { port, ..sandbox("fresh") }).unwrap();
    world.zones.join("fresh", "n", &[]);
    assert_eq!(addresses(&ask(&udp_in(&fresh), &query("db.", RecordType::A))), ["10.0.0.3"]);
    // Attached again without a port: the rule is replaced, not doubled.
    restart(&mut world, None);
    assert_eq!(world.addresses("db.", RecordType::A), ["10.0.0.3"]);
}

/// Waits for what the runtime is about to do.
fn eventually<T>(mut done: impl FnMut() -> Option<T>) -> T {
    for _ in 0..3000 {
        if let Some(value) = done() {
            return value;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("did not happen");
}

#[test]
fn a_detached_sandbox_lets_its_namespace_go() {
    let world = World::new();
    // A query under way keeps a socket open; it has to end too.
    world.udp().send(&query("silent.example.", RecordType::A).to_vec().unwrap()).unwrap();
    eventually(|| world.host.was_asked("silent.example.").then_some(()));
    assert_eq!(world.server.len(), 1);
    assert!(world.server.detach(ID));
    assert!(!world.server.detach(ID));
    assert!(world.server.is_empty());
    eventually(|| world.namespace.enter(|| UdpSocket::bind((SERVER_ADDRESS, world.port)).ok()).unwrap());
    let closed = world.namespace.enter(|| TcpStream::connect((SERVER_ADDRESS, 53)).map(|_| ())).unwrap();
    assert_eq!(closed.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_namespace_that_is_none_is_an_error() {
    let world = World::new();
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = world.server.attach(file.into(), sandbox("other")).unwrap_err().to_string();
    assert!(error.starts_with("cannot enter the network namespace for the name server of sandbox other: "), "{error}");
    assert_eq!(world.server.len(), 1);
}

#[test]
fn garbage_harms_nobody() {
    let world = World::new();
    let socket = world.udp();
    for len in 0..600u32 {
        let noise: Vec<u8> = (0..len).map(|at| (at * 31 + len * 17) as u8 & 0x7f).collect();
        socket.send(&noise).unwrap();
    }
    // Among so many, a datagram may be lost, and whoever asks asks again.
    let asking = world.udp();
    asking.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let reply = eventually(|| {
        asking.send(&query("db.", RecordType::A).to_vec().unwrap()).ok()?;
        let mut buffer = vec![0; 512];
        let len = asking.recv(&mut buffer).ok()?;
        Message::from_vec(&buffer[..len]).ok()
    });
    assert_eq!(addresses(&reply), ["10.0.0.3"]);

    // Promises more than it sends; says nothing; sends nonsense; and more of them than are allowed.
    let mut waiting = Vec::new();
    for number in 0..70u8 {
        let mut stream = world.tcp();
        let _ = match number % 3 {
            0 => stream.write_all(&[0xff, 0xff, 1, 2, 3]),
            1 => Ok(()),
            _ => stream.write_all(&[0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        };
        waiting.push(stream);
    }
    drop(waiting);
    let served = || {
        let mut stream = world.tcp();
        let bytes = query("db.", RecordType::A).to_vec().unwrap();
        stream.write_all(&(bytes.len() as u16).to_be_bytes()).ok()?;
        stream.write_all(&bytes).ok()?;
        let mut len = [0; 2];
        stream.read_exact(&mut len).ok()
    };
    eventually(served);
}

#[test]
fn many_sandboxes_each_with_its_own_names() {
    const COUNT: usize = 50;
    let runtime = Runtime::new();
    let zones = Arc::new(Zones::new());
    let server = {
        let _inside = runtime.handle.enter();
        DnsServer::start(zones.clone(), DnsConfig::default())
    };
    let namespaces: Vec<NetNs> = (0..COUNT).map(|_| namespace()).collect();
    let attach = |ports: &[Option<u16>]| -> Vec<u16> {
        let all = namespaces.iter().zip(ports).enumerate().map(|(number, (namespace, &port))| {
            let dns = SandboxDns { port, ..sandbox(&format!("s{number}")) };
            (namespace.try_clone().unwrap().into(), dns)
        });
        server.attach_all(all.collect()).into_iter().map(Result::unwrap).collect()
    };
    let ports = attach(&[None; COUNT]);
    for number in 0..COUNT {
        let network = format!("n{number}");
        zones.publish(&network, &network, &format!("s{number}"), ["me"], &[IpAddr::from([10, 9, 0, number as u8])]);
        zones.join(&format!("s{number}"), &network, &[]);
    }
    let check = || {
        for (number, namespace) in namespaces.iter().enumerate() {
            let reply = ask(&udp_in(namespace), &query("me.", RecordType::A));
            assert_eq!(addresses(&reply), [format!("10.9.0.{number}")]);
        }
    };
    check();
    for number in 0..COUNT {
        server.detach(&format!("s{number}"));
    }
    let is_free = |at: usize| namespaces[at].enter(|| UdpSocket::bind((SERVER_ADDRESS, ports[at])).ok()).unwrap();
    for at in 0..COUNT {
        eventually(|| is_free(at));
    }
    assert_eq!(attach(&ports.iter().copied().map(Some).collect::<Vec<_>>()), ports);
    check();
}

/// `cargo test -p net --release --test dns -- --ignored --nocapture figures`
#[test]
#[ignore = "prints figures, checks nothing"]
fn figures() {
    const COUNT: usize = 1000;
    let memory = |what: &str| {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let slab = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = |text: &str, key: &str| text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        println!("{what}: {}; {}", line(&rollup, "Pss:"), line(&slab, "Slab:"));
    };
    let runtime = Runtime::new();
    let zones = Arc::new(Zones::new());
    zones.publish("n", "front", "db", ["db"], &[ip("10.0.0.3")]);
    zones.join("s0", "n", &[]);
    let namespaces: Vec<NetNs> = (0..COUNT).map(|_| namespace()).collect();
    let config = || DnsConfig { host_resolv_conf: Path::new("/nonexistent").into(), ..DnsConfig::default() };
    let server = {
        let _inside = runtime.handle.enter();
        DnsServer::start(zones.clone(), config())
    };
    let all = |ports: &[Option<u16>]| -> Vec<(OwnedFd, SandboxDns)> {
        let each = namespaces.iter().zip(ports).enumerate();
        each.map(|(number, (namespace, &port))| {
            (namespace.try_clone().unwrap().into(), SandboxDns { port, ..sandbox(&format!("s{number}")) })
        })
        .collect()
    };
    let first = all(&[None; COUNT]);
    memory("before");
    let start = std::time::Instant::now();
    let ports: Vec<Option<u16>> = server.attach_all(first).into_iter().map(|port| Some(port.unwrap())).collect();
    println!("attach {COUNT} fresh: {:?}", start.elapsed());
    memory("attached");
    drop(server);
    drop(runtime);
    memory("detached");

    let runtime = Runtime::new();
    let server = {
        let _inside = runtime.handle.enter();
        DnsServer::start(zones, config())
    };
    let again = all(&ports);
    let start = std::time::Instant::now();
    assert!(server.attach_all(again).into_iter().all(|port| port.is_ok()));
    println!("attach {COUNT} with their ports: {:?}", start.elapsed());

    let singles: Vec<NetNs> = (0..20).map(|_| namespace()).collect();
    let start = std::time::Instant::now();
    for (number, single) in singles.iter().enumerate() {
        server.attach(single.try_clone().unwrap().into(), sandbox(&format!("single{number}"))).unwrap();
    }
    println!("attach one: {:?}", start.elapsed() / 20);
    let socket = udp_in(&namespaces[0]);
    let start = std::time::Instant::now();
    for _ in 0..10_000 {
        ask(&socket, &query("db.", RecordType::A));
    }
    println!("10000 queries, one after the other: {:?}", start.elapsed());
}
