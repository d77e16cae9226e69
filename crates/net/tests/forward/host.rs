//! A forwarder of the test's own, with servers behind it and clients before it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use net::forward::{self, ForwardClient, Hold, Mode, Proto};
use rustix::process::{Pid, Signal};

use crate::DAEMON;

pub(crate) fn this_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command
}

pub(crate) fn client_of(run_dir: &Path, args: &str) -> ForwardClient {
    client_with(run_dir, args, std::env::current_exe().unwrap())
}

/// A client whose forwarder is of a certain file: a copy of this test.
pub(crate) fn client_with(run_dir: &Path, args: &str, program: PathBuf) -> ForwardClient {
    let (dir, args) = (run_dir.to_owned(), args.to_owned());
    ForwardClient::with_command(run_dir, move || {
        let mut command = Command::new(&program);
        command.args(["--exact", "forwarder_process", "--nocapture", "--test-threads=1", "--", "--run-dir"]).arg(&dir);
        command.args(args.split_whitespace()).env_remove(DAEMON);
        command
    })
}

/// Gives the test a network of its own, so that nobody takes a port that it has just released. Threads and processes that
/// it starts are in it too.
pub(crate) fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
}

/// A run directory in a network of its own, and a client for its forwarder, which ends with it.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) client: ForwardClient,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    pub(crate) fn with(args: &str) -> Self {
        own_network();
        let dir = tempfile::tempdir().unwrap();
        let client = client_of(dir.path(), args);
        Host { dir, client }
    }

    /// Publishes a port on a loopback address, and says where.
    pub(crate) fn publish(&self, key: &str, proto: Proto, on: impl Into<std::net::IpAddr>, mode: Mode) -> SocketAddr {
        let socket = forward::bind(proto, (on.into(), 0).into()).unwrap();
        self.client.hold(&Hold { key: key.into(), proto, mode }, &socket).unwrap();
        address_of(&socket)
    }

    pub(crate) fn publish_proxy(&self, proto: Proto, target: SocketAddr) -> SocketAddr {
        self.publish("web", proto, Ipv6Addr::LOCALHOST, Mode::Proxy { target })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.client.status().unwrap().unwrap().pid as i32).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A second client: the first may have to report a loss.
        let _ = forward::clean(self.dir.path());
    }
}

pub(crate) fn proxy(key: &str, proto: Proto, target: SocketAddr) -> Hold {
    Hold { key: key.into(), proto, mode: Mode::Proxy { target } }
}

pub(crate) fn address_of(socket: impl AsFd) -> SocketAddr {
    rustix::net::getsockname(socket).unwrap().try_into().unwrap()
}

/// A container's server on an IPv4 address: runs `serve` for each connection.
pub(crate) fn server(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Sends everything back, and closes when the client has.
pub(crate) fn echo(mut stream: TcpStream) {
    let mut back = stream.try_clone().unwrap();
    let _ = io::copy(&mut stream, &mut back);
    let _ = back.shutdown(Shutdown::Write);
}

pub(crate) fn exchange(address: SocketAddr, text: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(crate) fn kill(pid: Pid) {
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

/// Bytes that tell when one is missing, doubled or in another place.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    const BLOCK: usize = 16 << 10;
    let block: Vec<u8> =
        (0..BLOCK as u32 / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut bytes = Vec::with_capacity(len + BLOCK);
    for number in 0..len.div_ceil(BLOCK) as u32 {
        let start = bytes.len();
        bytes.extend_from_slice(&block);
        bytes[start..start + 4].copy_from_slice(&number.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Waits for what another process is about to do.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("did not happen: {what}");
}
