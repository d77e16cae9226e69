//! `--output`: where what a build comes to goes.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use api_build::{Keep, Output};
use image::Reference;
use image::archive::{WriteOptions, write_path};
use rustix::io::Errno;
use tokio_util::task::TaskTracker;

use super::super::archives::{Target, may_have_half};
use super::super::error::{Error, Result};
use super::super::mounts::fields;
use super::super::output;

/// An export: what the daemon is asked for, and what keeps it.
pub(super) struct Export {
    pub(super) asked: Output,
    keep: Option<(String, Place)>,
}

/// Where an export goes on this side.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
    /// Files in a directory.
    Directory(PathBuf),
}

/// All exports.
pub(super) fn exports(texts: &[String]) -> Result<Vec<Export>> {
    let exports = texts.iter().enumerate().map(|(number, text)| export(text, number));
    let exports = exports.collect::<Result<Vec<Export>>>()?;
    let to_stdout = |export: &&Export| matches!(export.keep, Some((_, Place::Stdout)));
    match exports.iter().filter(to_stdout).count() {
        0 => {}
        1 if io::stdout().is_terminal() => {
            let why = "an archive is nothing for a terminal: name a file (dest=FILE), or redirect the output";
            return Err(Error::Usage(why.to_owned()));
        }
        1 => {}
        _ => return Err(Error::Usage("only one --output can go to standard output".to_owned())),
    }
    let places: Vec<&Place> =
        exports.iter().filter_map(|export| export.keep.as_ref()).map(|(_, place)| place).collect();
    for (number, place) in places.iter().enumerate() {
        if let Some(path) = places[..number].iter().find_map(|other| place.same(other)) {
            return Err(Error::Usage(format!("two outputs go to {}: give each a place of its own", path.display())));
        }
    }
    // What can't be kept is known before anything is built.
    places.into_iter().try_for_each(Place::check)?;
    Ok(exports)
}

/// `--tag` says what an image is called, wherever it goes: names of an output's own count where there is none. As buildx has it, which
/// does not tell.
pub(super) fn tagged(exports: &mut [Export], tags: &[Reference]) {
    if tags.is_empty() {
        return;
    }
    for export in exports {
        if let Output::Image { names, .. } | Output::Archive { names, .. } = &mut export.asked {
            for name in std::mem::take(names) {
                if !tags.iter().any(|tag| tag.familiar() == name) {
                    output::warning(&format!(
                        "name={name} of an --output is not used, as --tag says what the image is called"
                    ));
                }
            }
        }
    }
}

impl Export {
    /// What keeps it, by the name that the daemon knows it by. `keeping` has it for as long as there may be half of it on the disk.
    pub(super) fn keep(self, keeping: &TaskTracker) -> Option<(String, Keep)> {
        let (name, place) = self.keep?;
        let going = place.may_have_half().then(|| keeping.token());
        let keep: Keep = Box::new(move |from| {
            let kept = place.keep(from).map_err(|error| error.to_string());
            drop(going);
            kept
        });
        Some((name, keep))
    }

    /// Whether it takes standard output for itself.
    pub(super) fn is_stdout(&self) -> bool {
        matches!(self.keep, Some((_, Place::Stdout)))
    }
}

/// Reads one: `type=TYPE[,dest=PATH][,name=NAME][,push=true]`, or a directory, or `-`.
fn export(text: &str, number: usize) -> Result<Export> {
    let refused = |why: String| Error::Usage(format!("--output {text:?}: {why}"));
    let id = format!("export-{number}");
    if text.is_empty() {
        return Err(refused("there is nothing in it: give a directory, or type=TYPE,dest=PATH".to_owned()));
    }
    let files = |place| Export { asked: Output::Files { export: id.clone() }, keep: Some((id.clone(), place)) };
    if text == "-" {
        return Ok(files(Place::Stdout));
    }
    if !text.contains('=') {
        return Ok(files(Place::Directory(PathBuf::from(text))));
    }
    let (mut kind, mut dest, mut names, mut push) = (None, None, Vec::new(), false);
    for field in fields(text).map_err(&refused)? {
        let (key, value) = field.split_once('=').ok_or_else(|| refused(format!("{field:?} has no value")))?;
        match key.trim() {
            "type" => kind = Some(value.to_owned()),
            "dest" | "destination" => dest = Some(value.to_owned()).filter(|dest| !dest.is_empty()),
            "name" => {
                for name in value.split(',') {
                    let name = Reference::parse(name).map_err(|e| refused(format!("{name:?} is no name: {e}")))?;
                    names.push(name.with_default_tag().familiar());
                }
            }
            "push" => push = value.parse().map_err(|_| refused(format!("push is true or false, and not {value:?}")))?,
            other => return Err(refused(format!("there is no {other:?}: there are type, dest, name and push"))),
        }
    }
    let place = || match dest.as_deref() {
        None | Some("-") => Place::Stdout,
        Some(path) => Place::File(PathBuf::from(path)),
    };
    let archive = |names: &[String]| Export {
        asked: Output::Archive { names: names.to_vec(), export: id.clone() },
        keep: Some((id.clone(), place())),
    };
    let image = |push| Export { asked: Output::Image { names: names.clone(), push }, keep: None };
    let only = |what: &str, given: bool| match given {
        true => Err(refused(format!("this type takes no {what}"))),
        false => Ok(()),
    };
    let kind = kind.ok_or_else(|| refused("it has no type: local, tar, oci, docker, image or registry".to_owned()))?;
    match kind.as_str() {
        "image" | "registry" => {
            only("dest", dest.is_some())?;
            Ok(image(push || kind == "registry"))
        }
        _ if push => Err(refused("only type=image is pushed".to_owned())),
        // Without a place, it is what this daemon keeps.
        "docker" if dest.is_none() => Ok(image(false)),
        "oci" | "docker" => Ok(archive(&names)),
        "tar" => {
            only("name", !names.is_empty())?;
            Ok(files(place()))
        }
        "local" => {
            only("name", !names.is_empty())?;
            let dest = dest.ok_or_else(|| refused("type=local needs a directory: dest=DIR".to_owned()))?;
            Ok(files(Place::Directory(PathBuf::from(dest))))
        }
        other => Err(refused(format!("{other:?} is no type: local, tar, oci, docker, image or registry"))),
    }
}

impl Place {
    /// Whether something incomplete can lie there: not in a pipe, which may be held up by whoever reads it.
    fn may_have_half(&self) -> bool {
        match self {
            Place::Stdout => false,
            Place::File(path) => may_have_half(path),
            Place::Directory(_) => true,
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Place::Stdout => None,
            Place::File(path) | Place::Directory(path) => Some(path),
        }
    }

    /// The path, where both go to the same.
    fn same(&self, other: &Place) -> Option<&Path> {
        // One that is not there yet has no other names that could be looked up.
        let known = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
        // A device takes what comes, as often as it comes.
        let (one, another) = (self.path().filter(|_| self.may_have_half())?, other.path()?);
        (known(one)? == known(another)?).then_some(one)
    }

    /// Looks whether there is where it goes.
    fn check(&self) -> Result<()> {
        let parent = |path: &Path| path.parent().filter(|parent| !parent.as_os_str().is_empty()).map(Path::to_owned);
        match self {
            Place::Stdout => Ok(()),
            Place::File(path) if path.is_dir() => {
                Err(Error::Failed(format!("writing {}: it is a directory: name a file in it", path.display())))
            }
            Place::File(path) => match parent(path) {
                Some(parent) if !parent.is_dir() => {
                    let (path, parent) = (path.display(), parent.display());
                    Err(Error::Failed(format!("writing {path}: there is no directory {parent}: make it first")))
                }
                _ => Ok(()),
            },
            Place::Directory(path) if path.exists() && !path.is_dir() => {
                Err(Error::Failed(format!("writing {}: it is there, and no directory", path.display())))
            }
            Place::Directory(_) => Ok(()),
        }
    }

    fn keep(self, from: &mut (dyn Read + Send)) -> Result<()> {
        match self {
            Place::Stdout => copied(from, Target::new(None)?),
            Place::File(path) => copied(from, Target::new(Some(&path))?),
            Place::Directory(path) => unpacked(from, &path),
        }
    }
}

fn copied(from: &mut (dyn Read + Send), mut target: Target) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return target.finish(),
            Ok(count) => target.write(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Io("receiving the export".to_owned(), error)),
        }
    }
}

/// Unpacks an archive into a directory, which is made where it is missing. What is in there stays, unless it is called as something that
/// comes; all of it is whose the command is. No link in it, or in what comes, leads out.
fn unpacked(from: &mut (dyn Read + Send), path: &Path) -> Result<()> {
    let made = !path.exists();
    std::fs::create_dir_all(path).map_err(Error::io(format!("making {}", path.display())))?;
    let root = File::open(path).map_err(Error::io(format!("opening {}", path.display())))?;
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let options = WriteOptions { keep_kinds: false, owner: Some(owner), ..WriteOptions::default() };
    let written = write_path(root.as_fd(), Path::new("/"), from, &options);
    written.map_err(|error| {
        if made {
            // Half of it is of no use.
            let _ = image::remove_tree(path);
        }
        let advice = match &error {
            // Devices and capabilities of files.
            image::Error::Io { source, .. } if source.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                ": that takes root; an archive (type=tar,dest=FILE) has it whoever builds"
            }
            _ => "",
        };
        // What there is to be freed is the client's, of which the daemon's advice knows nothing.
        let error = match &error {
            image::Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => source.to_string(),
            error => error.to_string(),
        };
        Error::Failed(format!("writing {}: {error}{advice}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Output, Option<Place>), String> {
        let export = export(text, 0).map_err(|error| error.to_string())?;
        Ok((export.asked, export.keep.map(|(_, place)| place)))
    }

    #[test]
    fn each_type_goes_where_it_says() {
        let id = || "export-0".to_owned();
        let files = |place| Ok((Output::Files { export: id() }, Some(place)));
        assert_eq!(read("-"), files(Place::Stdout));
        assert_eq!(read("out/x"), files(Place::Directory("out/x".into())));
        assert_eq!(read("type=local,dest=x"), files(Place::Directory("x".into())));
        assert_eq!(read("type=tar,dest=x.tar"), files(Place::File("x.tar".into())));
        assert_eq!(read("type=tar"), files(Place::Stdout));
        let archive = Output::Archive { names: vec!["a:latest".into(), "b:2".into()], export: id() };
        assert_eq!(read("type=oci,\"name=a,b:2\",dest=-"), Ok((archive, Some(Place::Stdout))));
        let image = |push| Ok((Output::Image { names: Vec::new(), push }, None));
        assert_eq!((read("type=docker"), read("type=image,push=true")), (image(false), image(true)));
        assert_eq!(read("type=registry"), image(true));
    }

    #[test]
    fn two_outputs_do_not_go_to_one_place() {
        let both =
            |one: &str, another: &str| exports(&[one.to_owned(), another.to_owned()]).map(|exports| exports.len());
        let said = both("x/y", "type=local,dest=./x/y").expect_err("one directory").to_string();
        assert!(said.contains("two outputs go to"), "{said}");
        assert_eq!(both("type=oci,dest=a.tar", "type=tar,dest=b.tar").ok(), Some(2));
        assert_eq!(both("type=image", "type=image").ok(), Some(2));
    }

    #[test]
    fn a_tag_is_the_name_wherever_the_image_goes() {
        let texts = ["type=image,name=a:1", "type=oci,dest=x.tar,name=b:1", "type=tar,dest=y.tar"].map(str::to_owned);
        let names = |tags: &[&str]| {
            let mut exports = exports(&texts).expect("outputs");
            let tags: Vec<Reference> = tags.iter().map(|tag| Reference::parse(tag).expect("a name")).collect();
            tagged(&mut exports, &tags);
            let names = |export: &Export| match &export.asked {
                Output::Image { names, .. } | Output::Archive { names, .. } => names.clone(),
                Output::Files { .. } => Vec::new(),
            };
            exports.iter().map(names).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), [vec!["a:1".to_owned()], vec!["b:1".to_owned()], vec![]]);
        assert_eq!(names(&["c:1"]), [Vec::<String>::new(), vec![], vec![]]);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, why) in [
            ("dest=x", "it has no type"),
            ("type=local", "needs a directory"),
            ("type=zip,dest=x", "\"zip\" is no type"),
            ("type=oci,push=true,dest=x", "only type=image is pushed"),
            ("type=tar,dest=x,name=a", "takes no name"),
            ("type=image,dest=x", "takes no dest"),
            ("type=oci,compression=zstd", "there is no \"compression\""),
            ("type=image,push=maybe", "push is true or false"),
            ("type=image,name=A", "is no name"),
            ("", "there is nothing in it"),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.contains(why), "{said}");
        }
    }
}
