//! What goes to the daemon: where the Dockerfile is, where the files are, and which of them are left out.

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};
use std::path::{Path, PathBuf};

use build::dockerfile::Source;
use build::ignore::Ignore;
use image::{Compression, Digest};

use super::super::error::{Error, Result};
use super::BuildArgs;
use super::pack::{Contents, Directory, Parcel};

/// The most bytes of a Dockerfile that the daemon takes.
const MOST: u64 = 16 << 20;

/// Bytes by which an archive is told from a Dockerfile: its first header, and what may stand before it.
const BEGINNING: u64 = 64 << 10;

/// Where the Dockerfile is. Both its names are known that docker knows.
pub(super) fn file_path(args: &BuildArgs) -> PathBuf {
    args.file.clone().unwrap_or_else(|| usual_file(&args.path))
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
                let source = Source::from_bytes(path.display().to_string(), &bytes);
                let ignore = Ignore::parse(&source).map_err(|mistake| Error::Failed(mistake.to_string()))?;
                return Ok(Rules { ignore, found: Some((path, bytes)) });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(Error::io(format!("reading {}", path.display()))(error)),
        }
    }
    Ok(Rules::default())
}

/// Finds what goes to the daemon. Blocks.
pub(super) fn find(path: &Path, file: Option<&Path>) -> Result<Parcel> {
    let standard_input = |path: &Path| path.as_os_str() == "-";
    if standard_input(path) {
        return of_standard_input(file);
    }
    if let Some(text) = path.to_str().filter(|text| is_address(text) && !path.exists()) {
        return Err(Error::Usage(format!(
            "{text} is an address: fetch what is there, and build the directory that you have then"
        )));
    }
    let metadata = std::fs::metadata(path).map_err(Error::io(format!("looking up {}", path.display())))?;
    if !metadata.is_dir() {
        return Err(Error::Usage(format!(
            "{0} is no directory: name the one whose files are copied, and the Dockerfile with --file",
            path.display()
        )));
    }
    let opened = File::open(path).map_err(Error::io(format!("opening {}", path.display())))?;
    let (file, text) = match file {
        Some(file) if standard_input(file) => (None, limited(io::stdin().lock(), "standard input")?),
        file => {
            let file = file.map_or_else(|| usual_file(path), Path::to_owned);
            let reading = || format!("reading {}", file.display());
            let text = limited(File::open(&file).map_err(Error::io(reading()))?, &file.display().to_string())?;
            (Some(file), text)
        }
    };
    // One that has no name has no rules of its own.
    let rules = rules(path, file.as_deref().unwrap_or(&path.join("Dockerfile")))?;
    let called = file.as_ref().map_or_else(|| "Dockerfile".to_owned(), |file| file.display().to_string());
    let directory = Directory { opened, ignore: rules.ignore.clone() };
    match file.as_deref().and_then(|file| inside(path, file, &rules)) {
        Some((name, kept)) => {
            Ok(Parcel { name: Some(name), called, contents: Contents::Files { directory, kept, own: Vec::new() } })
        }
        None => Ok(beside(directory, text, &rules, called)),
    }
}

/// Whether the Dockerfile and the rules are simply files of the context: its name there, and which files are sent whatever the rules say.
/// The daemon follows no link out of it, and looks for rules beside the file itself.
fn inside(context: &Path, file: &Path, rules: &Rules) -> Option<(String, Vec<String>)> {
    let root = context.canonicalize().ok()?;
    let within = |path: &Path| {
        let real = path.canonicalize().ok()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_plain = parent.canonicalize().ok()?.join(path.file_name()?) == real;
        real.strip_prefix(&root).ok().filter(|_| is_plain)?.to_str().map(str::to_owned)
    };
    let name = within(file)?;
    let mut kept = vec![name.clone()];
    if let Some((path, _)) = &rules.found {
        kept.push(within(path)?);
    }
    Some((name, kept))
}

/// A Dockerfile that is no file of the context goes along under a name that no other has, and with rules that hide it.
fn beside(directory: Directory, text: Vec<u8>, rules: &Rules, called: String) -> Parcel {
    let hex = Digest::of(&text).hex();
    let name = format!(".dockerfile.{}", &hex[..20]);
    let [hidden, _] = Ignore::names(&name);
    let mut said = rules.found.as_ref().map_or_else(Vec::new, |(_, bytes)| bytes.clone());
    said.extend_from_slice(format!("\n{name}\n{hidden}\n").as_bytes());
    let own = vec![(name.clone(), text), (hidden, said)];
    Parcel { name: Some(name), called, contents: Contents::Files { directory, kept: Vec::new(), own } }
}

/// Standard input is a Dockerfile without a context, or an archive of one.
fn of_standard_input(file: Option<&Path>) -> Result<Parcel> {
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
        let name = name.transpose()?;
        let called = name.clone().unwrap_or_else(|| "Dockerfile".to_owned());
        return Ok(Parcel {
            name,
            called,
            contents: Contents::Archive(Box::new(Cursor::new(first).chain(io::stdin()))),
        });
    }
    if let Some(file) = file {
        return Err(Error::Usage(format!(
            "standard input is no archive that {} could be in. For a Dockerfile on standard input: stratus build -f - PATH",
            file.display()
        )));
    }
    let text = limited(Cursor::new(first).chain(io::stdin()), "standard input")?;
    let name = "Dockerfile".to_owned();
    Ok(Parcel { name: None, called: name.clone(), contents: Contents::Alone { name, text } })
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

fn is_address(text: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@", "github.com/"].iter().any(|start| text.starts_with(start))
}

/// What the daemon says of the Dockerfile, with the name that the user calls it by.
pub(super) fn as_called(error: Error, within: Option<&str>, called: &str) -> Error {
    let Some(within) = within.filter(|name| name.starts_with(".dockerfile.")) else { return error };
    match error {
        Error::Failed(text) => Error::Failed(text.replace(within, called)),
        Error::Refused { status, message } => Error::Refused { status, message: message.replace(within, called) },
        other => other,
    }
}
