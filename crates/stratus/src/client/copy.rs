//! `stratus cp`: files of a container, as an archive, from or to this machine.
//!
//! What is copied has its last name changed on the way, where the target has another one.

mod renamed;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use http::{HeaderMap, Method};
use image::archive::{ReadOptions, WriteOptions, read_path, write_path};
use serde::Deserialize;

use super::connect::Daemon;
use super::error::{Error, Result};
use super::output::{Format, written};
use super::progress::Single;
use super::request::Request;
use super::transfer::{Upload, blocking, download};
use super::{Context, containers};

/// Copy files between a container and this machine
#[derive(Args, Debug)]
pub(crate) struct CpArgs {
    /// Keep users and groups as they are, by number
    #[arg(long, short)]
    archive: bool,
    /// Follow a link that the source is
    #[arg(long, short = 'L')]
    follow_link: bool,
    /// Show no steps
    #[arg(long, short)]
    quiet: bool,
    /// What to copy: CONTAINER:PATH, PATH, or - for an archive on standard input
    source: String,
    /// Where to: PATH, CONTAINER:PATH, or - for an archive on standard output
    target: String,
}

/// A side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Container(&'a str, &'a str),
    Here(&'a str),
    Stream,
}

impl Place<'_> {
    fn parse(text: &str) -> Place<'_> {
        match text.split_once(':') {
            _ if text == "-" => Place::Stream,
            // A path of this machine that has a colon is told by its beginning.
            Some((container, path))
                if !container.is_empty() && !container.starts_with(['.', '/']) && !container.contains('/') =>
            {
                Place::Container(container, path)
            }
            _ => Place::Here(text),
        }
    }
}

/// What is at a path of a container, as the API tells it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stat {
    mode: u32,
    link_target: String,
}

impl Stat {
    // The bits are Go's (io/fs, FileMode).
    fn is_directory(&self) -> bool {
        self.mode & (1 << 31) != 0
    }

    fn is_link(&self) -> bool {
        self.mode & (1 << 27) != 0
    }

    fn of(headers: &HeaderMap) -> Result<Stat> {
        let bad = || Error::Answer("it does not say what is at the path".into());
        let header = headers.get("x-docker-container-path-stat").ok_or_else(bad)?;
        let document = BASE64_STANDARD.decode(header.as_bytes()).map_err(|_| bad())?;
        Ok(serde_json::from_slice(&document)?)
    }
}

/// `stratus cp`
pub(super) async fn copy(context: &Context, args: CpArgs) -> Result<ExitCode> {
    let daemon = &context.daemon;
    let bar =
        Single::bytes("copying", None, context.format == Format::Table && !args.quiet && io::stderr().is_terminal());
    let copied = match (Place::parse(&args.source), Place::parse(&args.target)) {
        (Place::Container(container, ""), _) | (_, Place::Container(container, "")) => {
            Err(Error::Usage(format!("{container}: names no path in the container. Its root is {container}:/")))
        }
        (Place::Container(container, path), Place::Stream) => to_stdout(daemon, container, path, &bar).await,
        (Place::Container(container, path), Place::Here(target)) => out(daemon, container, path, target, &args, &bar).await,
        (Place::Stream, Place::Container(container, path)) => from_stdin(daemon, container, path, &args).await,
        (Place::Here(source), Place::Container(container, path)) => into(daemon, source, container, path, &args, &bar).await,
        (Place::Container(..), Place::Container(..)) => Err(Error::Usage(
            "copying from one container to another is not supported. Go by way of an archive: stratus cp A:PATH - | stratus cp - B:PATH"
                .into(),
        )),
        _ => Err(Error::Usage("one of the two must be in a container: CONTAINER:PATH".into())),
    };
    bar.end();
    copied.map(|()| ExitCode::SUCCESS)
}

fn archive(method: Method, container: &str, path: &str) -> Request {
    Request::new(method, containers::path(container, "archive")).query("path", path)
}

/// What is at a path of a container; `None` where nothing is. Links are followed.
async fn stat(daemon: &Daemon, container: &str, path: &str) -> Result<Option<Stat>> {
    match stat_once(daemon, container, path).await? {
        Some(stat) if stat.is_link() => stat_once(daemon, container, &stat.link_target).await,
        stat => Ok(stat),
    }
}

async fn stat_once(daemon: &Daemon, container: &str, path: &str) -> Result<Option<Stat>> {
    match daemon.send(archive(Method::HEAD, container, path)).await {
        Ok(response) => Stat::of(response.headers()).map(Some),
        Err(error) if error.is_not_found() => {
            // The answer to HEAD has no words: is it the path that is not there, or the container?
            containers::details(daemon, container).await.map(|_| None)
        }
        Err(error) => Err(error),
    }
}

/// A path, and whether only what is in it is meant (`PATH/.`).
fn contents_only(path: &str) -> (&str, bool) {
    match path.strip_suffix("/.") {
        Some("") => ("/", true),
        Some(directory) => (directory, true),
        None if path == "." => (".", true),
        None => (path, false),
    }
}

/// The last name of a path.
fn last_name(path: &str) -> Option<&str> {
    path.trim_end_matches('/').rsplit('/').next().filter(|name| !matches!(*name, "" | "." | ".."))
}

/// The path without its last name.
fn parent(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    }
}

/// What the target is, before anything is copied.
struct Target {
    is_there: bool,
    is_directory: bool,
}

/// Where a copy goes: into which directory, and under which name; no name for the contents alone.
fn place<'t>(
    source: &'t str,
    is_directory: bool,
    target_path: &'t str,
    target: &Target,
) -> Result<(&'t str, Option<&'t str>)> {
    let (source, contents) = contents_only(source);
    match target {
        Target { is_directory: true, .. } if is_directory && (contents || last_name(source).is_none()) => {
            Ok((target_path, None))
        }
        Target { is_directory: true, .. } => Ok((target_path, last_name(source))),
        Target { is_there: true, .. } if is_directory => {
            Err(Error::Usage(format!("{target_path} is a file: a directory can't take its place")))
        }
        Target { is_there: false, .. } if !is_directory && target_path.ends_with('/') => {
            Err(Error::Usage(format!("there is no directory {target_path}")))
        }
        _ if target_path.ends_with('/') && !is_directory => Err(Error::Usage(format!("{target_path} is no directory"))),
        _ => Ok((parent(target_path), last_name(target_path))),
    }
}

/// Out of a container, to this machine.
async fn out(daemon: &Daemon, container: &str, path: &str, target: &str, args: &CpArgs, bar: &Single) -> Result<()> {
    let mut source = contents_only(path).0.to_owned();
    if args.follow_link
        && let Some(stat) = stat_once(daemon, container, &source).await?
        && stat.is_link()
    {
        source = stat.link_target;
    }
    let response = daemon.send(archive(Method::GET, container, &source)).await?;
    let is_directory = Stat::of(response.headers())?.is_directory();
    let metadata = std::fs::metadata(target).ok();
    let seen =
        Target { is_there: metadata.is_some(), is_directory: metadata.is_some_and(|metadata| metadata.is_dir()) };
    let (directory, name) = place(path, is_directory, target, &seen)?;
    let directory = std::path::absolute(directory).map_err(Error::io(format!("looking up {directory:?}")))?;
    let names = renamed::Names {
        // The root directory's contents have no name before them.
        from: last_name(&source).map(|name| name.as_bytes().to_vec()),
        to: name.map(|name| name.as_bytes().to_vec()),
    };
    let owner = (!args.archive).then(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    let (bar, body) = (bar.clone(), download(response));
    blocking(move || unpack(Counted { inner: body, bar }, names, &directory, owner)).await
}

fn unpack(body: impl Read + Send, names: renamed::Names, directory: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let root = root()?;
    let (reader, writer) = io::pipe().map_err(Error::io("making a pipe"))?;
    std::thread::scope(|scope| {
        let renaming = scope.spawn(|| renamed::rename(body, writer, &names));
        let options = WriteOptions { keep_kinds: true, owner, ..WriteOptions::default() };
        let unpacked = write_path(root.as_fd(), directory, reader, &options);
        // Where the archive broke off, the unpacking saw nothing but its end.
        let renamed = renaming.join().unwrap_or_else(|_| Err(Error::Failed("reading the archive was given up".into())));
        match (unpacked, renamed) {
            (Err(error), _) => Err(error.into()),
            (Ok(()), renamed) => renamed,
        }
    })
}

fn root() -> Result<File> {
    File::open("/").map_err(Error::io("opening /"))
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    bar: Single,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bar.add(count as u64);
        Ok(count)
    }
}

/// Out of a container, as an archive.
async fn to_stdout(daemon: &Daemon, container: &str, path: &str, bar: &Single) -> Result<()> {
    if io::stdout().is_terminal() {
        return Err(Error::Usage("an archive is nothing for a terminal: redirect the output".into()));
    }
    let response = daemon.send(archive(Method::GET, container, path)).await?;
    let mut body = Counted { inner: download(response), bar: bar.clone() };
    blocking(move || io::copy(&mut body, &mut io::stdout().lock()).and_then(|_| io::stdout().flush()).map_err(written))
        .await
}

/// Into a container, from this machine.
async fn into(daemon: &Daemon, source: &str, container: &str, path: &str, args: &CpArgs, bar: &Single) -> Result<()> {
    let looked = Error::io(format!("looking up {source}"));
    let metadata = if args.follow_link { std::fs::metadata(source) } else { std::fs::symlink_metadata(source) };
    let is_directory = metadata.map_err(looked)?.is_dir();
    let found = stat(daemon, container, path).await?;
    let target = Target { is_there: found.is_some(), is_directory: found.is_some_and(|stat| stat.is_directory()) };
    let (directory, name) = place(source, is_directory, path, &target)?;
    let from = absolute(contents_only(source).0, args.follow_link)?;
    let name = name.map(OsString::from);
    let bar = bar.clone();
    let (upload, body) = Upload::new(move |sink| {
        let mut counted = CountedSink { inner: sink, bar };
        match name {
            Some(name) => {
                let options = ReadOptions { name: Some(name), ..ReadOptions::default() };
                read_path(root()?.as_fd(), &from, &mut counted, &options)?;
            }
            None => {
                // Read from itself as the root, its contents have no name before them.
                let directory = File::open(&from).map_err(Error::io(format!("opening {}", from.display())))?;
                read_path(directory.as_fd(), Path::new("/"), &mut counted, &ReadOptions::default())?;
            }
        }
        counted.flush().map_err(Error::io("sending the archive"))
    });
    let sent = daemon.done(put(container, directory, args).archive(body)).await;
    upload.outcome(sent).map(drop)
}

fn absolute(path: &str, follow: bool) -> Result<PathBuf> {
    let looked = if follow { std::fs::canonicalize(path) } else { std::path::absolute(path) };
    let mut absolute = looked.map_err(Error::io(format!("looking up {path:?}")))?;
    // A slash at the end would follow a link that is not to be followed.
    if let Some(trimmed) = absolute.as_os_str().as_bytes().strip_suffix(b"/").filter(|rest| !rest.is_empty()) {
        absolute = PathBuf::from(OsStr::from_bytes(trimmed));
    }
    Ok(absolute)
}

fn put(container: &str, directory: &str, args: &CpArgs) -> Request {
    archive(Method::PUT, container, directory).query("noOverwriteDirNonDir", "true").flag("copyUIDGID", args.archive)
}

/// Counts what is written.
struct CountedSink<'a, W> {
    inner: &'a mut W,
    bar: Single,
}

impl<W: Write> Write for CountedSink<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.bar.add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Into a container, from an archive.
async fn from_stdin(daemon: &Daemon, container: &str, path: &str, args: &CpArgs) -> Result<()> {
    if io::stdin().is_terminal() {
        return Err(Error::Usage("there is no archive: pipe one in".into()));
    }
    let (upload, body, bar) = super::archives::upload(None, "copying", false)?;
    let sent = daemon.done(put(container, path, args).archive(body)).await;
    bar.end();
    upload.outcome(sent).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        assert_eq!(Place::parse("web:/etc"), Place::Container("web", "/etc"));
        assert_eq!(Place::parse("./a:b"), Place::Here("./a:b"));
        assert_eq!(Place::parse("/a:b"), Place::Here("/a:b"));
        assert_eq!((Place::parse("a/b:c"), Place::parse("-")), (Place::Here("a/b:c"), Place::Stream));
    }

    #[test]
    fn copies_go_where_docker_puts_them() {
        let directory = Target { is_there: true, is_directory: true };
        let file = Target { is_there: true, is_directory: false };
        let nothing = Target { is_there: false, is_directory: false };
        let placed = |source, is_directory, path, target: &Target| place(source, is_directory, path, target).ok();
        // A file.
        assert_eq!(placed("/a/f", false, "/t", &directory), Some(("/t", Some("f"))));
        assert_eq!(placed("/a/f", false, "/t/g", &file), Some(("/t", Some("g"))));
        assert_eq!(placed("/a/f", false, "/t/g", &nothing), Some(("/t", Some("g"))));
        assert_eq!(placed("/a/f", false, "/t/g/", &nothing), None);
        assert_eq!(placed("/a/f", false, "g", &nothing), Some((".", Some("g"))));
        // A directory.
        assert_eq!(placed("/a/d", true, "/t", &directory), Some(("/t", Some("d"))));
        assert_eq!(placed("/a/d/", true, "/t", &directory), Some(("/t", Some("d"))));
        assert_eq!(placed("/a/d/.", true, "/t", &directory), Some(("/t", None)));
        assert_eq!(placed("/a/d/.", true, "/t/n", &nothing), Some(("/t", Some("n"))));
        assert_eq!(placed("/a/d", true, "/t/n/", &nothing), Some(("/t", Some("n"))));
        assert_eq!(placed("/a/d", true, "/t/f", &file), None);
        assert_eq!(placed("/", true, "/t", &directory), Some(("/t", None)));
    }
}
