//! Several daemons on one machine, which leave each other alone; and what one says of itself when it is taken down.

use e2e::Daemon;

const OTHER: &str = "$STRATUS daemon --data-dir $PWD/other/data --run-dir $PWD/other/run";

#[test]
fn a_bridge_of_another_daemon_is_refused_and_its_owner_named() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let gateway = host.sh("docker network inspect bridge -f '{{(index .IPAM.Config 0).Gateway}}'").text().to_owned();
    let link = host.sh(&format!("ip -o address | awk '$4 ~ /^{gateway}\\// {{print $2}}'")).text().to_owned();
    let addresses = format!("ip -4 -o address show dev {link}");
    let before = host.sh(&addresses).text().to_owned();
    let data = host.data().display().to_string();
    let refused = |host: &Daemon| {
        host.sh(&format!("timeout 60 {OTHER} --bridge {link}"))
            .exits_with(1)
            .complains(&format!(
                "the bridge {link} belongs to another stratus daemon, that of the data directory {data} (instance "
            ))
            .complains(&format!("stratus daemon --clean --data-dir {data}"));
        host.sh(&format!("{OTHER} --bridge {link} --clean")).mentions("there was nothing to take out");
        host.sh(&addresses).says(&before);
    };
    refused(&host);
    host.sh("docker exec box true").ok();
    // It is its bridge while it does not run, too.
    host.kill9();
    refused(&host);
    host.restart();
    host.sh("docker exec box true").ok();
}

#[test]
fn who_takes_everything_down_is_told_what_that_was() {
    let mut host = Daemon::start();
    let clean =
        format!("$STRATUS daemon --clean --data-dir {} --run-dir {}", host.data().display(), host.run_dir().display());
    host.sh("docker run -d -p $PORT:80 busybox sleep 1000 && docker run -d --name frozen busybox sleep 1000").ok();
    host.sh("docker pause frozen && docker run busybox true").ok();
    host.stop();
    let told = host.sh(&clean);
    let data = host.data().display().to_string();
    told.mentions(&format!("of {data}: ended 2 containers, the keeper and the forwarder of ports; took out 1 bridge"))
        .mentions("the firewall's table")
        .mentions("What is on the disk stays");
    host.sh(&clean).says(&format!("of {data} there was nothing to take out"));
    // Where the keeper was killed, what it left is counted as well.
    host.restart();
    host.sh("docker run -d --network none busybox sleep 1000").ok();
    let keeper = host.keeper();
    host.kill9();
    host.sh(&format!("kill -9 {keeper}")).ok();
    host.sh(&clean).mentions(": ended 1 container").mentions("; took out 1 bridge").omits("keeper");
    host.sh("$STRATUS daemon --clean --data-dir $PWD/nowhere --run-dir $PWD/nowhere/run").says(&format!(
        "there was nothing to take out, and no {}/nowhere: is that the right --data-dir?",
        host.work().display()
    ));
}

/// A bridge that is there until the test ends, however that does.
struct Bridge(String);

impl Bridge {
    fn new(name: String) -> Self {
        let made = std::process::Command::new("ip").args(["link", "add", &name, "type", "bridge"]).status();
        assert!(made.is_ok_and(|status| status.success()), "no bridge {name}");
        Self(name)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // A test that failed may have removed it.
        let _ = std::process::Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

#[test]
fn a_bridge_of_an_administrators_is_left_as_it_was() {
    let mut host = Daemon::start();
    let Bridge(name) = &Bridge::new(format!("adm{}", host.port()));
    let net = host.addresses().replace(".0.0/16", ".200");
    let addresses = format!("ip -o -4 addr show dev {name} | awk '{{print $4}}' | xargs");
    host.sh(&format!("ip addr add {net}.7/24 dev {name} && ip link set {name} up")).ok();
    let create = format!("docker network create -o com.docker.network.bridge.name={name} --subnet {net}.0/24 theirs");
    host.sh(&create).ok();
    host.sh(&addresses).says(&format!("{net}.7/24 {net}.1/24"));
    host.sh("docker run --rm --network theirs busybox ping -c 1 -W 5 $(docker network inspect -f '{{(index .IPAM.Config 0).Gateway}}' theirs)")
        .ok();
    host.stop();
    host.sh(&format!(
        "$STRATUS daemon --clean --data-dir {} --run-dir {}",
        host.data().display(),
        host.run_dir().display()
    ))
    .mentions("1 address of a bridge that is not its own");
    host.sh(&addresses).says(&format!("{net}.7/24"));
    host.restart();
    host.sh(&addresses).says(&format!("{net}.7/24 {net}.1/24"));
    host.sh("docker network rm theirs").ok();
    host.sh(&addresses).says(&format!("{net}.7/24"));
}
