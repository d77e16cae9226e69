//! `/etc/resolv.conf` as Docker 20.10 writes it: no comments of its own, `search` first, and on the default bridge the host's
//! text with the servers taken out that a container cannot reach.

use std::net::IpAddr;

use super::{FALLBACK, FALLBACK_V6, NameServer, Overrides, ResolvConf, is_loopback, option_name};
use crate::dns::SERVER_ADDRESS;

/// For a container on a user-defined network. The host's IPv6 servers stay beside the embedded one.
pub fn for_user_network(host: &str, overrides: &Overrides) -> String {
    // The file is made twice: the first time as for the default bridge, of which the second keeps what fits.
    let first = ResolvConf::parse(&for_default_bridge(host, overrides, true), "");
    let mut nameservers = vec![IpAddr::from(SERVER_ADDRESS).into()];
    nameservers.extend(first.nameservers.into_iter().filter(|server| server.address.is_ipv6()));
    let mut options = first.options;
    if !options.iter().any(|option| option_name(option) == "ndots") {
        options.push("ndots:0".to_owned());
    }
    build(&nameservers, &first.search, &options)
}

/// For a container on the default bridge.
pub fn for_default_bridge(host: &str, overrides: &Overrides, ipv6: bool) -> String {
    if *overrides == Overrides::default() {
        return filter(host, ipv6);
    }
    let host = ResolvConf::parse(host, "");
    let mut servers: Vec<NameServer> = overrides.nameservers.iter().copied().map(NameServer::from).collect();
    if servers.is_empty() {
        servers = host.nameservers;
    }
    let or_host = |own: &Vec<String>, host: Vec<String>| if own.is_empty() { host } else { own.clone() };
    build(&servers, &or_host(&overrides.search, host.search), &or_host(&overrides.options, host.options))
}

fn build(nameservers: &[NameServer], search: &[String], options: &[String]) -> String {
    let mut text = String::new();
    if !search.is_empty() && search.join(" ").trim() != "." {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// The host's text without servers on loopback addresses (and without those of IPv6), and with public ones where none is
/// left.
fn filter(host: &str, ipv6: bool) -> String {
    let mut text = String::with_capacity(host.len());
    let mut swallows_empty_lines = false;
    for line in host.split_inclusive('\n') {
        if swallows_empty_lines && line.trim().is_empty() {
            continue;
        }
        swallows_empty_lines = is_out_of_reach(line, ipv6);
        if !swallows_empty_lines {
            text.push_str(line);
        }
    }
    if ResolvConf::parse(&text, "").nameservers.is_empty() {
        for server in FALLBACK.iter().chain(if ipv6 { FALLBACK_V6.iter() } else { [].iter() }) {
            text.push_str(&format!("\nnameserver {server}"));
        }
    }
    text
}

fn is_out_of_reach(line: &str, ipv6: bool) -> bool {
    let Some(rest) = line.strip_prefix("nameserver") else { return false };
    let Some(server) = NameServer::parse(rest.trim()) else { return false };
    rest.starts_with([' ', '\t']) && (is_loopback(server.address) || (server.address.is_ipv6() && !ipv6))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: Overrides = Overrides { nameservers: Vec::new(), search: Vec::new(), options: Vec::new() };

    #[test]
    fn a_plain_host() {
        let host =
            "# made by dhcp\nnameserver 10.0.0.2\nnameserver fd00::2\nsearch corp.example\noptions edns0 trust-ad\n";
        assert_eq!(for_default_bridge(host, &NONE, true), host);
        assert_eq!(
            for_default_bridge(host, &NONE, false),
            "# made by dhcp\nnameserver 10.0.0.2\nsearch corp.example\noptions edns0 trust-ad\n"
        );
        assert_eq!(
            for_user_network(host, &NONE),
            "search corp.example\nnameserver 127.0.0.11\nnameserver fd00::2\noptions edns0 trust-ad ndots:0\n"
        );
    }

    #[test]
    fn a_host_with_a_resolver_of_its_own() {
        let host = "nameserver 127.0.0.53\n\noptions edns0\n";
        assert_eq!(for_default_bridge(host, &NONE, false), "options edns0\n\nnameserver 8.8.8.8\nnameserver 8.8.4.4");
        assert_eq!(
            for_user_network(host, &NONE),
            "nameserver 127.0.0.11\nnameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\noptions edns0 ndots:0\n"
        );
    }

    #[test]
    fn what_the_user_says() {
        let overrides = Overrides {
            nameservers: vec!["1.1.1.1".parse().unwrap()],
            search: vec![".".into()],
            options: vec!["ndots:2".into()],
        };
        let host = "nameserver 10.0.0.2\nsearch corp.example\n";
        assert_eq!(for_default_bridge(host, &overrides, false), "nameserver 1.1.1.1\noptions ndots:2\n");
        assert_eq!(for_user_network(host, &overrides), "nameserver 127.0.0.11\noptions ndots:2\n");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_file(host in "(nameserver|search|options|#)?[ \t][a-z0-9:.%\n]{0,40}\n?", ipv6 in any::<bool>()) {
            let file = for_default_bridge(&host, &NONE, ipv6);
            prop_assert!(!ResolvConf::parse(&file, "").nameservers.is_empty());
            let file = ResolvConf::parse(&for_user_network(&host, &NONE), "");
            prop_assert_eq!(file.nameservers[0].address, IpAddr::from(SERVER_ADDRESS));
            prop_assert!(file.has_option("ndots"));
        }
    }
}
