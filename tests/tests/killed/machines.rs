//! Containers in microVMs: what a machine has in its memory is lost by no daemon that is killed.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use e2e::{Daemon, eventually};
use serde_json::{Value, json};

use crate::microvm_kernel;
use crate::rounds::{self, Step};
use crate::steps::{done, exec, find, one_by_one};

/// Each takes a boot or two, of some seconds where they are emulated.
const KILLS: u32 = 8;

/// Cuts `step` short, on a host whose machines have a kernel.
pub(crate) fn run_rounds(step: impl Step) {
    rounds::run_on(microvm_kernel::host(), KILLS, step);
}

fn specification(host: &Daemon, policy: &str) -> String {
    let port = host.port().to_string();
    json!({
        "Image": "busybox",
        "Cmd": ["httpd", "-f", "-p", "80", "-h", "/etc"],
        "ExposedPorts": { "80/tcp": {} },
        "HostConfig": {
            "Runtime": "microvm",
            "NanoCpus": 1_000_000_000,
            "StorageOpt": { "size": "64m" },
            "RestartPolicy": { "Name": policy },
            "PortBindings": { "80/tcp": [{ "HostPort": port }] },
        },
    })
    .to_string()
}

fn create(host: &Daemon, policy: &str) {
    done(host, "POST /containers/create?name=box", &specification(host, policy));
}

fn start(host: &Daemon) {
    done(host, "POST /containers/box/start", "");
}

/// `box` runs, and has something in its machine's memory and on its disk that no start puts there.
fn run(host: &Daemon) {
    run_by(host, "unless-stopped");
}

fn run_by(host: &Daemon, policy: &str) {
    create(host, policy);
    start(host);
    host.slowly("docker exec box sh -c 'echo on the disk >/kept; echo in memory >/dev/shm/kept'").ok();
}

fn remove(host: &Daemon) {
    if find(host, "/containers/box/json").is_some() {
        done(host, "DELETE /containers/box?force=1", "");
    }
}

fn state(host: &Daemon) -> Value {
    find(host, "/containers/box/json").expect("the container")["State"].clone()
}

fn is_suspended(host: &Daemon) -> bool {
    let all = find(host, "/containers/json?all=1").expect("a list");
    let found = all.as_array().expect("a list").iter().find(|one| one["Names"][0] == "/box").expect("the container");
    found["Status"].as_str().expect("a text").contains("(Suspended)")
}

/// `box` runs, and everything about it works.
#[track_caller]
fn is_alive(host: &Daemon) {
    assert_eq!(state(host)["Status"], "running");
    host.slowly("docker exec box head -n 1 /etc/group").says("root:x:0:");
    eventually("the server", || host.sh("curl -s -m 5 http://127.0.0.1:$PORT/group").stdout().starts_with("root:x:0:"));
}

/// As [`is_alive`], and it has what was in its memory and on its disk.
#[track_caller]
fn is_as_it_was(host: &Daemon) {
    is_alive(host);
    has_what_it_had(host, "box");
}

#[track_caller]
fn has_what_it_had(host: &Daemon, name: &str) {
    host.slowly(&format!("docker exec {name} cat /kept /dev/shm/kept")).says("on the disk\nin memory");
}

/// A container in a machine is made and started.
pub(crate) struct Begin;

impl Step for Begin {
    fn act(&self, host: &Daemon) -> usize {
        let made = specification(host, "unless-stopped");
        one_by_one(host, &[("POST /containers/create?name=box", &made), ("POST /containers/box/start", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        if find(host, "/containers/box/json").is_none() {
            assert_eq!(told, 0, "the container is gone");
            create(host, "unless-stopped");
        }
        if state(host)["Running"] == false {
            assert!(told < 2, "it does not run: {:#}", state(host));
            assert_eq!(state(host)["Status"], "created");
            start(host);
        }
        is_alive(host);
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
    }
}

/// A container with a volume comes into a machine.
pub(crate) struct Come;

impl Step for Come {
    fn prepare(&mut self, host: &Daemon) {
        host.slowly("docker run -d --name main --cpus 1 --runtime microvm busybox sleep 100000").ok();
    }

    fn act(&self, host: &Daemon) -> usize {
        let made = json!({
            "Image": "busybox",
            "Cmd": ["sh", "-c", "echo come >/data/file; sleep 100000"],
            "HostConfig": { "Runtime": "microvm", "NetworkMode": "container:main", "Binds": ["data:/data"] },
        });
        let made = made.to_string();
        one_by_one(host, &[("POST /containers/create?name=box", &made), ("POST /containers/box/start", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        // Whoever serves volumes by then is in use, and what was mounted is somebody's.
        let machine = find(host, "/containers/main/json").expect("the machine");
        let places = host.run_dir().join("machines").join(&machine["Id"].as_str().expect("an identifier")[..12]);
        let places = format!("ls {}/volumes 2>/dev/null | wc -l", places.display());
        let box_runs = find(host, "/containers/box/json").is_some_and(|found| found["State"]["Running"] == true);
        assert!(told < 2 || box_runs, "it does not run");
        let wanted = if box_runs { "1" } else { "0" };
        eventually("nobody's volumes to go", || host.sh(&places).text() == wanted);
        if box_runs {
            eventually("it to write", || host.slowly("docker exec box cat /data/file").stdout() == "come\n");
        }
        host.slowly(
            "docker run --rm --runtime microvm --network container:main -v data:/data busybox touch /data/next",
        )
        .ok();
        let serves = format!("pgrep -c -P {} -f machine-shared-files", host.keeper());
        eventually("one to serve", || host.sh(&serves).text() == "1");
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
        host.slowly("docker rm -f main && docker volume rm data").ok();
    }
}

/// A program is run in a machine.
pub(crate) struct Exec;

impl Step for Exec {
    fn prepare(&mut self, host: &Daemon) {
        run(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        exec(host)
    }

    fn check(&self, host: &Daemon, told: usize) {
        is_as_it_was(host);
        if told == 2 {
            host.slowly("docker exec box cat /proof").says("proof");
        }
        eventually("it to be alone", || host.slowly("docker top box").lines().len() == 2);
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
    }
}

/// A machine is saved, and goes back to there.
pub(crate) struct Save;

impl Step for Save {
    fn prepare(&mut self, host: &Daemon) {
        run(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        let requests = [
            ("POST /stratus/containers/box/snapshots?name=one", ""),
            ("POST /stratus/containers/box/rollback?name=one", ""),
        ];
        one_by_one(host, &requests)
    }

    fn check(&self, host: &Daemon, told: usize) {
        let snapshots = find(host, "/stratus/containers/box/snapshots").expect("a list");
        assert!(told == 0 || snapshots.as_array().is_some_and(|all| all.len() == 1), "{snapshots:#}");
        if state(host)["Running"] == false {
            // It was ended to go back, and that is what its next start does.
            assert!(told < 2 && is_suspended(host), "its memory is lost: {:#}", state(host));
            start(host);
        }
        is_as_it_was(host);
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
    }
}

/// A container that does not run goes back to where its machine was saved, with the disk that it had then.
pub(crate) struct RollBack;

impl Step for RollBack {
    fn prepare(&mut self, host: &Daemon) {
        run_by(host, "no");
        done(host, "POST /stratus/containers/box/snapshots?name=one", "");
        host.slowly("docker exec box sh -c 'echo its own >/later; sync'").ok();
        done(host, "POST /containers/box/stop?t=0", "");
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /stratus/containers/box/rollback?name=one", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        if state(host)["Running"] == true {
            is_as_it_was(host);
            host.slowly("docker exec box cat /later").complains("No such file");
        } else {
            assert_eq!(told, 0, "it does not run: {:#}", state(host));
            // Who gives up where it was to go on from has what was its own.
            host.sh("docker stop box").ok();
            start(host);
            host.slowly("docker exec box cat /kept /later").says("on the disk\nits own");
        }
        let aside = format!("find {}/containers -name next -o -name former -o -name '*.new'", host.data().display());
        host.sh(&aside).says("");
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
    }
}

/// A machine is suspended, and goes on.
pub(crate) struct Suspend;

impl Step for Suspend {
    fn prepare(&mut self, host: &Daemon) {
        run(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        let requests = [("POST /stratus/containers/box/suspend", ""), ("POST /stratus/containers/box/resume", "")];
        one_by_one(host, &requests)
    }

    fn check(&self, host: &Daemon, told: usize) {
        if state(host)["Running"] == false {
            assert!(told < 2 && is_suspended(host), "its memory is lost: {:#}", state(host));
            start(host);
            return is_as_it_was(host);
        }
        is_as_it_was(host);
        if told == 0 {
            // It is as if nobody had wanted anything of it: its policy starts it again when it ends.
            host.sh("kill -9 $(docker inspect -f '{{.State.Pid}}' box)").ok();
            eventually("its restart", || state(host)["Running"] == true && is_started_again(host));
        }
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
    }
}

fn is_started_again(host: &Daemon) -> bool {
    find(host, "/containers/box/json").expect("the container")["RestartCount"] == 1
}

/// A machine is suspended; where it went on, as its daemon was killed, it ends before the next one comes.
#[derive(Default)]
pub(crate) struct SuspendAndEnd {
    process: String,
    went_on: PathBuf,
    /// What there was once the daemon was gone.
    found: Mutex<Option<Found>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Ended,
    WentOn,
    Rested,
}

impl Step for SuspendAndEnd {
    fn prepare(&mut self, host: &Daemon) {
        // One that ends by itself stays so.
        run_by(host, "no");
        let found = find(host, "/containers/box/json").expect("the container");
        self.process = found["State"]["Pid"].to_string();
        let id = &found["Id"].as_str().expect("an identifier")[..12];
        self.went_on = host.run_dir().join("machines").join(id).join("control/went-on");
        *self.found.lock().expect("nobody panics") = None;
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /stratus/containers/box/suspend", "")])
    }

    fn meanwhile(&self, host: &Daemon) {
        let runs = || std::path::Path::new("/proc").join(&self.process).join("exe").exists();
        let mut found = Found::Rested;
        // Of one that was not saved yet, nothing is heard.
        for _ in 0..100 {
            found = match (self.went_on.exists(), runs()) {
                (true, true) => Found::WentOn,
                (_, false) => Found::Ended,
                (false, true) => Found::Rested,
            };
            if found != Found::Rested {
                break;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
        if found != Found::Ended {
            host.sh(&format!("kill -9 {} || true", self.process)).ok();
        }
        *self.found.lock().expect("nobody panics") = Some(found);
    }

    fn check(&self, host: &Daemon, told: usize) {
        let found = *self.found.lock().expect("nobody panics");
        eventually("the end to be heard of", || state(host)["Running"] == false);
        match found {
            // Nobody killed the daemon, or it had done all.
            None | Some(Found::Ended) => assert!(is_suspended(host), "its memory is lost: {:#}", state(host)),
            Some(Found::WentOn) => {
                assert_eq!(told, 0);
                assert!(!is_suspended(host), "an end of its own was taken for the suspension");
                assert_eq!(state(host)["ExitCode"], 137);
            }
            Some(Found::Rested) => assert_eq!(told, 0),
        }
        if is_suspended(host) {
            start(host);
            is_as_it_was(host);
        }
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
    }
}

/// A machine goes on several times over.
pub(crate) struct Fork;

impl Step for Fork {
    fn prepare(&mut self, host: &Daemon) {
        run(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /stratus/containers/box/fork", r#"{"Count":2}"#)])
    }

    fn check(&self, host: &Daemon, told: usize) {
        is_as_it_was(host);
        let all = find(host, "/containers/json?all=1").expect("a list");
        let all = all.as_array().expect("a list");
        assert!(told == 0 || all.len() == 3, "a copy is gone: {all:#?}");
        // What was made is whole.
        for one in all {
            assert_eq!(one["State"], "running", "{one:#}");
            let id = one["Id"].as_str().expect("an identifier");
            has_what_it_had(host, id);
        }
    }

    fn clear(&self, host: &Daemon) {
        host.slowly("docker rm -f $(docker ps -aq)").ok();
    }
}

/// A machine is stopped, and removed.
pub(crate) struct End;

impl Step for End {
    fn prepare(&mut self, host: &Daemon) {
        run(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /containers/box/stop?t=0", ""), ("DELETE /containers/box", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        if find(host, "/containers/box/json").is_none() {
            // Told of or not: it was to go.
            assert!(told > 0, "it is gone, and was not even told to be stopped");
            return;
        }
        assert!(told < 2, "it is back");
        if state(host)["Running"] == true {
            assert_eq!(told, 0, "it runs: {:#}", state(host));
            // It may be about to die of the signal that it got, and be dead by now.
            let stopped = host.ask("POST /containers/box/stop?t=0", "").expect("an answer");
            assert!(matches!(stopped.status, 204 | 304), "{stopped:?}");
        }
        eventually("its end", || state(host)["Running"] == false);
        assert_eq!(state(host)["ExitCode"], 137);
        start(host);
        is_alive(host);
    }

    fn clear(&self, host: &Daemon) {
        remove(host);
    }
}
