//! Files of the web: root file systems that are imported from where they lie.

use bytes::Bytes;
use hyper::{Method, Uri, header};

use super::Registries;
use super::error::{RegistryError, TransportCause};
use super::http::{Answer, HttpClient, Outgoing};

/// A file that is on its way.
pub struct Fetched {
    answer: Answer,
    size: Option<u64>,
}

impl Registries {
    /// Asks for a file, by `http` or `https`, through the proxies that registries are reached through. Redirections are followed, but never
    /// from TLS to no TLS.
    ///
    /// # Errors
    /// Where the address is none, or its server does not hand the file out.
    pub async fn fetch(&self, url: &str) -> Result<Fetched, RegistryError> {
        let malformed = |reason: String| RegistryError::Malformed { what: format!("the address {url:?}"), reason };
        let address: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| malformed(error.to_string()))?;
        let (Some("http" | "https"), Some(host)) = (address.scheme_str(), address.authority()) else {
            return Err(malformed("it is not http://HOST/… or https://HOST/…".to_owned()));
        };
        let client = HttpClient::new(self.config(), host.as_str(), true);
        let outgoing = Outgoing::new(Method::GET, address);
        let answer = client.send(outgoing.clone()).await?;
        if !answer.status.is_success() {
            return Err(outgoing.failed(TransportCause::Answered(answer.status.as_u16())));
        }
        let size = answer.number(&header::CONTENT_LENGTH);
        Ok(Fetched { answer, size })
    }
}

impl Fetched {
    /// Bytes of the file, where its server says.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// Where the connection breaks, or stands still.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.answer.chunk().await
    }
}
