//! Reading logs back, also while they are written, rotated and compressed.
#![cfg(feature = "log-reader")]

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;

use keeper::client::Create;
use keeper::logs::compress::compress;
use keeper::logs::lines::LineSplitter;
use keeper::logs::reader::{LogReader, ReadOptions, Watcher};
use keeper::logs::rotate::rotated_path;
use keeper::logs::writer::{Batch, LogWriter, Notice};
use keeper::protocol::{ExitStatus, Framing, LogConfig, Request, Rotation, Stream, UnixNanos};
use support::*;

fn both(path: &Path, rotation: Option<Rotation>) -> [LogConfig; 2] {
    let path = path.to_owned();
    [
        LogConfig::JsonFile { path: path.with_extension("json"), rotation, attributes: Vec::new() },
        LogConfig::Local { path: path.with_extension("local"), rotation },
    ]
}

fn path_of(config: &LogConfig) -> &Path {
    match config {
        LogConfig::JsonFile { path, .. } | LogConfig::Local { path, .. } => path,
        LogConfig::None => unreachable!("it has a file"),
    }
}

/// Writes lines `from..to`, whose times are their numbers, and compresses what was rotated if that is asked for.
fn write(config: &LogConfig, from: i64, to: i64) {
    let mut log = LogWriter::open(config).unwrap().unwrap();
    let mut lines = LineSplitter::new(Stream::Stdout);
    let (mut batch, mut notices) = (Batch::default(), Vec::new());
    for number in from..to {
        let text = format!("line {number}\n");
        lines.feed(text.as_bytes(), UnixNanos(number), |line| log.append(&line, &mut batch, &mut notices));
        log.flush(&mut batch, &mut notices);
        for notice in notices.drain(..) {
            let Notice::Rotated(rotated) = notice else { panic!("{notice:?}") };
            let copy = compress(&rotated.path).unwrap();
            log.adopt_compressed(rotated.inode, &copy).unwrap();
        }
    }
}

fn read_with(config: &LogConfig, options: ReadOptions) -> Vec<i64> {
    let mut reader = LogReader::open(config, &options).unwrap();
    let numbers = read_more(&mut reader);
    assert_eq!((reader.damaged(), reader.gaps()), (0, 0));
    numbers
}

fn read_more(reader: &mut LogReader) -> Vec<i64> {
    let mut numbers = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let text = String::from_utf8(entry.text()).unwrap();
        let number = text.strip_prefix("line ").unwrap().trim_end().parse().unwrap();
        assert_eq!(entry.time, UnixNanos(number));
        numbers.push(number);
    }
    numbers
}

#[test]
fn a_log_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    for config in both(&dir.path().join("log"), None) {
        write(&config, 0, 5000);
        assert_eq!(read_with(&config, ReadOptions::default()), (0..5000).collect::<Vec<_>>());
        for tail in [0, 1, 7, 4999, 5000, 6000] {
            let expected: Vec<i64> = (5000 - tail.min(5000)..5000).collect();
            let options = ReadOptions { tail: Some(tail as u64), ..ReadOptions::default() };
            assert_eq!(read_with(&config, options), expected, "{config:?}");
        }
        let times = ReadOptions { since: Some(UnixNanos(10)), until: Some(UnixNanos(20)), tail: None };
        assert_eq!(read_with(&config, times), (10..=20).collect::<Vec<_>>());
        let both = ReadOptions { since: Some(UnixNanos(10)), tail: Some(3), until: None };
        assert_eq!(read_with(&config, both), [4997, 4998, 4999]);
    }
}

#[test]
fn rotated_and_compressed_files_are_read_before_the_current_one() {
    let dir = tempfile::tempdir().unwrap();
    for compress in [false, true] {
        let rotation = Rotation { max_size: 3000, max_files: 5, compress };
        for config in both(&dir.path().join(format!("log-{compress}")), Some(rotation)) {
            write(&config, 0, 1000);
            assert!(rotated_path(path_of(&config), 4, compress).exists());
            let numbers = read_with(&config, ReadOptions::default());
            assert_eq!(numbers, (1000 - numbers.len() as i64..1000).collect::<Vec<_>>());
            assert!(numbers.len() > 100);
            for tail in [1, 30, 60, 90, numbers.len() - 1] {
                let options = ReadOptions { tail: Some(tail as u64), ..ReadOptions::default() };
                assert_eq!(read_with(&config, options), (1000 - tail as i64..1000).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_reader_goes_on_across_rotations() {
    let dir = tempfile::tempdir().unwrap();
    for compress in [false, true] {
        let rotation = Rotation { max_size: 3000, max_files: 20, compress };
        for config in both(&dir.path().join(format!("log-{compress}")), Some(rotation)) {
            let mut reader = LogReader::open(&config, &ReadOptions::default()).unwrap();
            assert!(read_more(&mut reader).is_empty());
            let mut from = 0;
            // Less than a file, about a file, and several files at a time.
            for count in [3, 40, 1, 200, 90, 0, 100] {
                write(&config, from, from + count);
                assert_eq!(read_more(&mut reader), (from..from + count).collect::<Vec<_>>());
                from += count;
            }
            assert_eq!((reader.damaged(), reader.gaps()), (0, 0));
        }
    }
}

#[test]
fn a_reader_goes_on_when_the_only_file_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let rotation = Rotation { max_size: 3000, max_files: 1, compress: false };
    for config in both(&dir.path().join("log"), Some(rotation)) {
        write(&config, 0, 20);
        let mut reader = LogReader::open(&config, &ReadOptions::default()).unwrap();
        assert_eq!(read_more(&mut reader).len(), 20);
        fs::File::options().write(true).open(path_of(&config)).unwrap().set_len(0).unwrap();
        write(&config, 20, 25);
        assert_eq!(read_more(&mut reader), [20, 21, 22, 23, 24]);
    }
}

#[test]
fn damage_is_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let [json, local] = both(&dir.path().join("log"), None);
    write(&json, 0, 3);
    fs::File::options().append(true).open(path_of(&json)).unwrap().write_all(b"{\"log\":\"cut sh\n").unwrap();
    write(&json, 3, 5);
    let mut reader = LogReader::open(&json, &ReadOptions::default()).unwrap();
    assert_eq!(read_more(&mut reader), [0, 1, 2, 3, 4]);
    assert_eq!(reader.damaged(), 1);
    // Half a frame at the end is waited for.
    write(&local, 0, 3);
    let whole = fs::read(path_of(&local)).unwrap();
    fs::File::options().append(true).open(path_of(&local)).unwrap().write_all(&whole[..9]).unwrap();
    for tail in [None, Some(10)] {
        let mut reader = LogReader::open(&local, &ReadOptions { tail, ..ReadOptions::default() }).unwrap();
        assert_eq!(read_more(&mut reader), [0, 1, 2]);
    }
}

#[test]
fn pieces_of_long_lines_are_put_together_by_their_ends() {
    let (keeper, mut client) = Keeper::start();
    for config in both(&keeper.run_dir().join("log"), None) {
        let script = "head -c 40000 /dev/zero | tr '\\0' z; echo; printf end";
        run(&mut client, Create { log: config.clone(), ..shell("job", script) });
        let mut reader = LogReader::open(&config, &ReadOptions::default()).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            entries.push((entry.bytes.len(), entry.ends_line));
        }
        assert_eq!(entries, [(16384, false), (16384, false), (40000 - 2 * 16384, true), (3, false)]);
    }
}

#[test]
fn a_reader_keeps_up_with_rotations_under_its_hands() {
    let dir = tempfile::tempdir().unwrap();
    for compress in [false, true] {
        let rotation = Rotation { max_size: 2000, max_files: 300, compress };
        for config in both(&dir.path().join(format!("log-{compress}")), Some(rotation)) {
            let mut reader = LogReader::open(&config, &ReadOptions::default()).unwrap();
            let numbers = std::thread::scope(|scope| {
                let writer = scope.spawn(|| write(&config, 0, 4000));
                let mut numbers = Vec::new();
                while !writer.is_finished() {
                    numbers.extend(read_more(&mut reader));
                }
                numbers.extend(read_more(&mut reader));
                numbers
            });
            assert!(numbers.iter().copied().eq(0..4000), "{} of 4000, {} gaps", numbers.len(), reader.gaps());
            assert_eq!((reader.damaged(), reader.gaps()), (0, 0));
        }
    }
}

#[test]
fn a_follower_hears_of_each_line_while_the_keeper_writes_and_rotates() {
    let (keeper, mut client) = Keeper::start();
    let rotation = Rotation { max_size: 20_000, max_files: 100, compress: false };
    for config in both(&keeper.run_dir().join("log"), Some(rotation)) {
        let watcher = Watcher::new().unwrap();
        watcher.watch(&config).unwrap();
        let mut reader = LogReader::open(&config, &ReadOptions::default()).unwrap();
        let create =
            with_stdin(Create { log: config.clone(), ..shell("job", "seq 1 3000; read line; seq 3001 6000") }, false);
        let (create, stream) = attached(create, true, Framing::Raw);
        let input = client.call(create).unwrap().stdin.unwrap();
        let drain = std::thread::spawn(move || read_all(stream));
        let mut numbers = Vec::new();
        let mut told = false;
        while numbers.len() < 6000 {
            match reader.next_entry().unwrap() {
                Some(entry) => numbers.push(String::from_utf8(entry.bytes).unwrap().parse::<u32>().unwrap()),
                None => assert!(watcher.wait(Some(PATIENCE)).unwrap(), "{} of 6000 lines", numbers.len()),
            }
            if numbers.len() == 3000 && !std::mem::replace(&mut told, true) {
                rustix::io::write(&input, b"\n").unwrap();
            }
        }
        assert!(numbers.iter().copied().eq(1..=6000));
        drain.join().unwrap();
        assert_eq!(wait_exit(&mut client, "job").status, ExitStatus::Code(0));
        client.call(Request::Forget { id: "job".into() }).unwrap();
    }
}
