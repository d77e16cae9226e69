//! A host of the test's own: a network namespace, with an instance of the networks, containers, and a stranger outside.
//!
//! Nothing here touches the machine's own links, rules or ports, and all of it goes with the namespaces, however a test
//! ends.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod guest;

use net::{Instance, NetConfig, NetNs, Networks, PortSpec, Protocol, Sandbox, SandboxSpec};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use store::Store;

/// How long a connection is tried that shall not come about.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long one is tried that shall, on a machine that may have much else to do.
const LONG: Duration = Duration::from_secs(60);

/// Runs a test on a thread whose network namespace is a new, empty host.
pub(crate) fn on_a_host(test: impl FnOnce(Host) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
        let host = Host { namespace: NetNs::of_this_thread().unwrap(), store: Store::in_memory().unwrap() };
        sh("ip link set lo up");
        test(host);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A host without containers yet.
pub(crate) struct Host {
    pub(crate) namespace: NetNs,
    pub(crate) store: Store,
}

impl Host {
    /// What the instance is told by default: no IPv6 on the default bridge, no forwarder.
    pub(crate) fn config(&self) -> NetConfig {
        let mut config = NetConfig::new(instance(), self.store.clone());
        config.prepared = 2;
        config
    }

    pub(crate) fn networks(&self) -> Arc<Networks> {
        self.networks_with(Vec::new())
    }

    /// The instance, where these run already.
    pub(crate) fn networks_with(&self, running: Vec<Sandbox>) -> Arc<Networks> {
        Networks::open(self.config(), running).unwrap()
    }

    /// What another instance on this host is told.
    pub(crate) fn second_config(&self) -> NetConfig {
        let mut config = self.config();
        config.instance = "t2".parse().unwrap();
        config.store = Store::in_memory().unwrap();
        config.bridge_name = "stratus1".into();
        config
    }

    /// A machine on the same cable: this host is 192.0.2.1 and 2001:db8::1, the other .2 and ::2.
    pub(crate) fn stranger(&self) -> Container {
        let stranger = self.stranger_at("cable", "192.0.2");
        sh("ip -6 addr add 2001:db8::1/64 dev cable0 nodad");
        stranger.sh("ip -6 addr add 2001:db8::2/64 dev cable1 nodad");
        stranger
    }

    /// A machine on a cable of its own: this host is .1 of that network, the other .2.
    pub(crate) fn stranger_at(&self, cable: &str, net: &str) -> Container {
        let namespace = std::thread::scope(|scope| {
            let inside = || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                sh("ip link set lo up");
                NetNs::of_this_thread().unwrap()
            };
            scope.spawn(inside).join().unwrap()
        });
        sh(&format!("ip link add {cable}0 type veth peer name {cable}1 netns {}", path_of(&namespace)));
        sh(&format!("ip addr add {net}.1/24 dev {cable}0; ip link set {cable}0 up"));
        let stranger = Container { namespace, sandbox: None };
        stranger.sh(&format!("ip addr add {net}.2/24 dev {cable}1; ip link set {cable}1 up"));
        stranger
    }

    /// The host itself, as somebody who serves and asks.
    pub(crate) fn itself(&self) -> Container {
        Container { namespace: self.namespace.try_clone().unwrap(), sandbox: None }
    }
}

pub(crate) fn instance() -> Instance {
    "t1".parse().unwrap()
}

/// A namespace to serve and ask in.
pub(crate) struct Container {
    pub(crate) namespace: NetNs,
    pub(crate) sandbox: Option<Sandbox>,
}

/// A sandbox on these networks, with these ports as `docker run -p` writes them.
pub(crate) fn spec(name: &str, networks: &[&str], ports: &[&str]) -> SandboxSpec {
    let endpoint = |network: &&str| net::EndpointSpec { network: (*network).into(), ..Default::default() };
    SandboxSpec {
        id: format!("{name:x<64}"),
        name: name.into(),
        endpoints: networks.iter().map(endpoint).collect(),
        ports: ports.iter().map(|text| port(text)).collect(),
        tap_owner: None,
    }
}

/// `[ADDRESS:][PORT:]PORT[/PROTOCOL]`.
pub(crate) fn port(text: &str) -> PortSpec {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let range = match host.split_once('-') {
        Some((low, high)) => Some(low.parse().unwrap()..=high.parse().unwrap()),
        None => host.parse().ok().map(|number: u16| number..=number),
    };
    PortSpec {
        host_ip: address.trim_matches(['[', ']']).parse().ok(),
        host_port: range,
        container_port: container.parse().unwrap(),
        protocol: protocol.parse::<Protocol>().unwrap(),
    }
}

pub(crate) fn run(networks: &Networks, spec: SandboxSpec) -> Container {
    let (namespace, sandbox) = networks.set_up(spec).unwrap();
    Container { namespace, sandbox: Some(sandbox) }
}

impl Container {
    pub(crate) fn sandbox(&self) -> &Sandbox {
        self.sandbox.as_ref().unwrap()
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.sandbox().endpoints[0].ipv4.unwrap().addr().into()
    }

    pub(crate) fn ip6(&self) -> IpAddr {
        self.sandbox().endpoints[0].ipv6.unwrap().addr().into()
    }

    /// Answers every connection to a port with the asker's address as it is seen here.
    pub(crate) fn serve(&self, port: u16) {
        let address: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
        let listener = self.namespace.enter(|| TcpListener::bind(address)).unwrap().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let asker = stream.peer_addr().unwrap().ip().to_canonical();
                let _ = stream.write_all(asker.to_string().as_bytes());
            }
        });
    }

    /// The same over UDP.
    pub(crate) fn serve_udp(&self, port: u16) {
        let address: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, port).into();
        let socket = self.namespace.enter(|| UdpSocket::bind(address)).unwrap().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, asker)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(asker.ip().to_canonical().to_string().as_bytes(), asker);
            }
        });
    }

    /// Connects, and gives what the server said: who it thinks that we are.
    #[track_caller]
    pub(crate) fn ask(&self, address: impl ToAddress) -> IpAddr {
        let address = address.to_address();
        self.try_ask(address, LONG).unwrap_or_else(|e| panic!("{address} does not answer: {e}"))
    }

    /// Nobody answers.
    #[track_caller]
    pub(crate) fn cannot_reach(&self, address: impl ToAddress) {
        let address = address.to_address();
        if let Ok(seen) = self.try_ask(address, PATIENCE) {
            panic!("{address} answers, and sees {seen}");
        }
    }

    pub(crate) fn try_ask(&self, address: SocketAddr, timeout: Duration) -> std::io::Result<IpAddr> {
        self.namespace
            .enter(|| {
                let mut stream = TcpStream::connect_timeout(&address, timeout)?;
                stream.set_read_timeout(Some(timeout))?;
                let mut said = String::new();
                stream.read_to_string(&mut said)?;
                said.parse().map_err(std::io::Error::other)
            })
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn ask_udp(&self, address: impl ToAddress) -> IpAddr {
        let address = address.to_address();
        let ask = || {
            let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket.set_read_timeout(Some(LONG))?;
            socket.send(b"who am I?")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            Ok::<String, std::io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        self.namespace.enter(ask).unwrap().unwrap().parse().unwrap()
    }

    /// Runs a command in there and gives what it prints.
    #[track_caller]
    pub(crate) fn sh(&self, command: &str) -> String {
        let command = command.to_owned();
        self.namespace.enter(move || sh(&command)).unwrap()
    }
}

/// `"1.2.3.4:80"`, or an address and a port.
pub(crate) trait ToAddress {
    fn to_address(self) -> SocketAddr;
}

impl ToAddress for &str {
    fn to_address(self) -> SocketAddr {
        self.parse().unwrap()
    }
}

impl ToAddress for SocketAddr {
    fn to_address(self) -> SocketAddr {
        self
    }
}

impl ToAddress for (IpAddr, u16) {
    fn to_address(self) -> SocketAddr {
        self.into()
    }
}

/// Runs a command on the host of the calling thread and gives what it prints.
#[track_caller]
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// For `ip`'s NETNS: a path with a slash in it is opened as it is.
pub(crate) fn path_of(namespace: &NetNs) -> String {
    use std::os::fd::AsFd;
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd())
}

/// Waits until something is so; fails after a while.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let end = std::time::Instant::now() + LONG;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
