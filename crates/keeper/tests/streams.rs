//! Standard streams, terminals, and those who attach to them.

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use keeper::client::{Attach, Create, Inspect, Start, Stats};
use keeper::protocol::{AttachOptions, Event, ExitStatus, Framing, LogConfig, Request, State, Stream, TerminalSize};
use support::*;

/// Writes to a process's standard input, whose end is in non-blocking mode.
fn write_all(input: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let mut fds = [rustix::event::PollFd::new(input, rustix::event::PollFlags::OUT)];
        rustix::event::poll(&mut fds, None).unwrap();
        match rustix::io::write(input, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

#[test]
fn both_streams_arrive_with_their_names() {
    let (_keeper, mut client) = Keeper::start();
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done";
    let (create, stream) = attached(shell("job", script), false, Framing::Framed);
    client.call(create).unwrap();
    let frames = read_frames(stream);
    assert_eq!(text_of(&frames, Stream::Stdout), "out 1\nout 2\nout 3\n");
    assert_eq!(text_of(&frames, Stream::Stderr), "err 1\nerr 2\nerr 3\n");
}

#[test]
fn one_stream_can_be_had_alone() {
    let (_keeper, mut client) = Keeper::start();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = AttachOptions { stdin: false, stdout: false, stderr: true, framing: Framing::Raw };
    let create = shell("job", "echo out; echo err >&2");
    client.call(Create { attach: vec![(options, theirs.into())], ..create }).unwrap();
    assert_eq!(read_all(ours), "err\n");
}

#[test]
fn who_attaches_before_the_start_misses_nothing() {
    let (_keeper, mut client) = Keeper::start();
    client.call(waiting_shell("job", "echo first")).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    for sink in [theirs.into(), writer] {
        let options = everything(false, Framing::Raw);
        let attached = client.call(Attach { id: "job".into(), options, sink }).unwrap();
        assert!(!attached.terminal && attached.stdin.is_none());
    }
    client.call(Start { id: "job".into() }).unwrap();
    assert_eq!(read_all(ours), "first\n");
    let mut through_pipe = String::new();
    File::from(reader).read_to_string(&mut through_pipe).unwrap();
    assert_eq!(through_pipe, "first\n");
}

#[test]
fn standard_input_goes_in_and_ends() {
    let (_keeper, mut client) = Keeper::start();
    let (create, stream) = attached(with_stdin(shell("job", "cat; exit 6"), false), true, Framing::Raw);
    let created = client.call(create).unwrap();
    let input = created.stdin.unwrap();
    let text = "a line of some length\n".repeat(20_000);
    let reader = std::thread::spawn(move || read_all(stream));
    write_all(&input, text.as_bytes());
    client.call(Request::CloseStdin { id: "job".into() }).unwrap();
    wait_event(&mut client, |event| matches!(event, Event::StdinClosed { .. }).then_some(()));
    assert!(!client.call(Inspect { id: "job".into() }).unwrap().stdin_open);
    drop(input);
    assert!(reader.join().unwrap() == text);
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(6));
}

#[test]
fn without_standard_input_there_is_its_end_at_once() {
    let (_keeper, mut client) = Keeper::start();
    let (create, stream) = attached(shell("job", "cat; echo end"), true, Framing::Raw);
    assert!(client.call(create).unwrap().stdin.is_none());
    assert_eq!(read_all(stream), "end\n");
}

#[test]
fn standard_input_stays_open_for_others_unless_it_was_for_one_client_only() {
    let (_keeper, mut client) = Keeper::start();
    for (id, once) in [("stays", false), ("once", true)] {
        let (create, stream) = attached(with_stdin(shell(id, "cat; exit 3"), once), true, Framing::Raw);
        drop(client.call(create).unwrap().stdin);
        drop(stream);
    }
    assert_eq!(wait_exit(&mut client, "once").status, ExitStatus::Code(3));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let attach = Attach { id: "stays".into(), options: everything(true, Framing::Raw), sink: theirs.into() };
    let attached = client.call(attach).unwrap();
    write_all(&attached.stdin.unwrap(), b"still here\n");
    let mut text = [0; 11];
    (&ours).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"still here\n");
    client.call(Request::Detach { attachment: attached.attachment }).unwrap();
    assert_eq!(read_all(ours), "");
    assert_eq!(client.call(Inspect { id: "stays".into() }).unwrap().state, State::Running);
}

#[test]
fn a_terminal_has_a_size_that_can_be_changed() {
    let (keeper, mut client) = Keeper::start();
    let size = TerminalSize { rows: 33, columns: 111 };
    let script = "stty size; read line; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && exit 8";
    let create = Create { log: keeper.log("job"), ..terminal_shell("job", script, size) };
    let (create, mut stream) = attached(create, true, Framing::Raw);
    let created = client.call(create).unwrap();
    let mut first = [0; 8];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"33 111\r\n");
    let size = TerminalSize { rows: 44, columns: 122 };
    client.call(Request::Resize { id: "job".into(), size }).unwrap();
    write_all(&created.stdin.unwrap(), b"\n");
    assert!(read_all(stream).ends_with("44 122\r\n"));
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(8));
    let logged = keeper.logged("job");
    assert_eq!(logged.first().unwrap(), &("stdout".to_owned(), "33 111\r\n".to_owned()));
    assert_eq!(logged.last().unwrap(), &("stdout".to_owned(), "44 122\r\n".to_owned()));
}

#[test]
fn a_pipe_has_no_size() {
    let (_keeper, mut client) = Keeper::start();
    client.call(shell("job", "sleep 1000")).unwrap();
    let refused = client.call(Request::Resize { id: "job".into(), size: TerminalSize::default() }).unwrap_err();
    assert_eq!(refused.to_string(), "the terminal's size is invalid: job has no terminal");
}

#[test]
fn an_attachment_that_does_not_read_holds_up_the_process_and_loses_nothing() {
    let (keeper, mut client) = Keeper::start();
    // More than all buffers between the two hold.
    let script = "i=0; while [ $i -lt 4000 ]; do echo $i; i=$((i+1)); done | sed 's/$/ padding of more than a hundred bytes padding of more than a hundred bytes padding of more than a hundred bytes/'; head -c 4000000 /dev/zero | tr '\\0' 'x'; exit 5";
    let create = Create { log: keeper.log("job"), ..shell("job", script) };
    let (create, slow) = attached(create, false, Framing::Framed);
    client.call(create).unwrap();
    // Another one is served all the while.
    assert_eq!(run(&mut client, shell("other", "exit 1")), ExitStatus::Code(1));
    let before = client.call(Stats).unwrap().output_bytes;
    assert!(before < 4_000_000, "the process should be held up, but {before} bytes were read");
    assert_eq!(client.call(Inspect { id: "job".into() }).unwrap().state, State::Running);
    let frames = read_frames(slow);
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(5));
    let text = text_of(&frames, Stream::Stdout);
    assert!(text.starts_with("0 padding") && text.contains("\n3999 padding"));
    assert_eq!(text.bytes().filter(|byte| *byte == b'x').count(), 4_000_000);
    let logged: String = keeper.logged("job").into_iter().map(|line| line.1).collect();
    assert!(logged == text, "the log holds the same");
}

#[test]
fn an_attachment_that_closes_is_dropped_at_once() {
    let (_keeper, mut client) = Keeper::start();
    let script = "head -c 4000000 /dev/zero; exit 2";
    let (create, stalled) = attached(shell("job", script), false, Framing::Raw);
    client.call(create).unwrap();
    drop(stalled);
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(2));
    assert_eq!(client.call(Stats).unwrap().attachments, 0);
}

#[test]
fn what_a_slow_attachment_has_not_read_yet_outlives_the_farewell() {
    let (keeper, mut client) = Keeper::start();
    let create = Create { log: keeper.log("job"), ..shell("job", "head -c 60000 /dev/zero | tr '\\0' y; exit 0") };
    let (create, slow) = attached(create, false, Framing::Raw);
    // The socket takes only the beginning, but the pipe all that comes after it: so the process ends, however slow
    // its reader, and in whatever pieces its output was read.
    rustix::net::sockopt::set_socket_send_buffer_size(&create.attach[0].1, 4096).unwrap();
    client.call(create).unwrap();
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(0));
    client.call(Request::Forget { id: "job".into() }).unwrap();
    assert!(client.call(keeper::client::List).unwrap().is_empty());
    assert_eq!(client.call(Stats).unwrap().attachments, 1, "something should be left to deliver");
    assert_eq!(read_all(slow).len(), 60_000);
    let logged: usize = keeper.logged("job").iter().map(|line| line.1.len()).sum();
    assert_eq!(logged, 60_000);
}

#[test]
fn attaching_to_what_has_ended_closes_the_sink() {
    let (_keeper, mut client) = Keeper::start();
    client.call(shell("job", "echo gone")).unwrap();
    wait_exit(&mut client, "job");
    let (ours, theirs) = UnixStream::pair().unwrap();
    client.call(Attach { id: "job".into(), options: everything(true, Framing::Raw), sink: theirs.into() }).unwrap();
    assert_eq!(read_all(ours), "");
}

#[test]
fn a_file_is_no_sink() {
    let (keeper, mut client) = Keeper::start();
    client.call(shell("job", "sleep 1000")).unwrap();
    let sink = File::create(keeper.run_dir().join("file")).unwrap().into();
    let refused = client.call(Attach { id: "job".into(), options: everything(false, Framing::Raw), sink });
    assert!(refused.unwrap_err().to_string().starts_with("the sink is invalid"));
    assert_eq!(client.call(Stats).unwrap().attachments, 0);
}

#[test]
fn a_process_that_steals_its_own_output_does_not_stop_the_keeper() {
    let (_keeper, mut client) = Keeper::start();
    // A pipe's writing end, opened again through /proc, can be read from.
    let script = "exec 3>&1; while :; do echo bait; done & exec cat /proc/self/fd/3 > /dev/null";
    client.call(shell("thief", script)).unwrap();
    for _ in 0..20 {
        assert_eq!(run(&mut client, shell("other", "echo x; exit 1")), ExitStatus::Code(1));
    }
    client.call(Request::Signal { id: "thief".into(), signal: 9 }).unwrap();
    wait_exit(&mut client, "thief");
    client.call(Request::Forget { id: "thief".into() }).unwrap();
}

#[test]
fn many_lines_with_nobody_reading_are_logged() {
    let (keeper, mut client) = Keeper::start();
    let create = Create { log: keeper.log("job"), ..shell("job", "seq 1 50000; seq 50001 60000 >&2") };
    client.call(create).unwrap();
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(0));
    let logged = keeper.logged("job");
    assert_eq!(logged.len(), 60_000);
    let all: Vec<usize> = logged.iter().map(|line| line.1.trim_end().parse().unwrap()).collect();
    let (out, err): (Vec<usize>, Vec<usize>) = all.iter().partition(|number| **number <= 50_000);
    assert!(out.is_sorted() && err.is_sorted());
    // And without a log nothing is in the way either.
    assert_eq!(LogConfig::None, shell("x", "").log);
    assert_eq!(run(&mut client, shell("mute", "seq 1 100000; exit 9")), ExitStatus::Code(9));
}
