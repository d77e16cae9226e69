//! Log files: their content, their rotation, and what happens when they cannot be written.

mod support;

use std::fs;
use std::path::Path;

use keeper::client::{Create, Inspect, Stats};
use keeper::protocol::{Event, ExitStatus, LogConfig, Request, Rotation, UnixNanos};
use support::*;

fn json_file(path: &Path, rotation: Option<Rotation>) -> LogConfig {
    LogConfig::JsonFile { path: path.to_owned(), rotation, attributes: Vec::new() }
}

#[test]
fn a_log_holds_what_was_written_when_and_where() {
    let (keeper, mut client) = Keeper::start();
    let attributes = vec![("com.example.team".to_owned(), "a & b".to_owned())];
    let log = LogConfig::JsonFile { path: keeper.log_path("job"), rotation: None, attributes };
    let before = UnixNanos::now();
    let script = r"printf 'one <1>\n\377\n'; printf 'no newline' >&2";
    client.call(Create { log, ..shell("job", script) }).unwrap();
    wait_exit(&mut client, "job");
    let after = UnixNanos::now();
    let text = fs::read_to_string(keeper.log_path("job")).unwrap();
    let mut texts = Vec::new();
    for line in text.lines() {
        let (head, time) = line.split_once(r#","attrs":{"com.example.team":"a \u0026 b"},"time":""#).unwrap();
        let time = keeper::logs::timestamp::parse(time.strip_suffix("\"}").unwrap().as_bytes()).unwrap();
        assert!((before..=after).contains(&time));
        texts.push(head);
    }
    texts.sort_unstable();
    assert_eq!(
        texts,
        [
            r#"{"log":"\ufffd\n","stream":"stdout""#,
            r#"{"log":"no newline","stream":"stderr""#,
            r#"{"log":"one \u003c1\u003e\n","stream":"stdout""#,
        ]
    );
}

#[test]
fn a_log_that_is_there_is_continued() {
    let (keeper, mut client) = Keeper::start();
    for round in ["first", "second"] {
        run(&mut client, Create { log: keeper.log("job"), ..shell("job", &format!("echo {round}")) });
    }
    let lines: Vec<String> = keeper.logged("job").into_iter().map(|line| line.1).collect();
    assert_eq!(lines, ["first\n", "second\n"]);
}

#[test]
fn a_long_line_is_cut_every_16_kib() {
    let (keeper, mut client) = Keeper::start();
    let script = "head -c 40000 /dev/zero | tr '\\0' z; echo";
    run(&mut client, Create { log: keeper.log("job"), ..shell("job", script) });
    let lengths: Vec<usize> = keeper.logged("job").iter().map(|line| line.1.len()).collect();
    assert_eq!(lengths, [16384, 16384, 40000 - 2 * 16384 + 1]);
}

#[test]
fn full_files_are_rotated_and_the_oldest_ones_go() {
    let (keeper, mut client) = Keeper::start();
    let path = keeper.log_path("job");
    let rotation = Rotation { max_size: 2000, max_files: 3, compress: false };
    run(&mut client, Create { log: json_file(&path, Some(rotation)), ..shell("job", "seq -w 1 1000") });
    let name = |number: u32| keeper::logs::rotate::rotated_path(&path, number, false);
    assert!(!name(3).exists());
    let mut numbers = Vec::new();
    for file in [name(2), name(1), path.clone()] {
        let size = fs::metadata(&file).unwrap().len();
        assert!(size < 2100, "{size}");
        assert!(file == path || size >= 2000, "a file was rotated before it was full");
        numbers.extend(logged(&file).iter().map(|line| line.1.trim_end().parse::<u32>().unwrap()));
    }
    assert_eq!(numbers, (1001 - numbers.len() as u32..=1000).collect::<Vec<_>>());
}

#[test]
fn a_single_file_starts_anew_when_it_is_full() {
    let (keeper, mut client) = Keeper::start();
    let path = keeper.log_path("job");
    let rotation = Rotation { max_size: 2000, max_files: 1, compress: false };
    run(&mut client, Create { log: json_file(&path, Some(rotation)), ..shell("job", "seq -w 1 1000") });
    assert!(!keeper::logs::rotate::rotated_path(&path, 1, false).exists());
    let lines = logged(&path);
    assert!(lines.len() < 40 && lines.last().unwrap().1 == "1000\n");
}

#[test]
fn a_daemon_compresses_rotated_files_wherever_they_have_gone() {
    let (keeper, mut client) = Keeper::start();
    let path = keeper.log_path("job");
    let rotation = Rotation { max_size: 400, max_files: 4, compress: true };
    let create =
        Create { log: json_file(&path, Some(rotation)), ..shell("job", "seq -w 1 10; read line; seq -w 11 15") };
    let (create, _attached) = attached(with_stdin(create, false), true, keeper::protocol::Framing::Framed);
    let created = client.call(create).unwrap();
    let (rotated, inode) = wait_event(&mut client, |event| match event {
        Event::LogRotated { path, inode, .. } => Some((path.clone(), *inode)),
        _ => None,
    });
    let copy = rotated.with_extension("compressing");
    fs::write(&copy, "compressed").unwrap();
    // The process writes on, so that the file moves, before the copy is done.
    rustix::io::write(created.stdin.as_ref().unwrap(), b"\n").unwrap();
    wait_exit(&mut client, "job");
    client.call(Request::AdoptCompressed { id: "job".into(), inode, copy: copy.clone() }).unwrap();
    let name = |number| keeper::logs::rotate::rotated_path(&path, number, true);
    let adopted: Vec<u32> = (1..4).filter(|number| name(*number).exists()).collect();
    assert_eq!(adopted.len(), 1, "{adopted:?}");
    assert_eq!(fs::read_to_string(name(adopted[0])).unwrap(), "compressed");
    assert!(!keeper::logs::rotate::rotated_path(&path, adopted[0], false).exists() && !copy.exists());
    // A file that is gone is not brought back.
    fs::write(&copy, "late").unwrap();
    client.call(Request::AdoptCompressed { id: "job".into(), inode: 1, copy: copy.clone() }).unwrap();
    assert!(!copy.exists());
    let elsewhere = Request::AdoptCompressed { id: "job".into(), inode, copy: "/etc/hostname".into() };
    assert!(client.call(elsewhere).is_err());
}

/// It grows on, and is not tried anew for each of its lines.
#[test]
fn a_log_that_cannot_be_rotated_loses_nothing() {
    let (keeper, mut client) = Keeper::start();
    let path = keeper.log_path("job");
    let rotation = Rotation { max_size: 2000, max_files: 2, compress: false };
    let first = keeper::logs::rotate::rotated_path(&path, 1, false);
    fs::create_dir(&first).unwrap();
    let (lines, line) = (3000, "x".repeat(60));
    let script = format!("for i in $(seq {lines}); do echo {line}; done");
    client.call(Create { log: json_file(&path, Some(rotation)), ..shell("job", &script) }).unwrap();
    let mut complaints = 0;
    wait_event(&mut client, |event| {
        complaints += u32::from(matches!(event, Event::LogFailing { .. }));
        matches!(event, Event::Exited { .. }).then_some(())
    });
    assert_eq!(logged(&path).len(), lines);
    let attempts = fs::metadata(&path).unwrap().len() / keeper::logs::rotate::RETRY + 1;
    assert!((1..=attempts).contains(&complaints.into()), "{complaints} of {attempts}");
}

#[test]
fn a_log_that_was_moved_away_is_opened_again() {
    let (keeper, mut client) = Keeper::start();
    let path = keeper.log_path("job");
    let create = Create { log: keeper.log("job"), ..shell("job", "echo one; read line; echo two") };
    let (create, stream) = attached(with_stdin(create, true), true, keeper::protocol::Framing::Raw);
    let input = client.call(create).unwrap().stdin.unwrap();
    let mut first = [0; 4];
    std::io::Read::read_exact(&mut &stream, &mut first).unwrap();
    fs::rename(&path, path.with_extension("old")).unwrap();
    client.call(Request::ReopenLog { id: "job".into() }).unwrap();
    rustix::io::write(&input, b"\n").unwrap();
    wait_exit(&mut client, "job");
    assert_eq!(logged(&path.with_extension("old")), [("stdout".to_owned(), "one\n".to_owned())]);
    assert_eq!(logged(&path), [("stdout".to_owned(), "two\n".to_owned())]);
}

#[test]
fn a_log_can_be_sent_elsewhere_while_it_is_written() {
    let (keeper, mut client) = Keeper::start();
    let create = Create { log: keeper.log("a"), ..shell("job", "printf 'one\nha'; read line; echo lf; echo two") };
    let (create, stream) = attached(with_stdin(create, false), true, keeper::protocol::Framing::Raw);
    let input = client.call(create).unwrap().stdin.unwrap();
    std::io::Read::read_exact(&mut &stream, &mut [0; 6]).unwrap();
    client.call(Request::SetLog { id: "job".into(), log: keeper.log("b") }).unwrap();
    rustix::io::write(&input, b"\n").unwrap();
    wait_exit(&mut client, "job");
    let texts = |id| keeper.logged(id).into_iter().map(|line| line.1).collect::<Vec<_>>();
    assert_eq!((texts("a"), texts("b")), (vec!["one\n".to_owned()], vec!["half\n".to_owned(), "two\n".to_owned()]));
}

/// A file system that is soon full.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> SmallDisk {
        let dir = tempfile::Builder::new().prefix("keeper-disk-").tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(c"size=64k")).unwrap();
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_costs_lines_but_never_the_process() {
    let disk = SmallDisk::new();
    let (_keeper, mut client) = Keeper::start();
    let path = disk.0.path().join("log");
    let script = "seq 1 5000; read line; echo after; exit 3";
    let create = with_stdin(Create { log: json_file(&path, None), ..shell("job", script) }, false);
    let (create, stream) = attached(create, true, keeper::protocol::Framing::Raw);
    let input = client.call(create).unwrap().stdin.unwrap();
    let errno = wait_event(&mut client, |event| match event {
        Event::LogFailing { errno, .. } => Some(*errno),
        _ => None,
    });
    assert_eq!(errno, rustix::io::Errno::NOSPC.raw_os_error());
    let mut seen = Vec::new();
    while !seen.ends_with(b"\n5000\n") {
        let mut piece = [0; 4096];
        let length = std::io::Read::read(&mut &stream, &mut piece).unwrap();
        seen.extend_from_slice(&piece[..length]);
    }
    let lost = client.call(Inspect { id: "job".into() }).unwrap().log_dropped;
    let kept = logged(&path);
    assert_eq!(kept.len() as u64 + lost, 5000, "each line is in the log, whole, or counted");
    assert_eq!(client.call(Stats).unwrap().log_dropped, lost);
    // Somebody makes room: by itself it goes on.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    rustix::io::write(&input, b"\n").unwrap();
    let dropped = wait_event(&mut client, |event| match event {
        Event::LogDropped { count, .. } => Some(*count),
        _ => None,
    });
    assert_eq!(dropped, lost);
    assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(3));
    assert_eq!(logged(&path), [("stdout".to_owned(), "after\n".to_owned())]);
}
