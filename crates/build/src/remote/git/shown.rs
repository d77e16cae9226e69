//! What a repository's server is shown that asks for a name and a password: a secret, which only whoever asks for the build has.
//!
//! It reaches git in its environment, which root alone can read, as an argument would be anybody's and a file would stay on a disk. It is shown to the
//! one server that was named, and no redirection is followed then: git would show it wherever that leads.

use crate::request::Lender;
use crate::{Error, Result};
use image::registry::basic_header;

/// The secret that is a whole header, as `basic …` or `bearer …`; with `.HOST` behind it, for that host.
const HEADER: &str = "GIT_AUTH_HEADER";
/// The secret that is a token; with `.HOST` behind it, for that host.
const TOKEN: &str = "GIT_AUTH_TOKEN";
/// The name that goes with a token, which forges take with any.
const NAME: &str = "x-access-token";

/// A header for all addresses of one server.
pub(super) struct Shown {
    /// The server's address.
    server: String,
    header: String,
    /// The secret's name.
    pub(super) secret: String,
}

impl Shown {
    /// Finds what is to be shown for an address; `None`: nothing. The narrower secret comes before the other, and a header before a token.
    pub(super) async fn find(remote: &str, lender: Option<&dyn Lender>) -> Result<Option<Shown>> {
        let (Some(lender), Some((scheme, host))) = (lender, server(remote)) else { return Ok(None) };
        let narrow = [HEADER, TOKEN].map(|name| format!("{name}.{host}"));
        let names = narrow.into_iter().chain([HEADER, TOKEN].map(str::to_owned));
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
        Ok(Some(Shown { server: format!("{scheme}://{host}/"), header, secret: name }))
    }

    /// Variables that have git show it.
    pub(super) fn environment(&self) -> [(&'static str, String); 5] {
        let server = &self.server;
        [
            ("GIT_CONFIG_COUNT", "2".to_owned()),
            ("GIT_CONFIG_KEY_0", format!("http.{server}.extraHeader")),
            ("GIT_CONFIG_VALUE_0", format!("Authorization: {}", self.header)),
            ("GIT_CONFIG_KEY_1", format!("http.{server}.followRedirects")),
            ("GIT_CONFIG_VALUE_1", "false".to_owned()),
        ]
    }
}

/// Scheme and host of an address of HTTP without a name in it: where there is one, that is what is shown.
fn server(remote: &str) -> Option<(String, &str)> {
    let (scheme, rest) = remote.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let host = rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty() && !host.contains('@'))?;
    matches!(&*scheme, "http" | "https").then_some((scheme, host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::BoxFuture;
    use std::collections::BTreeMap;
    use tokio::net::UnixStream;

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
        Ok(Shown::find(remote, Some(&lender)).await?.map(|shown| (shown.server, shown.header)))
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
        for remote in ["git://a.example/x.git", "https://me:mine@a.example/x.git", "git@a.example:x.git"] {
            assert_eq!(shown(remote, &own).await.unwrap(), None, "{remote}");
        }
        assert_eq!(shown("https://a.example/x.git", &[("GIT_AUTH_TOKEN.b.example", "x")]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_secret_adds_no_header_of_its_own() {
        for secret in ["", "\n", "basic x\r\nHost: y"] {
            let refused = shown("https://a/x.git", &[("GIT_AUTH_HEADER", secret)]).await.unwrap_err();
            assert_eq!(refused.to_string(), "secret GIT_AUTH_HEADER: it is to be one line");
        }
    }
}
