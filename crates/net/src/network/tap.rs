//! Taps beside the links of a machine with a kernel of its own, and what passes everything on between the two.
//!
//! What a machine sends goes on where it has the endpoint's own link-layer address as its sender: nobody is to take what is another one's, and a copy of a
//! machine that goes on has the address of the original until it is told its own.
//!
//! Nothing of the namespace may answer in the machine's place. What comes in by either end is redirected before anything else sees it; the
//! namespace has none of the endpoint's addresses or routes; and neither end has IPv6, which would make an address of itself and speak of it. The loopback
//! is as in any sandbox: the embedded name server listens there, and whoever holds the machine asks it for the machine.

use super::attach::Place;
use crate::endpoint::{Bare, Endpoint, Tap};
use crate::error::{Error, Result};
use crate::route::Change;
use crate::sysctl;
use std::io::ErrorKind;

/// Makes the taps of endpoints whose links are there, and gives what remains to be changed inside. `present` are further endpoints of the
/// sandbox, whose names are taken.
///
/// System calls for one: a thread's (clone, setns, exit), six to write two sysctls, five for the tap, two to find it; the changes
/// are messages (seven of them with the link's own) that go with others in one sendto.
pub(super) fn make_taps(bare: &Bare, places: &mut [Place], owner: u32, present: &[Endpoint]) -> Result<Vec<Change>> {
    for at in 0..places.len() {
        let others = places.iter().map(|place| &place.endpoint).chain(present);
        let name = tap_name(&places[at].endpoint.link_name, |name| others.clone().any(|other| has(other, name)));
        let place = &mut places[at];
        let link = &place.endpoint.link_name;
        let sysctls = place.sysctls.iter().map(|(path, value)| (path.replace("IFNAME", link), value.clone())).collect();
        place.endpoint.tap = Some(Tap { name, mtu: place.mtu, sysctls });
    }
    bare.namespace.enter(|| {
        // Links that are made from now on have none.
        sysctl::write_if_there("net/ipv6/conf/default/disable_ipv6", "1")?;
        for endpoint in places.iter().map(|place| &place.endpoint) {
            sysctl::write_if_there(&format!("net/ipv6/conf/{}/disable_ipv6", endpoint.link_name), "1")?;
            sandbox::tap::make(endpoint.tap.as_ref().map_or("", |tap| &tap.name), owner)?;
        }
        Ok::<(), Error>(())
    })??;
    let mut changes = Vec::new();
    for endpoint in places.iter().map(|place| &place.endpoint) {
        let Some(tap) = &endpoint.tap else { continue };
        let missing = || Error::io(format!("find the new tap {}", tap.name), ErrorKind::NotFound.into());
        let (link, index) = (endpoint.link_index, bare.socket.link(&tap.name)?.ok_or_else(missing)?.index);
        changes.extend([
            Change::filter_ingress(link),
            Change::filter_ingress(index),
            Change::redirect(link, index),
            // What has another sender stays in a namespace where nobody answers.
            Change::redirect_from(endpoint.mac, index, link),
            Change::link_up_with_mtu(index, tap.mtu),
        ]);
    }
    Ok(changes)
}

/// Deletes the taps of endpoints that are no more, in a namespace that stays. Waits for the kernel's grace periods. Who is attached to one
/// hears of it by `EBADFD`.
pub(super) fn delete_taps<'a>(bare: &Bare, endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Result<()> {
    for tap in endpoints.into_iter().filter_map(|endpoint| endpoint.tap.as_ref()) {
        if let Some(link) = bare.socket.link(&tap.name)? {
            bare.socket.apply(&[Change::delete_link(link.index)])?;
        }
    }
    Ok(())
}

/// Deletes taps that are no endpoint's, as somebody was killed who made one.
pub(super) fn delete_other_taps(bare: &Bare, endpoints: &[Endpoint]) -> Result<()> {
    for link in bare.socket.links()? {
        if link.kind == "tun" && !endpoints.iter().any(|endpoint| has(endpoint, &link.name)) {
            bare.socket.apply(&[Change::delete_link(link.index)])?;
        }
    }
    Ok(())
}

/// Whether an endpoint has a link of that name.
fn has(endpoint: &Endpoint, name: &str) -> bool {
    endpoint.link_name == name || endpoint.tap.as_ref().is_some_and(|tap| tap.name == name)
}

/// `tap0` of `eth0`; else, or where that is taken, the first that is free.
fn tap_name(link: &str, taken: impl Fn(&str) -> bool) -> String {
    let number = &link[link.trim_end_matches(|c: char| c.is_ascii_digit()).len()..];
    let same = (1..=9).contains(&number.len()).then(|| format!("tap{number}"));
    let all = same.into_iter().chain((0..).map(|number: u32| format!("tap{number}")));
    all.into_iter().find(|name| !taken(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::tap_name;

    #[test]
    fn a_tap_has_its_links_number_where_it_can() {
        let taken = |name: &str| ["tap0", "tap1"].contains(&name);
        for (link, name) in
            [("eth0", "tap2"), ("eth7", "tap7"), ("wan", "tap2"), ("e12345678901", "tap2"), ("7", "tap7")]
        {
            assert_eq!(tap_name(link, taken), name, "{link}");
        }
        assert_eq!(tap_name("eth0", |_| false), "tap0");
    }
}
