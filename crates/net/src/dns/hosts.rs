//! `/etc/hosts` of a container (hosts(5)), as Docker 28 writes it.

use std::fmt::Write;
use std::net::IpAddr;

/// Lines for loopback, before all others.
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n";

/// Lines for IPv6's own addresses.
const LOOPBACK_V6: &str = "::1\tlocalhost ip6-localhost ip6-loopback\n\
                           fe00::\tip6-localnet\n\
                           ff00::\tip6-mcastprefix\n\
                           ff02::1\tip6-allnodes\n\
                           ff02::2\tip6-allrouters\n";

/// What `--add-host NAME:host-gateway` stands for.
const HOST_GATEWAY: &str = "host-gateway";

/// One line: an address, and its names with spaces between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The address.
    pub address: IpAddr,
    /// The names, the canonical one first.
    pub names: String,
}

/// What stands in a container's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Whether the container has IPv6. Without it no line with an IPv6 address is written.
    pub ipv6: bool,
    /// `--add-host`, and links on the default bridge.
    pub extra: Vec<Entry>,
    /// The container's own addresses, under its own name.
    pub own: Vec<IpAddr>,
    /// `--hostname`; may be a full name.
    pub hostname: String,
    /// `--domainname`
    pub domainname: String,
}

impl Hosts {
    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::from(LOOPBACK);
        if self.ipv6 {
            text.push_str(LOOPBACK_V6);
        }
        for entry in self.extra.iter().cloned().chain(self.own_entries()) {
            if self.ipv6 || entry.address.is_ipv4() {
                push(&mut text, &entry);
            }
        }
        text
    }

    /// The lines for the container's own addresses: its full name, and its bare name where that is another.
    pub fn own_entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let mut names = self.hostname.clone();
        if !self.domainname.is_empty() {
            let _ = write!(names, ".{}", self.domainname);
        }
        if let Some((bare, _)) = names.split_once('.') {
            names = format!("{names} {bare}");
        }
        self.own.iter().map(move |&address| Entry { address, names: names.clone() })
    }
}

fn push(text: &mut String, entry: &Entry) {
    let _ = writeln!(text, "{}\t{}", entry.address, entry.names);
}

/// A file's text with more lines at its end: a running container joined a network.
pub fn with(text: &str, entries: &[Entry]) -> String {
    let mut text = text.to_owned();
    if !text.is_empty() && !text.ends_with('\n') && !entries.is_empty() {
        text.push('\n');
    }
    for entry in entries {
        push(&mut text, entry);
    }
    text
}

/// A file's text without certain lines: a running container left a network. Lines that the user has changed stay.
pub fn without(text: &str, entries: &[Entry]) -> String {
    let is_one = |line: &&str| {
        let Some((address, names)) = line.trim_end_matches('\n').split_once('\t') else { return true };
        let address = address.trim().parse::<IpAddr>();
        !entries.iter().any(|entry| Ok(entry.address) == address && entry.names == names)
    };
    text.split_inclusive('\n').filter(is_one).collect()
}

/// The names of a linked container on the default bridge (`--link NAME:ALIAS`): the alias, its host name, and its name where
/// that is another than the alias.
pub fn link_names(alias: &str, hostname: &str, name: &str) -> String {
    if alias == name { format!("{alias} {hostname}") } else { format!("{alias} {hostname} {name}") }
}

/// Why an `--add-host` makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraHostError {
    /// It has no name, or no colon.
    #[error("bad format for add-host: {0:?}")]
    Format(String),
    /// The address is none.
    #[error("invalid IP address in add-host: {0:?}")]
    Address(String),
    /// `host-gateway` is asked for, and nobody knows the host's address.
    #[error("unable to derive the IP value for host-gateway")]
    NoGateway,
}

/// Reads `NAME:ADDRESS` or `NAME:host-gateway`, which stands for the host's addresses as containers see them (one of each
/// family, at most). Brackets around an IPv6 address are allowed.
///
/// # Errors
/// With Docker's words.
pub fn parse_extra(text: &str, gateways: &[IpAddr]) -> Result<Vec<Entry>, ExtraHostError> {
    let (name, address) = match text.split_once(':') {
        Some((name, address)) if !name.is_empty() => (name, address),
        _ => return Err(ExtraHostError::Format(text.to_owned())),
    };
    if name.contains(char::is_whitespace) {
        return Err(ExtraHostError::Format(text.to_owned()));
    }
    let entry = |address| Entry { address, names: name.to_owned() };
    if address == HOST_GATEWAY {
        return match gateways {
            [] => Err(ExtraHostError::NoGateway),
            _ => Ok(gateways.iter().copied().map(entry).collect()),
        };
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| ExtraHostError::Address(address.to_owned()))?;
    Ok(vec![entry(address)])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn entry(address: &str, names: &str) -> Entry {
        Entry { address: ip(address), names: names.into() }
    }

    #[test]
    fn a_container_with_both_families() {
        let hosts = Hosts {
            ipv6: true,
            extra: vec![entry("10.0.0.1", "db"), entry("2001:db8::1", "db")],
            own: vec![ip("172.18.0.2"), ip("fd00::2")],
            hostname: "web".into(),
            domainname: "example.com".into(),
        };
        assert_eq!(
            hosts.render(),
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n\
             10.0.0.1\tdb\n\
             2001:db8::1\tdb\n\
             172.18.0.2\tweb.example.com web\n\
             fd00::2\tweb.example.com web\n"
        );
        let without_ipv6 = Hosts { ipv6: false, domainname: String::new(), ..hosts };
        assert_eq!(without_ipv6.render(), "127.0.0.1\tlocalhost\n10.0.0.1\tdb\n172.18.0.2\tweb\n");
    }

    #[test]
    fn a_full_host_name() {
        let hosts = Hosts { own: vec![ip("172.18.0.2")], hostname: "a.b.c".into(), ..Hosts::default() };
        assert!(hosts.render().ends_with("172.18.0.2\ta.b.c a\n"));
    }

    #[test]
    fn lines_come_and_go_while_the_users_stay() {
        let file = "127.0.0.1\tlocalhost\n# mine\n10.0.0.2\tweb\n10.0.0.2\tweb extra\n";
        let joined = with(file, &[entry("10.1.0.2", "web")]);
        assert!(joined.ends_with("web extra\n10.1.0.2\tweb\n"));
        assert_eq!(without(&joined, &[entry("10.1.0.2", "web")]), file);
        assert_eq!(without(file, &[entry("10.0.0.2", "web")]), "127.0.0.1\tlocalhost\n# mine\n10.0.0.2\tweb extra\n");
        assert_eq!(with("no end", &[entry("10.1.0.2", "web")]), "no end\n10.1.0.2\tweb\n");
    }

    #[test]
    fn hosts_of_the_users_own() {
        let gateways = [ip("172.17.0.1"), ip("fd00::1")];
        assert_eq!(parse_extra("db:10.0.0.1", &[]).unwrap(), [entry("10.0.0.1", "db")]);
        assert_eq!(parse_extra("db:2001:db8::1", &[]).unwrap(), [entry("2001:db8::1", "db")]);
        assert_eq!(parse_extra("db:[2001:db8::1]", &[]).unwrap(), [entry("2001:db8::1", "db")]);
        assert_eq!(
            parse_extra("host:host-gateway", &gateways).unwrap(),
            [entry("172.17.0.1", "host"), entry("fd00::1", "host")]
        );
        let error = |text| parse_extra(text, &[]).unwrap_err().to_string();
        assert_eq!(error("db"), "bad format for add-host: \"db\"");
        assert_eq!(error(":10.0.0.1"), "bad format for add-host: \":10.0.0.1\"");
        assert_eq!(error("db:10.0.0"), "invalid IP address in add-host: \"10.0.0\"");
        assert_eq!(error("a b:10.0.0.1"), "bad format for add-host: \"a b:10.0.0.1\"");
        assert_eq!(error("h:host-gateway"), "unable to derive the IP value for host-gateway");
    }

    #[test]
    fn links() {
        assert_eq!(link_names("db", "9f86d081884c", "postgres"), "db 9f86d081884c postgres");
        assert_eq!(link_names("db", "9f86d081884c", "db"), "db 9f86d081884c");
    }

    proptest! {
        #[test]
        fn any_extra_host_is_read_or_refused(text in any::<String>()) {
            if let Ok(entries) = parse_extra(&text, &[]) {
                let hosts = Hosts { ipv6: true, extra: entries.clone(), ..Hosts::default() };
                prop_assert_eq!(hosts.render().lines().count(), 6 + entries.len(), "one line each");
            }
        }

        #[test]
        fn what_is_added_can_be_taken_out(text in any::<String>(), address in any::<IpAddr>(), names in "[a-z.]{1,20}( [a-z]{1,9})?") {
            let entries = [Entry { address, names }];
            let clean = without(&text, &entries);
            let taken_out = without(&with(&clean, &entries), &entries);
            prop_assert_eq!(taken_out.trim_end_matches('\n'), clean.trim_end_matches('\n'));
        }
    }
}
