//! What a build gets beside its context: further contexts, secrets, SSH agents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api_build::{Ask, LayoutDirectory, NamedContext, Offers, Secret};
use build::LayoutEntry;
use clap::Args;

use super::super::error::{Error, Result};
use super::keys::KeyAgent;
use super::source;

/// What a build gets beside its context
#[derive(Args, Debug)]
#[command(next_help_heading = "Beside the context")]
pub(super) struct Lend {
    /// Further context for FROM NAME, COPY --from=NAME and RUN --mount=from=NAME, in place of a stage or an image of that name:
    /// NAME=DIRECTORY, NAME=docker-image://IMAGE, NAME=oci-layout://DIRECTORY[:TAG][@DIGEST], or the address of a git repository, an archive or a file; repeats
    #[arg(long, value_name = "NAME=WHAT")]
    build_context: Vec<String>,
    /// Secret for RUN --mount=type=secret, id=ID,src=FILE or id=ID,env=VARIABLE; repeats
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// SSH agent for RUN --mount=type=ssh and, as default, for git repositories by SSH, default or ID=SOCKET [default of the socket: SSH_AUTH_SOCK], or
    /// keys that are in no agent, ID=KEYFILE[,KEYFILE]; repeats
    #[arg(long, value_name = "ID[=SOCKET|KEYFILE,…]", num_args = 0..=1, default_missing_value = "default")]
    ssh: Vec<String>,
}

impl Lend {
    /// Adds it to what is asked for, and to what the daemon may ask for: for as long as what is returned is there.
    pub(super) async fn add_to(&self, ask: &mut Ask, offers: &mut Offers) -> Result<Vec<KeyAgent>> {
        for text in &self.build_context {
            let (name, what) = context(text)?;
            let context = match what.strip_prefix("docker-image://") {
                Some(image) => NamedContext::Image(image.to_owned()),
                None if what.starts_with("oci-layout://") => {
                    let (path, entry) =
                        layout(what).map_err(|why| Error::Usage(format!("--build-context {text:?}: {why}")))?;
                    // No cache has such a name.
                    let layout = format!("context {name}");
                    offers.layouts.insert(layout.clone(), LayoutDirectory::new(path));
                    NamedContext::Layout { layout, path: path.to_owned(), entry }
                }
                None if source::is_address(what) && !Path::new(what).exists() => {
                    NamedContext::Elsewhere(what.to_owned())
                }
                None => {
                    let (directory, ignore, key) = source::directory(Path::new(what))?;
                    offers.contexts.insert(name.to_owned(), directory);
                    NamedContext::Directory { ignore, key }
                }
            };
            ask.contexts.insert(name.to_owned(), context);
        }
        offers.secrets = secrets(&self.secret)?;
        ask.secrets = offers.secrets.keys().cloned().collect();
        let own = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from);
        let mut keys = Vec::new();
        for text in &self.ssh {
            let (id, agent) = agent(text, own.as_deref())?;
            let socket = match agent {
                Agent::Socket(socket) => socket,
                Agent::Keys(files) => {
                    keys.push(KeyAgent::start(&files).await?);
                    keys.last().map(KeyAgent::socket).unwrap_or_default()
                }
            };
            offers.agents.insert(id.to_owned(), socket);
        }
        ask.agents = offers.agents.keys().cloned().collect();
        offers.known_hosts = known_hosts(std::env::var_os("HOME").map(PathBuf::from).as_deref());
        Ok(keys)
    }
}

fn context(text: &str) -> Result<(&str, &str)> {
    let (name, what) = text
        .split_once('=')
        .filter(|(name, what)| !name.is_empty() && !what.is_empty())
        .ok_or_else(|| Error::Usage(format!("--build-context {text:?}: give NAME=DIRECTORY")))?;
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::Usage(format!(
            "--build-context {text:?}: {name:?} is no name that a Dockerfile could have for it"
        )));
    }
    if what.starts_with("target:") || what.starts_with("input:") {
        let message = "that is bake's: give a directory, an address, or docker-image://IMAGE";
        return Err(Error::Usage(format!("--build-context {text:?}: {message}")));
    }
    Ok((name, what))
}

/// A directory that is an OCI layout, and what is meant of it: `oci-layout://DIRECTORY[:TAG][@DIGEST]`.
fn layout(text: &str) -> std::result::Result<(&str, Option<LayoutEntry>), String> {
    let place = text.trim_start_matches("oci-layout://");
    let (place, digest) = match place.rsplit_once('@') {
        Some((place, digest)) if digest.contains(':') => (place, Some(digest)),
        _ => (place, None),
    };
    let (path, tag) = match place.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !Path::new(place).is_dir() => (path, Some(tag)),
        _ => (place, None),
    };
    // A digest says all that a tag could.
    let entry = match (digest, tag) {
        (Some(digest), _) => {
            Some(LayoutEntry::Digest(digest.parse().map_err(|e| format!("{digest:?} is no digest: {e}"))?))
        }
        (None, tag) => tag.map(|tag| LayoutEntry::Named(tag.to_owned())),
    };
    match Path::new(path).join("index.json").is_file() {
        true => Ok((path, entry)),
        false => Err(format!("{path} is no OCI layout: there is no file index.json in it")),
    }
}

fn secrets(texts: &[String]) -> Result<BTreeMap<String, Secret>> {
    let mut secrets = BTreeMap::new();
    for text in texts {
        let refused =
            |why: &str| Error::Usage(format!("--secret {text:?}: {why}: give id=ID,src=FILE or id=ID,env=VARIABLE"));
        let (mut id, mut file, mut variable) = (None, None, None);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| refused(&format!("{field:?} has no value")))?;
            match key {
                "id" => id = Some(value.to_owned()),
                "src" | "source" => file = Some(PathBuf::from(value)),
                "env" => variable = Some(value.to_owned()),
                "type" if matches!(value, "file" | "env") => {}
                _ => return Err(refused(&format!("there is no {key:?}: there are id, src, env and type"))),
            }
        }
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| refused("it has no id"))?;
        let secret = match (file, variable) {
            (Some(_), Some(_)) => return Err(refused("it is in a file or in a variable")),
            (Some(path), None) if path.is_file() => Secret::File(path),
            (Some(path), None) => return Err(refused(&format!("{} is no file", path.display()))),
            (None, Some(variable)) if std::env::var_os(&variable).is_some() => Secret::Variable(variable),
            (None, Some(variable)) => return Err(refused(&format!("there is no variable {variable}"))),
            // Its id says where it is.
            (None, None) if std::env::var_os(&id).is_some() => Secret::Variable(id.clone()),
            (None, None) if Path::new(&id).is_file() => Secret::File(PathBuf::from(&id)),
            (None, None) => return Err(refused(&format!("there is neither a variable nor a file {id}"))),
        };
        if secrets.contains_key(&id) {
            return Err(Error::Usage(format!("--secret {text:?}: there is one of the id {id} already")));
        }
        secrets.insert(id, secret);
    }
    Ok(secrets)
}

/// What knows keys.
#[derive(Debug, PartialEq, Eq)]
enum Agent<'t> {
    /// An agent that listens there.
    Socket(PathBuf),
    /// Files that have them.
    Keys(Vec<&'t Path>),
}

/// Reads `ID`, `ID=SOCKET` or `ID=KEYFILE,…`.
fn agent<'t>(text: &'t str, own: Option<&Path>) -> Result<(&'t str, Agent<'t>)> {
    use std::os::unix::fs::FileTypeExt as _;
    let Some((id, paths)) = text.split_once('=') else {
        let own = own.ok_or_else(|| {
            let message = "there is no SSH_AUTH_SOCK: start an agent, or give ID=SOCKET or ID=KEYFILE";
            Error::Usage(format!("--ssh {text:?}: {message}"))
        })?;
        let looking = format!("--ssh {text}: looking up {}, of SSH_AUTH_SOCK", own.display());
        return match std::fs::metadata(own).map_err(Error::io(looking))?.file_type() {
            kind if kind.is_socket() => Ok((text, Agent::Socket(own.to_owned()))),
            _ => Err(Error::Usage(format!("--ssh {text:?}: {}, of SSH_AUTH_SOCK, is no socket", own.display()))),
        };
    };
    let mut keys = Vec::new();
    for path in paths.split(',').map(Path::new) {
        let looking = format!("--ssh {text}: looking up {}", path.display());
        let kind = std::fs::metadata(path).map_err(Error::io(looking))?.file_type();
        if kind.is_socket() {
            let alone = (paths == path.as_os_str()).then(|| (id, Agent::Socket(path.to_owned())));
            let message = format!(
                "--ssh {text:?}: {} is an agent, and stands alone: give the others an ID of their own",
                path.display()
            );
            return alone.ok_or(Error::Usage(message));
        }
        if !kind.is_file() {
            let message = "is neither an agent's socket nor a key's file";
            return Err(Error::Usage(format!("--ssh {text:?}: {} {message}", path.display())));
        }
        keys.push(path);
    }
    Ok((id, Agent::Keys(keys)))
}

/// Where ssh has the keys of hosts.
fn known_hosts(home: Option<&Path>) -> Vec<PathBuf> {
    let user = home.map(|home| home.join(".ssh"));
    let directories = user.into_iter().map(|ssh| (ssh, "known_hosts")).chain([("/etc/ssh".into(), "ssh_known_hosts")]);
    directories.flat_map(|(directory, name)| [directory.join(name), directory.join(format!("{name}2"))]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_where_it_is_said() {
        let read = |text: &str| secrets(&[text.to_owned()]);
        let file = |path: &str| Secret::File(PathBuf::from(path));
        assert_eq!(read("id=a,src=/etc/passwd").expect("a secret")["a"], file("/etc/passwd"));
        assert_eq!(read("type=env,id=a,env=PATH").expect("a secret")["a"], Secret::Variable("PATH".into()));
        assert_eq!(read("id=PATH").expect("a secret")["PATH"], Secret::Variable("PATH".into()));
        for (text, why) in [
            ("src=/etc/passwd", "it has no id"),
            ("id=a,src=/nowhere", "/nowhere is no file"),
            ("id=a,env=NOBODY_SETS_THIS", "there is no variable NOBODY_SETS_THIS"),
            ("id=a,src=/etc/passwd,env=PATH", "in a file or in a variable"),
            ("id=a,mode=4", "there is no \"mode\""),
            ("a", "\"a\" has no value"),
        ] {
            let said = read(text).expect_err("refused").to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn an_agent_is_a_socket_or_files_of_keys() {
        let file = Path::new("/etc/passwd");
        let said = agent("default", Some(file)).expect_err("no socket").to_string();
        assert!(said.contains("/etc/passwd, of SSH_AUTH_SOCK, is no socket"), "{said}");
        let said = agent("default", None).expect_err("none").to_string();
        assert!(said.contains("there is no SSH_AUTH_SOCK"), "{said}");
        let keys = agent("a=/etc/passwd,/etc/group", None).expect("keys");
        assert_eq!(keys, ("a", Agent::Keys(vec![file, Path::new("/etc/group")])));
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("agent");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let text = format!("a={}", socket.display());
        assert_eq!(agent(&text, None).expect("an agent"), ("a", Agent::Socket(socket)));
        assert!(agent(&format!("{text},/etc/passwd"), None).expect_err("both").to_string().contains("stands alone"));
        assert!(agent("a=/etc", None).expect_err("a directory").to_string().contains("neither"));
    }

    #[test]
    fn a_context_has_a_name() {
        assert_eq!(context("a=b").expect("one"), ("a", "b"));
        assert!(context("a").is_err() && context("=b").is_err());
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("index.json"), "{}").expect("an index");
        let path = directory.path().to_str().expect("UTF-8");
        let digest = image::Digest::of(b"x");
        let of_digest = Some(LayoutEntry::Digest(digest));
        for (more, entry) in [
            (String::new(), None),
            (":v1".to_owned(), Some(LayoutEntry::Named("v1".to_owned()))),
            (format!("@{digest}"), of_digest.clone()),
            (format!(":v1@{digest}"), of_digest),
        ] {
            assert_eq!(layout(&format!("oci-layout://{path}{more}")), Ok((path, entry)), "{more}");
        }
        assert!(layout("oci-layout:///none").expect_err("nothing there").contains("/none is no OCI layout"));
        assert!(layout(&format!("oci-layout://{path}@md5:1")).expect_err("no digest").contains("is no digest"));
        assert_eq!(context("a=https://x/y.git#v1:d").expect("an address"), ("a", "https://x/y.git#v1:d"));
        assert!(context("a=target:b").expect_err("of bake").to_string().contains("bake's"));
    }
}
