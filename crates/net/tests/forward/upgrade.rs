//! A forwarder that goes on as another program.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use net::forward::{self, ForwardClient, ForwardError, Mode, Proto};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
use rustix::net::{SocketFlags, SocketType};

use crate::host::{Host, client_with, echo, eventually, exchange, kill, pattern, proxy, server};

/// The next release of the forwarder: the same, in another file.
fn release(host: &Host, name: &str) -> PathBuf {
    let path = host.dir.path().join(name);
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    path
}

fn client(host: &Host, program: &Path) -> ForwardClient {
    client_with(host.dir.path(), "", program.to_owned())
}

fn is_of(host: &Host, program: &Path) -> bool {
    let file = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).unwrap();
    file(Path::new(&format!("/proc/{}/exe", host.pid().as_raw_nonzero()))) == file(program)
}

fn say(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn everything_goes_on() {
    let host = Host::new();
    let releases = [release(&host, "second"), release(&host, "third")];
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let reserved = host.publish("reserved", Proto::Tcp, Ipv4Addr::LOCALHOST, Mode::Reserve);
    let (pid, held) = (host.pid(), host.client.list().unwrap());
    assert!(!host.client.bring_up_to_date().unwrap(), "it is of the same program");

    // A connection that rests, one of which only a direction has ended, one that is full to the brim.
    let mut resting = TcpStream::connect(web).unwrap();
    assert_eq!(say(&mut resting, "one"), "one");
    let mut half = TcpStream::connect(host.publish(
        "half",
        Proto::Tcp,
        Ipv6Addr::LOCALHOST,
        Mode::Proxy {
            target: server(|mut stream| {
                stream.write_all(b"first").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut rest = String::new();
                stream.read_to_string(&mut rest).unwrap();
                assert_eq!(rest, "second");
            }),
        },
    ))
    .unwrap();
    let mut first = String::new();
    half.read_to_string(&mut first).unwrap();
    assert_eq!(first, "first");
    const LEN: usize = 64 << 20;
    let mut full = TcpStream::connect(web).unwrap();
    let mut writer = full.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(&pattern(LEN)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    // Connections that arrive while it happens.
    let stop = Arc::new(AtomicBool::new(false));
    let visitor = thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(exchange(web, "visit").unwrap(), "visit");
            }
        }
    });

    for program in [&releases[0], &releases[1], &releases[0]] {
        let daemon = client(&host, program);
        assert!(daemon.bring_up_to_date().unwrap());
        assert!(!daemon.bring_up_to_date().unwrap(), "there is nothing to do any more");
        assert!(is_of(&host, program));
        assert_eq!(host.pid(), pid);
        assert_eq!(say(&mut resting, "more"), "more");
        assert_eq!(TcpListener::bind(reserved).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
    stop.store(true, Ordering::Relaxed);
    visitor.join().unwrap();
    half.write_all(b"second").unwrap();
    drop(half);
    let mut answer = Vec::new();
    full.read_to_end(&mut answer).unwrap();
    sender.join().unwrap();
    assert!(answer == pattern(LEN), "{} bytes, and not those that were sent", answer.len());
    assert!(host.client.release("half").unwrap());
    assert_eq!(host.client.list().unwrap(), held);
    eventually("only the resting one is left", || host.client.status().unwrap().unwrap().connections == 1);
    drop(resting);
    eventually("that is forgotten too", || host.client.status().unwrap().unwrap().connections == 0);
}

#[test]
fn udp_clients_keep_the_address_that_the_target_knows_them_by() {
    let host = Host::with("--max-sessions 3");
    let next = client_with(host.dir.path(), "--max-sessions 3", release(&host, "next"));
    let target = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = host.publish_proxy(Proto::Udp, target.local_addr().unwrap());
    let hear = || {
        let mut buffer = [0; 100];
        let (len, from) = target.recv_from(&mut buffer).unwrap();
        (String::from_utf8(buffer[..len].to_vec()).unwrap(), from)
    };
    let clients: Vec<UdpSocket> = (0..3)
        .map(|_| {
            let client = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
            client.connect(port).unwrap();
            client
        })
        .collect();
    let known: Vec<SocketAddr> = clients
        .iter()
        .map(|client| {
            client.send(b"before").unwrap();
            hear().1
        })
        .collect();
    assert!(next.bring_up_to_date().unwrap());
    assert_eq!(host.client.status().unwrap().unwrap().sessions, 3);
    for (client, known) in clients.iter().zip(&known) {
        // The target speaks first, as it may.
        target.send_to(b"answer", known).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(client.recv(&mut buffer).unwrap(), 6);
        client.send(b"after").unwrap();
        assert_eq!(hear(), ("after".to_owned(), *known));
    }
    // The limit is the one that it was started with.
    let fourth = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    fourth.send_to(b"one more", port).unwrap();
    assert_eq!(hear().0, "one more");
    assert_eq!(host.client.status().unwrap().unwrap().sessions, 3);
    assert!(host.client.release("web").unwrap());
    assert_eq!(host.client.status().unwrap().unwrap().sessions, 0);
}

#[test]
fn a_thousand_connections_go_along() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // This test holds three descriptors of each, and a shell gives 1024.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let host = Host::new();
    let next = client(&host, &release(&host, "next"));
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(web).unwrap()).collect();
    for stream in &mut streams {
        assert_eq!(say(stream, "before"), "before");
    }
    assert!(next.bring_up_to_date().unwrap());
    let status = host.client.status().unwrap().unwrap();
    assert_eq!((status.connections, status.refused), (1000, 0));
    for stream in &mut streams {
        assert_eq!(say(stream, "after"), "after");
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", status.pid)).unwrap().count();
    assert!(descriptors < 2200, "{descriptors} descriptors for 1000 idle connections");
}

#[test]
fn a_program_that_does_not_understand_changes_nothing() {
    let host = Host::new();
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let mut open = TcpStream::connect(web).unwrap();
    assert_eq!(say(&mut open, "one"), "one");
    let text = host.dir.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    for (program, why) in [
        (Path::new("/bin/false"), "does not understand the state of the one that runs (exit status: 1)"),
        (&text, "the program cannot be tried"),
    ] {
        let error = client(&host, program).bring_up_to_date().unwrap_err();
        assert!(matches!(&error, ForwardError::Refused(why) if !why.to_string().is_empty()), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let missing = client(&host, Path::new("/nonexistent/stratus")).bring_up_to_date().unwrap_err();
    assert!(matches!(missing, ForwardError::Program { .. }), "{missing}");
    assert_eq!(say(&mut open, "two"), "two");
    assert!(is_of(&host, &std::env::current_exe().unwrap()));
    assert!(client(&host, &release(&host, "next")).bring_up_to_date().unwrap(), "and it still can");
    assert_eq!(say(&mut open, "three"), "three");
}

/// Asks for an upgrade, and is gone before it is answered.
fn ask_and_die(host: &Host, program: &Path, after: Duration) {
    let address = SocketAddrUnix::new(host.dir.path().join(forward::SOCKET_FILE)).unwrap();
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let program = std::fs::File::open(program).unwrap();
    let descriptors = [program.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    const UPGRADE: [u8; 2] = [1, 7];
    rustix::net::sendmsg(&socket, &[IoSlice::new(&UPGRADE)], &mut control, SendFlags::NOSIGNAL).unwrap();
    thread::sleep(after);
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_leaves_ports_that_are_served() {
    let host = Host::new();
    let next = release(&host, "next");
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let mut open = TcpStream::connect(web).unwrap();
    let pid = host.pid();
    for round in 0..30 {
        // Some before the program is tried, some before, some after it is executed.
        ask_and_die(&host, &next, Duration::from_micros(round * 700));
        assert_eq!(say(&mut open, "open"), "open");
        assert_eq!(exchange(web, "new").unwrap(), "new");
        assert_eq!(host.pid(), pid);
    }
    let daemon = client(&host, &next);
    daemon.bring_up_to_date().unwrap();
    assert!(is_of(&host, &next));
    assert_eq!(say(&mut open, "open"), "open");
}

#[test]
fn a_forwarder_that_is_killed_in_the_middle_is_noticed() {
    let host = Host::new();
    let next = release(&host, "next");
    let target = server(echo);
    let web = host.publish_proxy(Proto::Tcp, target);
    for round in 0..10 {
        let program = next.clone();
        let pid = host.pid();
        let killer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(round * 2));
            kill(pid);
        });
        let daemon = client(&host, &program);
        // It may have been quicker, which is as good.
        let _ = daemon.bring_up_to_date();
        killer.join().unwrap();
        let socket = loop {
            // The daemon's table binds again as soon as the process is gone.
            match forward::bind(Proto::Tcp, web) {
                Ok(socket) => break socket,
                Err(errno) => {
                    assert_eq!(errno, rustix::io::Errno::ADDRINUSE);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        };
        let hold = proxy("web", Proto::Tcp, target);
        if let Err(error) = daemon.hold(&hold, &socket) {
            assert!(matches!(error, ForwardError::Lost { .. }), "{error}");
            daemon.hold(&hold, &socket).unwrap();
        }
        let _ = host.client.status();
        drop(socket);
        assert_eq!(exchange(web, "again").unwrap(), "again");
    }
}
