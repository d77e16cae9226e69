//! Protocols of others on connections that come in at this door: a request of HTTP asks for one, and it has the connection from then on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use crate::body::{self, Response};
use crate::error::{ApiError, Result};
use crate::hijack::{Hijacker, Taken};

/// A protocol, and who speaks it.
pub struct Protocol {
    /// Where it is asked for, with `POST`.
    pub path: &'static str,
    /// Its name and version, as `Upgrade` has it: `name/1`.
    pub name: &'static str,
    /// Speaks it on a connection. It says its goodbyes when the token is cancelled: the daemon stops then.
    pub serve: Box<dyn Fn(Taken, CancellationToken) -> Serving + Send + Sync>,
}

/// A connection that is being served.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Gives the connection to the protocol, or says which one there is (RFC 9110, section 15.5.22).
pub(crate) async fn upgrade(
    protocol: Arc<Protocol>,
    parts: &Parts,
    hijacker: &Hijacker,
    shutdown: CancellationToken,
) -> Result<Response> {
    if parts.method != Method::POST {
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} is asked with POST", protocol.path)));
    }
    let asked = parts.headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !asked.split(',').any(|name| name.trim() == protocol.name) {
        let asked = if asked.is_empty() { "nothing" } else { asked };
        let message = format!(
            "{} speaks {}, and {asked} was asked for: the command and the daemon are to be of the same version",
            protocol.path, protocol.name
        );
        let mut response = body::failure(&ApiError::new(StatusCode::UPGRADE_REQUIRED, message));
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol.name));
        return Ok(response);
    }
    let carry = move |mut taken: Taken| async move {
        let head = format!("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: {}\r\n\r\n", protocol.name);
        if taken.write_all(head.as_bytes()).await.is_ok() {
            (protocol.serve)(taken, shutdown).await;
        }
    };
    hijacker.take_to_its_end(Box::new(move |taken| Box::pin(carry(taken)))).await
}
