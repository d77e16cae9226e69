//! What a build gets beside its context: further contexts, secrets, SSH agents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api_build::{Ask, NamedContext, Offers, Secret};
use clap::Args;

use super::super::error::{Error, Result};
use super::source;

/// What a build gets beside its context
#[derive(Args, Debug)]
#[command(next_help_heading = "Beside the context")]
pub(super) struct Lend {
    /// Further context for FROM NAME, COPY --from=NAME and RUN --mount=from=NAME, in place of a stage or an image of that name:
    /// NAME=DIRECTORY, NAME=docker-image://IMAGE, or the address of a git repository, an archive or a file; repeats
    #[arg(long, value_name = "NAME=WHAT")]
    build_context: Vec<String>,
    /// Secret for RUN --mount=type=secret, id=ID,src=FILE or id=ID,env=VARIABLE; repeats
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// SSH agent for RUN --mount=type=ssh and, as default, for git repositories by SSH, default or ID=SOCKET [default of the socket: SSH_AUTH_SOCK]; repeats
    #[arg(long, value_name = "ID[=SOCKET]", num_args = 0..=1, default_missing_value = "default")]
    ssh: Vec<String>,
}

impl Lend {
    /// Adds it to what is asked for, and to what the daemon may ask for. Blocks.
    pub(super) fn add_to(&self, ask: &mut Ask, offers: &mut Offers) -> Result<()> {
        for text in &self.build_context {
            let (name, what) = context(text)?;
            let context = match what.strip_prefix("docker-image://") {
                Some(image) => NamedContext::Image(image.to_owned()),
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
        offers.agents = agents(&self.ssh, own.as_deref())?;
        ask.agents = offers.agents.keys().cloned().collect();
        offers.known_hosts = known_hosts(std::env::var_os("HOME").map(PathBuf::from).as_deref());
        Ok(())
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
    if what.starts_with("oci-layout://") {
        let message = "import what is there first, and name the image: NAME=docker-image://IMAGE";
        return Err(Error::Usage(format!(
            "--build-context {text:?}: stratus reads no OCI layouts here yet: {message}"
        )));
    }
    if what.starts_with("target:") || what.starts_with("input:") {
        let message = "that is bake's: give a directory, an address, or docker-image://IMAGE";
        return Err(Error::Usage(format!("--build-context {text:?}: {message}")));
    }
    Ok((name, what))
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

fn agents(texts: &[String], own: Option<&Path>) -> Result<BTreeMap<String, PathBuf>> {
    use std::os::unix::fs::FileTypeExt as _;
    let mut agents = BTreeMap::new();
    for text in texts {
        let (id, socket) = text.split_once('=').map_or((text.as_str(), None), |(id, path)| (id, Some(Path::new(path))));
        let socket = socket.or(own).ok_or_else(|| {
            Error::Usage(format!("--ssh {text:?}: there is no SSH_AUTH_SOCK: start an agent, or give ID=SOCKET"))
        })?;
        let metadata = std::fs::metadata(socket).map_err(Error::io(format!("looking up {}", socket.display())))?;
        if !metadata.file_type().is_socket() {
            let path = socket.display();
            let message = "stratus reads no keys: give them to an agent (ssh-add), and name its socket";
            return Err(Error::Usage(format!("--ssh {text:?}: {path} is no agent's socket: {message}")));
        }
        agents.insert(id.to_owned(), socket.to_owned());
    }
    Ok(agents)
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
    fn an_agent_is_a_socket() {
        let own = Path::new("/etc/passwd");
        let said = agents(&["default".to_owned()], Some(own)).expect_err("no socket").to_string();
        assert!(said.contains("give them to an agent"), "{said}");
        let said = agents(&["default".to_owned()], None).expect_err("none").to_string();
        assert!(said.contains("there is no SSH_AUTH_SOCK"), "{said}");
    }

    #[test]
    fn a_context_has_a_name() {
        assert_eq!(context("a=b").expect("one"), ("a", "b"));
        assert!(context("a").is_err() && context("=b").is_err());
        assert!(context("a=oci-layout://x").expect_err("not yet").to_string().contains("no OCI layouts"));
        assert_eq!(context("a=https://x/y.git#v1:d").expect("an address"), ("a", "https://x/y.git#v1:d"));
        assert!(context("a=target:b").expect_err("of bake").to_string().contains("bake's"));
    }
}
