//! Everything in a cgroup is killed, whatever it does meanwhile, and on every version of cgroups.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitOptions};
use sandbox::cgroup::{Cgroup, Layout, kill_all};

/// The roots of the hierarchies in which nobody can get away by forking: with `cgroup.kill`, or with a freezer.
fn safe_hierarchies() -> Vec<PathBuf> {
    let layout = Layout::detect().unwrap();
    let freezer = layout.v1().iter().filter(|hierarchy| hierarchy.controllers().iter().any(|name| name == "freezer"));
    freezer.map(|hierarchy| hierarchy.mount_point().to_owned()).chain(layout.v2().map(ToOwned::to_owned)).collect()
}

/// Removed with the value, when its processes have ended.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        while std::fs::remove_dir(&self.0).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy) {
            std::thread::yield_now();
        }
    }
}

/// Each process makes the next one and ends, so that no list of them is ever true for long.
#[test]
fn who_forks_without_end_does_not_get_away() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    for mount in safe_hierarchies() {
        let group = Group(mount.join(format!("sandbox-test-kill-{}", std::process::id())));
        std::fs::create_dir(&group.0).unwrap();
        let script = format!("echo $$ > {}/cgroup.procs && echo ready && f() {{ f & }} && f", group.0.display());
        let mut shell = Command::new("/bin/busybox");
        shell.args(["sh", "-c", &script]).process_group(0).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut first = shell.spawn().unwrap();
        let family = Pid::from_child(&first);
        let mut ready = [0; 6];
        std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut ready).unwrap();
        kill_all(&group.0).unwrap();
        first.wait().unwrap();
        // They come here to be reaped: as long as anybody of them lives, this waits.
        while rustix::process::waitpgid(family, WaitOptions::empty()).is_ok() {}
        let procs = std::fs::read_to_string(group.0.join("cgroup.procs")).unwrap();
        assert_eq!(procs, "", "{}", mount.display());
    }
}

/// The kernel lists it as long as it is frozen, whatever it was sent, and calls it a zombie.
#[test]
fn who_has_lost_its_main_thread_is_killed_while_it_is_frozen() {
    let group = Cgroup::new(&format!("/sandbox-test-headless-{}", std::process::id())).unwrap();
    group.create(&Default::default()).unwrap();
    let mut headless = Command::new(support::example("headless"))
        .args(group.directories().into_iter().map(|(_, directory)| directory))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(headless.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    group.freeze().unwrap();
    let killed: Vec<_> = group.kill_directories().iter().map(|directory| kill_all(directory)).collect();
    // Whatever came of it, nothing is left.
    let _ = group.thaw();
    let _ = headless.kill();
    headless.wait().unwrap();
    group.delete().unwrap();
    assert_eq!(line, "ready\n");
    killed.into_iter().for_each(|killed| killed.unwrap());
}

#[test]
fn a_signal_reaches_everybody_and_what_is_frozen_is_killed() {
    let group = Cgroup::new(&format!("/sandbox-test-signal-{}", std::process::id())).unwrap();
    group.create(&Default::default()).unwrap();
    let mut children: Vec<_> = (0..3).map(|_| Command::new("sleep").arg("1000").spawn().unwrap()).collect();
    let join = |child: &std::process::Child| {
        for (_, directory) in group.directories() {
            std::fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
    };
    children.iter().for_each(join);
    group.kill(rustix::process::Signal::TERM.as_raw()).unwrap();
    for child in &mut children {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }
    let mut frozen = Command::new("sleep").arg("1000").spawn().unwrap();
    join(&frozen);
    group.freeze().unwrap();
    // As a keeper does that has nothing but these.
    for directory in group.kill_directories() {
        kill_all(&directory).unwrap();
    }
    assert!(!frozen.wait().unwrap().success());
    group.delete().unwrap();
}
