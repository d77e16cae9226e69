//! Published ports with the forwarder: they outlive the daemon, and reach containers of the other family.

mod world;

use net::forward::{self, ForwardClient};
use net::{NetworkSpec, Networks};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use world::guest::{Guest, machine};
use world::{Container, Host, eventually, on_a_host, run, sh, spec};

const RUN_DIR: &str = "NET_TEST_PUBLISHED_RUN_DIR";

/// Not a test: the forwarder's process. The test binary starts itself again with this as the only test, as cargo makes no
/// other program of this crate.
#[test]
fn forwarder_process() {
    let Some(run_dir) = std::env::var_os(RUN_DIR) else { return };
    let code = forward::main(["--run-dir".into(), run_dir]);
    std::process::exit(i32::from(format!("{code:?}") != format!("{:?}", std::process::ExitCode::SUCCESS)));
}

/// A run directory; its forwarder ends with it.
struct RunDir(tempfile::TempDir);

impl RunDir {
    fn new() -> RunDir {
        RunDir(tempfile::tempdir().unwrap())
    }

    fn client(&self) -> Arc<ForwardClient> {
        let dir = self.0.path().to_owned();
        Arc::new(ForwardClient::with_command(self.0.path(), move || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "forwarder_process", "--nocapture", "--test-threads=1"]).env(RUN_DIR, &dir);
            command
        }))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = forward::clean(self.0.path());
    }
}

fn networks(host: &Host, client: &Arc<ForwardClient>, running: Vec<net::Sandbox>) -> Arc<Networks> {
    let mut config = host.config();
    config.forwarder = Some(client.clone());
    Networks::open(config, running).unwrap()
}

/// A daemon with a forwarder, and a container behind port 8080.
struct Published {
    web: Container,
    daemon: Arc<Networks>,
    client: Arc<ForwardClient>,
    run_dir: RunDir,
}

impl Published {
    fn on(host: &Host) -> Published {
        let run_dir = RunDir::new();
        let client = run_dir.client();
        let daemon = networks(host, &client, Vec::new());
        let web = run(&daemon, spec("web", &["bridge"], &["8080:80"]));
        web.serve(80);
        Published { web, daemon, client, run_dir }
    }

    /// The forwarder's process.
    fn forwarder(&self) -> u32 {
        self.client.status().unwrap().unwrap().pid
    }

    /// Waits for another forwarder than `pid` that holds so many ports.
    fn replaced(&self, pid: u32, holds: u32) {
        let replaced = || matches!(self.client.status(), Ok(Some(now)) if now.pid != pid && now.holds == holds);
        eventually(&format!("another forwarder holds {holds} ports"), replaced);
    }
}

#[test]
fn ipv6_reaches_a_container_without_it() {
    on_a_host(|host| {
        let stranger = host.stranger();
        let run_dir = RunDir::new();
        let networks = networks(&host, &run_dir.client(), Vec::new());
        let web = run(&networks, spec("web", &["bridge"], &["8080:80", "5353:53/udp"]));
        web.serve(80);
        web.serve_udp(53);
        assert_eq!(web.sandbox().ports.len(), 4, "each on 0.0.0.0 and [::]");
        host.itself().ask("[::1]:8080");
        host.itself().ask("127.0.0.1:8080");
        host.itself().ask_udp("[::1]:5353");
        stranger.ask("[2001:db8::1]:8080");
        assert_eq!(stranger.ask("192.0.2.1:8080").to_string(), "192.0.2.2");

        networks.create(NetworkSpec { enable_ipv6: true, ..NetworkSpec::bridge("six") }).unwrap();
        let six = run(&networks, spec("six", &["six"], &["8081:80"]));
        six.serve(80);
        host.itself().ask("[::1]:8081");
        assert_eq!(stranger.ask("[2001:db8::1]:8081").to_string(), "2001:db8::2", "nothing proxies where nftables can");
    });
}

#[test]
fn a_machine_is_reached_through_the_forwarder() {
    on_a_host(|host| {
        let run_dir = RunDir::new();
        let networks = networks(&host, &run_dir.client(), Vec::new());
        let place = run(&networks, machine("m", &["bridge"], &["8080:80", "5353:53/udp"]));
        let guest = Guest::boot(&place);
        guest.inside.serve(80);
        guest.inside.serve_udp(53);
        assert_eq!(host.itself().ask("[::1]:8080").to_string(), "172.17.0.1");
        host.itself().ask_udp("[::1]:5353");
        host.itself().ask("127.0.0.1:8080");
    });
}

#[test]
fn ports_work_and_stay_reserved_while_the_daemon_is_away() {
    on_a_host(|host| {
        let Published { run_dir, daemon, web, .. } = Published::on(&host);
        let ended = run(&daemon, spec("ended", &["bridge"], &["8081:80"]));
        drop(daemon);
        host.itself().ask("127.0.0.1:8080");
        host.itself().ask("[::1]:8080");
        assert!(TcpListener::bind("0.0.0.0:8080").is_err());

        let daemon = networks(&host, &run_dir.client(), vec![web.sandbox().clone()]);
        host.itself().ask("[::1]:8080");
        TcpListener::bind("0.0.0.0:8081").expect("nobody's port is let go");
        drop(ended);
        daemon.tear_down(web.sandbox()).unwrap();
        TcpListener::bind("0.0.0.0:8080").expect("the port is free again");
    });
}

#[test]
fn a_forwarder_that_is_killed_is_replaced() {
    on_a_host(|host| {
        let published = Published::on(&host);
        for _ in 0..2 {
            let pid = published.forwarder();
            sh(&format!("kill -9 {pid}"));
            published.replaced(pid, 2);
            host.itself().ask("[::1]:8080");
            host.itself().ask("127.0.0.1:8080");
        }
    });
}

#[test]
fn a_port_that_somebody_has_when_the_forwarder_is_killed_is_held_again_once_it_is_free() {
    on_a_host(|host| {
        let published = Published::on(&host);
        let client = &published.client;
        let key = client.list().unwrap().into_iter().find(|held| held.local.is_ipv6()).unwrap().hold.key;
        // As a process has it that was forked just now.
        let somebodys = client.fetch(&key).unwrap();
        let pid = published.forwarder();
        sh(&format!("kill -9 {pid}"));
        published.replaced(pid, 1);
        drop(somebodys);
        published.replaced(pid, 2);
        host.itself().ask("[::1]:8080");
    });
}

#[test]
fn ports_are_published_while_forwarders_are_killed() {
    on_a_host(|host| {
        let published = Published::on(&host);
        let mut others = Vec::new();
        for port in 8081..8091 {
            let pid = published.run_dir.client().status().ok().flatten().map(|status| status.pid);
            let killer = std::thread::spawn(move || pid.map(|pid| sh(&format!("kill -9 {pid} || :"))));
            others.push(run(&published.daemon, spec(&format!("web{port}"), &["bridge"], &[&format!("{port}:80")])));
            killer.join().unwrap();
        }
        let holds_all = || matches!(published.client.status(), Ok(Some(status)) if status.holds == 22);
        eventually("a forwarder holds all ports", holds_all);
        host.itself().ask("[::1]:8080");
    });
}

#[test]
fn an_internal_network_does_not_reach_others_by_way_of_the_forwarder() {
    on_a_host(|host| {
        let run_dir = RunDir::new();
        let networks = networks(&host, &run_dir.client(), Vec::new());
        let six = NetworkSpec { enable_ipv6: true, ..NetworkSpec::bridge("inside") };
        let inside = networks.create(NetworkSpec { internal: true, ..six.clone() }).unwrap();
        let outside = networks.create(NetworkSpec { name: "outside".into(), ..six }).unwrap();
        let gateway = |network: &net::Network| std::net::IpAddr::from(network.subnets_v6().next().unwrap().1.unwrap());
        let web = run(&networks, spec("web", &["bridge"], &["8080:80", &format!("[{}]:8081:80", gateway(&inside))]));
        web.serve(80);
        let (a, b) = (run(&networks, spec("a", &["inside"], &[])), run(&networks, spec("b", &["outside"], &[])));
        host.itself().serve(9000);
        b.ask((gateway(&outside), 8080));
        a.ask((gateway(&inside), 9000));
        a.cannot_reach((gateway(&inside), 8080));
        a.cannot_reach((gateway(&inside), 8081));
        host.itself().ask((gateway(&inside), 8081));
        // And after a restart, and once nothing is published there.
        drop(networks);
        a.cannot_reach((gateway(&inside), 8080));
        let networks = self::networks(&host, &run_dir.client(), vec![web.sandbox().clone(), a.sandbox().clone()]);
        a.cannot_reach((gateway(&inside), 8081));
        networks.tear_down(web.sandbox()).unwrap();
        host.itself().serve(8080);
        a.ask((gateway(&inside), 8080));
    });
}
