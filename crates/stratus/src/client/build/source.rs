//! What goes to the daemon: where the Dockerfile is, where the files are, and which of them are left out.

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use api_build::{Directory, Offers, Source, Text};
use build::dockerfile::AddSource;
use build::ignore::Ignore;
use image::{Compression, Digest};

use super::super::error::{Error, Result};
use super::super::output;
use super::BuildArgs;

/// The most bytes of a Dockerfile that the daemon takes.
const MOST: u64 = 16 << 20;

/// Bytes by which an archive is told from a Dockerfile: its first header, and what may stand before it.
const BEGINNING: u64 = 64 << 10;

/// Where the Dockerfile is. Both its names are known that docker knows.
pub(super) fn file_path(args: &BuildArgs) -> PathBuf {
    args.recipe.file.clone().unwrap_or_else(|| usual_file(&args.recipe.path))
}

fn usual_file(path: &Path) -> PathBuf {
    let within = |name: &str| match path.as_os_str() == "." {
        true => PathBuf::from(name),
        false => path.join(name),
    };
    let usual = within("Dockerfile");
    let small = within("dockerfile");
    if !usual.exists() && small.exists() { small } else { usual }
}

/// Opens a Dockerfile, and says what to do where there is none.
pub(super) fn open_file(context: &Path, file: &Path) -> Result<File> {
    let reading = || format!("reading {}", file.display());
    File::open(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::Failed(format!("{}: {error}: {}", reading(), other_file(context))),
        _ => Error::io(reading())(error),
    })
}

/// What to do where there is no Dockerfile.
fn other_file(context: &Path) -> String {
    let podmans = context.join("Containerfile");
    let file = if podmans.exists() { podmans.display().to_string() } else { "FILE".to_owned() };
    format!("name the Dockerfile with --file {file}")
}

/// What is no part of the context.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) ignore: Ignore,
    /// The file that says so, and what it says.
    found: Option<(PathBuf, Vec<u8>)>,
}

/// What is no part of the context: said beside the Dockerfile, else in the context.
pub(super) fn rules(context: &Path, file: &Path) -> Result<Rules> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let [own, general] = Ignore::names(&name);
    for path in [file.with_file_name(own), context.join(general)] {
        match std::fs::read(&path) {
            Ok(bytes) => {
                let source = build::dockerfile::Source::from_bytes(path.display().to_string(), &bytes);
                let ignore = Ignore::parse(&source).map_err(|mistake| Error::Failed(mistake.to_string()))?;
                return Ok(Rules { ignore, found: Some((path, bytes)) });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(Error::io(format!("reading {}", path.display()))(error)),
        }
    }
    Ok(Rules::default())
}

/// What goes to the daemon: as it is told, and what the daemon may ask for.
pub(super) struct Goods {
    pub(super) source: Source,
    pub(super) offers: Offers,
}

/// Finds what goes to the daemon. Blocks.
pub(super) fn find(path: &Path, file: Option<&Path>) -> Result<Goods> {
    let standard_input = |path: &Path| path.as_os_str() == "-";
    if standard_input(path) {
        return of_standard_input(file);
    }
    if let Some(text) = path.to_str().filter(|text| is_address(text) && !path.exists()) {
        return elsewhere(text, file);
    }
    if let Some((scheme, _)) = path.to_str().and_then(|text| text.split_once("://")).filter(|_| !path.exists()) {
        return Err(Error::Usage(format!(
            "{}: nothing is fetched by {scheme}: a context is a directory, or the address of a git repository, an archive or a Dockerfile by \
             http, https, git or ssh",
            path.display()
        )));
    }
    let opened = open(path)?;
    let (file, text) = match file {
        Some(file) if standard_input(file) => (None, limited(io::stdin().lock(), "standard input")?),
        file => {
            let file = file.map_or_else(|| usual_file(path), Path::to_owned);
            let text = limited(open_file(path, &file)?, &file.display().to_string())?;
            (Some(file), text)
        }
    };
    // One that has no name has no rules of its own.
    let rules = rules(path, file.as_deref().unwrap_or(&path.join("Dockerfile")))?;
    let called = file.as_ref().map_or_else(|| "Dockerfile".to_owned(), |file| file.display().to_string());
    let (directory, ignore, key) = of_directory(path, opened, rules)?;
    Ok(Goods {
        source: Source::Directory { file: Text::new(called, &text), ignore, key },
        offers: Offers { context: Some(directory), ..Offers::default() },
    })
}

/// A directory that is a context of its own name: as it is told, and what it is told with. Blocks.
pub(super) fn directory(path: &Path) -> Result<(Directory, Option<Text>, String)> {
    let opened = open(path)?;
    let rules = rules(path, &path.join("Dockerfile"))?;
    of_directory(path, opened, rules)
}

fn of_directory(path: &Path, opened: File, rules: Rules) -> Result<(Directory, Option<Text>, String)> {
    let key = key(path, &opened, &rules)?;
    let ignore = rules.found.map(|(path, bytes)| Text::new(path.display().to_string(), &bytes));
    Ok((Directory { opened: opened.into(), ignore: rules.ignore, left_out }, ignore, key))
}

fn open(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).map_err(Error::io(format!("looking up {}", path.display())))?;
    if !metadata.is_dir() {
        return Err(Error::Usage(format!(
            "{0} is no directory: name the one whose files are copied, and the Dockerfile with --file",
            path.display()
        )));
    }
    File::open(path).map_err(Error::io(format!("opening {}", path.display())))
}

/// What the daemon remembers a directory by: this machine, the directory, and what of it counts. Another one that has the same by accident is no
/// harm, as files are told apart by more than their names.
fn key(path: &Path, opened: &File, rules: &Rules) -> Result<String> {
    let looking = || Error::io(format!("looking up {}", path.display()));
    let metadata = opened.metadata().map_err(looking())?;
    let real = path.canonicalize().map_err(looking())?;
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let said = rules.found.as_ref().map_or(&[][..], |(_, bytes)| bytes);
    let numbers = format!("{} {}", metadata.dev(), metadata.ino());
    let parts = [&machine, real.as_os_str().as_bytes(), numbers.as_bytes(), said];
    let parts = parts.map(|part| Digest::of(part).hex()).join(" ");
    Ok(Digest::of(parts.as_bytes()).hex())
}

fn left_out(path: &str) {
    output::warning(&format!("{path} is a socket, which no archive can hold: it is left out"));
}

/// Standard input is a Dockerfile without a context, or an archive of one.
fn of_standard_input(file: Option<&Path>) -> Result<Goods> {
    let reading = || Error::io("reading standard input");
    if file.is_some_and(|file| file.as_os_str() == "-") {
        return Err(Error::Usage(
            "standard input is the context or the Dockerfile, and not both: name one of them".to_owned(),
        ));
    }
    if io::stdin().is_terminal() {
        return Err(Error::Usage("there is nothing on standard input: pipe a Dockerfile or an archive in".to_owned()));
    }
    let mut first = Vec::new();
    io::stdin().lock().take(BEGINNING).read_to_end(&mut first).map_err(reading())?;
    if Compression::of(&first) != Compression::None || image::archive::is_archive(&first[..]) {
        let name = file.map(|file| {
            let name = file.to_str().map(str::to_owned);
            name.ok_or_else(|| Error::Usage(format!("{} is not UTF-8, as names in an archive are", file.display())))
        });
        return Ok(Goods {
            source: Source::Archive { name: name.transpose()?.unwrap_or_default() },
            offers: Offers { archive: Some(Box::new(Cursor::new(first).chain(io::stdin()))), ..Offers::default() },
        });
    }
    if let Some(file) = file {
        return Err(Error::Usage(format!(
            "standard input is no archive that {} could be in. For a Dockerfile on standard input: stratus build -f - PATH",
            file.display()
        )));
    }
    let text = limited(Cursor::new(first).chain(io::stdin()), "standard input")?;
    Ok(Goods { source: Source::Alone { file: Text::new("Dockerfile", &text) }, offers: Offers::default() })
}

/// What the daemon fetches by itself. The Dockerfile is a file there.
fn elsewhere(address: &str, file: Option<&Path>) -> Result<Goods> {
    let name = file.map(|file| file.to_str().filter(|name| *name != "-").map(str::to_owned).ok_or(file));
    let name = name.transpose().map_err(|file| {
        Error::Usage(format!("--file {}: with a context at an address, it is the name of a file there", file.display()))
    })?;
    let source = Source::Elsewhere { address: address.to_owned(), name: name.unwrap_or_default() };
    Ok(Goods { source, offers: Offers::default() })
}

/// All of a file that is held in memory.
fn limited(file: impl Read, what: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MOST + 1).read_to_end(&mut text).map_err(Error::io(format!("reading {what}")))?;
    match text.len() as u64 > MOST {
        true => Err(Error::Usage(format!("{what} is no Dockerfile: it has more than {MOST} bytes"))),
        false => Ok(text),
    }
}

/// Whether a text says where something is that is not here.
pub(super) fn is_address(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "github.com/"].iter().any(|start| text.starts_with(start))
        || matches!(AddSource::parse(text), AddSource::Git(_))
}
