//! A machine that does not answer, whatever it is that hangs: its guest, the process that has it, or all of it. It harms nobody else, and is got rid of.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// Runs `box` and `other` in machines.
fn run_two(host: &Daemon, of_box: &str) {
    host.slowly("docker run -d --name other --cpus 1 --runtime microvm busybox sleep 1000").ok();
    host.slowly(&format!("docker run -d --name box --cpus 1 --runtime microvm {of_box}")).ok();
}

/// The process that has a container's machine; QEMU is a child of it.
fn machine(host: &Daemon, name: &str) -> String {
    host.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name}")).text().to_owned()
}

/// What everybody else asks is answered, while `box` answers nobody; and `box` ends when it is told to.
fn only_it_is_lost(host: &Daemon) {
    // These wait for an answer that does not come, until the machine ends.
    let mut asks = ["exec box true", "top box", "cp box:/etc/passwd copied"]
        .map(|command| host.session(&format!("docker {command}")));
    host.sh("docker ps --format '{{.Names}} {{.State}}'").says("box running\nother running");
    host.sh("docker inspect -f '{{.State.Status}}' box").says("running");
    host.slowly("docker exec other echo here").says("here");
    host.slowly("docker top other").mentions("sleep 1000");
    host.slowly("docker stats --no-stream --format '{{.Name}} {{.PIDs}}' other").says("other 1");
    // Nor is who asks for all of them left without an answer.
    host.slowly("docker stats --no-stream --format '{{.Name}}'").mentions("other").mentions("box");
    host.slowly("docker run --rm --cpus 1 --runtime microvm busybox echo another").says("another");
    host.sh("docker run --rm busybox echo no machine").says("no machine");
    host.slowly("docker stop -t 1 other && docker start other && docker exec other echo again").mentions("again");

    host.slowly("docker stop -t 1 box").ok();
    host.sh("docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' box").says("exited 137");
    for ask in &mut asks {
        assert_ne!(ask.exit_code(), 0);
    }
    // It is as any that ended.
    host.slowly("docker start box && docker exec box echo here").mentions("here");
}

#[test]
fn a_guest_that_a_program_with_all_rights_keeps_from_running_is_lost_alone() {
    let host = host();
    // What is missing in busybox, with its libraries.
    host.sh("mkdir -p app/root && cp --parents -L $(which chrt) $(ldd $(which chrt) | grep -o '/[^ ]*') app/root").ok();
    host.project("FROM busybox\nCOPY root /\n", &[]);
    host.slowly("docker build -q -t with-chrt app").ok();
    // It has its one processor for itself, and the agent none of it.
    let hog = "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; exec $(ls /usr/bin/chrt /bin/chrt 2>/dev/null) -f 99 sh -c \"while :; do :; done\"";
    run_two(&host, &format!("--privileged with-chrt sh -c 'until [ -e /go ]; do sleep 0.1; done; {hog}'"));
    // This one may be among those that are not answered any more.
    let mut go = host.session("docker exec -d box touch /go");
    eventually("nothing is answered", || host.sh("timeout 5 docker exec box true").code() == 124);
    only_it_is_lost(&host);
    go.exit_code();
    host.sh("docker rm -f box other").ok();
}

#[test]
fn a_guest_that_talks_nonsense_to_its_host_is_lost_alone() {
    let host = microvm_kernel::host_with(&["--microvm-driver", "qemu"]);
    // With all rights it takes the stream from its agent: the driver leaves the device and comes back, and whoever is first has the port. (Over vsock: nested.rs.)
    let driver = "cd /sys/bus/virtio/drivers/virtio_console && device=$(ls -d virtio*)";
    let port = "rm -f /port; number=$(cat /sys/class/virtio-ports/*/dev) && mknod /port c ${number%:*} ${number#*:}";
    let talk = format!("while :; do echo $device >unbind; echo $device >bind; {port}; yes nonsense >/port; done");
    let waits = "until [ -e /go ]; do sleep 0.1; done";
    run_two(&host, &format!("--privileged busybox sh -c '{waits}; {driver}; {talk} 2>/dev/null'"));
    // This one may not be answered any more.
    let mut go = host.session("docker exec -d box touch /go");
    eventually("its end", || host.sh("docker inspect -f '{{.State.Status}}' box").text() == "exited");
    go.exit_code();
    host.sh("docker logs box 2>&1").mentions("stratus: the guest's agent sent");
    host.sh("docker inspect -f '{{.State.ExitCode}}' box").says("137");
    host.slowly("docker exec other echo here").says("here");
    host.slowly("docker run --rm --cpus 1 --runtime microvm busybox echo another").says("another");
    // It is as any that ended.
    host.slowly("docker start box && docker exec box echo here").mentions("here");
    host.sh("docker rm -f box other").ok();
}

#[test]
fn a_machine_whose_process_stands_still_is_lost_alone() {
    let host = host();
    run_two(&host, "busybox sleep 1000");
    let pid = machine(&host, "box");
    host.sh(&format!("kill -STOP {pid} $(pgrep -P {pid})")).ok();
    only_it_is_lost(&host);

    // Nobody who removes one has to wait for it.
    let pid = machine(&host, "box");
    host.sh(&format!("kill -STOP {pid} $(pgrep -P {pid})")).ok();
    host.sh("docker rm -f box").ok();
    host.sh("docker ps -a --format '{{.Names}}'").says("other");
    eventually("its end", || !std::path::Path::new(&format!("/proc/{pid}/root/")).exists());
    host.sh("docker rm -f other").ok();
}

#[test]
fn a_daemon_that_comes_back_to_a_machine_that_hangs_answers() {
    let mut host = host();
    run_two(&host, "busybox sleep 1000");
    let pid = machine(&host, "box");
    host.sh(&format!("kill -STOP {pid} $(pgrep -P {pid})")).ok();
    host.kill9();
    host.restart();
    only_it_is_lost(&host);
    host.sh("docker rm -f box other").ok();
}

#[test]
fn a_daemon_that_comes_back_asks_a_machine_that_hangs_once_for_all_that_is_in_it() {
    let mut host = host();
    host.slowly("docker run -d --name main --cpus 1 --runtime microvm busybox sleep 1000").ok();
    let members = ["one", "two", "three"];
    for name in members {
        let run = "docker run -d --network container:main -m 32m --runtime microvm";
        host.slowly(&format!("{run} --name {name} busybox sleep 1000")).ok();
    }
    host.slowly("docker pause two").ok();
    let pid = machine(&host, "main");
    host.sh(&format!("kill -STOP {pid} $(pgrep -P {pid})")).ok();
    host.kill9();
    host.restart();
    host.sh("docker ps --format '{{.Names}} {{.State}}'").says("three running\ntwo paused\none running\nmain running");
    assert_eq!(host.log().matches("does not say which containers in it are paused").count(), 1);

    // One that answers again is as it is said to be.
    host.kill9();
    host.sh(&format!("kill -CONT {pid} $(pgrep -P {pid})")).ok();
    host.restart();
    host.slowly("docker exec one echo here").says("here");
    host.slowly("docker unpause two && docker exec two echo here").mentions("here");
    assert_eq!(host.log().matches("does not say which containers in it are paused").count(), 1);
    host.sh("docker rm -f main one two three").ok();
}
