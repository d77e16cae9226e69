//! The steps, and what has to hold after each of them was cut short.

use e2e::{Daemon, Registry, eventually};
use serde_json::{Value, json};

use crate::rounds::{Step, comes_to, settled};

/// Sends a request that has to work.
#[track_caller]
pub(crate) fn done(host: &Daemon, request: &str, body: &str) -> Value {
    let reply = host.ask(request, body).expect("an answer");
    assert!((200..300).contains(&reply.status), "{request}: {reply:?}");
    if reply.body.is_empty() { Value::Null } else { reply.json() }
}

/// Sends requests until one is not told to be done; how many were.
pub(crate) fn one_by_one(host: &Daemon, requests: &[(&str, &str)]) -> usize {
    let told = |(request, body): &&(&str, &str)| match host.ask(request, body) {
        Ok(reply) => {
            assert!((200..300).contains(&reply.status), "{request}: {reply:?}");
            true
        }
        Err(_) => false,
    };
    requests.iter().take_while(told).count()
}

/// What there is, or `None` where nobody has it.
#[track_caller]
pub(crate) fn find(host: &Daemon, path: &str) -> Option<Value> {
    let reply = host.ask(&format!("GET {path}"), "").expect("an answer");
    assert!(matches!(reply.status, 200 | 404), "{path}: {reply:?}");
    (reply.status == 200).then(|| reply.json())
}

/// Makes the container `box`: with a port, volumes of every kind, memory that it shares, and a server.
fn create_box(host: &Daemon) {
    done(host, "POST /containers/create?name=box", &specification(host));
}

fn specification(host: &Daemon) -> String {
    let port = host.port().to_string();
    json!({
        "Image": "busybox",
        "Cmd": ["httpd", "-f", "-p", "80", "-h", "/etc"],
        "Volumes": { "/anonymous": {} },
        "ExposedPorts": { "80/tcp": {} },
        "HostConfig": {
            "Binds": ["data:/data"],
            "IpcMode": "shareable",
            "Mounts": [{ "Type": "volume", "Source": "memory", "Target": "/memory", "VolumeOptions": {
                "DriverConfig": { "Name": "local", "Options": { "type": "tmpfs", "device": "tmpfs" } } } }],
            "PortBindings": { "80/tcp": [{ "HostPort": port }] },
        },
    })
    .to_string()
}

/// Has the daemon make what it keeps from the first container on.
pub(crate) fn warm_up(host: &Daemon) {
    run_box(host);
    remove_box(host);
}

fn run_box(host: &Daemon) {
    create_box(host);
    done(host, "POST /containers/box/start", "");
}

fn remove_box(host: &Daemon) {
    if find(host, "/containers/box/json").is_some() {
        done(host, "DELETE /containers/box?force=1&v=1", "");
    }
    for path in ["/volumes/data", "/volumes/memory"] {
        if find(host, path).is_some() {
            done(host, &format!("DELETE {path}"), "");
        }
    }
}

/// `box` runs, and everything about it works.
#[track_caller]
fn is_alive(host: &Daemon) {
    host.sh("docker inspect -f '{{.State.Status}}' box").says("running");
    host.sh("docker exec box sh -c 'touch /data/x /memory/x /anonymous/x && cat /etc/group | head -n 1'")
        .says("root:x:0:");
    eventually("the server", || host.sh("curl -s -m 5 http://127.0.0.1:$PORT/group").stdout().starts_with("root:x:0:"));
}

/// An image of its own comes from a registry.
#[derive(Default)]
pub(crate) struct Pull(Option<(Registry, String)>);

impl Pull {
    fn image(&self) -> &str {
        &self.0.as_ref().expect("it began").1
    }
}

impl Step for Pull {
    fn begin(&mut self, host: &Daemon) {
        let registry = Registry::start(host);
        let name = format!("{}/pulled", registry.name());
        host.sh(&format!(
            "docker run --name base busybox sh -c 'head -c 3000000 /dev/urandom > /noise; mkdir /many; \
                for n in $(seq 200); do echo $n > /many/$n; done; find /noise /many -type f | xargs sha256sum > /sums' \
             && docker export base | docker import - base \
             && docker run --name more base /bin/sh -c 'head -c 1000000 /dev/urandom > /more; sha256sum /more >> /sums' \
             && docker commit -c 'CMD [\"/bin/sha256sum\", \"-c\", \"-s\", \"/sums\"]' more {name} && docker push -q {name} \
             && docker rm base more && docker rmi {name} base"
        ))
        .ok();
        self.0 = Some((registry, name));
    }

    fn act(&self, host: &Daemon) -> usize {
        let Ok(reply) = host.ask(&format!("POST /images/create?fromImage={}&tag=latest", self.image()), "") else {
            return 0;
        };
        assert!(reply.status == 200 && !reply.text().contains("errorDetail"), "{reply:?}");
        usize::from(reply.text().contains("Status: Downloaded newer image"))
    }

    fn check(&self, host: &Daemon, told: usize) {
        let image = self.image();
        if find(host, &format!("/images/{image}/json")).is_none() {
            assert_eq!(told, 0, "the image is gone");
            host.sh(&format!("docker pull -q {image}")).ok();
        }
        host.sh(&format!("docker run --rm --network none {image}")).ok();
    }

    fn clear(&self, host: &Daemon) {
        host.sh(&format!("docker rmi {}", self.image())).ok();
    }
}

/// A container is made.
pub(crate) struct Create;

impl Step for Create {
    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /containers/create?name=box", &specification(host))])
    }

    fn check(&self, host: &Daemon, told: usize) {
        match find(host, "/containers/box/json") {
            Some(found) => {
                assert_eq!(found["State"]["Status"], "created");
                done(host, "POST /containers/box/start", "");
            }
            None => {
                assert_eq!(told, 0, "the container is gone");
                run_box(host);
            }
        }
        is_alive(host);
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// A container is started.
#[derive(Default)]
pub(crate) struct Start {
    made: Vec<String>,
}

impl Step for Start {
    fn prepare(&mut self, host: &Daemon) {
        create_box(host);
        self.made = settled(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /containers/box/start", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        let found = find(host, "/containers/box/json").expect("the container");
        if found["State"]["Running"] == false {
            assert_eq!(told, 0, "it does not run: {found:#}");
            assert_eq!(found["State"]["Status"], "created");
            comes_to(host, &self.made);
            done(host, "POST /containers/box/start", "");
        }
        is_alive(host);
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// A container is stopped, which takes a SIGKILL.
#[derive(Default)]
pub(crate) struct Stop {
    made: Vec<String>,
}

impl Step for Stop {
    fn prepare(&mut self, host: &Daemon) {
        create_box(host);
        self.made = settled(host);
        done(host, "POST /containers/box/start", "");
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /containers/box/stop?t=0", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        let found = find(host, "/containers/box/json").expect("the container");
        if found["State"]["Running"] == true {
            assert_eq!(told, 0, "it runs: {found:#}");
            // It may be about to die of the signal that it got, and be dead by now.
            let stopped = host.ask("POST /containers/box/stop?t=0", "").expect("an answer");
            assert!(matches!(stopped.status, 204 | 304), "{stopped:?}");
        }
        let found = find(host, "/containers/box/json").expect("the container");
        assert_eq!((&found["State"]["Status"], &found["State"]["ExitCode"]), (&json!("exited"), &json!(137)));
        comes_to(host, &self.made);
        done(host, "POST /containers/box/start", "");
        is_alive(host);
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// A container ends, and goes with its volumes as it was told to (`run --rm`).
pub(crate) struct EndForGood;

impl Step for EndForGood {
    fn prepare(&mut self, host: &Daemon) {
        let mut brief: Value = serde_json::from_str(&specification(host)).expect("JSON");
        brief["HostConfig"]["AutoRemove"] = true.into();
        done(host, "POST /containers/create?name=box", &brief.to_string());
        done(host, "POST /containers/box/start", "");
    }

    fn act(&self, host: &Daemon) -> usize {
        if one_by_one(host, &[("POST /containers/box/kill", "")]) == 0 {
            return 0;
        }
        match host.ask("POST /containers/box/wait?condition=removed", "") {
            // It may be gone by now.
            Ok(reply) if reply.status == 404 || reply.text().contains("StatusCode") => 2,
            _ => 1,
        }
    }

    fn check(&self, host: &Daemon, told: usize) {
        if let Some(found) = find(host, "/containers/box/json") {
            assert!(told < 2, "it is back: {found:#}");
            if told == 0 {
                // It runs on, or is about to be gone.
                let reply = host.ask("POST /containers/box/kill", "").expect("an answer");
                assert!(matches!(reply.status, 204 | 404 | 409), "{reply:?}");
            }
        }
        eventually("its removal", || find(host, "/containers/box/json").is_none());
        // Those that have a name stay.
        host.sh("docker volume ls -q").says("data\nmemory");
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// A container ends, and then the keeper does, as when the machine is booted: nobody but the store knows of its end. What it
/// used is counted once.
#[derive(Default)]
pub(crate) struct EndWithKeeper {
    stays: Vec<u32>,
}

impl Step for EndWithKeeper {
    fn prepare(&mut self, host: &Daemon) {
        run_box(host);
        // They began anew with the daemon.
        self.stays = vec![host.keeper(), host.forwarder()];
    }

    fn act(&self, host: &Daemon) -> usize {
        let requests = [("POST /containers/box/kill", ""), ("POST /containers/box/wait", "")];
        one_by_one(host, &requests)
    }

    fn meanwhile(&self, host: &Daemon) {
        let stays: Vec<_> = self.stays.iter().map(u32::to_string).collect();
        let run = host.run_dir();
        let run = run.display();
        host.sh(&format!("kill -9 {}; umount -q {run}/shm/*; rm -r {run}/*", stays.join(" "))).ok();
    }

    fn check(&self, host: &Daemon, told: usize) {
        let found = find(host, "/containers/box/json").expect("the container");
        assert!(told < 2 || found["State"]["Status"] == "exited", "{found:#}");
        if found["State"]["Running"] == true {
            // Nobody has killed the keeper, or the daemon is about to hear of it.
            let _ = host.ask("POST /containers/box/stop?t=0", "").expect("an answer");
        }
        let id = found["Id"].as_str().expect("an identifier");
        // What was not recorded is looked for in the daemon's own time.
        let query = format!("/stratus/usage?filters=%7B%22container%22%3A%5B%22{id}%22%5D%7D");
        let counted = || find(host, &query).expect("what was used");
        eventually("its run to be counted", || counted()["Total"]["Running"] == 0);
        assert_eq!(counted()["Total"]["Runs"], 1, "{:#}", counted());
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// A container that runs is removed with its volumes.
pub(crate) struct Remove;

impl Step for Remove {
    fn prepare(&mut self, host: &Daemon) {
        run_box(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("DELETE /containers/box?force=1&v=1", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        if find(host, "/containers/box/json").is_some() {
            assert_eq!(told, 0, "it is back");
            done(host, "POST /containers/box/restart?t=0", "");
            is_alive(host);
        }
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// Runs a program in `box` that leaves something there: how many of its requests the client was told to be done.
pub(crate) fn exec(host: &Daemon) -> usize {
    let command = json!({ "AttachStdout": true, "Cmd": ["sh", "-c", "echo proof > /proof; echo finished"] });
    let Ok(made) = host.ask("POST /containers/box/exec", &command.to_string()) else { return 0 };
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.json()["Id"].as_str().expect("an identifier").to_owned();
    let Ok(ran) = host.ask(&format!("POST /exec/{id}/start"), r#"{"Detach":false,"Tty":false}"#) else { return 1 };
    1 + usize::from(ran.text().contains("finished"))
}

/// A program is run in a container.
pub(crate) struct Exec;

impl Step for Exec {
    fn prepare(&mut self, host: &Daemon) {
        run_box(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        exec(host)
    }

    fn check(&self, host: &Daemon, told: usize) {
        is_alive(host);
        if told == 2 {
            host.sh("docker exec box cat /proof").says("proof");
        }
        eventually("it to be alone", || host.sh("docker top box -o pid,comm").lines().len() == 2);
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// A container that runs becomes an image, and stands still meanwhile.
pub(crate) struct Commit;

impl Step for Commit {
    fn prepare(&mut self, host: &Daemon) {
        run_box(host);
        host.sh("docker exec box sh -c 'head -c 100000 /dev/urandom > /made; sha256sum /made > /sum'").ok();
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /commit?container=box&repo=made&tag=1&pause=1", "{}")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        is_alive(host);
        match find(host, "/images/made:1/json") {
            Some(_) => {
                host.sh("docker run --rm --network none made:1 sha256sum -c -s /sum").ok();
            }
            None => assert_eq!(told, 0, "the image is gone"),
        }
    }

    fn clear(&self, host: &Daemon) {
        if find(host, "/images/made:1/json").is_some() {
            done(host, "DELETE /images/made:1", "");
        }
        remove_box(host);
    }
}

/// A container is paused, and goes on.
pub(crate) struct Pause;

impl Step for Pause {
    fn prepare(&mut self, host: &Daemon) {
        run_box(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &[("POST /containers/box/pause", ""), ("POST /containers/box/unpause", "")])
    }

    fn check(&self, host: &Daemon, told: usize) {
        let found = find(host, "/containers/box/json").expect("the container");
        match (found["State"]["Status"].as_str(), told) {
            (Some("paused"), 0 | 1) => {
                done(host, "POST /containers/box/unpause", "");
            }
            (Some("running"), 0..=2) => {}
            _ => panic!("it is wrong: {found:#}"),
        }
        is_alive(host);
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
    }
}

/// A network and a volume are made, used and removed.
pub(crate) struct Things;

impl Things {
    const REQUESTS: [(&str, &str); 6] = [
        ("POST /networks/create", r#"{"Name":"net"}"#),
        ("POST /volumes/create", r#"{"Name":"volume"}"#),
        ("POST /networks/net/connect", r#"{"Container":"box","EndpointConfig":{"GwPriority":5}}"#),
        ("POST /networks/net/disconnect", r#"{"Container":"box"}"#),
        ("DELETE /networks/net", ""),
        ("DELETE /volumes/volume", ""),
    ];
}

impl Step for Things {
    fn prepare(&mut self, host: &Daemon) {
        run_box(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        one_by_one(host, &Self::REQUESTS)
    }

    fn check(&self, host: &Daemon, told: usize) {
        is_alive(host);
        // Made by one request and taken away by another: in between it has to be there.
        let agrees = |what: &str, is_there: bool, made: usize, gone: usize| {
            let wrong = (is_there && (told < made || told > gone)) || (!is_there && told > made && told < gone);
            assert!(!wrong, "{what} is there: {is_there}");
        };
        agrees("the network", find(host, "/networks/net").is_some(), 0, 4);
        agrees("the volume", find(host, "/volumes/volume").is_some(), 1, 5);
        let found = find(host, "/containers/box/json").expect("the container");
        let connected = found["NetworkSettings"]["Networks"]["net"].is_object();
        agrees("its place on the network", connected, 2, 3);
        let links = if connected { 3 } else { 2 };
        eventually("its links", || host.sh("docker exec box ls /sys/class/net").lines().len() == links);
        // The network that is preferred has the default route, as long as it is there.
        let link = if connected { "eth1" } else { "eth0" };
        host.sh("docker exec box ip route show default").mentions(&format!("dev {link}"));
    }

    fn clear(&self, host: &Daemon) {
        remove_box(host);
        for (path, is_there) in ["/networks/net", "/volumes/volume"].map(|path| (path, find(host, path).is_some())) {
            if is_there {
                done(host, &format!("DELETE {path}"), "");
            }
        }
    }
}
