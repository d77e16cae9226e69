//! The second microVM of its kind does not boot: it goes on from a template, which was saved before anything ran in it.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// The templates that are whole.
fn templates(host: &Daemon) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(host.data().join("microvm/templates")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.to_string_lossy().contains("/new-")).collect()
}

/// Nothing is left of the machine that one was saved of.
fn is_alone(host: &Daemon, machines: usize) -> bool {
    std::fs::read_dir(host.run_dir().join("machines")).into_iter().flatten().count() == machines
}

/// Whether a container's machine went on from a template: its process sees that then.
fn began_with_a_template(host: &Daemon, name: &str) -> bool {
    let pid = host.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {name}")).text().to_owned();
    let seen = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
    seen.contains("/microvm/templates/")
}

#[test]
fn the_next_machine_of_a_kind_goes_on_from_a_template_as_if_it_had_booted() {
    let mut host = host();
    let run = |host: &Daemon, name: &str, options: &str| {
        host.slowly(&format!("docker run -d --name {name} {options} --runtime microvm busybox sleep 1000")).ok();
        began_with_a_template(host, name)
    };
    assert!(!run(&host, "first", ""));
    eventually("a template", || templates(&host).len() == 1 && is_alone(&host, 1));
    assert!(run(&host, "second", "-h its-name"));
    // One of another kind boots, and has another one made.
    assert!(!run(&host, "larger", "-m 300m"));
    eventually("a template of that, too", || templates(&host).len() == 2 && is_alone(&host, 3));

    // Its name, network, clock and random numbers are its own, and its files those of its image. A clock that went on from the template would be late by
    // the template's age, which is more than a start takes.
    let saved = |template: &PathBuf| template.join("state").metadata().and_then(|state| state.modified()).unwrap();
    let age = || templates(&host).iter().map(|path| saved(path).elapsed().unwrap_or_default()).min().unwrap();
    eventually("a template that is old", || age() > Duration::from_secs(20));
    let began = Instant::now();
    assert!(run(&host, "third", ""));
    let took = began.elapsed().as_secs() as i64;
    host.slowly("docker exec second hostname").says("its-name");
    host.slowly("docker exec second ping -c 1 -W 5 $(docker inspect -f '{{.NetworkSettings.IPAddress}}' third)")
        .mentions("1 packets received");
    let tell = |name: &str, what: &str| host.slowly(&format!("docker exec {name} {what}")).text().to_owned();
    for what in ["cat /proc/sys/kernel/random/uuid", "cat /sys/class/net/eth0/address"] {
        assert_ne!(tell("second", what), tell("third", what), "{what}");
    }
    let now = || host.sh("date +%s").text().parse::<i64>().unwrap();
    let (before, there, after) = (now(), tell("third", "date +%s").parse::<i64>().unwrap(), now());
    assert!((before - took - 2..=after + 2).contains(&there), "{before} {there} {after}, {took} seconds for a start");
    host.slowly("docker exec third ls /").says(host.sh("docker run --rm busybox ls /").text());

    // It is suspended and goes on as any, whatever becomes of the template.
    host.slowly("docker exec third sh -c 'echo kept >/state' && $STRATUS suspend third").ok();
    for template in templates(&host) {
        std::fs::remove_dir_all(template).unwrap();
    }
    host.slowly("$STRATUS resume third").ok();
    host.slowly("docker exec third cat /state").says("kept");
    host.sh("docker rm -f first second third larger").ok();
    assert!(!run(&host, "anew", ""));
    eventually("another template", || templates(&host).len() == 1 && is_alone(&host, 1));

    // It outlives the daemon, and whoever does not want any has every machine boot.
    host.kill9();
    host.restart();
    assert!(run(&host, "later", ""));
    host.restart_with(&["--microvm-boot"]);
    assert!(!run(&host, "booted", ""));
    host.sh("docker rm -f anew later booted").ok();
}

#[test]
fn machines_with_disks_of_one_size_share_a_template_and_no_byte_of_a_disk() {
    let host = host();
    let run = |name: &str, size: &str| {
        host.slowly(&format!(
            "docker run -d --name {name} --runtime microvm --storage-opt size={size} busybox sleep 1000"
        ))
        .ok();
        began_with_a_template(&host, name)
    };
    assert!(!run("first", "64m"));
    eventually("a template", || templates(&host).len() == 1 && is_alone(&host, 1));
    host.slowly("docker exec first sh -c 'echo first >/whose; sync'").ok();
    assert!(run("second", "64m") && run("third", "64m"));
    for name in ["second", "third"] {
        host.slowly(&format!("docker exec {name} sh -c 'ls /whose; echo {name} >/whose; sync'")).complains("/whose");
    }
    host.slowly("docker exec second dd if=/dev/zero of=/much bs=1M count=100").complains("No space left on device");
    // What was written is there again, in a machine that goes on from the template as well.
    host.slowly("docker stop -t 1 second && docker start second").ok();
    assert!(began_with_a_template(&host, "second"));
    host.slowly("docker exec second cat /whose").says("second");
    host.slowly("docker exec third cat /whose").says("third");
    // One with another disk is of another kind.
    assert!(!run("larger", "200m"));
    host.slowly("docker exec larger dd if=/dev/zero of=/much bs=1M count=100").ok();
    host.sh("docker rm -f first second third larger").ok();
}

#[test]
fn a_daemon_that_is_killed_while_it_makes_a_template_leaves_nothing_of_it() {
    let mut host = host();
    host.slowly("docker run --rm --runtime microvm busybox true").ok();
    eventually("its machine", || !is_alone(&host, 0));
    host.kill9();
    host.restart();
    eventually("nothing is left", || is_alone(&host, 0) && templates(&host).is_empty());
    // The next one boots, and is followed by one that is whole.
    host.slowly("docker run --rm --runtime microvm busybox true").ok();
    eventually("a template", || templates(&host).len() == 1 && is_alone(&host, 0));
    // One that can't be read is found out, and goes: the machine boots in its place, and another one is made.
    let template = templates(&host).remove(0);
    std::fs::write(template.join("state"), "no state").unwrap();
    let said = host.slowly("docker run --rm --runtime microvm busybox echo hello");
    assert_eq!((said.stdout(), said.stderr()), ("hello\n", ""));
    let is_whole = |path: &PathBuf| std::fs::read(path.join("state")).is_ok_and(|state| state != b"no state");
    eventually("another template", || templates(&host).iter().all(is_whole) && templates(&host).len() == 1);
    eventually("its machine is gone", || is_alone(&host, 0));
}

/// Holds the QEMU of a container once it is there, which is to go on from something or to boot, and says which process it is.
fn hold(host: &Daemon, id: &str, goes_on: bool) -> Option<String> {
    let of_container = |process: &PathBuf| {
        let read = |name| std::fs::read_to_string(process.join(name)).unwrap_or_default();
        let command = read("cmdline");
        command.contains("qemu-system") && command.contains("-incoming\0") == goes_on && read("cgroup").contains(id)
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let qemu = processes.filter(|path| path.join("cmdline").exists()).find(of_container)?;
    let pid = qemu.file_name().unwrap().display().to_string();
    host.sh(&format!("kill -STOP {pid}")).ok();
    Some(pid)
}

/// Creates and starts a container, whose QEMU is held as it goes on from a template, and then sent a signal. The container is one that runs.
fn starts_with_a_signal_as_it_goes_on(host: &Daemon, signal: &str) {
    loop {
        host.sh("docker create --name box --runtime microvm busybox sh -c 'echo hello; sleep 1000'").ok();
        let id = host.sh("docker inspect -f '{{.Id}}' box").text().to_owned();
        let mut start = host.session("docker start box");
        let mut qemu = None;
        eventually("QEMU, that is to go on from a template", || {
            qemu = hold(host, &id, true);
            qemu.is_some()
        });
        let running = host.sh("docker inspect -f '{{.State.Running}}' box");
        let (qemu, is_late) = (qemu.unwrap(), running.text() == "true");
        host.sh(&format!("kill -{} {qemu}", if is_late { "CONT" } else { signal })).ok();
        assert_eq!(start.exit_code(), 0, "{}", start.output());
        if !is_late {
            return;
        }
        host.sh("docker rm -f box").ok();
    }
}

/// A machine whose QEMU is sent a signal as it goes on from a template boots.
fn boots_after(signal: &str, flags: &[&str]) {
    let host = microvm_kernel::host_with(&[&["--microvm-driver", "qemu"], flags].concat());
    host.slowly("docker run --rm --runtime microvm busybox true").ok();
    eventually("a template", || templates(&host).len() == 1 && is_alone(&host, 0));
    starts_with_a_signal_as_it_goes_on(&host, signal);
    eventually("its output", || host.sh("docker logs box").ok().text() == "hello");
    assert!(!began_with_a_template(&host, "box"));
    host.sh("docker rm -f box").ok();
}

#[test]
fn a_machine_whose_hypervisor_ends_as_it_goes_on_from_a_template_boots() {
    boots_after("KILL", &[]);
}

#[test]
fn a_machine_that_hangs_as_it_goes_on_from_a_template_boots() {
    boots_after("STOP", &["--microvm-start-timeout", "60"]);
}

#[test]
fn a_machine_that_hangs_as_it_boots_is_given_up() {
    let host = microvm_kernel::host_with(&["--microvm-driver", "qemu", "--microvm-start-timeout", "5"]);
    host.sh("docker create --name box --runtime microvm busybox true").ok();
    let id = host.sh("docker inspect -f '{{.Id}}' box").text().to_owned();
    let mut start = host.session("docker start box");
    let mut qemu = None;
    eventually("QEMU, that is to boot", || {
        qemu = hold(&host, &id, false);
        qemu.is_some()
    });
    assert_eq!(start.exit_code(), 1);
    let said = start.output();
    assert!(said.contains("boot the machine took more than 5 s (--microvm-start-timeout"), "{said}");
    host.sh("docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' box").says("created 128");
    let qemu = PathBuf::from("/proc").join(qemu.unwrap()).join("cmdline");
    eventually("its end", || std::fs::read(&qemu).unwrap_or_default().is_empty());
    assert!(is_alone(&host, 0));
    host.sh("docker rm box").ok();
}

#[test]
fn a_disk_that_cannot_be_mounted_is_no_fault_of_the_template() {
    let host = host();
    let run = |name: &str| {
        host.slowly(&format!(
            "docker run -d --name {name} --runtime microvm --storage-opt size=64m busybox sleep 1000"
        ))
        .ok();
    };
    run("first");
    eventually("a template", || templates(&host).len() == 1 && is_alone(&host, 1));
    run("second");
    assert!(began_with_a_template(&host, "second"));
    host.slowly("docker stop -t 1 second").ok();
    let id = host.sh("docker inspect -f '{{.Id}}' second").text().to_owned();
    let disk = host.data().join("containers").join(id).join("disk");
    host.sh(&format!("dd if=/dev/zero of={} bs=1M count=8 conv=notrunc", disk.display())).ok();
    host.slowly("docker start second").fails_with("mount");
    assert_eq!(templates(&host).len(), 1);
    run("third");
    assert!(began_with_a_template(&host, "third"));
    host.sh("docker rm -f first second third").ok();
}

#[test]
fn the_machine_for_the_files_on_a_disk_goes_on_from_a_template_within_its_containers_limits() {
    let host = host();
    host.slowly(
        "docker run --name box --runtime microvm --cpus 0.5 --storage-opt size=64m busybox sh -c 'echo mine >/file'",
    )
    .ok();
    eventually("a template", || templates(&host).len() == 1 && is_alone(&host, 0));
    // The first of its kind boots, as its parts are others than the container's.
    host.slowly("docker cp box:/file - | tar -xO").says("mine");
    eventually("a template of that, too", || templates(&host).len() == 2 && is_alone(&host, 0));
    // Somebody writes, and goes on doing so while it is looked at.
    let stream = host.begins_copy_into("box");
    eventually("the copy to begin", || host.sh("docker cp box:/two - | tar -t").stdout().contains("two"));
    let group = "group=$(printf 'files of %s' $(docker inspect -f '{{.Id}}' box) | sha256sum | cut -c 1-64)";
    let limits = r#"cat $(find /sys/fs/cgroup -path "*/$group/*" \( -name cpu.cfs_quota_us -o -name cpu.max \))"#;
    host.sh(&format!("{group}; {limits}")).mentions("50000");
    let process = r#"cat $(find /sys/fs/cgroup -path "*/$group/*" -name cgroup.procs) | sort -un | head -n 1"#;
    host.sh(&format!("{group}; cat /proc/$({process})/mountinfo")).mentions("/microvm/templates/");
    drop(stream);
    host.sh("docker rm -f box").ok();
    eventually("nothing is left", || is_alone(&host, 0));
}
