//! Filters of system calls that ask somebody: `SCMP_ACT_NOTIFY`.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::thread;

use e2e::Daemon;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::Value;

/// What a container's process asks before it makes a directory.
const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"AGENT","listenerMetadata":"of mine",
    "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_NOTIFY"}]}"#;

fn with_profile(host: &Daemon) -> UnixListener {
    let agent = host.work().join("agent.sock");
    std::fs::write(host.work().join("profile.json"), PROFILE.replace("AGENT", agent.to_str().unwrap())).unwrap();
    UnixListener::bind(&agent).unwrap()
}

/// What the next container says of itself, and its notifications.
fn receive(agent: &UnixListener) -> (Value, OwnedFd) {
    let (connection, _) = agent.accept().unwrap();
    let mut bytes = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(&connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty())
            .unwrap();
    let message = serde_json::from_slice(&bytes[..received.bytes]).unwrap();
    let descriptors = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    (message, descriptors.expect("a descriptor"))
}

#[test]
fn an_agent_is_asked_by_containers_and_what_is_run_in_them() {
    let host = Daemon::start();
    let agent = with_profile(&host);
    let agent = thread::spawn(move || {
        let (first, listener) = receive(&agent);
        // Who asks waits for an answer. Without anybody to give it, a call fails as if the kernel did not have it.
        drop(listener);
        let (second, listener) = receive(&agent);
        drop(listener);
        (first, second)
    });
    host.sh("docker run -d --name box --annotation purpose=trial --security-opt seccomp=profile.json busybox \
         sh -c 'mkdir /made; echo said; exec sleep 1000'")
        .ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").number();
    let id = host.sh("docker inspect -f '{{.Id}}' box").text().to_owned();
    host.sh("docker exec box mkdir /made").exits_with(1).complains("Function not implemented");
    let (first, second) = agent.join().unwrap();
    for message in [&first, &second] {
        assert_eq!(message["fds"], serde_json::json!(["seccompFd"]), "{message:#}");
        assert_eq!(message["metadata"], "of mine");
        assert_eq!(message["state"]["id"], *id);
        assert_eq!(message["state"]["pid"], pid);
    }
    assert_eq!(first["pid"], pid);
    assert_eq!(first["state"]["status"], "creating");
    assert_ne!(second["pid"], pid);
    assert_eq!(second["state"]["status"], "running");
    e2e::eventually("its word", || host.sh("docker logs box").stdout() == "said\n");
    let refused = host.sh("docker exec box ls -d /made");
    assert!(refused.exits_with(126).stdout().contains("cannot connect to the seccomp agent at"), "{refused}");
    host.sh("docker rm -f box").ok();
}

#[test]
fn without_its_agent_nothing_starts() {
    let host = Daemon::start();
    drop(with_profile(&host));
    host.sh("docker run --name box --security-opt seccomp=profile.json busybox true")
        .exits_with(125)
        .complains("cannot connect to the seccomp agent at")
        .complains("Connection refused");
    host.sh("docker inspect -f '{{.State.Status}}' box").says("created");
    host.sh("rm agent.sock; docker start box").complains("No such file or directory");
    let _agent = UnixListener::bind(host.work().join("agent.sock")).unwrap();
    host.sh("docker start box && docker wait box").says("box\n0");
}
