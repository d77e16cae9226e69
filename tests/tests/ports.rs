//! Published ports.

use e2e::{Daemon, eventually};

const SERVER: &str = "sh -c 'mkdir /www; echo hello > /www/index.html; exec httpd -f -h /www -p 80'";

fn answers(host: &Daemon, url: &str) {
    eventually("the server to answer", || host.sh(&format!("curl -s -m 5 {url}")).stdout() == "hello\n");
}

#[test]
fn from_the_host() {
    let host = Daemon::start();
    let port = host.port();
    host.sh(&format!("docker run -d --name web -p $PORT:80 busybox {SERVER}")).ok();
    answers(&host, "http://127.0.0.1:$PORT");
    host.sh("curl -s http://[::1]:$PORT").says("hello");
    host.sh("curl -s http://$(hostname -i | cut -d' ' -f1):$PORT").says("hello");
    host.sh("docker port web").says(&format!("80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}"));
    host.sh("docker port web 80").mentions(&format!("0.0.0.0:{port}"));
    host.sh("docker port web 81").fails_with("No public port '81' published for web");
    host.sh("docker ps --format '{{.Ports}}'").says(&format!("0.0.0.0:{port}->80/tcp, [::]:{port}->80/tcp"));
    host.sh("docker inspect -f '{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}' web")
        .says(&port.to_string());
    host.sh("docker run -d --name second -p $PORT:80 busybox sleep 1000")
        .exits_with(125)
        .complains(&format!("Bind for 0.0.0.0:{port} failed: port is already allocated"));
    host.sh("docker inspect -f '{{.State.Status}}' second").says("created");
    host.sh("docker stop -t 0 web && docker start second").mentions("second");
    host.sh("docker start web").fails_with("port is already allocated");
    host.sh("docker rm -f second && docker start web").ok();
    answers(&host, "http://127.0.0.1:$PORT");
    host.sh("docker rm -f web").ok();
    host.sh("curl -s -m 5 http://127.0.0.1:$PORT").exits_with(7);
}

#[test]
fn on_one_address_or_any_port() {
    let host = Daemon::start();
    let port = host.port();
    host.sh(&format!("docker run -d --name web -p 127.0.0.1:$PORT:80 busybox {SERVER}")).ok();
    answers(&host, "http://127.0.0.1:$PORT");
    host.sh("docker port web").says(&format!("80/tcp -> 127.0.0.1:{port}"));
    host.sh("curl -s -m 5 http://[::1]:$PORT").exits_with(7);
    host.sh(&format!("docker run -d --name any -p 80 busybox {SERVER}")).ok();
    let any = host.sh("docker port any 80 | head -1 | sed 's/.*://'").number();
    answers(&host, &format!("http://127.0.0.1:{any}"));
    host.sh("docker create --name box busybox && docker commit -c 'EXPOSE 80' -c 'EXPOSE 53/udp' box exposing").ok();
    host.sh("docker run -d --name all -P exposing sleep 1000 && docker port all | wc -l").mentions("4");
    host.sh("docker run -d --name range -p $((PORT+1))-$((PORT+3)):80-82 busybox sleep 1000 && docker port range 82")
        .mentions(&format!("{}", port + 3));
    host.sh("docker run -d --name pick -p $((PORT+1))-$((PORT+5)):80 busybox sleep 1000 && docker port pick 80")
        .mentions(&format!("{}", port + 4));
    host.sh("docker ps -f publish=$PORT --format '{{.Names}}'").says("web");
    host.sh("docker ps -f expose=53/udp --format '{{.Names}}'").says("all");
    host.sh("docker run --rm -p 99999:80 busybox true").exits_with(125);
}

#[test]
fn a_port_that_another_program_has() {
    let host = Daemon::start();
    let port = host.port();
    let _taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    host.sh("docker run --rm -p $PORT:80 busybox true").exits_with(125).complains("address already in use");
}

#[test]
fn udp() {
    let host = Daemon::start();
    // busybox has no server for it, but the host has perl.
    let server = r#"$s = IO::Socket::INET->new(LocalPort => 7, Proto => "udp") or die; while (1) { $s->recv($m, 1500); $s->send($m) }"#;
    host.sh(&format!(
        "docker run -d --name echo -p $PORT:7/udp -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro busybox \
         /usr/bin/perl -MIO::Socket::INET -e '{server}'"
    ))
    .ok();
    for address in ["127.0.0.1", "::1"] {
        let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
        socket.connect((address, host.port())).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 16];
        eventually("the echo", || {
            // The server may not listen yet: then the kernel says so, or nobody does.
            let _ = socket.send(b"hello");
            socket.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == b"hello")
        });
    }
    host.sh("docker port echo").mentions("7/udp -> 0.0.0.0:");
}

/// Both ends are raw sockets, as not every kernel has those of SCTP: an INIT goes out, and its answer comes back (RFC 9260, section 3.3).
const SCTP: &str = r#"
use Socket;
# RFC 9260, appendix A.
sub crc32c { my $crc = 0xffffffff; for (unpack("C*", $_[0])) { $crc ^= $_; $crc = $crc & 1 ? ($crc >> 1) ^ 0x82f63b78 : $crc >> 1 for 1..8 } ~$crc & 0xffffffff }
sub packet { my ($source, $destination, $tag, $chunk) = @_;
    my $body = pack("C2 n N2 n2 N", $chunk, 0, 20, 1, 65536, 1, 1, 1);
    pack("n2 N V", $source, $destination, $tag, crc32c(pack("n2 N2", $source, $destination, $tag, 0) . $body)) . $body }
socket(S, PF_INET, SOCK_RAW, 132) or die "socket: $!";
sub receive { recv(S, my $packet, 1500, 0) // die "recv: $!";
    my ($source, $destination, $chunk) = unpack("n2 x8 C", substr($packet, 4 * (ord($packet) & 15)));
    (substr($packet, 12, 4), $source, $destination, $chunk) }
alarm 60;
my ($to, $port) = @ARGV;
if (!defined $to) {
    while (1) {
        my ($from, $source, $destination, $chunk) = receive();
        send(S, packet($destination, $source, 1, 2), 0, sockaddr_in(0, $from)) if $destination == 36412 && $chunk == 1;
    }
}
# The other end may not listen yet.
unless (my $pid = fork) { while (1) { send(S, packet(40000, $port, 0, 1), 0, sockaddr_in(0, inet_aton($to))); select(undef, undef, undef, 0.1) } }
else { while (1) { my ($from, $source, $destination, $chunk) = receive();
    if ($destination == 40000 && $chunk == 2) { kill "KILL", $pid; print inet_ntoa($from), " ", $source, "\n"; exit } } }
"#;

#[test]
fn sctp() {
    let host = Daemon::start();
    host.write("", &[("sctp.pl", SCTP)]);
    host.sh("docker run -d --name echo -p $PORT:36412/sctp -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro \
         -v $PWD/sctp.pl:/sctp.pl:ro busybox /usr/bin/perl /sctp.pl")
        .ok();
    host.sh("docker port echo").mentions(&format!("36412/sctp -> 0.0.0.0:{}", host.port()));
    host.sh("docker ps --format '{{.Ports}}'").mentions("->36412/sctp");
    let address = host.sh("hostname -i | cut -d' ' -f1").stdout().trim().to_owned();
    host.sh(&format!("perl sctp.pl {address} $PORT")).says(&format!("{address} {}", host.port()));
}

#[test]
fn from_other_containers_and_the_container_itself() {
    let host = Daemon::start();
    host.sh("docker network create net").ok();
    host.sh(&format!("docker run -d --name web --network net -p $PORT:80 busybox {SERVER}")).ok();
    answers(&host, "http://127.0.0.1:$PORT");
    let gateway = "$(ip route | grep default | cut -d\" \" -f3)";
    for network in ["bridge", "net"] {
        host.sh(&format!("docker run --rm --network {network} busybox sh -c 'wget -qO- http://{gateway}:'$PORT"))
            .says("hello");
    }
    host.sh(&format!("docker exec web sh -c 'wget -qO- http://{gateway}:'$PORT")).says("hello");
}

#[test]
fn a_lot_of_bytes() {
    let host = Daemon::start();
    host.sh(&format!("docker run -d --name web -p $PORT:80 busybox {SERVER}")).ok();
    answers(&host, "http://127.0.0.1:$PORT");
    host.sh("docker exec web sh -c 'head -c 30000000 /dev/urandom > /www/big'").ok();
    let sum = host.sh("docker exec web md5sum /www/big | cut -d' ' -f1").text().to_owned();
    for address in ["127.0.0.1", "[::1]"] {
        host.sh(&format!("curl -s http://{address}:$PORT/big | md5sum | cut -d' ' -f1")).says(&sum);
    }
}
