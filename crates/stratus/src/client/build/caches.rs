//! `--cache-from` and `--cache-to`: caches of elsewhere, in the words of BuildKit's users.

use std::collections::BTreeMap;

use api_build::{Ask, CacheFrom, CachePlace, CacheTo, LayoutDirectory};
use build::LayoutEntry;
use clap::Args;
use image::{Digest, Reference};

use super::super::error::{Error, Result};
use super::super::mounts::fields;

/// What a cache in a directory is called where nothing else is said.
const TAG: &str = "latest";

/// What steps are found in, and kept in for others
#[derive(Args, Debug)]
#[command(next_help_heading = "Caches of elsewhere")]
pub(super) struct Caches {
    /// Cache that is looked into for what this machine has not: a name in a registry, or type=registry,ref=NAME, or
    /// type=local,src=DIRECTORY; repeats
    #[arg(long, value_name = "CACHE")]
    cache_from: Vec<String>,
    /// Where steps are kept for others: a name in a registry, or type=registry,ref=NAME, or type=local,dest=DIRECTORY, or type=inline for the
    /// image itself; mode=max keeps those of all stages; repeats
    #[arg(long, value_name = "CACHE")]
    cache_to: Vec<String>,
}

impl Caches {
    /// Adds them to what is asked for; the directories that the daemon may ask for then.
    pub(super) fn add_to(&self, ask: &mut Ask) -> Result<BTreeMap<String, LayoutDirectory>> {
        let mut layouts = BTreeMap::new();
        for (number, text) in self.cache_from.iter().enumerate() {
            let refused = |why: String| Error::Usage(format!("--cache-from {text:?}: {why}"));
            let (from, directory) = from(text, format!("cache-from-{number}")).map_err(refused)?;
            ask.cache_from.push(from);
            layouts.extend(directory);
        }
        for (number, text) in self.cache_to.iter().enumerate() {
            let refused = |why: String| Error::Usage(format!("--cache-to {text:?}: {why}"));
            match to(text, format!("cache-to-{number}")).map_err(refused)? {
                None => ask.inline_cache = true,
                Some((to, directory)) => {
                    ask.cache_to.push(to);
                    layouts.extend(directory);
                }
            }
        }
        Ok(layouts)
    }
}

/// A directory, by the name that the daemon knows it as.
type Named = Option<(String, LayoutDirectory)>;

/// What is said of a cache, by names.
struct Said(BTreeMap<String, String>);

impl Said {
    /// Reads `type=TYPE,NAME=VALUE,…`, or a name in a registry alone.
    fn read(text: &str) -> Result<Said, String> {
        if !text.contains('=') {
            return Ok(Said([("type", "registry"), ("ref", text)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()));
        }
        let mut said = BTreeMap::new();
        for field in fields(text)? {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("{field:?} has no value"))?;
            said.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
        Ok(Said(said))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.0.remove(key).filter(|value| !value.is_empty())
    }

    fn kind(&mut self) -> Result<String, String> {
        let kind = self.take("type").ok_or("it has no type: registry, local, or inline to write")?;
        match &*kind {
            "registry" | "local" | "inline" => Ok(kind),
            "gha" | "s3" | "azblob" => Err(format!("stratus keeps no caches in {kind}: there are registry and local")),
            other => Err(format!("{other:?} is no type: there are registry, local, and inline to write")),
        }
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, String> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(format!("{key} is true or false, and not {other:?}")),
        }
    }

    /// What is left was not understood.
    fn end(self) -> Result<(), String> {
        self.0.into_keys().next().map_or(Ok(()), |key| Err(format!("this type takes no {key:?}")))
    }

    fn reference(&mut self) -> Result<Reference, String> {
        let name = self.take("ref").ok_or("type=registry needs a name: ref=NAME")?;
        Reference::parse(&name).map_err(|e| format!("{name:?} is no name: {e}"))
    }
}

fn from(text: &str, layout: String) -> Result<(CacheFrom, Named), String> {
    let mut said = Said::read(text)?;
    let kind = said.kind()?;
    let found = match &*kind {
        "registry" => (CacheFrom::Registry(said.reference()?.to_string()), None),
        "local" => {
            let path = said.take("src").ok_or("type=local needs a directory: src=DIRECTORY")?;
            let entry = match (said.take("tag"), said.take("digest")) {
                (None, None) => LayoutEntry::Named(TAG.to_owned()),
                (Some(tag), None) => LayoutEntry::Named(tag),
                (None, Some(digest)) => {
                    let parsed = digest.parse::<Digest>();
                    LayoutEntry::Digest(parsed.map_err(|e| format!("{digest:?} is no digest: {e}"))?)
                }
                (Some(_), Some(_)) => return Err("it is named by a tag or by a digest".to_owned()),
            };
            let directory = (layout.clone(), LayoutDirectory::new(&path));
            (CacheFrom::Layout { layout, path, entry }, Some(directory))
        }
        _ => return Err("an image that says what made its layers is found as type=registry,ref=NAME".to_owned()),
    };
    said.end().map(|()| found)
}

/// Where a cache goes; `None`: it is said by the image itself.
fn to(text: &str, layout: String) -> Result<Option<(CacheTo, Named)>, String> {
    let mut said = Said::read(text)?;
    let kind = said.kind()?;
    if kind == "inline" {
        return said.end().map(|()| None);
    }
    let all = match said.take("mode").as_deref() {
        None | Some("min") => false,
        Some("max") => true,
        Some(other) => return Err(format!("mode is min or max, and not {other:?}")),
    };
    let ignore_error = said.flag("ignore-error")?.unwrap_or(false);
    if let Some(other) = said.take("compression").filter(|compression| compression != "gzip") {
        return Err(format!("layers are packed by gzip, and not by {other:?}"));
    }
    // What they ask for is what a cache is here.
    for key in ["oci-mediatypes", "image-manifest"] {
        if said.flag(key)? == Some(false) {
            return Err(format!("a cache is an OCI artifact: there is no {key}=false"));
        }
    }
    let (place, directory) = match &*kind {
        "registry" => {
            let reference = said.reference()?;
            if reference.digest().is_some() {
                return Err("a digest only follows from what is kept: name a tag".to_owned());
            }
            (CachePlace::Registry(reference.with_default_tag().to_string()), None)
        }
        _ => {
            let path = said.take("dest").ok_or("type=local needs a directory: dest=DIRECTORY")?;
            let tag = said.take("tag").unwrap_or_else(|| TAG.to_owned());
            let directory = (layout.clone(), LayoutDirectory::new(&path));
            (CachePlace::Layout { layout, path, tag }, Some(directory))
        }
    };
    said.end().map(|()| Some((CacheTo { place, all, ignore_error }, directory)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Result<Option<CacheTo>, String> {
        Ok(to(text, "id".to_owned())?.map(|(to, _)| to))
    }

    fn named(text: &str) -> Result<CacheFrom, String> {
        Ok(from(text, "id".to_owned())?.0)
    }

    #[test]
    fn caches_are_said_as_to_buildkit() {
        let registry = |name: &str| CachePlace::Registry(name.to_owned());
        let plain = |place| Ok(Some(CacheTo { place, all: false, ignore_error: false }));
        assert_eq!(kept("reg.example/app"), plain(registry("reg.example/app:latest")));
        assert_eq!(kept("type=registry,ref=reg.example/app:c,mode=min"), plain(registry("reg.example/app:c")));
        let all = CacheTo { place: registry("reg.example/app:c"), all: true, ignore_error: true };
        let written = "type=registry,mode=max,ref=reg.example/app:c,ignore-error=true,oci-mediatypes=true,image-manifest=true,compression=gzip";
        assert_eq!(kept(written), Ok(Some(all)));
        let layout = |tag: &str| CachePlace::Layout { layout: "id".into(), path: "a,b".into(), tag: tag.into() };
        assert_eq!(kept("type=local,\"dest=a,b\""), plain(layout("latest")));
        assert_eq!(kept("type=local,\"dest=a,b\",tag=x"), plain(layout("x")));
        assert_eq!(kept("type=inline"), Ok(None));
        assert_eq!(named("reg.example/app"), Ok(CacheFrom::Registry("reg.example/app".into())));
        let digest = Digest::of(b"a cache");
        let within = |entry| Ok(CacheFrom::Layout { layout: "id".into(), path: "dir".into(), entry });
        assert_eq!(named("type=local,src=dir"), within(LayoutEntry::Named("latest".into())));
        assert_eq!(named(&format!("type=local,src=dir,digest={digest}")), within(LayoutEntry::Digest(digest)));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (text, why) in [
            ("dest=x", "it has no type"),
            ("type=gha", "keeps no caches in gha"),
            ("type=zip", "\"zip\" is no type"),
            ("type=registry", "needs a name"),
            ("type=local", "needs a directory"),
            ("type=local,dest=x,mode=all", "mode is min or max"),
            ("type=local,dest=x,compression=zstd", "not by \"zstd\""),
            ("type=local,dest=x,oci-mediatypes=false", "no oci-mediatypes=false"),
            ("type=local,dest=x,src=y", "takes no \"src\""),
            ("type=inline,ref=x", "takes no \"ref\""),
            ("type=registry,ref=A", "is no name"),
        ] {
            let said = kept(text).expect_err(text);
            assert!(said.contains(why), "{said}");
        }
        assert!(named("type=inline,ref=x").expect_err("to read").contains("type=registry,ref=NAME"));
        assert!(named("type=local,src=x,tag=a,digest=b").is_err());
    }
}
