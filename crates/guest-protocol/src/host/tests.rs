//! A guest that says what it may, and one that does not.

use proptest::prelude::*;

use super::*;
use crate::frame::PREAMBLE;
use crate::message::{ContainerId, Held, Plan, Position, Start, Status, Usage};

fn process(number: u32) -> ProcessId {
    ProcessId::new(number).unwrap()
}

fn hello(processes: Vec<Held>) -> Hello {
    let release = "1".to_owned();
    Hello { protocol: PROTOCOL, release, boot: [1; 16], conversation: 1, features: 0, configured: true, processes }
}

fn held(number: u32, taken: u64, written: u64) -> Held {
    let position = Position { taken, written, ended: false };
    let (container, terminal, exit) = (ContainerId(1), false, None);
    Held { process: process(number), container, terminal, exit, stdin: Some(0), outputs: [position; 2] }
}

fn said(message: &ToHost) -> Vec<u8> {
    let mut wire = Vec::new();
    Frame::Message(&encode(message).unwrap()).write(&mut wire);
    wire
}

fn begun(processes: Vec<Held>) -> Vec<u8> {
    [&PREAMBLE[..], &[0; 8], &said(&ToHost::Hello(hello(processes)))].concat()
}

fn greeted() -> Host {
    let mut host = Host::new(100);
    host.receive(&begun(Vec::new())).unwrap();
    assert!(matches!(host.event(), Some(Event::Connected(_))));
    host
}

fn start(host: &mut Host, number: u32) -> u64 {
    let streams = Streams::Pipes { stdin: true };
    let (plan, kept) = (Plan::Init(Blob::default()), 0);
    let start = Start { process: process(number), container: ContainerId(1), plan, streams, window: 100, kept };
    host.request(Request::Start(Box::new(start))).unwrap()
}

fn running(number: u32) -> Host {
    let mut host = greeted();
    let asked = start(&mut host, number);
    let reply = Reply::Started { warnings: Vec::new() };
    host.receive(&said(&ToHost::Answer { number: asked, result: Ok(reply) })).unwrap();
    assert!(matches!(host.event(), Some(Event::Answer { .. })));
    host
}

fn piece(number: u32, stream: Stream, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    Frame::Data { channel: Channel { process: process(number), stream }, offset, bytes }.write(&mut wire);
    wire
}

const EXIT: Exit = Exit {
    status: Status::Code(0),
    usage: Usage { user: 0, system: 0, memory: 0 },
    outputs: [0, 0],
    oom_killed: false,
};

#[test]
fn output_comes_and_is_taken() {
    let mut host = running(1);
    host.receive(&piece(1, Stream::Stdout, 0, b"hello")).unwrap();
    let output = Event::Output { process: process(1), stream: Stream::Stdout, bytes: b"hello".to_vec() };
    assert_eq!(host.event(), Some(output));
    let before = host.output().len();
    host.taken(process(1), Stream::Stdout, 5);
    assert_eq!(host.output().len(), before, "so little is not worth a credit");
    host.receive(&piece(1, Stream::Stdout, 5, &[0; 95])).unwrap();
    host.taken(process(1), Stream::Stdout, 95);
    assert!(host.output().len() > before);
}

#[test]
fn a_guest_that_writes_and_never_reads_is_held_back_and_not_written_to_for_ever() {
    let mut host = running(1);
    let (mut offset, mut held_back) = (0, false);
    // A byte of half a window is worth a credit of some twenty.
    for _ in 0..AHEAD {
        if host.receive(&piece(1, Stream::Stdout, offset, &[0; 50])).is_err() {
            held_back = true;
            break;
        }
        offset += 50;
        while host.event().is_some() {}
        host.taken(process(1), Stream::Stdout, 50);
        assert!(host.output().len() < AHEAD + 100);
    }
    assert!(held_back, "it has written {offset} bytes");
    // One that reads what waits for it goes on.
    let mut host = running(1);
    for offset in (0..AHEAD as u64 * 50).step_by(50) {
        host.receive(&piece(1, Stream::Stdout, offset, &[0; 50])).unwrap();
        while host.event().is_some() {}
        host.taken(process(1), Stream::Stdout, 50);
        // By pieces, and never all of it: what was read is not kept.
        let waiting = host.output().len();
        host.sent(waiting.div_ceil(2));
    }
    assert!(host.out.capacity() < 8 * AHEAD);
}

#[test]
fn texts_of_a_guest_are_plain_when_they_are_heard() {
    let mut host = greeted();
    let number = host.request(Request::Processes { container: ContainerId(1) }).unwrap();
    let failure = Failure::Refused { why: "\u{1b}[2J".to_owned() };
    host.receive(&said(&ToHost::Answer { number, result: Err(failure) })).unwrap();
    let Some(Event::Answer { result: Err(failure), .. }) = host.event() else { panic!("no answer") };
    assert_eq!(failure.to_string(), "\\u{1b}[2J");
}

#[test]
fn a_guest_that_talks_nonsense_is_cut_off() {
    let exited = |number| said(&ToHost::Exited { process: process(number), exit: EXIT });
    let answer = |number, reply| said(&ToHost::Answer { number, result: Ok(reply) });
    let end = |number, offset| {
        let mut wire = Vec::new();
        Frame::End { channel: Channel { process: process(number), stream: Stream::Stderr }, offset }.write(&mut wire);
        wire
    };
    let credit = |stream, taken, limit| {
        let mut wire = Vec::new();
        Frame::Credit { channel: Channel { process: process(1), stream }, taken, limit }.write(&mut wire);
        wire
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no frame", vec![0xff; 40]),
        ("no message", [&[3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0][..], &[9, 9, 9]].concat()),
        ("a process that it was not given", piece(2, Stream::Stdout, 0, b"x")),
        ("standard input", piece(1, Stream::Stdin, 0, b"x")),
        ("a gap", piece(1, Stream::Stdout, 1, b"x")),
        ("more than it may", piece(1, Stream::Stdout, 0, &[0; 101])),
        ("an end elsewhere", end(1, 1)),
        ("two ends", [end(1, 0), end(1, 0)].concat()),
        ("output behind its end", [end(1, 0), piece(1, Stream::Stderr, 0, b"x")].concat()),
        ("credit for its own output", credit(Stream::Stdout, 0, 9)),
        ("credit for what was not sent", credit(Stream::Stdin, 1, 9)),
        ("credit that shrinks", [credit(Stream::Stdin, 0, 9), credit(Stream::Stdin, 0, 8)].concat()),
        ("the end of another process", exited(2)),
        ("two ends of a process", [exited(1), exited(1)].concat()),
        ("an answer to nothing", answer(77, Reply::Done)),
        ("an answer that does not fit", answer(2, Reply::Processes(Vec::new()))),
        ("a second hello", said(&ToHost::Hello(hello(Vec::new())))),
        ("a process it made up", begun(vec![held(1, 0, 0), held(5, 0, 0)])),
        ("one that is lost", begun(Vec::new())),
        ("output that the host has not had", begun(vec![held(1, 7, 9)])),
    ];
    for (name, wire) in cases {
        let mut host = running(1);
        host.request(Request::Stats { container: ContainerId(1) }).unwrap();
        assert!(host.receive(&wire).is_err(), "{name}");
        assert!(!host.is_connected() && host.receive(b"more").is_err(), "{name}");
    }
}

#[test]
fn nothing_comes_before_the_hello() {
    let early = [&PREAMBLE[..], &[0; 8], &said(&ToHost::Exited { process: process(1), exit: EXIT })].concat();
    assert!(Host::new(1).receive(&early).is_err());
    let mut old = hello(Vec::new());
    old.protocol = PROTOCOL + 1;
    let wire = [&PREAMBLE[..], &[0; 8], &said(&ToHost::Hello(old))].concat();
    assert_eq!(Host::new(1).receive(&wire), Err(Nonsense::Version { guest: PROTOCOL + 1 }));
    // Requests have to wait for it.
    let mut host = Host::new(1);
    let number = host.request(Request::Stats { container: ContainerId(1) }).unwrap();
    assert_eq!(host.event(), Some(Event::Unanswered { number }));
}

#[test]
fn what_broke_off_goes_on() {
    let mut host = running(1);
    let asked = host.request(Request::Stats { container: ContainerId(1) }).unwrap();
    let again = start(&mut host, 2);
    host.receive(&piece(1, Stream::Stdout, 0, b"12345")).unwrap();
    assert!(matches!(host.event(), Some(Event::Output { .. })));
    host.taken(process(1), Stream::Stdout, 3);
    host.write_stdin(process(1), b"typed");
    host.reconnect();
    let unanswered: Vec<_> = std::iter::from_fn(|| host.event()).collect();
    assert_eq!(unanswered, [asked, again].map(|number| Event::Unanswered { number }));
    // It has ended meanwhile. Of the other process the guest has not heard.
    let mut one = held(1, 0, 7);
    one.exit = Some(EXIT);
    host.receive(&begun(vec![one])).unwrap();
    assert!(matches!(host.event(), Some(Event::Connected(_))));
    assert_eq!(host.event(), Some(Event::Exited { process: process(1), exit: EXIT }));
    // What came and was not taken yet is known, wherever it is cut; it is taken meanwhile, of which the guest hears once it has sent it.
    assert!(host.receive(&piece(1, Stream::Stdout, 3, b"4")).is_ok());
    host.taken(process(1), Stream::Stdout, 2);
    assert!(host.receive(&piece(1, Stream::Stdout, 4, b"567")).is_ok());
    let output = Event::Output { process: process(1), stream: Stream::Stdout, bytes: b"67".to_vec() };
    assert_eq!(host.event(), Some(output));
    assert_eq!(host.taken_of(process(1)), Some([5, 0]));
    assert!(host.receive(&piece(2, Stream::Stdout, 0, b"x")).is_err());
}

#[test]
fn a_guest_that_takes_back_what_it_wrote_is_cut_off() {
    let written = || {
        let mut host = running(1);
        host.receive(&piece(1, Stream::Stdout, 0, b"12345")).unwrap();
        host.reconnect();
        host
    };
    assert!(written().receive(&begun(vec![held(1, 0, 4)])).is_err());
    let mut host = written();
    host.receive(&begun(vec![held(1, 0, 5)])).unwrap();
    let mut end = Vec::new();
    Frame::End { channel: Channel { process: process(1), stream: Stream::Stdout }, offset: 0 }.write(&mut end);
    assert!(host.receive(&end).is_err());
}

#[test]
fn a_process_that_it_was_told_to_forget_may_be_gone_or_not() {
    for still_there in [false, true] {
        let mut host = running(1);
        host.request(Request::Forget { process: process(1) }).unwrap();
        host.reconnect();
        let held = if still_there { vec![held(1, 0, 0)] } else { Vec::new() };
        host.receive(&begun(held)).unwrap();
        let heard = host.receive(&piece(1, Stream::Stdout, 0, b"x"));
        assert_eq!(heard.is_ok(), still_there);
    }
}

#[test]
fn of_many_calls_the_last_is_the_one_that_counts() {
    let mut host = Host::new(100);
    host.call();
    host.call();
    let (mut decoder, mut tokens, mut wire) = (Decoder::new(), Vec::new(), Vec::new());
    decoder.push(host.output());
    while let Some(Frame::Preamble { token }) = decoder.next().unwrap() {
        tokens.push(token);
        // What another host was told, and the answer to each call.
        wire.extend(said(&ToHost::Exited { process: process(3), exit: EXIT }));
        Frame::Preamble { token }.write(&mut wire);
        wire.extend(said(&ToHost::Hello(hello(Vec::new()))));
    }
    assert!(tokens.len() == 2 && tokens[0] != tokens[1]);
    host.receive(&wire).unwrap();
    assert!(matches!(host.event(), Some(Event::Connected(_))));
    assert!(host.event().is_none() && host.is_connected());
}

#[test]
fn offsets_that_no_stream_reaches() {
    for (taken, written) in [(u64::MAX, u64::MAX), (0, u64::MAX), (2, 1)] {
        assert!(Host::new(100).receive(&begun(vec![held(1, taken, written)])).is_err());
    }
    let mut odd = held(1, 0, 0);
    odd.stdin = Some(u64::MAX);
    assert!(Host::new(100).receive(&begun(vec![odd])).is_err());
}

#[test]
fn names_that_lead_elsewhere_are_no_names() {
    use crate::files::{At, FileReply, FileRequest, Stat, Tree};
    let stat = Stat {
        mode: 0,
        owner: (0, 0),
        size: 0,
        modified: (0, 0),
        links: 1,
        inode: 1,
        filesystem: 1,
        device: 0,
        extended: Vec::new(),
    };
    let long = "a".repeat(256);
    for (name, fits) in [
        ("file", true),
        ("..a", true),
        ("a b", true),
        (".", false),
        ("..", false),
        ("/etc", false),
        ("../x", false),
        ("a/b", false),
        ("", false),
        ("a\0", false),
        (&long, false),
    ] {
        let mut host = greeted();
        let request = FileRequest::List { at: At { tree: Tree::Root, path: Blob::default() }, skip: 0 };
        let number = host.request(Request::File { container: ContainerId(1), request }).unwrap();
        let entries = vec![(Blob(name.into()), stat.clone())];
        let reply = Reply::File(FileReply::Entries { entries, more: false });
        let heard = host.receive(&said(&ToHost::Answer { number, result: Ok(reply) }));
        assert_eq!(heard.is_ok(), fits, "{name:?}");
    }
}

proptest! {
    #[test]
    fn whatever_is_said_nothing_panics(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        fuzz(&data);
    }

    /// Right frames in any order: what is heard is what may be said.
    #[test]
    fn frames_in_any_order(which in prop::collection::vec((0u8..8, 1u32..4, 0u64..6), 0..40)) {
        let mut wire = Vec::new();
        for (kind, number, offset) in which {
            let stream = [Stream::Stdin, Stream::Stdout, Stream::Stderr][number as usize % 3];
            let channel = Channel { process: process(number), stream };
            match kind {
                0 => Frame::Preamble { token: 0 }.write(&mut wire),
                1 => wire.extend(begun(vec![held(number, offset, offset + 1)])),
                2 => wire.extend(said(&ToHost::Exited { process: process(number), exit: EXIT })),
                3 => wire.extend(said(&ToHost::Answer { number: offset, result: Ok(Reply::Done) })),
                4 => wire.extend(said(&ToHost::Name { number: offset, tcp: false, query: Blob::default() })),
                5 => Frame::End { channel, offset }.write(&mut wire),
                6 => Frame::Credit { channel, taken: offset, limit: offset + 10 }.write(&mut wire),
                _ => Frame::Data { channel, offset, bytes: b"x" }.write(&mut wire),
            }
        }
        fuzz(&wire);
    }
}

#[test]
fn a_guest_that_asks_for_names_and_reads_nothing_is_not_answered_for_ever() {
    let mut host = greeted();
    for number in 0..1000 {
        host.receive(&said(&ToHost::Name { number, tcp: true, query: Blob(vec![1; 100]) })).unwrap();
        assert!(matches!(host.event(), Some(Event::Name { .. })));
        host.answer_name(number, vec![2; 10_000]).unwrap();
    }
    assert!(host.output().len() < 2 * AHEAD);
    // Once it reads, it is answered again.
    let waiting = host.output().len();
    host.sent(waiting);
    host.receive(&said(&ToHost::Name { number: 1000, tcp: false, query: Blob::default() })).unwrap();
    host.answer_name(1000, vec![3; 10]).unwrap();
    assert!(!host.output().is_empty());
}
