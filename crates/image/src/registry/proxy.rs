//! Which proxy a request goes through, by the variables that programs agree on: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`.

use std::net::IpAddr;

use hyper::http::Uri;
use hyper::http::uri::Scheme;
use ipnet::IpNet;

/// The proxies for plain and for TLS requests, and what is reached without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The proxy (`http://[user:password@]host:port`) of requests to `http://` addresses.
    pub http: Option<String>,
    /// The proxy of requests to `https://` addresses, which are tunnelled through it by `CONNECT`.
    pub https: Option<String>,
    /// Hosts that are reached directly, separated by commas: `host`, `host:port`, `.domain`, an address, a range, or `*` for all.
    pub no_proxy: String,
}

impl ProxyConfig {
    /// Reads the environment; a name in capitals wins over one in small letters.
    pub fn from_env() -> ProxyConfig {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> ProxyConfig {
        let either = |name: &str| {
            var(name).filter(|v| !v.is_empty()).or_else(|| var(&name.to_lowercase())).filter(|v| !v.is_empty())
        };
        ProxyConfig {
            http: either("HTTP_PROXY"),
            https: either("HTTPS_PROXY"),
            no_proxy: either("NO_PROXY").unwrap_or_default(),
        }
    }

    /// The proxy for a request to this address. Loopback is always reached directly.
    pub fn proxy_for(&self, target: &Uri) -> Option<&str> {
        let is_tls = target.scheme() == Some(&Scheme::HTTPS);
        let proxy = if is_tls { self.https.as_deref() } else { self.http.as_deref() }?;
        let host = target.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let port = target.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let address = host.parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return None;
        }
        let direct = self.no_proxy.split(',').map(str::trim).any(|rule| rule_names(rule, &host, address, port));
        (!direct).then_some(proxy)
    }
}

fn rule_names(rule: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if rule == "*" {
        return true;
    }
    if let (Ok(range), Some(address)) = (rule.parse::<IpNet>(), address) {
        return range.contains(&address);
    }
    if let (Ok(named), Some(address)) = (rule.trim_matches(['[', ']']).parse::<IpAddr>(), address) {
        return named == address;
    }
    let (name, rule_port) = match rule.rsplit_once(':') {
        Some((name, digits)) if digits.parse::<u16>().is_ok() && !name.ends_with(':') => (name, digits.parse().ok()),
        _ => (rule, None),
    };
    if rule_port.is_some_and(|rule_port: u16| rule_port != port) {
        return false;
    }
    let name = name.trim_matches(['[', ']']).trim_start_matches("*.").to_ascii_lowercase();
    match name.strip_prefix('.') {
        Some(domain) => !domain.is_empty() && host.strip_suffix(domain).is_some_and(|head| head.ends_with('.')),
        None => !name.is_empty() && (host == name || host.strip_suffix(&*name).is_some_and(|head| head.ends_with('.'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(no_proxy: &str, target: &str) -> bool {
        let config = ProxyConfig {
            http: Some("http://proxy:1".into()),
            https: Some("http://proxy:2".into()),
            no_proxy: no_proxy.into(),
        };
        config.proxy_for(&target.parse().unwrap()).is_some()
    }

    #[test]
    fn loopback_is_direct_and_the_rest_goes_through() {
        assert!(!through("", "http://127.0.0.1:5000/"));
        assert!(!through("", "http://localhost/"));
        assert!(!through("", "https://[::1]:5000/"));
        assert!(through("", "https://reg.example/"));
    }

    #[test]
    fn exceptions_name_hosts_domains_ports_and_ranges() {
        assert!(!through("*", "https://reg.example/"));
        assert!(!through("reg.example", "https://reg.example/"));
        assert!(!through("example", "https://reg.example/"));
        assert!(!through(".example", "https://reg.example/"));
        assert!(!through("*.example", "https://reg.example/"));
        assert!(through(".reg.example", "https://reg.example/"));
        assert!(through("g.example", "https://reg.example/"));
        assert!(!through("a, reg.example:443", "https://reg.example/"));
        assert!(through("reg.example:80", "https://reg.example/"));
        assert!(!through("10.0.0.0/8", "http://10.2.3.4:5000/"));
        assert!(!through("fd00::1", "http://[fd00::1]:5000/"));
        assert!(through("10.0.0.0/8,", "http://11.2.3.4:5000/"));
    }

    #[test]
    fn capitals_win() {
        let config = ProxyConfig::from_vars(|name| match name {
            "HTTPS_PROXY" => Some("http://big:1".into()),
            "https_proxy" | "http_proxy" => Some("http://small:1".into()),
            _ => None,
        });
        assert_eq!((config.https.as_deref(), config.http.as_deref()), (Some("http://big:1"), Some("http://small:1")));
    }
}
