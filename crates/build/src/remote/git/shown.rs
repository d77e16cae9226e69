//! What a repository's server is shown that asks for a name and a password: those of its address, or a secret, which only whoever asks for the build has.
//!
//! It reaches git in its environment, which root alone can read, as an argument would be anybody's and a file would stay on a disk. It is shown to the
//! one server that was named, and no redirection is followed where it is a secret: git would show it wherever that leads.

use crate::request::Lender;
use crate::{Error, Result};
use futures_util::future::BoxFuture;
use image::registry::{basic_header, name_and_password, without_password};
use std::sync::Arc;
use tokio::net::UnixStream;

/// The secret that is a whole header, as `basic …` or `bearer …`; with `.HOST` behind it, for that host.
const HEADER: &str = "GIT_AUTH_HEADER";
/// The secret that is a token; with `.HOST` behind it, for that host.
const TOKEN: &str = "GIT_AUTH_TOKEN";
/// The name that goes with a token, which forges take with any.
const NAME: &str = "x-access-token";

/// What one server is shown.
pub(super) enum Shown {
    /// A secret, with whatever it is asked.
    Secret {
        /// The server's address.
        server: String,
        /// The whole header.
        header: String,
        /// The secret's name.
        secret: String,
    },
    /// The name and the password of the address itself, where it asks for one.
    Address {
        /// The server's address.
        server: String,
        name: String,
        password: Option<String>,
    },
}

/// What git runs to have a name and a password, which are in its environment.
const HELPER: &str = r#"!f() { test "$1" = get || return 0; printf 'username=%s\n' "$STRATUS_NAME"; test -z "${STRATUS_PASSWORD+set}" || printf 'password=%s\n' "$STRATUS_PASSWORD"; }; f"#;

impl Shown {
    /// Finds what is to be shown for an address; `None`: nothing. What the address itself has comes before all others, then the narrower secret
    /// before the other, and a header before a token.
    pub(super) async fn find(remote: &str, lender: Option<&dyn Lender>) -> Result<Option<Shown>> {
        if let Some((name, password)) = name_and_password(remote) {
            if [&name, password.as_ref().unwrap_or(&name)].iter().any(|text| text.contains(char::is_control)) {
                let shown = without_password(remote);
                return Err(Error::Invalid(format!(
                    "{shown}: the name or the password in the address is more than one line"
                )));
            }
            let server = server(&without_password(remote)).map(|(scheme, host)| format!("{scheme}://{host}"));
            return Ok(server.map(|server| Shown::Address { server, name, password }));
        }
        let (Some(lender), Some((scheme, host))) = (lender, server(remote)) else { return Ok(None) };
        let narrow = [HEADER, TOKEN].map(|name| narrow(name, host));
        // Whoever listens hears what is said in clear: that is for who names the host.
        let wide = [HEADER, TOKEN].into_iter().filter(|_| scheme == "https").map(str::to_owned);
        let names = narrow.into_iter().chain(wide);
        let Some(name) = names.into_iter().find(|name| lender.has_secret(name)) else { return Ok(None) };
        let failed = |why: &str| Error::Invalid(format!("secret {name}: {why}"));
        let secret = lender.secret(&name).await.map_err(|e| failed(&e))?;
        let secret = String::from_utf8(secret).map_err(|_| failed("it is no text"))?;
        // A file ends with its line.
        let secret = secret.trim_end_matches(['\r', '\n']);
        if secret.is_empty() || secret.contains(char::is_control) {
            return Err(failed("it is to be one line"));
        }
        let header = match name.starts_with(TOKEN) {
            true => basic_header(NAME, secret),
            false => secret.to_owned(),
        };
        Ok(Some(Shown::Secret { server: format!("{scheme}://{host}/"), header, secret: name }))
    }

    /// Variables that have git show it.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Shown::Secret { server, header, .. } => vec![
                ("GIT_CONFIG_COUNT", "2".to_owned()),
                ("GIT_CONFIG_KEY_0", format!("http.{server}.extraHeader")),
                ("GIT_CONFIG_VALUE_0", format!("Authorization: {header}")),
                ("GIT_CONFIG_KEY_1", format!("http.{server}.followRedirects")),
                ("GIT_CONFIG_VALUE_1", "false".to_owned()),
            ],
            // It is asked for this server alone, wherever that leads.
            Shown::Address { server, name, password } => [
                ("GIT_CONFIG_COUNT", "1".to_owned()),
                ("GIT_CONFIG_KEY_0", format!("credential.{server}.helper")),
                ("GIT_CONFIG_VALUE_0", HELPER.to_owned()),
                ("STRATUS_NAME", name.clone()),
            ]
            .into_iter()
            .chain(password.clone().map(|password| ("STRATUS_PASSWORD", password)))
            .collect(),
        }
    }
}

/// What to give for an address whose server asks; `None`: nothing would be shown.
pub(super) fn advised(remote: &str) -> Option<String> {
    server(&without_password(remote)).map(|(_, host)| narrow(TOKEN, host))
}

/// A secret that is one host's.
fn narrow(name: &str, host: &str) -> String {
    format!("{name}.{host}")
}

/// One that has no secrets for repositories but those that name their host.
pub(crate) struct Named(pub(crate) Arc<dyn Lender>);

impl Lender for Named {
    fn has_secret(&self, id: &str) -> bool {
        ![HEADER, TOKEN].contains(&id) && self.0.has_secret(id)
    }

    fn secret(&self, id: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        self.0.secret(id)
    }

    fn known_hosts(&self, host: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        self.0.known_hosts(host)
    }

    fn has_agent(&self, id: &str) -> bool {
        self.0.has_agent(id)
    }

    fn agent(&self, id: &str, command: UnixStream) -> BoxFuture<'static, ()> {
        self.0.agent(id, command)
    }
}

/// Scheme and host of an address of HTTP without a name in it.
fn server(remote: &str) -> Option<(String, &str)> {
    let (scheme, rest) = remote.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let host = rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty() && !host.contains('@'))?;
    matches!(&*scheme, "http" | "https").then_some((scheme, host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Secrets(BTreeMap<&'static str, &'static str>);

    impl Lender for Secrets {
        fn has_secret(&self, id: &str) -> bool {
            self.0.contains_key(id)
        }

        fn secret(&self, id: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
            let secret = self.0[id].as_bytes().to_vec();
            Box::pin(async move { Ok(secret) })
        }

        fn known_hosts(&self, _: &str) -> BoxFuture<'static, Result<Vec<u8>, String>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn has_agent(&self, _: &str) -> bool {
            false
        }

        fn agent(&self, _: &str, _: UnixStream) -> BoxFuture<'static, ()> {
            Box::pin(async {})
        }
    }

    async fn shown(remote: &str, secrets: &[(&'static str, &'static str)]) -> Result<Option<(String, String)>> {
        let lender = Secrets(secrets.iter().copied().collect());
        Ok(Shown::find(remote, Some(&lender)).await?.map(|shown| match shown {
            Shown::Secret { server, header, .. } => (server, header),
            Shown::Address { server, name, password } => (server, format!("{name} {password:?}")),
        }))
    }

    #[tokio::test]
    async fn the_narrower_secret_is_shown_to_its_server_alone() {
        let own = [
            ("GIT_AUTH_TOKEN", "any"),
            ("GIT_AUTH_TOKEN.a.example:8443", "token\n"),
            ("GIT_AUTH_HEADER.b.example", "bearer x"),
        ];
        let found = shown("HTTPS://a.example:8443/x.git", &own).await.unwrap();
        let header = basic_header("x-access-token", "token");
        assert_eq!(found, Some(("https://a.example:8443/".to_owned(), header)));
        let found = shown("http://b.example/x.git", &own).await.unwrap();
        assert_eq!(found, Some(("http://b.example/".to_owned(), "bearer x".to_owned())));
        let found = shown("https://c.example/x.git", &own).await.unwrap();
        assert_eq!(found.map(|(server, _)| server), Some("https://c.example/".to_owned()));
        let found = shown("https://m%65:mine%21@a.example/x.git", &own).await.unwrap();
        assert_eq!(found, Some(("https://a.example".to_owned(), "me Some(\"mine!\")".to_owned())));
        assert!(shown("https://me:a%0Ahost=x@a.example/x.git", &own).await.is_err());
        for remote in ["git://a.example/x.git", "git@a.example:x.git"] {
            assert_eq!(shown(remote, &own).await.unwrap(), None, "{remote}");
        }
        assert_eq!(shown("https://a.example/x.git", &[("GIT_AUTH_TOKEN.b.example", "x")]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_secret_that_names_no_host_is_neither_said_in_clear_nor_for_what_others_name() {
        let any = [("GIT_AUTH_TOKEN", "any"), ("GIT_AUTH_HEADER", "bearer any")];
        assert!(shown("https://a.example/x.git", &any).await.unwrap().is_some());
        assert_eq!(shown("http://a.example/x.git", &any).await.unwrap(), None);
        let own = [any[0], any[1], ("GIT_AUTH_HEADER.a.example", "bearer x")];
        let named = Named(Arc::new(Secrets(own.into_iter().collect())));
        assert!(Shown::find("https://b.example/x.git", Some(&named)).await.unwrap().is_none());
        let found = Shown::find("https://a.example/x.git", Some(&named)).await.unwrap();
        assert!(matches!(found, Some(Shown::Secret { secret, .. }) if secret == "GIT_AUTH_HEADER.a.example"));
    }

    #[tokio::test]
    async fn a_secret_adds_no_header_of_its_own() {
        for secret in ["", "\n", "basic x\r\nHost: y"] {
            let refused = shown("https://a/x.git", &[("GIT_AUTH_HEADER", secret)]).await.unwrap_err();
            assert_eq!(refused.to_string(), "secret GIT_AUTH_HEADER: it is to be one line");
        }
    }
}
