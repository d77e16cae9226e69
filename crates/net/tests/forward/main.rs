//! The port forwarder as a process of its own, with real sockets on loopback.

mod host;
mod upgrade;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use host::{
    Host, address_of, client_of, echo, eventually, exchange, kill, own_network, pattern, proxy, server, this_test,
};
use net::forward::{self, ForwardClient, ForwardError, Hold, Mode, Proto, Refusal};

const DAEMON: &str = "NET_TEST_FORWARD_DAEMON";

/// Not a test: the forwarder's process. The test binary starts itself again with this as the only test, as cargo makes no
/// other program of this crate. What comes after `--` are its arguments; to the test harness they are names that no test has.
#[test]
fn forwarder_process() {
    let mut args = std::env::args_os().skip_while(|arg| arg != "--").skip(1).peekable();
    if args.peek().is_none() {
        return;
    }
    let code = forward::main(args);
    std::process::exit(i32::from(format!("{code:?}") != format!("{:?}", std::process::ExitCode::SUCCESS)));
}

/// Not a test: a daemon that publishes a port and then does nothing but wait for its end.
#[test]
fn daemon_process() {
    let Some(arguments) = std::env::var_os(DAEMON) else { return };
    let arguments = arguments.into_string().unwrap();
    let (run_dir, target) = arguments.split_once(' ').unwrap();
    let (run_dir, target) = (PathBuf::from(run_dir), target.parse().unwrap());
    let client = client_of(&run_dir, "");
    let socket = forward::bind(Proto::Tcp, (Ipv6Addr::LOCALHOST, 0).into()).unwrap();
    client.hold(&proxy("web", Proto::Tcp, target), &socket).unwrap();
    println!("published");
    io::stdout().flush().unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn nothing_runs_before_the_first_port() {
    let host = Host::new();
    assert_eq!(host.client.status().unwrap(), None);
    assert_eq!(host.client.list().unwrap(), []);
    assert!(!host.client.release("web").unwrap());
    assert!(!host.client.shutdown().unwrap());
    assert!(host.client.watch().unwrap().is_none());
    assert!(host.dir.path().read_dir().unwrap().next().is_none(), "looking starts nothing and leaves nothing");
}

#[test]
fn an_ipv6_client_reaches_a_container_that_has_only_ipv4() {
    let host = Host::new();
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    assert!(web.is_ipv6());
    assert_eq!(exchange(web, "hello").unwrap(), "hello");

    let socket = host.dir.path().join(forward::SOCKET_FILE);
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn holds_are_listed_changed_and_released() {
    let host = Host::new();
    let first = server(|mut stream| stream.write_all(b"first").unwrap());
    let second = server(|mut stream| stream.write_all(b"second").unwrap());
    let web = host.publish_proxy(Proto::Tcp, first);
    let dns = host.publish("dns", Proto::Udp, Ipv4Addr::LOCALHOST, Mode::Reserve);

    let held = host.client.list().unwrap();
    assert_eq!(held.iter().map(|held| held.hold.key.as_str()).collect::<Vec<_>>(), ["dns", "web"]);
    assert_eq!(held.iter().map(|held| held.local).collect::<Vec<_>>(), [dns, web]);
    assert_eq!(held[1].hold, proxy("web", Proto::Tcp, first));

    assert_eq!(exchange(web, "").unwrap(), "first");
    host.client.retarget("web", Mode::Proxy { target: second }).unwrap();
    assert_eq!(exchange(web, "").unwrap(), "second");
    assert_eq!(address_of(host.client.fetch("web").unwrap()), web);

    assert!(host.client.release("web").unwrap());
    assert!(!host.client.release("web").unwrap());
    assert_eq!(exchange(web, "").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let unknown = Refusal::UnknownKey { key: "web".into() };
    assert!(matches!(host.client.retarget("web", Mode::Reserve), Err(ForwardError::Refused(why)) if why == unknown));
    assert!(matches!(host.client.fetch("web"), Err(ForwardError::Refused(why)) if why == unknown));
    assert_eq!(host.client.status().unwrap().unwrap().holds, 1);
}

#[test]
fn a_long_list_comes_in_pages() {
    let host = Host::new();
    let keys: Vec<String> = (0..400).map(|number| format!("{number:0200}")).collect();
    for key in &keys {
        host.publish(key, Proto::Udp, Ipv4Addr::LOCALHOST, Mode::Reserve);
    }
    let listed: Vec<String> = host.client.list().unwrap().into_iter().map(|held| held.hold.key).collect();
    assert_eq!(listed, keys);
}

#[test]
fn a_reserved_port_is_nobody_elses_and_leads_nowhere() {
    let host = Host::new();
    let tcp = host.publish("tcp", Proto::Tcp, Ipv4Addr::LOCALHOST, Mode::Reserve);
    let udp = host.publish("udp", Proto::Udp, Ipv4Addr::LOCALHOST, Mode::Reserve);

    assert_eq!(TcpListener::bind(tcp).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(UdpSocket::bind(udp).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(forward::bind(Proto::Tcp, tcp).unwrap_err(), rustix::io::Errno::ADDRINUSE);
    // `[::]:port` is another port than `0.0.0.0:port`.
    forward::bind(Proto::Tcp, (Ipv6Addr::UNSPECIFIED, tcp.port()).into()).unwrap();

    let mut stream = TcpStream::connect(tcp).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "closed at once");

    host.client.release("tcp").unwrap();
    host.client.release("udp").unwrap();
    TcpListener::bind(tcp).unwrap();
    UdpSocket::bind(udp).unwrap();
}

#[test]
fn each_direction_ends_by_itself() {
    let host = Host::new();
    // Answers only when the client has said everything.
    let late = server(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&pattern(3 << 20)).unwrap();
        stream.write_all(&question).unwrap();
    });
    let web = host.publish("late", Proto::Tcp, Ipv6Addr::LOCALHOST, Mode::Proxy { target: late });
    let mut stream = TcpStream::connect(web).unwrap();
    stream.write_all(b"the end").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.split_off(3 << 20), b"the end");
    assert!(answer == pattern(3 << 20));

    // Says everything first, and goes on listening.
    let (heard, hears) = mpsc::channel();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap();
    let early = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        heard.send(rest).unwrap();
    });
    let web = host.publish("early", Proto::Tcp, Ipv6Addr::LOCALHOST, Mode::Proxy { target });
    let mut stream = TcpStream::connect(web).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    stream.write_all(b"still here").unwrap();
    drop(stream);
    assert_eq!(hears.recv().unwrap(), b"still here");
    early.join().unwrap();
    eventually("the connections are forgotten", || host.client.status().unwrap().unwrap().connections == 0);
}

#[test]
fn a_slow_reader_holds_its_sender_back_and_nobody_else() {
    let host = Host::new();
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    const LEN: usize = 64 << 20;

    let mut slow = TcpStream::connect(web).unwrap();
    let mut writer = slow.try_clone().unwrap();
    let (sent, sending) = mpsc::channel();
    let sender = thread::spawn(move || {
        for chunk in pattern(LEN).chunks(1 << 20) {
            writer.write_all(chunk).unwrap();
            sent.send(()).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    sending.recv().unwrap();
    // While the slow one does not read at all, others are served.
    for _ in 0..20 {
        assert_eq!(exchange(web, "quick").unwrap(), "quick");
    }
    assert!(!sender.is_finished(), "the buffers in between are smaller than {LEN} bytes");
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).unwrap();
    sender.join().unwrap();
    assert!(answer == pattern(LEN));
}

#[test]
fn many_small_writes_arrive_in_order() {
    let host = Host::new();
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let mut stream = TcpStream::connect(web).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        for byte in 0..50_000u32 {
            writer.write_all(&[byte as u8]).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    sender.join().unwrap();
    assert!(answer == (0..50_000u32).map(|byte| byte as u8).collect::<Vec<_>>());
}

#[test]
fn a_target_that_refuses_closes_the_clients_connection() {
    let host = Host::new();
    // A port that was just free, and that nobody listens at.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let web = host.publish_proxy(Proto::Tcp, closed);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(web).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    eventually("the connections are forgotten", || host.client.status().unwrap().unwrap().connections == 0);
}

#[test]
fn an_answer_that_breaks_off_does_not_look_complete() {
    let host = Host::new();
    let web = host.publish_proxy(
        Proto::Tcp,
        server(|mut stream| {
            stream.write_all(b"half of the ans").unwrap();
            let mut go = [0; 1];
            stream.read_exact(&mut go).unwrap();
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }),
    );
    let mut stream = TcpStream::connect(web).unwrap();
    let mut half = [0; 15];
    stream.read_exact(&mut half).unwrap();
    stream.write_all(b"!").unwrap();
    assert_eq!(stream.read(&mut half).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_thousand_connections_at_once() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // This test holds three descriptors of each, and a shell gives 1024.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let host = Host::new();
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(web).unwrap()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        writeln!(stream, "connection {number}").unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let expected = format!("connection {number}\n");
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, expected.as_bytes());
    }
    let status = host.client.status().unwrap().unwrap();
    assert_eq!((status.connections, status.refused), (1000, 0));
    // Idle, each costs its two sockets: pipes are there only while bytes are under way.
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", status.pid)).unwrap().count();
    assert!(descriptors < 2200, "{descriptors} descriptors for 1000 idle connections");
    drop(streams);
    eventually("the connections are forgotten", || host.client.status().unwrap().unwrap().connections == 0);
}

#[test]
fn one_connection_too_many_is_turned_away_and_the_others_stay() {
    let host = Host::with("--max-connections 3");
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let mut streams: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(web).unwrap()).collect();
    eventually("all are accepted", || host.client.status().unwrap().unwrap().connections == 3);

    let mut fourth = TcpStream::connect(web).unwrap();
    assert_eq!(fourth.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(host.client.status().unwrap().unwrap().refused, 1);
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    drop(streams.pop());
    eventually("one has left", || host.client.status().unwrap().unwrap().connections == 2);
    assert_eq!(exchange(web, "next").unwrap(), "next");
}

/// A forwarder that may have 128 descriptors.
fn with_few_descriptors() -> Host {
    own_network();
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().to_owned();
    let client = ForwardClient::with_command(dir.path(), move || {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", "forwarder_process", "--nocapture"]);
        command.args(["--test-threads=1", "--", "--run-dir"]).arg(&run_dir).env_remove(DAEMON);
        command
    });
    Host { dir, client }
}

#[test]
fn many_udp_clients_leave_descriptors_for_connections_and_for_the_daemon() {
    let host = with_few_descriptors();
    let target = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    target.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mode = Mode::Proxy { target: target.local_addr().unwrap() };
    let port = host.publish("udp", Proto::Udp, Ipv6Addr::LOCALHOST, mode);
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    for _ in 0..300 {
        UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().send_to(b"hello", port).unwrap();
        target.recv(&mut [0; 10]).unwrap();
    }
    let status = host.client.status().unwrap().unwrap();
    assert!((1..100).contains(&status.sessions), "{status:?}");
    assert_eq!(exchange(web, "a connection").unwrap(), "a connection");
    // Connections of others besides, as of whoever looks on behalf of a daemon, and ports until none is left.
    let mut reserved = 0;
    let reserve = |number: u32| {
        let hold = Hold { key: format!("{number}"), proto: Proto::Udp, mode: Mode::Reserve };
        host.client.hold(&hold, forward::bind(Proto::Udp, (Ipv4Addr::LOCALHOST, 0).into()).unwrap())
    };
    while reserve(reserved).is_ok() {
        reserved += 1;
        assert!(reserved < 128);
    }
    // The next daemon is let in all the same.
    let next = ForwardClient::with_command(host.dir.path(), || unreachable!("there is one"));
    assert!(next.status().unwrap().unwrap().sessions < status.sessions);
    next.release("0").unwrap();
}

#[test]
fn running_out_of_descriptors_turns_clients_away_until_there_are_some_again() {
    let host = with_few_descriptors();
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let mut reserved = 0;
    while host
        .client
        .hold(
            &Hold { key: format!("{reserved}"), proto: Proto::Udp, mode: Mode::Reserve },
            forward::bind(Proto::Udp, (Ipv4Addr::LOCALHOST, 0).into()).unwrap(),
        )
        .is_ok()
    {
        reserved += 1;
        assert!(reserved < 128);
    }
    // No descriptor is left: the client is accepted with the spare one, and closed.
    let mut stream = TcpStream::connect(web).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(host.client.status().unwrap().unwrap().refused >= 1);
    for key in 0..reserved {
        host.client.release(&key.to_string()).unwrap();
    }
    assert_eq!(exchange(web, "again").unwrap(), "again");
}

#[test]
fn each_udp_client_gets_its_own_answers_from_the_address_it_asked() {
    let host = Host::new();
    let target = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = target.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        loop {
            let (len, from) = target.recv_from(&mut buffer).unwrap();
            target.send_to(&buffer[..len], from).unwrap();
        }
    });
    let v6 = host.publish("v6", Proto::Udp, Ipv6Addr::UNSPECIFIED, Mode::Proxy { target: address });
    let v4 = host.publish("v4", Proto::Udp, Ipv4Addr::UNSPECIFIED, Mode::Proxy { target: address });

    let ask = |from: SocketAddr, to: SocketAddr| {
        let socket = UdpSocket::bind(from).unwrap();
        // A connected socket hears only what comes from the address that it wrote to.
        socket.connect(to).unwrap();
        socket
    };
    let clients = [
        ask((Ipv6Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, v6.port()).into()),
        ask((Ipv6Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, v6.port()).into()),
        ask((Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::new(127, 0, 0, 5), v4.port()).into()),
        ask((Ipv4Addr::LOCALHOST, 0).into(), (Ipv4Addr::new(127, 0, 0, 6), v4.port()).into()),
    ];
    for (number, client) in clients.iter().enumerate() {
        client.send(format!("client {number}").as_bytes()).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        let mut buffer = [0; 100];
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], format!("client {number}").as_bytes());
    }
    // The largest datagram that UDP over IPv4 can carry, and an empty one.
    for len in [65_507, 0] {
        let datagram = pattern(len);
        clients[0].send(&datagram).unwrap();
        let mut buffer = vec![0; 65_536];
        let received = clients[0].recv(&mut buffer).unwrap();
        assert!(buffer[..received] == datagram[..]);
    }
    assert_eq!(host.client.status().unwrap().unwrap().sessions, 4);
    host.client.release("v6").unwrap();
    assert_eq!(host.client.status().unwrap().unwrap().sessions, 2);
}

#[test]
fn udp_clients_are_forgotten_when_silent_or_when_others_need_the_room() {
    let host = Host::with("--max-sessions 10 --udp-idle 1");
    let target = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = host.publish_proxy(Proto::Udp, target.local_addr().unwrap());
    for _ in 0..50 {
        UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().send_to(b"hello", port).unwrap();
        target.recv(&mut [0; 10]).unwrap();
    }
    assert!(host.client.status().unwrap().unwrap().sessions <= 10);
    eventually("all are forgotten", || host.client.status().unwrap().unwrap().sessions == 0);
}

#[test]
fn a_udp_target_that_comes_back_is_found_again() {
    let host = Host::new();
    let target = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = target.local_addr().unwrap();
    let port = host.publish_proxy(Proto::Udp, address);
    let client = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    drop(target);
    client.send_to(b"lost", port).unwrap();
    eventually("the forwarder has seen it", || host.client.status().unwrap().unwrap().sessions == 1);
    let target = UdpSocket::bind(address).unwrap();
    client.send_to(b"found", port).unwrap();
    let mut buffer = [0; 10];
    let len = target.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"found");
}

#[test]
fn ports_outlive_a_killed_daemon() {
    let host = Host::new();
    let target = server(echo);
    let mut daemon = this_test("daemon_process")
        .env(DAEMON, format!("{} {target}", host.dir.path().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The test harness says a word of its own on that line.
    let lines = io::BufRead::lines(io::BufReader::new(daemon.stdout.take().unwrap()));
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("published")));

    let web = host.client.list().unwrap()[0].local;
    let mut open = TcpStream::connect(web).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0; 1]).unwrap();

    daemon.kill().unwrap();
    daemon.wait().unwrap();
    open.write_all(b"y").unwrap();
    open.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(exchange(web, "still there").unwrap(), "still there");
    assert_eq!(TcpListener::bind(web).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    // The next daemon finds what the last one held, and takes over.
    assert_eq!(host.client.list().unwrap()[0].hold, proxy("web", Proto::Tcp, target));
    assert!(host.client.release("web").unwrap());
}

#[test]
fn a_killed_forwarder_is_noticed_and_everything_is_held_again() {
    let host = Host::new();
    let target = server(echo);
    let web = host.publish_proxy(Proto::Tcp, target);
    let watch = host.client.watch().unwrap().unwrap();
    // A connection leaves the port in TIME_WAIT behind, which must not be in the way.
    assert_eq!(exchange(web, "one").unwrap(), "one");
    let open = TcpStream::connect(web).unwrap();

    kill(host.pid());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(watch.ended()).unwrap();
    drop(open);

    let socket = forward::bind(Proto::Tcp, web).unwrap();
    let hold = proxy("web", Proto::Tcp, target);
    assert!(matches!(host.client.hold(&hold, &socket), Err(ForwardError::Lost { .. })), "said once");
    for _ in 0..2 {
        host.client.hold(&hold, &socket).unwrap();
    }
    assert_eq!(host.client.list().unwrap().len(), 1);
    drop(socket);
    assert_eq!(exchange(web, "two").unwrap(), "two");
}

#[test]
fn a_forwarder_that_is_stopped_is_told_and_can_be_taken_down() {
    let host = Host::new();
    host.publish("dns", Proto::Udp, Ipv4Addr::LOCALHOST, Mode::Reserve);
    let pid = stop(&host);
    let error = host.client.release("dns").unwrap_err();
    assert!(matches!(error, ForwardError::Silent { .. }), "{error}");
    assert!(error.to_string().contains(&format!("kill -CONT {pid}")), "{error}");
    assert!(forward::clean(host.dir.path()).unwrap());
    assert!(host.client.status().unwrap().is_none());
}

/// Stops the forwarder, whose process is given.
fn stop(host: &Host) -> u32 {
    let pid = host.client.status().unwrap().unwrap().pid;
    let number = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(number, rustix::process::Signal::STOP).unwrap();
    let is_stopped = |task: io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        status.contains("State:\tT")
    };
    while !std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(is_stopped) {
        thread::sleep(Duration::from_millis(1));
    }
    pid
}

/// Nobody can ask who listens on a socket that takes no connection.
#[test]
fn a_stopped_forwarder_that_takes_no_connection_is_found_by_its_lock() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let host = Host::new();
    host.publish("dns", Proto::Udp, Ipv4Addr::LOCALHOST, Mode::Reserve);
    let pid = stop(&host);
    let address = SocketAddrUnix::new(host.dir.path().join(forward::SOCKET_FILE)).unwrap();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut waiting = Vec::new();
    loop {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(error) => break assert_eq!(error, rustix::io::Errno::AGAIN),
        }
    }
    let error = client_of(host.dir.path(), "").status().unwrap_err();
    assert!(matches!(error, ForwardError::Silent { pid: told } if told.unsigned_abs() == pid), "{error}");
    assert!(forward::clean(host.dir.path()).unwrap());
    assert!(!std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists(), "it is no more");
}

#[test]
fn a_run_directory_has_one_forwarder() {
    let host = Host::new();
    host.publish("x", Proto::Udp, Ipv4Addr::LOCALHOST, Mode::Reserve);
    // With its socket gone, the first cannot be found; its lock still can.
    std::fs::remove_file(host.dir.path().join(forward::SOCKET_FILE)).unwrap();
    let second = client_of(host.dir.path(), "");
    let socket = forward::bind(Proto::Udp, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let hold = Hold { key: "y".into(), proto: Proto::Udp, mode: Mode::Reserve };
    let error = second.hold(&hold, &socket).unwrap_err().to_string();
    assert!(error.contains("another one runs there"), "{error}");
    host.client.shutdown().unwrap();
    second.hold(&hold, &socket).unwrap();
}

#[test]
fn a_program_that_is_no_forwarder_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let socket = forward::bind(Proto::Udp, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let hold = Hold { key: "y".into(), proto: Proto::Udp, mode: Mode::Reserve };
    let missing = ForwardClient::new(dir.path(), "/nonexistent/stratus").hold(&hold, &socket).unwrap_err().to_string();
    assert!(missing.contains("\"/nonexistent/stratus\": No such file or directory"), "{missing}");
    let silent = ForwardClient::new(dir.path(), "/bin/false").hold(&hold, &socket).unwrap_err().to_string();
    assert!(silent.contains("it ended with exit status: 1 before it was ready"), "{silent}");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let host = Host::new();
    let target = server(echo);
    let web = host.publish_proxy(Proto::Tcp, target);
    let refused = |hold: &Hold, socket: OwnedFd| match host.client.hold(hold, &socket).unwrap_err() {
        ForwardError::Refused(refusal) => refusal.to_string(),
        other => panic!("{other}"),
    };
    let udp = || forward::bind(Proto::Udp, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let hold = proxy("web", Proto::Tcp, target);

    assert!(refused(&hold, udp()).contains("it is of another protocol"));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(refused(&hold, file.into()).contains("Socket operation on non-socket"));
    let unbound = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let sctp = Hold { proto: Proto::Sctp, ..hold.clone() };
    assert!(refused(&sctp, unbound.into()).contains("it is of another protocol"));
    for key in [String::new(), "k".repeat(forward::MAX_KEY + 1)] {
        assert_eq!(refused(&proxy(&key, Proto::Udp, target), udp()), "a key has 1 to 256 bytes");
    }
    assert_eq!(exchange(web, "as before").unwrap(), "as before");
    assert_eq!(host.client.list().unwrap().len(), 1);
}

#[test]
fn garbage_from_a_client_harms_nobody() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let host = Host::new();
    let web = host.publish_proxy(Proto::Tcp, server(echo));
    let address = SocketAddrUnix::new(host.dir.path().join(forward::SOCKET_FILE)).unwrap();
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let mut buffer = [0; 1000];
    for message in [&b"GET / HTTP/1.1\r\n"[..], &[1, 255, 255, 255, 255], &[0; 100_000]] {
        rustix::net::send(&socket, message, SendFlags::empty()).unwrap();
        let (len, _) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        assert!(len > 0, "an answer");
    }
    // Never reads, always asks: is cut off, and nobody waits for it.
    let mut asked = 0;
    while rustix::net::send(&socket, &[1, 0], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok_and(|_| true)
        || asked < 10
    {
        asked += 1;
        if asked > 1_000_000 {
            break;
        }
    }
    assert_eq!(exchange(web, "served").unwrap(), "served");
    assert_eq!(host.client.status().unwrap().unwrap().holds, 1);
}

#[test]
fn a_run_directory_with_a_long_path() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("d".repeat(120));
    std::fs::create_dir(&run_dir).unwrap();
    let client = client_of(&run_dir, "");
    let socket = forward::bind(Proto::Udp, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    client.hold(&Hold { key: "x".into(), proto: Proto::Udp, mode: Mode::Reserve }, &socket).unwrap();
    assert_eq!(client.list().unwrap().len(), 1);
    forward::clean(&run_dir).unwrap();
    assert!(run_dir.read_dir().unwrap().next().is_none());
}

/// `cargo test -p net --release --test forward -- --ignored --nocapture figures`
#[test]
#[ignore = "prints figures, checks nothing"]
fn figures() {
    let host = Host::new();
    let target = server(echo);
    let start = std::time::Instant::now();
    let web = host.publish_proxy(Proto::Tcp, target);
    println!("first port, with the start of the process: {:?}", start.elapsed());
    let pid = host.client.status().unwrap().unwrap().pid;
    let memory = |what: &str| {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let value = |key: &str| rollup.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        println!("{what}: {}, {}", value("Pss:"), value("Private_Dirty:"));
    };
    memory("one port");
    let start = std::time::Instant::now();
    for number in 0..1000 {
        host.publish(&number.to_string(), Proto::Tcp, Ipv4Addr::LOCALHOST, Mode::Reserve);
    }
    println!("1000 ports more: {:?}", start.elapsed());
    memory("1001 ports");
    let streams: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(web).unwrap()).collect();
    eventually("all are accepted", || host.client.status().unwrap().unwrap().connections == 1000);
    memory("and 1000 connections");
    drop(streams);

    let transfer = |to: SocketAddr| {
        let mut stream = TcpStream::connect(to).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            let chunk = vec![7; 1 << 20];
            for _ in 0..1024 {
                writer.write_all(&chunk).unwrap();
            }
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let start = std::time::Instant::now();
        io::copy(&mut stream, &mut io::sink()).unwrap();
        sender.join().unwrap();
        start.elapsed()
    };
    println!("1 GiB there and back: {:?} directly, {:?} through the forwarder", transfer(target), transfer(web));
    memory("afterwards");
}
