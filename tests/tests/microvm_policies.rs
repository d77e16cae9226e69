//! Health checks and restart policies of containers with a kernel of their own: the same as any container's.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::{host, host_with};

fn inspect(host: &Daemon, name: &str, what: &str) -> String {
    host.sh(&format!("docker inspect -f '{what}' {name}")).text().to_owned()
}

#[test]
fn a_machines_health_is_what_its_check_says() {
    let host = host();
    host.slowly(
        "docker run -d --name box --cpus 1 --health-cmd 'test ! -e /bad && echo fine' --health-interval 300ms --health-timeout 30s \
         --health-retries 2 --runtime microvm busybox sleep 1000",
    )
    .ok();
    let health = || inspect(&host, "box", "{{.State.Health.Status}}");
    eventually("it to be healthy", || health() == "healthy");
    host.sh("docker ps --format '{{.Status}}'").mentions("(healthy)");
    host.sh("docker inspect -f '{{(index .State.Health.Log 0).ExitCode}} {{(index .State.Health.Log 0).Output}}' box")
        .says("0 fine");
    let mut events = host.session("docker events --filter event=health_status --format '{{.Action}}'");
    host.slowly("docker exec box touch /bad").ok();
    eventually("it to be unhealthy", || health() == "unhealthy");
    events.waits_for("health_status: unhealthy").signal("INT");
    events.exit_code();
    host.sh("docker inspect -f '{{ge .State.Health.FailingStreak 2}}' box").says("true");
    // It is what it was after it has been suspended, and is looked at again.
    host.slowly("docker exec box rm /bad").ok();
    host.slowly("$STRATUS suspend box && $STRATUS resume box").ok();
    eventually("it to be healthy again", || health() == "healthy");
    host.sh("docker rm -f box").ok();
}

/// What takes longer than it may is ended in the machine, too.
#[test]
fn a_check_that_hangs_in_a_machine_is_ended() {
    let host = host();
    host.slowly(
        "docker run -d --name hangs --cpus 1 --health-cmd 'exec sleep 987' --health-interval 100ms --health-timeout 1s --health-retries 2 \
         --runtime microvm busybox sleep 1000",
    )
    .ok();
    eventually("some checks", || host.sh("docker inspect -f '{{.State.Health.FailingStreak}}' hangs").number() >= 4);
    assert_eq!(inspect(&host, "hangs", "{{.State.Health.Status}}"), "unhealthy");
    host.sh("docker inspect -f '{{(index .State.Health.Log 0).Output}}' hangs")
        .mentions("Health check exceeded timeout (1s)");
    let there = host.sh("docker top hangs | grep -c 'sleep 987' || true").number();
    assert!(there <= 2, "{there} checks are still there");
    host.sh("docker rm -f hangs").ok();
}

#[test]
fn a_hypervisor_that_is_killed_is_told_from_a_program_that_is() {
    let host = host_with(&["--microvm-driver", "qemu"]);
    for name in ["box", "other"] {
        host.slowly(&format!("docker run -d --name {name} --cpus 1 --runtime microvm busybox sleep 1000")).ok();
    }
    host.sh(&format!("pkill -9 -P {}", inspect(&host, "box", "{{.State.Pid}}"))).ok();
    host.slowly("docker wait box").says("137");
    host.sh("docker inspect -f '{{.State.Error}}' box").mentions("its microVM ended before it did");
    host.sh("docker logs box").complains("QEMU ended with signal: 9");
    host.slowly("docker kill other && docker wait other").says("other\n137");
    assert_eq!(inspect(&host, "other", "{{.State.Error}}"), "");
    host.slowly("docker start box && docker exec box echo here").says("box\nhere");
    assert_eq!(inspect(&host, "box", "{{.State.Error}}"), "");
    host.sh("docker rm -f box other").ok();
}

#[test]
fn machines_are_started_again_as_their_policies_say() {
    let mut host = host();
    let run = "docker run -d --cpus 1 --runtime microvm";
    host.slowly(&format!("{run} --name thrice --restart on-failure:2 busybox sh -c 'echo again; exit 5'")).ok();
    host.slowly(&format!("{run} --name always --restart always busybox sleep 1000")).ok();
    host.slowly(&format!("{run} --name kept --restart unless-stopped busybox sleep 1000")).ok();
    host.slowly(&format!("{run} --name stopped --restart unless-stopped busybox sleep 1000")).ok();
    eventually("the last try", || {
        inspect(&host, "thrice", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}") == "2 exited 5"
    });
    host.sh("docker logs thrice").says("again\nagain\nagain");
    // A machine that is killed is one that fails.
    host.sh(&format!("kill -9 {}", inspect(&host, "always", "{{.State.Pid}}"))).ok();
    eventually("another try", || inspect(&host, "always", "{{.RestartCount}} {{.State.Status}}") == "1 running");
    host.slowly("docker exec always echo here").says("here");
    host.slowly("docker stop -t 0 stopped").ok();

    // What ended while no daemon was there is started by the next one, but for what was stopped by hand.
    let machines = ["always", "kept"].map(|name| inspect(&host, name, "{{.State.Pid}}"));
    host.kill9();
    host.sh(&format!("kill -9 {}", machines.join(" "))).ok();
    for machine in &machines {
        eventually("its end", || !std::path::Path::new(&format!("/proc/{machine}/root/")).exists());
    }
    host.restart();
    for (name, before) in ["always", "kept"].into_iter().zip(&machines) {
        // The daemon may be there before it has heard that the former one ended.
        let runs_again = || {
            let now = inspect(&host, name, "{{.State.Status}} {{.State.Pid}}");
            now.strip_prefix("running ").is_some_and(|pid| pid != before)
        };
        eventually("it to run again", runs_again);
        host.slowly(&format!("docker exec {name} echo here")).says("here");
    }
    assert_eq!(inspect(&host, "stopped", "{{.State.Status}}"), "exited");
    assert_eq!(inspect(&host, "thrice", "{{.RestartCount}} {{.State.Status}}"), "2 exited");
    // Who stops one by hand means it.
    host.slowly("docker stop -t 0 always").ok();
    assert_eq!(inspect(&host, "always", "{{.State.Status}}"), "exited");
    host.sh("docker rm -f thrice always kept stopped").ok();
}
