//! `stratus save`, `stratus load`, `stratus import`, `stratus export`

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use http_body_util::BodyExt;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::attach::asked_to_end;
use super::error::{Error, Result};
use super::output::{Format, written};
use super::progress::{self, Show, Single};
use super::request::{Body, Request};
use super::transfer::Upload;
use super::{Context, containers, images};

/// Write images into an archive
#[derive(Args, Debug)]
pub(crate) struct SaveArgs {
    /// File to write [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only for this platform, where they have several, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = images::platform)]
    platform: Option<String>,
    /// Images, by name or id
    #[arg(required = true)]
    images: Vec<String>,
}

/// Write a container's files into an archive
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// File to write [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Container, by name or id
    container: String,
}

/// Take images out of an archive
#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// File to read, in any compression [default: standard input]
    #[arg(long = "input", short = 'i', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only for this platform, where they have several, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = images::platform)]
    platform: Option<String>,
    /// Show no steps
    #[arg(long, short)]
    quiet: bool,
}

/// Make an image of a root file system's archive
#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// Change of the image's settings, as in 'CMD ["sh"]'; repeats
    #[arg(long, short, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What is said about it in its history
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// Platform that it is for, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// File to read, in any compression; - for standard input, or an address that the daemon fetches it from (https://…)
    file: PathBuf,
    /// Name of the image
    name: Option<String>,
}

/// `stratus save`
pub(super) async fn save(context: &Context, args: SaveArgs) -> Result<ExitCode> {
    let mut request = Request::get("/images/get").maybe("platform", args.platform);
    for image in &args.images {
        request = request.query("names", image);
    }
    receive(context, request, args.file.as_deref(), "saving").await
}

/// `stratus export`
pub(super) async fn export(context: &Context, args: ExportArgs) -> Result<ExitCode> {
    let request = Request::get(containers::path(&args.container, "export"));
    receive(context, request, args.file.as_deref(), "exporting").await
}

/// Writes the archive that a call answers with to a file or to standard output.
async fn receive(context: &Context, request: Request, path: Option<&Path>, what: &str) -> Result<ExitCode> {
    if path.is_none() && io::stdout().is_terminal() {
        return Err(Error::Usage(
            "an archive is nothing for a terminal: name a file with -o, or redirect the output".into(),
        ));
    }
    let mut body = context.daemon.send(request).await?.into_body();
    let show = path.is_some() && context.format == Format::Table;
    let progress = Single::bytes(what, None, show);
    // As docker does: what is in there may be nobody else's business.
    let mut target = Target::with_mode(path, 0o600)?;
    let receive = async {
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                target.write(&bytes)?;
                progress.add(bytes.len() as u64);
            }
        }
        Ok::<_, Error>(())
    };
    // What is there of it goes with the target when this returns.
    tokio::select! {
        received = receive => received?,
        signal = asked_to_end() => return Err(Error::Signal(signal?)),
    }
    target.finish()?;
    progress.end();
    Ok(ExitCode::SUCCESS)
}

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Where an archive goes. A file has its name only once it is complete.
pub(super) enum Target {
    Stdout,
    File { file: File, path: PathBuf, name: Name },
}

/// What a file is called that is written to.
pub(super) enum Name {
    /// What it is called in the end: it was there before, and is no file that could be replaced.
    Own,
    /// Nothing (`O_TMPFILE`): whatever kills this, nothing of it is left.
    None,
    /// Something else, where the file system has no files without names.
    Partial(PathBuf),
}

impl Target {
    pub(super) fn new(path: Option<&Path>) -> Result<Target> {
        Target::with_mode(path, 0o666)
    }

    /// The same with the mode of a file that is made, less what the umask takes away.
    fn with_mode(path: Option<&Path>, mode: u32) -> Result<Target> {
        let Some(path) = path else { return Ok(Target::Stdout) };
        let path = followed(path)?;
        if !has_name_once_complete(&path) {
            let file = File::options().write(true).truncate(true).open(&path);
            let file = file.map_err(Error::io(format!("opening {}", path.display())))?;
            return Ok(Target::File { file, path, name: Name::Own });
        }
        let failed = Error::io(format!("creating {}", path.display()));
        let partial = partial(&path)?;
        let nameless = rustix::fs::open(
            partial.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")),
            OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
        );
        match nameless {
            Ok(file) => Ok(Target::File { file: file.into(), path, name: Name::None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let file = File::options().write(true).create_new(true).mode(mode).open(&partial).map_err(failed)?;
                Ok(Target::File { file, path, name: Name::Partial(partial) })
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Target::Stdout => io::stdout().lock().write_all(bytes).map_err(written),
            Target::File { file, path, .. } => {
                file.write_all(bytes).map_err(Error::io(format!("writing {}", path.display())))
            }
        }
    }

    /// Takes away what was written there before, which is nothing to go by where this comes to nothing.
    pub(super) fn remove_former(&self) -> Result<()> {
        match self {
            Target::File { name: Name::None | Name::Partial(_), path, .. } => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::Io(format!("removing {}, which is of before", path.display()), error))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    pub(super) fn finish(mut self) -> Result<()> {
        match &mut self {
            Target::Stdout => io::stdout().flush().map_err(written),
            Target::File { name: Name::Own, .. } => Ok(()),
            Target::File { file, path, name } => {
                let failed = Error::io(format!("writing {}", path.display()));
                let mut give = || {
                    file.sync_data()?;
                    if let Name::None = name {
                        let partial = partial(path).map_err(io::Error::other)?;
                        link(file, &partial)?;
                        *name = Name::Partial(partial);
                    }
                    let Name::Partial(partial) = &*name else { return Ok(()) };
                    std::fs::rename(partial, &*path)?;
                    *name = Name::Own;
                    Ok(())
                };
                give().map_err(failed)
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Target::File { name: Name::Partial(partial), .. } = self {
            // What is not complete is of no use.
            let _ = std::fs::remove_file(partial);
        }
    }
}

/// What a file is called until it is complete, beside where it will be.
fn partial(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::Usage(format!("{} is no file's name", path.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.partial", std::process::id()));
    Ok(path.with_file_name(hidden))
}

/// Gives a file without one a name, that of what a killed process of the same number left included (open(2), `O_TMPFILE`).
fn link(file: &File, path: &Path) -> io::Result<()> {
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = || rustix::fs::linkat(CWD, &*itself, CWD, path, AtFlags::SYMLINK_FOLLOW);
    match link() {
        Err(Errno::EXIST) => {
            std::fs::remove_file(path)?;
            Ok(link()?)
        }
        other => Ok(other?),
    }
}

/// Where symbolic links at the end of a path lead, which need not be there yet. One of the kernel's own (`/dev/stdout` leads to one) may lead
/// to what has no path, and is not followed.
fn followed(path: &Path) -> Result<PathBuf> {
    let mut place = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(link) = place.read_link() else { return Ok(place) };
        let above = place.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        if rustix::fs::statfs(&above).is_ok_and(|found| found.f_type == rustix::fs::PROC_SUPER_MAGIC) {
            return Ok(place);
        }
        place = match above == Path::new(".") {
            true => link,
            false => above.join(link),
        };
    }
    Err(Error::Io(format!("following {}", path.display()), Errno::LOOP.into()))
}

/// Whether it is a file, or nothing yet: a pipe or a device is written as it is.
fn has_name_once_complete(followed: &Path) -> bool {
    followed.symlink_metadata().map_or(true, |metadata| metadata.is_file())
}

/// Whether what goes to a path is in a file, of which there may be half.
pub(super) fn may_have_half(path: &Path) -> bool {
    followed(path).is_ok_and(|followed| has_name_once_complete(&followed))
}

/// Whether both paths are of one file, which need not be there yet. A device takes what comes, as often as it comes.
pub(super) fn is_same_file(one: &Path, another: &Path) -> bool {
    let known = |path: &Path| {
        let followed = followed(path).ok().filter(|followed| has_name_once_complete(followed))?;
        let absolute = std::path::absolute(followed).ok()?;
        Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?))
    };
    known(one).is_some_and(|one| known(another) == Some(one))
}

/// A file or standard input as a body, whose way is shown.
pub(super) fn upload(path: Option<&Path>, what: &str, show: bool) -> Result<(Upload, Body, Single)> {
    let mut source: Box<dyn Read + Send> = match path {
        None => Box::new(io::stdin()),
        Some(path) => Box::new(File::open(path).map_err(Error::io(format!("opening {}", path.display())))?),
    };
    let total = path.and_then(|path| path.metadata().ok()).filter(|metadata| metadata.is_file()).map(|file| file.len());
    let progress = Single::bytes(what, total, show);
    let (bar, name) = (progress.clone(), named(path));
    let (upload, body) = Upload::new(move |sink| {
        let mut buffer = vec![0; 128 << 10];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Io(format!("reading {name}"), error)),
            };
            sink.write_all(&buffer[..count]).map_err(Error::io("sending the archive"))?;
            bar.add(count as u64);
        }
    });
    Ok((upload, body, progress))
}

/// `stratus load`
pub(super) async fn load(context: &Context, args: LoadArgs) -> Result<ExitCode> {
    if args.file.is_none() && io::stdin().is_terminal() {
        return Err(Error::Usage("there is no archive: name a file with -i, or pipe one in".into()));
    }
    let show = context.format == Format::Table && !args.quiet;
    let (upload, body, bar) = upload(args.file.as_deref(), "loading", show)?;
    // The bar shows the archive's bytes; a layer's would say the same again.
    let request = Request::post("/images/load").query("quiet", "1").maybe("platform", args.platform).archive(body);
    let stream = context.daemon.documents(request).await;
    let said = match stream {
        Ok(stream) => progress::follow(stream, context.shown(true)).await,
        Err(error) => Err(error),
    };
    bar.end();
    context.print_said(&upload.outcome(of_archive(said, args.file.as_deref()))?)
}

/// Says which archive it is that the daemon does not take.
fn of_archive<T>(outcome: Result<T>, path: Option<&Path>) -> Result<T> {
    outcome.map_err(|error| match error {
        Error::Refused { message, .. } | Error::Failed(message) => Error::Failed(format!("{}: {message}", named(path))),
        other => other,
    })
}

fn named(path: Option<&Path>) -> String {
    path.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
}

/// `stratus import`
pub(super) async fn import(context: &Context, args: ImportArgs) -> Result<ExitCode> {
    let settings = Import {
        name: args.name.as_deref(),
        message: args.message.as_deref(),
        changes: &args.change,
        platform: args.platform.as_deref(),
    };
    if let Some(url) = args.file.to_str().filter(|name| name.starts_with("http://") || name.starts_with("https://")) {
        return context.print_said(&settings.have_fetched(context, url).await?);
    }
    let path = Some(args.file.as_path()).filter(|path| *path != Path::new("-"));
    if path.is_none() && io::stdin().is_terminal() {
        return Err(Error::Usage("there is no archive: name a file, or pipe one in".into()));
    }
    let (upload, body, bar) = upload(path, "importing", context.format == Format::Table)?;
    let said = settings.send(context, body, context.shown(true)).await;
    bar.end();
    context.print_said(&upload.outcome(of_archive(said, path))?)
}

/// What an imported image is besides its files.
pub(super) struct Import<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) message: Option<&'a str>,
    pub(super) changes: &'a [String],
    pub(super) platform: Option<&'a str>,
}

impl Import<'_> {
    /// Sends the archive; what the daemon says is the image's id.
    pub(super) async fn send(&self, context: &Context, body: Body, show: Show) -> Result<progress::Said> {
        progress::follow(context.daemon.documents(self.request("-").archive(body)).await?, show).await
    }

    /// Has the daemon fetch the archive.
    async fn have_fetched(&self, context: &Context, url: &str) -> Result<progress::Said> {
        progress::follow(context.daemon.documents(self.request(url)).await?, context.shown(false)).await
    }

    fn request(&self, source: &str) -> Request {
        let mut request = Request::post("/images/create")
            .query("fromSrc", source)
            .maybe("repo", self.name)
            .maybe("message", self.message)
            .maybe("platform", self.platform);
        for change in self.changes {
            request = request.query("changes", change);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written_once_complete() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        symlink("real", at("link")).expect("a link");
        symlink("link", at("other")).expect("a link");
        for (path, text) in [("other", "one"), ("link", "two"), ("real", "three")] {
            let mut target = Target::new(Some(&at(path))).expect("a target");
            target.write(text.as_bytes()).expect("written");
            assert_ne!(std::fs::read_to_string(at("real")).ok().as_deref(), Some(text));
            target.finish().expect("complete");
            assert_eq!(std::fs::read_to_string(at("real")).expect("a file"), text);
        }
        drop(Target::new(Some(&at("link"))).expect("a target"));
        assert_eq!(std::fs::read_to_string(at("real")).expect("a file"), "three");
        assert!(at("link").is_symlink() && at("other").is_symlink());
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 3);
        symlink("round", at("round")).expect("a link");
        assert!(Target::new(Some(&at("round"))).is_err());
    }

    #[test]
    fn paths_of_one_file_are_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        symlink("real", at("link")).expect("a link");
        assert!(is_same_file(&at("real"), &at("link")), "though it is not there");
        std::fs::write(at("real"), "").expect("a file");
        assert!(is_same_file(&at("real"), &at("link")));
        assert!(!is_same_file(&at("real"), &at("another")));
        assert!(!is_same_file(Path::new("/dev/null"), Path::new("/dev/null")));
    }
}
