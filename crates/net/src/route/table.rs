//! Routes of the main table.

use super::{Change, RouteSocket, family_of, ip_from, refused};
use crate::address::octets;
use crate::error::Result;
use crate::netlink::{Message, attributes, flag};
use ipnet::IpNet;
use std::net::IpAddr;

const NEW: u16 = 24;
const DELETE: u16 = 25;
const GET: u16 = 26;

/// `RTA_*`, tables, origins and types (`linux/rtnetlink.h`).
const DESTINATION: u16 = 1;
const OUT_LINK: u16 = 4;
const GATEWAY: u16 = 5;
const MAIN_TABLE: u8 = 254;
const BOOT: u8 = 3;
const UNICAST: u8 = 1;

/// A route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNet,
    /// The link it leaves by; 0 where it has several.
    pub(crate) link: u32,
}

impl RouteSocket {
    /// The routes of the main table that have a destination, so without default routes.
    pub(crate) fn routes(&self) -> Result<Vec<Route>> {
        let objects = self.socket.dump(Message::new(GET, 0).fixed(&[0; 12])).map_err(|e| refused("list routes", e))?;
        Ok(objects.iter().filter(|(kind, _)| *kind == NEW).filter_map(|(_, payload)| parse(payload)).collect())
    }
}

impl Change {
    /// Makes `gateway` the default route of its family, in place of another.
    pub(crate) fn default_route(index: u32, gateway: IpAddr) -> Change {
        let message = Message::new(NEW, flag::CREATE | flag::REPLACE)
            .fixed(&header(gateway))
            .bytes(GATEWAY, &octets(gateway))
            .u32(OUT_LINK, index);
        Change::new(message, format!("make {gateway} the default route"))
    }

    /// Takes a default route away.
    pub(crate) fn delete_default_route(index: u32, gateway: IpAddr) -> Change {
        let message =
            Message::new(DELETE, 0).fixed(&header(gateway)).bytes(GATEWAY, &octets(gateway)).u32(OUT_LINK, index);
        Change::new(message, format!("delete the default route by {gateway}"))
    }
}

/// `struct rtmsg` of a default route.
fn header(gateway: IpAddr) -> [u8; 12] {
    [family_of(gateway), 0, 0, 0, MAIN_TABLE, BOOT, 0, UNICAST, 0, 0, 0, 0]
}

fn parse(payload: &[u8]) -> Option<Route> {
    let (prefix, table, kind) = (*payload.get(1)?, *payload.get(4)?, *payload.get(7)?);
    if table != MAIN_TABLE || kind != UNICAST || prefix == 0 {
        return None;
    }
    let find = |kind| attributes(payload.get(12..)?).find(|a| a.kind == kind);
    let destination = IpNet::new(ip_from(find(DESTINATION)?.value)?, prefix).ok()?;
    Some(Route { destination, link: find(OUT_LINK).and_then(|a| a.u32()).unwrap_or_default() })
}
