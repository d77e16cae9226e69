//! What the user's `docker login` left behind, for pulls and pushes: the configuration file of the docker client, and
//! the programs that it names for keeping secrets.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{Error, Result};

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
    let Some(path) = file() else { return Ok(None) };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Io(format!("reading {}", path.display()), error)),
    };
    let configuration: Configuration = serde_json::from_slice(&text)
        .map_err(|error| Error::Usage(format!("{} is no docker configuration: {error}", path.display())))?;
    Ok(configuration.of(registry)?.map(|document| BASE64_URL_SAFE.encode(document.to_string())))
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
    fn of(&self, registry: &str) -> Result<Option<Value>> {
        let server = if registry == "docker.io" { HUB } else { registry };
        if let Some(helper) = self.cred_helpers.get(registry).or(self.creds_store.as_ref()) {
            return ask(helper, server);
        }
        let host = |name: &str| {
            let name = name.trim_start_matches("https://").trim_start_matches("http://");
            name.split('/').next().unwrap_or(name).to_owned()
        };
        let entry = self.auths.get(server).or_else(|| {
            let same = |(name, _): &(&String, &Entry)| registry != "docker.io" && host(name) == registry;
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

/// Asks a program that keeps secrets (its protocol: docker-credential-helpers).
fn ask(helper: &str, server: &str) -> Result<Option<Value>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Secret {
        username: String,
        secret: String,
    }
    let program = format!("docker-credential-{helper}");
    let failed = |error| Error::Io(format!("asking {program} for the password of {server}"), error);
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(server.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        // It has none, which it says by failing.
        return Ok(None);
    }
    let secret: Secret = serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::Failed(format!("the answer of {program} is not understood: {error}")))?;
    Ok(Some(match secret.username.as_str() {
        "<token>" => json!({ "serveraddress": server, "identitytoken": secret.secret }),
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
        let hub = configuration.of("docker.io").expect("readable").expect("known");
        assert_eq!((&hub["username"], &hub["password"]), (&json!("me"), &json!("my:secret")));
        assert_eq!(configuration.of("reg.example:5000").expect("readable").expect("known")["identitytoken"], "t");
        assert_eq!(configuration.of("other.example").expect("readable"), None);
    }
}
