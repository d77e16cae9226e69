//! What a request at the endpoint wants, and what of it the program behind is to see.
//!
//! The names are those of AWS Lambda MicroVMs: a token in the header `X-aws-proxy-auth`, a port in `X-aws-proxy-port`; or, as a browser can't set headers
//! where it opens a WebSocket, both as names of protocols beside `lambda-microvms`.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// The header with the token, as people write it.
pub(super) const TOKEN_NAME: &str = "X-aws-proxy-auth";
/// The same, as it is compared.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("x-aws-proxy-auth");
/// Has the port.
pub(super) const PORT: HeaderName = HeaderName::from_static("x-aws-proxy-port");
/// The protocol that a WebSocket's client offers beside the two that follow, and gets where the program takes none of its own.
pub(super) const PROTOCOL: &str = "lambda-microvms";
const PROTOCOL_TOKEN: &str = "lambda-microvms.authentication.";
const PROTOCOL_PORT: &str = "lambda-microvms.port.";
/// What is meant for the next hop, beside what `Connection` names (RFC 9110, section 7.6.1).
const HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whom a request is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) token: Option<String>,
    /// As it was written.
    pub(super) port: Option<String>,
    /// What the connection is to become.
    pub(super) upgrade: Option<HeaderValue>,
    /// It offers [`PROTOCOL`].
    pub(super) offers_ours: bool,
}

impl Wanted {
    /// Takes out of a request's head what is for the endpoint, and for nobody behind it.
    pub(super) fn take(headers: &mut HeaderMap) -> Self {
        let text = |value: HeaderValue| value.to_str().ok().map(|text| text.trim().to_owned());
        let mut wanted = Self {
            token: headers.remove(TOKEN).and_then(text),
            port: headers.remove(PORT).and_then(text),
            ..Self::default()
        };
        wanted.take_protocols(headers);
        wanted.upgrade = take_hop(headers);
        wanted
    }

    fn take_protocols(&mut self, headers: &mut HeaderMap) {
        let offered: Vec<String> = headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        let mut others = Vec::new();
        for name in offered {
            if let Some(token) = name.strip_prefix(PROTOCOL_TOKEN) {
                self.token.get_or_insert_with(|| token.to_owned());
            } else if let Some(port) = name.strip_prefix(PROTOCOL_PORT) {
                self.port.get_or_insert_with(|| port.to_owned());
            } else if name == PROTOCOL {
                self.offers_ours = true;
            } else {
                others.push(name);
            }
        }
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        if let Ok(others) = HeaderValue::try_from(others.join(", "))
            && !others.is_empty()
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
        }
    }
}

/// Takes out of a head what is for the next hop alone, and says what the connection is to become.
pub(super) fn take_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    let upgrade = headers.get(header::UPGRADE).filter(|_| named.contains(&header::UPGRADE)).cloned();
    for name in HOP.iter().chain(&named) {
        headers.remove(name);
    }
    upgrade
}

/// Says that a connection is to become something else.
pub(super) fn put_upgrade(headers: &mut HeaderMap, upgrade: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, upgrade);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap())
        };
        lines.iter().map(pair).collect()
    }

    fn left(headers: &HeaderMap) -> Vec<String> {
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        left.sort();
        left
    }

    #[test]
    fn what_is_for_the_endpoint_stays_there() {
        let mut headers = head(&[
            ("host", "a"),
            ("x-aws-proxy-auth", "t"),
            ("X-Aws-Proxy-Port", "80"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("transfer-encoding", "chunked"),
            ("x-theirs", "2"),
            ("upgrade", "h2c"),
        ]);
        let wanted = Wanted::take(&mut headers);
        assert_eq!((wanted.token.as_deref(), wanted.port.as_deref()), (Some("t"), Some("80")));
        assert_eq!((wanted.upgrade, wanted.offers_ours), (None, false));
        assert_eq!(left(&headers), ["host: a", "x-theirs: 2"]);
    }

    #[test]
    fn a_browser_says_it_by_names_of_protocols() {
        let mut headers = head(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "lambda-microvms, lambda-microvms.authentication.a.b-c, chat"),
            ("sec-websocket-protocol", "lambda-microvms.port.90,superchat"),
        ]);
        let wanted = Wanted::take(&mut headers);
        assert_eq!((wanted.token.as_deref(), wanted.port.as_deref()), (Some("a.b-c"), Some("90")));
        assert_eq!((wanted.upgrade, wanted.offers_ours), (Some(HeaderValue::from_static("websocket")), true));
        assert_eq!(left(&headers), ["sec-websocket-protocol: chat, superchat"]);
        let mut headers = head(&[("sec-websocket-protocol", "lambda-microvms")]);
        assert!(Wanted::take(&mut headers).offers_ours);
        assert!(headers.is_empty());
    }
}
