//! Whatever arrives on the socket, the keeper goes on.

mod support;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use keeper::client::{Attach, ClientError, List};
use keeper::protocol::{ExitStatus, Failure, Framing, FromKeeper, PROTOCOL, Request, ToKeeper};
use keeper::wire::{self, Packet, ReceiveBuffer};
use proptest::prelude::*;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType};
use support::*;

fn raw_connection(run_dir: &Path) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(run_dir.join("keeper.sock")).unwrap()).unwrap();
    socket
}

fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[OwnedFd]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    // The keeper may have hung up already, which is its right.
    _ = rustix::net::sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
}

fn receive(socket: &OwnedFd) -> Option<FromKeeper> {
    let mut fds = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
    wire::receive(socket.as_fd(), &mut ReceiveBuffer::default()).ok().flatten().map(|message| message.0)
}

fn hello() -> Packet {
    Packet::encode(&ToKeeper::Hello { protocol: PROTOCOL }, Vec::new()).unwrap()
}

#[test]
fn who_does_not_greet_is_not_served() {
    let (keeper, _client) = Keeper::start();
    let socket = raw_connection(keeper.run_dir());
    let request = ToKeeper::Request { number: 1, body: Request::Shutdown { kill: true } };
    Packet::encode(&request, Vec::new()).unwrap().send(socket.as_fd()).unwrap();
    assert!(matches!(receive(&socket), Some(FromKeeper::Refused { .. })));
    assert_eq!(receive(&socket), None);
}

#[test]
fn another_version_is_refused_but_may_greet_again() {
    let (keeper, _client) = Keeper::start();
    let socket = raw_connection(keeper.run_dir());
    let greeting = ToKeeper::Hello { protocol: PROTOCOL + 1 };
    Packet::encode(&greeting, Vec::new()).unwrap().send(socket.as_fd()).unwrap();
    assert!(matches!(receive(&socket), Some(FromKeeper::Refused { protocol: PROTOCOL, .. })));
    hello().send(socket.as_fd()).unwrap();
    assert!(matches!(receive(&socket), Some(FromKeeper::Welcome { .. })));
}

#[test]
fn a_body_must_be_in_a_sealed_memory_file() {
    let (keeper, mut client) = Keeper::start();
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    let file: OwnedFd = std::fs::File::open("/etc/passwd").unwrap().into();
    let unsealed = rustix::fs::memfd_create(c"body", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    for descriptors in [vec![], vec![reader], vec![file], vec![unsealed]] {
        let socket = raw_connection(keeper.run_dir());
        send(&socket, &[1, 7, 0, 0, 0, 0, 0, 0, 0], &descriptors);
        assert_eq!(receive(&socket), None);
    }
    let socket = raw_connection(keeper.run_dir());
    send(&socket, &[1], &[]);
    assert_eq!(receive(&socket), None);
    assert!(client.call(List).unwrap().is_empty());
}

#[test]
fn a_request_whose_descriptors_find_no_room_is_answered() {
    use rustix::process::{Pid, Resource, Rlimit};
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "sleep 1000")).unwrap();
    let pid = Pid::from_raw(keeper.pid.cast_signed());
    // The keeper has the soft limit at the hard one, which is the test's own, too: only the soft one is lowered.
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let limit = |current| Rlimit { current, maximum: hard };
    rustix::process::prlimit(pid, Resource::Nofile, limit(Some(3))).unwrap();
    let (sink, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let options = everything(false, Framing::Raw);
    let attach = Attach { id: "job".into(), options, sink: sink.into() };
    let no_room = |failure| matches!(failure, ClientError::Failed(Failure::System { errno, .. }) if errno == rustix::io::Errno::MFILE.raw_os_error());
    assert!(no_room(client.call(attach).unwrap_err()));
    // One whose body is a descriptor as well.
    let long = keeper::client::Create { plan: vec![0xff; 5_000_000], ..shell("long", "true") };
    assert!(no_room(client.call(long).unwrap_err()));
    rustix::process::prlimit(pid, Resource::Nofile, limit(hard)).unwrap();
    assert_eq!(run(&mut client, shell("other", "exit 3")), ExitStatus::Code(3));
}

#[test]
fn messages_of_any_length_arrive() {
    let (_keeper, mut client) = Keeper::start();
    for size in [10, 60_000, 70_000, 5_000_000] {
        let create = keeper::client::Create { plan: vec![0xff; size], ..shell("job", "true") };
        let refused = client.call(create);
        assert!(matches!(refused, Err(ClientError::Failed(Failure::Invalid { .. }))), "{size}");
    }
    for number in 0..600 {
        client
            .call(shell(&format!("a-rather-long-name-for-a-thing-that-exists-only-to-be-listed-{number}"), "true"))
            .unwrap();
    }
    assert_eq!(client.call(List).unwrap().len(), 600);
}

#[test]
fn a_daemon_that_does_not_read_is_cut_off() {
    let (keeper, mut client) = Keeper::start();
    let deaf = raw_connection(keeper.run_dir());
    hello().send(deaf.as_fd()).unwrap();
    // Each failing request is answered by a few hundred bytes that nobody takes.
    let request = ToKeeper::Request { number: 1, body: Request::Inspect { id: "x".repeat(128) } };
    let request = Packet::encode(&request, Vec::new()).unwrap();
    let mut fds = [rustix::event::PollFd::new(&deaf, rustix::event::PollFlags::OUT)];
    loop {
        rustix::event::poll(&mut fds, None).unwrap();
        if request.send(deaf.as_fd()).is_err_and(|error| !error.would_block()) {
            break;
        }
    }
    assert!(client.call(List).unwrap().is_empty());
}

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    // Valid beginnings with damage in them get deeper than noise does.
    let number = any::<u8>();
    let valid =
        (0u8..17, any::<[u8; 6]>(), proptest::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, head, tail)| {
            let mut bytes = vec![0, 2, 1, kind];
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(&tail);
            bytes
        });
    let noise = proptest::collection::vec(any::<u8>(), 1..400);
    prop_oneof![3 => valid, 1 => noise, 1 => number.prop_map(|byte| vec![0, byte])]
        // A request to end is honoured, and would end the test.
        .prop_filter("a shutdown", |bytes| {
            !matches!(wire::decode(&bytes[1..]), Ok(ToKeeper::Request { body: Request::Shutdown { .. }, .. }))
        })
}

#[test]
fn no_datagram_makes_the_keeper_fall_over() {
    let (keeper, mut client) = Keeper::start();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(2000));
    let socket = std::cell::RefCell::new(raw_connection(keeper.run_dir()));
    runner
        .run(&(any_request(), 0usize..4), |(bytes, descriptors)| {
            let mut connection = socket.borrow_mut();
            _ = hello().send(connection.as_fd());
            let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
            send(&connection, &bytes, &(0..descriptors).map(|_| null()).collect::<Vec<_>>());
            // Nobody reads the answers, so the socket is changed now and then.
            if bytes.len() % 8 == 0 {
                *connection = raw_connection(keeper.run_dir());
            }
            Ok(())
        })
        .unwrap();
    drop(socket);
    client.call(List).unwrap();
    assert_eq!(client.welcome().pid, keeper.pid);
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        _ = wire::decode::<ToKeeper>(&bytes);
        _ = wire::decode::<FromKeeper>(&bytes);
    }
}

#[test]
fn running_out_of_descriptors_is_an_error_and_not_the_end() {
    let (keeper, mut client) = Keeper::start();
    let pid = rustix::process::Pid::from_raw(keeper.pid as i32);
    let limit = rustix::process::Rlimit { current: Some(24), maximum: Some(24) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    let mut refused = None;
    for number in 0..10 {
        match client.call(shell(&format!("job{number}"), "sleep 1000")) {
            Ok(_) => {}
            Err(error) => refused = Some(error),
        }
    }
    let refused = refused.expect("ten sandboxes cannot be held in so few descriptors").to_string();
    assert!(refused.to_lowercase().contains("too many open files"), "{refused}");
    // Connections that cannot be taken are closed, and do not stay in the way.
    while let Ok(another) = keeper::client::Client::connect(keeper.run_dir()) {
        std::mem::forget(another);
    }
    for entry in client.call(List).unwrap() {
        client.call(Request::Signal { id: entry.id, signal: 9 }).unwrap();
    }
}

/// A file system that nobody answers for, mounted until this is dropped.
struct Silent {
    place: tempfile::TempDir,
    _device: std::fs::File,
}

impl Silent {
    fn mount() -> Silent {
        let place = tempfile::tempdir().unwrap();
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", std::os::fd::AsRawFd::as_raw_fd(&device));
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("silent", place.path(), "fuse", rustix::mount::MountFlags::empty(), &*options).unwrap();
        Silent { place, _device: device }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // The end of the device ends whoever waits.
        _ = rustix::mount::unmount(self.place.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Whoever wants something of the host mounted in a user namespace opens it.
#[test]
fn a_file_system_that_hangs_is_none_of_the_keepers_business() {
    let silent = Silent::mount();
    let (_keeper, mut client) = Keeper::start();
    let sharing = Sharing { directory: Some(silent.place.path().join("hangs")), not_root: true, ..Sharing::default() };
    let error = client.call_within(sharing_shell("job", "exit 3", &sharing), PATIENCE).unwrap_err();
    assert!(error.to_string().contains("was not opened by whoever wants it started"), "{error}");
    let create = sharing_shell("job", "exit 3", &Sharing { not_root: true, ..Sharing::default() });
    let opened = sandbox::open_trees(&sandbox::InitPlan::from_bytes(&create.plan).unwrap()).unwrap();
    assert_eq!(run(&mut client, keeper::client::Create { plan_descriptors: opened, ..create }), ExitStatus::Code(3));
}
