//! A volume that does not answer: a file system that is frozen (fsfreeze(8)) keeps whoever writes to it waiting in the kernel, as one does whose server is gone.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::{Daemon, eventually};

/// The volume, in the daemon's work directory. Whatever comes of the test, it answers in the end, and is not mounted any more.
struct Volume {
    place: PathBuf,
}

impl Volume {
    fn new(host: &Daemon) -> Self {
        host.sh("truncate -s 64M disk && mkfs.ext4 -q disk && mkdir volume && mount -o loop disk volume").ok();
        Self { place: host.work().join("volume") }
    }

    fn hangs(&self) {
        assert!(freeze("-f", &self.place), "it hangs");
    }

    fn answers(&self) {
        assert!(freeze("-u", &self.place), "it answers");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        freeze("-u", &self.place);
        let _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}

fn freeze(how: &str, place: &Path) -> bool {
    Command::new("fsfreeze").arg(how).arg(place).output().is_ok_and(|output| output.status.success())
}

/// Whoever wants such a machine to rest hears that it does not, and it goes on; `is_saved`: its driver saves machines with volumes.
pub(crate) fn holds_up_nobody_for_ever(host: &Daemon, is_saved: bool) {
    let volume = Volume::new(host);
    let writes = "until [ -e /go ]; do sleep 0.1; done; echo one >/data/one; echo two >/data/two; sleep 100000";
    host.slowly(&format!(
        "docker run -d --name box -m 64m --cpus 1 --runtime microvm -v $PWD/volume:/data busybox sh -c '{writes}'"
    ))
    .ok();
    volume.hangs();
    host.slowly("docker exec box touch /go").ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    let server = host.sh(&format!("pgrep -P {pid} -f machine-files")).text().to_owned();
    eventually("its server waits for the kernel", || {
        host.sh(&format!("grep -q '^State:.D' /proc/{server}/task/*/status")).code() == 0
    });

    // A kernel may freeze who waits so (Linux 6.15 and newer, on version 1 of cgroups). One that does not is not waited for.
    let paused = host.slowly("docker pause box");
    match paused.code() {
        0 => host.sh("docker unpause box").ok(),
        _ => paused.complains("its processes do not freeze, and go on"),
    };
    if is_saved {
        for command in ["suspend box", "fork box"] {
            host.slowly(&format!("$STRATUS {command}")).exits_with(1).complains(
                "after 30 seconds it still waits for the server of its volumes, one of which does not answer; it goes on",
            );
        }
    }
    host.slowly("docker exec box echo here").says("here");
    host.sh("docker inspect -f '{{.State.Status}}' box").says("running");
    host.sh("ls volume").says("lost+found");

    volume.answers();
    eventually("what was to be written", || host.sh("cat volume/one volume/two").stdout() == "one\ntwo\n");
    host.slowly("docker pause box && docker unpause box").ok();
    if is_saved {
        host.slowly("$STRATUS suspend box && $STRATUS resume box").ok();
    }
    host.slowly("docker exec box cat /data/one").says("one");
    host.sh("docker rm -f box").ok();
}
