//! What the user's `login` left behind, this command's or docker's, for pulls and pushes: the configuration file of the
//! docker client, and the programs that it names for keeping secrets.

mod helper;
mod keep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use super::output;

pub(super) use keep::{Kept, Secret, forget, keep};

/// Under which name Docker Hub's stand.
const HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Configuration {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The header for a registry; `None` where nothing is known of it.
pub(super) fn of(registry: &str) -> Result<Option<String>> {
    Ok(document(registry)?.map(|document| BASE64_URL_SAFE.encode(document.to_string())))
}

/// What is known of a registry, as the API has it.
pub(super) fn document(registry: &str) -> Result<Option<Value>> {
    configuration()?.map_or(Ok(None), |configuration| configuration.of(registry))
}

/// The header for all registries that something is known of, which a build may pull from; `None` where there are none.
pub(super) fn all() -> Result<Map<String, Value>> {
    let mut documents = Map::new();
    let Some(configuration) = configuration()? else { return Ok(documents) };
    for server in configuration.servers() {
        match configuration.of(&server) {
            Ok(document) => documents.extend(document.map(|document| (server, document))),
            // The build may have no need of it.
            Err(error) => output::warning(&format!("nothing is known of {server}: {error}")),
        }
    }
    Ok(documents)
}

fn configuration() -> Result<Option<Configuration>> {
    let Some(path) = file() else { return Ok(None) };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Io(format!("reading {}", path.display()), error)),
    };
    serde_json::from_slice(&text)
        .map_err(|error| Error::Usage(format!("{} is no docker configuration: {error}", path.display())))
}

/// The name under which a registry stands, of which there may be several.
pub(super) fn server(registry: Option<&str>) -> String {
    match registry.map_or("docker.io", host) {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// A registry's host and port, of what may be an address.
fn host(name: &str) -> &str {
    let name = name.trim_start_matches("https://").trim_start_matches("http://");
    name.split('/').next().unwrap_or(name)
}

/// The header that says that nothing is known.
pub(super) fn none() -> String {
    BASE64_URL_SAFE.encode("{}")
}

fn file() -> Option<PathBuf> {
    let given = std::env::var_os("DOCKER_CONFIG").filter(|directory| !directory.is_empty()).map(PathBuf::from);
    let home = || std::env::home_dir().map(|home| home.join(".docker"));
    given.or_else(home).map(|directory| directory.join("config.json"))
}

impl Configuration {
    /// The registries that something may be known of.
    fn servers(&self) -> BTreeSet<String> {
        let mut servers: BTreeSet<String> =
            self.auths.keys().chain(self.cred_helpers.keys()).map(|name| server(Some(name))).collect();
        if let Some(program) = self.creds_store.as_deref().filter(|name| !name.is_empty()) {
            servers.extend(listed(program).iter().map(|name| server(Some(name))));
        }
        servers
    }

    /// The program that keeps a server's secrets.
    fn program(&self, server: &str) -> Option<String> {
        // Docker Hub's stands under its name in images, too.
        let other = if server == HUB { "docker.io" } else { server };
        let own = self.cred_helpers.get(server).or_else(|| self.cred_helpers.get(other));
        own.or(self.creds_store.as_ref()).filter(|name| !name.is_empty()).cloned()
    }

    fn of(&self, registry: &str) -> Result<Option<Value>> {
        let server = &*server(Some(registry));
        if let Some(helper) = self.program(server) {
            return ask(&helper, server);
        }
        let entry = self.auths.get(server).or_else(|| {
            let same = |(name, _): &(&String, &Entry)| server != HUB && host(name) == server;
            self.auths.iter().find(same).map(|(_, entry)| entry)
        });
        let Some(entry) = entry else { return Ok(None) };
        let mut document = json!({ "serveraddress": server });
        if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) {
            let decoded = BASE64_STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded = decoded.unwrap_or_default();
            let (user, password) = decoded.split_once(':').ok_or_else(|| {
                Error::Usage(format!(
                    "what is known of {registry} can't be read. Mend it with: docker login {registry}"
                ))
            })?;
            document["username"] = json!(user);
            document["password"] = json!(password.trim_end_matches('\0'));
        }
        if let Some(token) = entry.identitytoken.as_deref().filter(|token| !token.is_empty()) {
            document["identitytoken"] = json!(token);
        }
        Ok(Some(document))
    }
}

/// The servers whose secrets a program keeps, where it says so.
fn listed(program: &str) -> Vec<String> {
    let Ok(Ok(answer)) = helper::call(program, "list", "") else { return Vec::new() };
    serde_json::from_slice::<BTreeMap<String, String>>(&answer)
        .map(|kept| kept.into_keys().collect())
        .unwrap_or_default()
}

/// Asks a program that keeps secrets.
fn ask(program: &str, server: &str) -> Result<Option<Value>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Secret {
        username: String,
        secret: String,
    }
    // It has none, which it says by failing.
    let Ok(answer) = helper::call(program, "get", server)? else { return Ok(None) };
    let secret: Secret = serde_json::from_slice(&answer).map_err(|error| {
        Error::Failed(format!("the answer of docker-credential-{program} is not understood: {error}"))
    })?;
    Ok(Some(match secret.username.as_str() {
        helper::TOKEN => json!({ "serveraddress": server, "identitytoken": secret.secret }),
        user => json!({ "serveraddress": server, "username": user, "password": secret.secret }),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_login_left_is_found() {
        let configuration: Configuration = serde_json::from_value(json!({
            "auths": {
                "https://index.docker.io/v1/": { "auth": BASE64_STANDARD.encode("me:my:secret") },
                "https://reg.example:5000/v2/": { "identitytoken": "t" },
            },
            "HttpHeaders": {},
        }))
        .expect("a configuration");
        let servers: Vec<String> = configuration.servers().into_iter().collect();
        assert_eq!(servers, [HUB, "reg.example:5000"]);
        let hub = configuration.of("docker.io").expect("readable").expect("known");
        assert_eq!((&hub["username"], &hub["password"]), (&json!("me"), &json!("my:secret")));
        assert_eq!(configuration.of("reg.example:5000").expect("readable").expect("known")["identitytoken"], "t");
        assert_eq!(configuration.of("other.example").expect("readable"), None);
    }
}
