//! Keeping what a login brought, and forgetting it: in the configuration file of the docker client, or with the program
//! that it names for keeping secrets.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::error::{Error, Result};
use super::{Configuration, helper};

/// What a registry lets somebody in for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::client) enum Secret {
    /// A password.
    Password(String),
    /// A token that the registry gave for one.
    Token(String),
}

/// Where what a login brought is now.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum Kept {
    /// As it is, in a file that is its user's alone.
    InFile(PathBuf),
    /// With a program.
    With(String),
}

/// The configuration, as whoever else writes it left it.
struct Document {
    path: PathBuf,
    fields: Map<String, Value>,
}

/// Keeps what `server` lets `user` in for.
pub(in crate::client) fn keep(server: &str, user: &str, secret: &Secret) -> Result<Kept> {
    let mut document = Document::read()?;
    if let Some(program) = document.configuration()?.program(server) {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry<'a> {
            #[serde(rename = "ServerURL")]
            server: &'a str,
            username: &'a str,
            secret: &'a str,
        }
        let (username, secret) = match secret {
            Secret::Password(password) => (user, password),
            Secret::Token(token) => (helper::TOKEN, token),
        };
        let entry = serde_json::to_string(&Entry { server, username, secret })?;
        helper::call(&program, "store", &entry)?
            .map_err(|words| Error::Failed(format!("{program} could not keep the password of {server}: {words}")))?;
        // The file says only that there is something.
        document.set(server, Some(json!({})))?;
        return Ok(Kept::With(program));
    }
    let pair = |password: &str| BASE64_STANDARD.encode(format!("{user}:{password}"));
    let entry = match secret {
        Secret::Password(password) => json!({ "auth": pair(password) }),
        Secret::Token(token) => json!({ "auth": pair(""), "identitytoken": token }),
    };
    document.set(server, Some(entry))?;
    Ok(Kept::InFile(document.path))
}

/// Forgets what was kept for `server`. Tells whether there was anything.
pub(in crate::client) fn forget(server: &str) -> Result<bool> {
    let mut document = Document::read()?;
    let there = document.auths().is_some_and(|auths| auths.contains_key(server));
    if let Some(program) = document.configuration()?.program(server) {
        // That it has none is no failure, but it says so by one.
        let _ = helper::call(&program, "erase", server)?;
    }
    if there {
        document.set(server, None)?;
    }
    Ok(there)
}

impl Document {
    fn read() -> Result<Document> {
        let path = super::file().ok_or_else(|| Error::Usage("there is no home directory: set DOCKER_CONFIG".into()))?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Document { path, fields: Map::new() });
            }
            Err(error) => return Err(Error::Io(format!("reading {}", path.display()), error)),
        };
        let fields = serde_json::from_slice(&text)
            .map_err(|error| Error::Usage(format!("{} is no docker configuration: {error}", path.display())))?;
        Ok(Document { path, fields })
    }

    fn configuration(&self) -> Result<Configuration> {
        serde_json::from_value(Value::Object(self.fields.clone()))
            .map_err(|error| Error::Usage(format!("{} is no docker configuration: {error}", self.path.display())))
    }

    fn auths(&self) -> Option<&Map<String, Value>> {
        self.fields.get("auths").and_then(Value::as_object)
    }

    /// Sets what is known of a server, and writes all of it.
    fn set(&mut self, server: &str, entry: Option<Value>) -> Result<()> {
        let auths = self.fields.entry("auths").or_insert_with(|| json!({}));
        if auths.is_null() {
            *auths = json!({});
        }
        let Some(auths) = auths.as_object_mut() else {
            return Err(Error::Usage(format!("{} has something else than servers in auths", self.path.display())));
        };
        match entry {
            Some(entry) => auths.insert(server.to_owned(), entry),
            None => auths.remove(server),
        };
        self.write()
    }

    /// Writes it as a whole, or not at all. The file is its user's alone, unless it was there with another mode.
    fn write(&self) -> Result<()> {
        // Somebody may have put a link there, to keep the file elsewhere.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let written = || -> std::io::Result<()> {
            let directory = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(directory)?;
            let mut text = Vec::new();
            let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
            self.fields.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format))?;
            let partial = directory.join(format!(".config.json.{}.partial", std::process::id()));
            let result = replace(&partial, &path, &text);
            if result.is_err() {
                // What is not complete is of no use.
                let _ = fs::remove_file(&partial);
            }
            result
        };
        written().map_err(Error::io(format!("writing {}", path.display())))
    }
}

fn replace(partial: &Path, path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(partial)?;
    if let Ok(before) = fs::metadata(path) {
        file.set_permissions(Permissions::from_mode(before.mode() & 0o777))?;
        // Only root can give it to another user, and only root would have to.
        let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
    }
    file.write_all(text)?;
    file.sync_data()?;
    fs::rename(partial, path)
}
