//! What a person looks at and changes in a machine from outside: files, what runs, the network, names.

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;

use guest_protocol::configuration::{Found, Identity, Interface, Machine as Configuration, Route, Volume, VolumeKind};
use guest_protocol::files::{At, Attributes, FileReply, FileRequest, Handle, Make, Stat, Tree};
use guest_protocol::message::{Blob, Failure, Reply, Request, Streams};
use guest_protocol::observe::{MEMORY_COUNTERS, RunningProcess};
use serde_json::json;
use support::{BOX, Machine, init, spec};

fn at(path: &str) -> At {
    At { tree: Tree::Root, path: Blob(path.into()) }
}

fn stat(machine: &mut Machine, at: At) -> Stat {
    match machine.file(FileRequest::Stat(at)) {
        Ok(FileReply::Stat(stat)) => stat,
        other => panic!("{other:?}"),
    }
}

fn opened(machine: &mut Machine, request: FileRequest) -> Handle {
    match machine.file(request) {
        Ok(FileReply::Opened(handle, _)) => handle,
        other => panic!("{other:?}"),
    }
}

fn names(machine: &mut Machine, at: At) -> Vec<String> {
    match machine.file(FileRequest::List { at, skip: 0 }) {
        Ok(FileReply::Entries { entries, more: false }) => {
            entries.into_iter().map(|(name, _)| String::from_utf8(name.0).unwrap()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_go_in_and_come_out() {
    let mut machine = Machine::with_box();
    let main = machine.start(&["cat"]);
    machine.sh("mkdir -p /data/below; echo secret >/data/file; chmod 640 /data/file; chown 7:8 /data/file; ln -s file /data/link");
    let file = stat(&mut machine, at("/data/file"));
    assert_eq!((file.mode & 0o7777, file.owner, file.size), (0o640, (7, 8), 7));
    assert_eq!(names(&mut machine, at("data")), ["below", "file", "link"]);
    let link = machine.file(FileRequest::ReadLink(at("/data/link")));
    assert_eq!(link, Ok(FileReply::Link(Blob(b"file".to_vec()))));
    // By way of a link, which is read as the container would.
    let handle = opened(&mut machine, FileRequest::Open(at("/data/link")));
    let read = machine.file(FileRequest::Read { handle, offset: 2, length: 100 });
    assert_eq!(read, Ok(FileReply::Bytes(Blob(b"cret\n".to_vec()))));
    machine.file(FileRequest::Close(handle)).unwrap();
    assert!(machine.file(FileRequest::Read { handle, offset: 0, length: 1 }).is_err());

    let attributes = Attributes {
        mode: Some(0o4755),
        owner: Some((5, 6)),
        modified: Some((1_000_000_000, 5)),
        extended: vec![(Blob(b"user.note".to_vec()), Blob(b"mine".to_vec()))],
    };
    machine.file(FileRequest::Make { at: at("/new"), what: Make::Directory, attributes: attributes.clone() }).unwrap();
    let create = FileRequest::Create { at: at("/new/program"), attributes: attributes.clone() };
    let handle = opened(&mut machine, create);
    let bytes = Blob(vec![b'x'; 200_000]);
    machine.file(FileRequest::Write { handle, offset: 0, bytes }).unwrap();
    machine.file(FileRequest::Close(handle)).unwrap();
    machine.file(FileRequest::Set { at: at("/new/program"), attributes: attributes.clone() }).unwrap();
    let what = Make::HardLink { to: at("/new/program") };
    machine.file(FileRequest::Make { at: at("/new/same"), what, attributes: Attributes::default() }).unwrap();
    let what = Make::Link { to: Blob(b"/etc/passwd".to_vec()) };
    machine.file(FileRequest::Make { at: at("/new/link"), what, attributes: Attributes::default() }).unwrap();
    let what = Make::Node { kind: libc::S_IFIFO, device: 0 };
    machine.file(FileRequest::Make { at: at("/new/pipe"), what, attributes: Attributes::default() }).unwrap();
    machine.file(FileRequest::Sync(Tree::Changes)).unwrap();
    assert_eq!(machine.sh("stat -c '%a %u:%g %s %Y %h' /new/program"), "4755 5:6 200000 1000000000 2\n");
    assert_eq!(machine.sh("readlink /new/link; stat -c %F /new/pipe"), "/etc/passwd\nfifo\n");
    assert_eq!(stat(&mut machine, at("/new/program")).extended, attributes.extended);
    // Who opens a pipe would wait for its other end.
    assert!(matches!(machine.file(FileRequest::Open(at("/new/pipe"))), Err(Failure::Refused { .. })));

    // What was changed lies apart.
    let changes = |path: &str| At { tree: Tree::Changes, path: Blob(path.into()) };
    let changed = names(&mut machine, changes("/"));
    assert!(changed.contains(&"new".to_owned()) && !changed.contains(&"bin".to_owned()), "{changed:?}");
    machine.file(FileRequest::Remove(at("/new"))).unwrap();
    machine.file(FileRequest::Remove(at("/new"))).unwrap();
    assert!(machine.file(FileRequest::Stat(at("/new"))).is_err());
    machine.host.close_stdin(main);
    machine.outcome(main);
    // Of one that does not run any more, too.
    assert_eq!(stat(&mut machine, at("/data/file")).size, 7);
}

#[test]
fn no_path_leads_out_of_a_container() {
    let mut machine = Machine::with_box();
    let main = machine.start(&["cat"]);
    machine.sh("ln -s /../../../../.. /up; ln -s /proc/1/root /root; ln -s ../../../../etc /tmp/etc");
    let inside = stat(&mut machine, at("/bin/busybox"));
    for way in ["/up/bin/busybox", "/../../bin/busybox", "tmp/../../bin/busybox"] {
        assert_eq!(stat(&mut machine, at(way)).inode, inside.inode, "{way}");
    }
    // /proc's own links lead wherever they like.
    assert!(machine.file(FileRequest::Stat(at("/root/bin"))).is_err());
    let refused = machine.file(FileRequest::Remove(at("/..")));
    assert!(matches!(refused, Err(Failure::Refused { .. })), "{refused:?}");
    machine.host.close_stdin(main);
    machine.outcome(main);
}

#[test]
fn what_runs_and_what_it_uses() {
    let mut machine = Machine::with_box();
    let main = machine.start(&["sh", "-c", "sleep 1000 & echo ready; while :; do :; done"]);
    machine.shows(main, "ready");
    let is_sleep = |process: &RunningProcess| process.command == "sleep 1000" && process.state == b'S';
    let mut processes = Vec::new();
    machine.until("it sleeps", |machine| {
        processes = match machine.ask(Request::Processes { container: BOX }) {
            Ok(Reply::Processes(processes)) => processes,
            other => panic!("{other:?}"),
        };
        processes.iter().any(is_sleep)
    });
    let sleep = processes.iter().find(|process| is_sleep(process)).unwrap();
    let shell = processes.iter().find(|process| process.inner == 1).unwrap();
    assert_eq!((sleep.parent, shell.uid, processes.len()), (shell.pid, 0, 2));

    machine.ask(Request::Freeze { container: BOX, frozen: true }).unwrap();
    let used = |machine: &mut Machine| match machine.ask(Request::Stats { container: BOX }) {
        Ok(Reply::Stats(stats)) => stats,
        other => panic!("{other:?}"),
    };
    let Ok(Reply::Memory(memory)) = machine.ask(Request::Memory { container: BOX }) else { panic!("no answer") };
    // A control group of this host's need not count memory.
    let counted: BTreeMap<_, _> = MEMORY_COUNTERS.into_iter().zip(memory.counters).collect();
    assert!(memory.machine_cached > 0 && (counted["anon"] > 0) == (counted["pgfault"] > 0), "{counted:?}");
    let (first, second) = (used(&mut machine), used(&mut machine));
    assert_eq!(first.cpu[0], second.cpu[0], "it stands still");
    assert!(first.machine_memory[0] > first.machine_memory[2] && first.machine_memory[2] > 0);
    machine.ask(Request::Freeze { container: BOX, frozen: false }).unwrap();
    machine.until("it goes on", |machine| used(machine).cpu[0] > first.cpu[0]);
}

fn interface(name: &str, mac: [u8; 6], address: &str, by: &str) -> Interface {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Interface {
        found: Found::Name(name.to_owned()),
        name: "eth0".into(),
        mac: Some(mac),
        mtu: Some(1400),
        addresses: vec![(ip(address), 24), (ip("fd00::7"), 64)],
        routes: vec![Route { to: (ip("0.0.0.0"), 0), by: Some(ip(by)) }, Route { to: (ip("10.9.0.0"), 16), by: None }],
    }
}

#[test]
fn its_network_is_what_it_is_told_and_another_after_a_snapshot() {
    let mut machine = Machine::with("ip link add nic type veth peer name other; ip link set other up;");
    let mut configuration = Configuration::default();
    configuration.identity.interfaces.push(interface("nic", [2, 0, 0, 0, 0, 1], "10.1.2.3", "10.1.2.1"));
    machine.configure(configuration);
    machine.make_box();
    let main = machine.start(&["cat"]);
    let shown = machine.sh("ip addr show eth0; ip route; ip addr show lo");
    for part in ["mtu 1400", "link/ether 02:00:00:00:00:01", "inet 10.1.2.3/24", "inet6 fd00::7/64", "127.0.0.1/8"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.contains("default via 10.1.2.1 dev eth0") && shown.contains("10.9.0.0/16 dev eth0"), "{shown}");
    let mut other = interface("eth0", [2, 0, 0, 0, 0, 9], "10.1.2.99", "10.1.2.2");
    other.routes.truncate(1);
    // It stays up, so that its routes do.
    other.mac = None;
    let identity = Identity { interfaces: vec![other], entropy: Blob(vec![7; 64]), ..Identity::default() };
    machine.ask(Request::Renew(Box::new(identity))).unwrap();
    let shown = machine.sh("ip addr show eth0; ip route");
    for part in ["inet 10.1.2.99/24", "default via 10.1.2.2 dev eth0"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("10.1.2.3/24") && !shown.contains("10.9.0.0"), "{shown}");
    // With another hardware address it goes down for a moment.
    let identity = Identity {
        interfaces: vec![interface("eth0", [2, 0, 0, 0, 0, 9], "10.1.2.99", "10.1.2.2")],
        ..Identity::default()
    };
    machine.ask(Request::Renew(Box::new(identity))).unwrap();
    let shown = machine.sh("ip addr show eth0; ip route");
    for part in ["link/ether 02:00:00:00:00:09", "inet6 fd00::7/64", "default via 10.1.2.2 dev eth0", "10.9.0.0/16"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    machine.host.close_stdin(main);
    machine.outcome(main);
}

/// An answer to any question for an address: 10.11.12.13. To one for another kind: there is none.
fn answer(query: &[u8]) -> Vec<u8> {
    let end = query.len();
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let mut answer = query.to_vec();
    answer[2] |= 0x84;
    if kind == 1 {
        answer[7] = 1;
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 11, 12, 13]);
    }
    answer
}

#[test]
fn names_are_the_hosts_to_know() {
    let mut machine = Machine::new();
    machine.configure(Configuration { names: true, ..Configuration::default() });
    machine.make_box();
    let main = machine.start(&["cat"]);
    let lookup = machine.exec(&["nslookup", "web.shop", "127.0.0.11"]);
    machine.until("it ends", |machine| {
        while let Some((number, tcp, query)) = machine.names.pop_front() {
            assert!(!tcp && query.windows(9).any(|part| part == b"\x03web\x04shop"), "{query:?}");
            machine.host.answer_name(number, answer(&query)).unwrap();
        }
        machine.exits.contains_key(&lookup)
    });
    let shown = machine.outcome(lookup).stdout;
    assert!(shown.contains("10.11.12.13"), "{shown}");
    // By TCP: its length, and a question.
    let question = r"printf '\0\021\0\5\1\0\0\1\0\0\0\0\0\0\0\0\1\0\1' | nc 127.0.0.11 53 | od -An -tx1";
    let asking = machine.exec(&["sh", "-c", question]);
    machine.until("it asks", |machine| !machine.names.is_empty());
    let (number, tcp, query) = machine.names.pop_front().unwrap();
    assert!(tcp && query.len() == 17, "{query:?}");
    machine.host.answer_name(number, vec![1, 2, 3]).unwrap();
    machine.until("it ends", |machine| {
        let answered = !machine.output(asking, guest_protocol::message::Stream::Stdout).is_empty();
        machine.exits.contains_key(&asking) || answered
    });
    assert!(machine.outcome(asking).stdout.starts_with(" 00 03 01 02 03"));
    machine.host.close_stdin(main);
    machine.outcome(main);
}

#[test]
fn volumes_of_memory_are_mounted_by_the_plan() {
    let mut machine = Machine::new();
    machine.configure(Configuration::default());
    let mut root = machine.box_root();
    root.volumes.push(Volume {
        name: "cache".into(),
        kind: VolumeKind::Memory { size: 1 << 20 },
        readonly: false,
        options: "mode=700".into(),
    });
    root.limits.push(("cgroup.max.depth".into(), "3".into()));
    machine.ask(Request::MakeRoot(Box::new(root.clone()))).unwrap();
    // The same again is the same; something else is refused.
    machine.ask(Request::MakeRoot(Box::new(root.clone()))).unwrap();
    root.volumes.clear();
    assert!(matches!(machine.ask(Request::MakeRoot(Box::new(root))), Err(Failure::Refused { .. })));
    let mut spec = spec(&["sh", "-c", "stat -c %a /cache; df -k /cache | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2"]);
    let mount = json!({ "destination": "/cache", "type": "bind", "source": "/run/volumes/cache", "options": ["bind"] });
    spec["mounts"].as_array_mut().unwrap().push(mount);
    let start = machine.begin(init(&spec), Streams::Pipes { stdin: false });
    let process = machine.started(start).unwrap();
    assert_eq!(machine.outcome(process).stdout, "700\n1024\n");
}
