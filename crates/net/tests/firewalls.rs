//! Other firewalls on the host: dockerd's and ufw's drop by default, a server's own, firewalld's table.

mod world;

use net::NetworkSpec;
use world::{Container, Host, eventually, on_a_host, run, sh, spec};

/// Out, in, and between two containers by way of the host.
fn everything_works(stranger: &Container, web: &Container) {
    web.ask("192.0.2.2:80");
    stranger.ask("192.0.2.1:8080");
    web.ask("192.0.2.1:8080");
}

fn serving(host: &Host, networks: &net::Networks) -> (Container, Container) {
    let stranger = host.stranger();
    let web = run(networks, spec("web", &["bridge"], &["8080:80"]));
    stranger.serve(80);
    web.serve(80);
    (stranger, web)
}

fn rules(chain: &str) -> String {
    sh(&format!("nft list chain {chain} | grep stratus-t1 || true"))
}

#[test]
fn iptables_that_drops_by_policy() {
    on_a_host(|host| {
        sh("iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -s 203.0.113.0/24 -j ACCEPT");
        let networks = host.networks();
        let (stranger, web) = serving(&host, &networks);
        everything_works(&stranger, &web);
        let listing = sh("iptables-nft -S FORWARD");
        assert!(listing.contains("-i stratus0") && listing.contains("-o stratus0"), "iptables reads them: {listing}");
        assert_eq!(rules("ip filter FORWARD").lines().count(), 2);

        networks.create(NetworkSpec::bridge("front")).unwrap();
        networks.create(NetworkSpec { internal: true, ..NetworkSpec::bridge("inside") }).unwrap();
        assert_eq!(rules("ip filter FORWARD").lines().count(), 4, "an internal network needs none");
        networks.remove("front").unwrap();
        assert_eq!(rules("ip filter FORWARD").lines().count(), 2);
        drop(networks);
        net::clean(&world::instance()).unwrap();
        assert_eq!(sh("iptables-nft -S FORWARD"), "-P FORWARD DROP\n-A FORWARD -s 203.0.113.0/24 -j ACCEPT\n");
    });
}

#[test]
fn a_firewall_that_starts_later_and_one_that_is_reloaded() {
    on_a_host(|host| {
        let networks = host.networks();
        let (stranger, web) = serving(&host, &networks);
        everything_works(&stranger, &web);
        let start = "nft 'table inet server { chain forward { type filter hook forward priority 10; policy drop; }; }'";
        sh(start);
        eventually("the new chain is opened", || rules("inet server forward").lines().count() == 2);
        everything_works(&stranger, &web);
        sh(&format!("nft delete table inet server; {start}"));
        eventually("the chain is opened again", || rules("inet server forward").lines().count() == 2);
        sh("nft flush chain inet server forward");
        eventually("rules that were flushed come back", || rules("inet server forward").lines().count() == 2);
        everything_works(&stranger, &web);
    });
}

#[test]
fn a_flush_of_everything_is_mended() {
    on_a_host(|host| {
        let networks = host.networks();
        let (stranger, web) = serving(&host, &networks);
        for _ in 0..3 {
            sh("nft flush ruleset");
            eventually("the table is back", || sh("nft list tables").contains("stratus-t1"));
            everything_works(&stranger, &web);
        }
        run(&networks, spec("later", &["bridge"], &["8082:80"]));
        networks.tear_down(web.sandbox()).unwrap();
        assert!(!sh("nft list map inet stratus-t1 any4").contains("8080"));
    });
}

#[test]
fn firewalld_rejects_at_the_end_of_its_chain() {
    on_a_host(|host| {
        sh("nft 'table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; policy accept; \
            ct state established,related accept; reject with icmpx admin-prohibited; }; }'");
        let networks = host.networks();
        let (stranger, web) = serving(&host, &networks);
        everything_works(&stranger, &web);
    });
}

#[test]
fn what_is_not_published_stays_closed_where_another_firewall_was_opened() {
    on_a_host(|host| {
        sh("iptables-nft -P FORWARD DROP");
        let networks = host.networks();
        let (stranger, web) = serving(&host, &networks);
        web.serve(81);
        stranger.sh("ip route add 172.16.0.0/12 via 192.0.2.1");
        stranger.cannot_reach((web.ip(), 80));
        stranger.cannot_reach((web.ip(), 81));
    });
}

#[test]
fn two_instances_share_a_host() {
    on_a_host(|host| {
        let networks = host.networks();
        let second = net::Networks::open(host.second_config(), Vec::new()).unwrap();
        let (stranger, web) = serving(&host, &networks);
        let other = run(&second, spec("other", &["bridge"], &["8081:80"]));
        other.serve(80);
        assert_eq!(other.ip().to_string(), "172.18.0.2");
        everything_works(&stranger, &web);
        stranger.ask("192.0.2.1:8081");
        other.cannot_reach((web.ip(), 80));
        other.ask("192.0.2.1:8080");
        let taken = second.set_up(spec("late", &["bridge"], &["8080:80"])).unwrap_err();
        assert!(taken.to_string().contains("address already in use"), "{taken}");
        drop(networks);
        net::clean(&world::instance()).unwrap();
        stranger.ask("192.0.2.1:8081");
        assert!(sh("nft list tables").contains("stratus-t2"));
    });
}

/// A dockerd of its own, on the test's host. Ended when dropped.
struct Dockerd {
    process: std::process::Child,
    dir: tempfile::TempDir,
}

impl Dockerd {
    fn start() -> Dockerd {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let process = std::process::Command::new("dockerd")
            .args(["--iptables=true", "--storage-driver=vfs", "--host", &format!("unix://{}", at("docker.sock"))])
            .args([
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "--pidfile",
                &at("pid"),
                "--bip=10.44.0.1/24",
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(at("log")).unwrap())
            .spawn()
            .expect("this test needs dockerd: apt-get install docker.io");
        Dockerd { process, dir }
    }

    fn is_ready(&self) -> bool {
        let socket = self.dir.path().join("docker.sock");
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        socket.exists() && log.contains("API listen on")
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_dockerd_that_starts_beside_us_and_restarts() {
    on_a_host(|host| {
        let networks = host.networks();
        let (stranger, web) = serving(&host, &networks);
        for _ in 0..2 {
            // dockerd only drops what is forwarded where it was the one to switch forwarding on.
            sh("echo 0 > /proc/sys/net/ipv4/ip_forward; iptables-nft -P FORWARD ACCEPT");
            let dockerd = Dockerd::start();
            eventually("dockerd is up", || dockerd.is_ready());
            assert!(sh("iptables-nft -S FORWARD").contains("-P FORWARD DROP"));
            eventually("its chain is opened", || rules("ip filter FORWARD").lines().count() == 2);
            everything_works(&stranger, &web);
            drop(dockerd);
            everything_works(&stranger, &web);
        }
        drop(networks);
        net::clean(&world::instance()).unwrap();
        assert!(!sh("iptables-nft -S").contains("stratus"));
    });
}
