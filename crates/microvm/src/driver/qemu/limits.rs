//! How much goes through a disk, as QEMU limits it (its docs/throttle.txt).

use std::process::Command;

use serde_json::{Map, Value, json};
use vmm::{Limits, Rate};

use crate::error::{Error, Result};
use crate::plan::Card;

/// Puts limits over a disk's node, if there are any. Returns the name of the node for the guest's device.
pub(super) fn over(command: &mut Command, node: &'static str, read_only: bool, limits: Limits) -> String {
    if limits == Limits::default() {
        return node.to_owned();
    }
    let (group, limited) = (format!("{node}-limits"), format!("{node}-limited"));
    command.args(["-object", &self::group(&group, limits).to_string()]);
    let over = json!({ "driver": "throttle", "node-name": limited, "read-only": read_only, "throttle-group": group, "file": node, "discard": "unmap" });
    command.args(["-blockdev", &over.to_string()]);
    limited
}

/// A group of limits, of this one node. Where QEMU is given no burst, it has one of a tenth of a second.
fn group(name: &str, limits: Limits) -> Value {
    let mut given = Map::new();
    for (what, rate) in [("bps-total", limits.bytes), ("iops-total", limits.operations)] {
        let Some(Rate { per_second, burst }) = rate else { continue };
        // It takes no number that is larger.
        let most = |number: u64| number.min(MOST);
        given.insert(what.to_owned(), most(per_second.get()).into());
        if burst > per_second.get() {
            given.insert(format!("{what}-max"), most(burst).into());
        }
    }
    json!({ "qom-type": "throttle-group", "id": name, "limits": given })
}

/// `THROTTLE_VALUE_MAX`.
const MOST: u64 = 1_000_000_000_000_000;

/// Of its network cards QEMU limits none.
pub(super) fn check(cards: &[Option<Card>]) -> Result<()> {
    match cards.iter().flatten().all(|card| (card.receive, card.send) == (Limits::default(), Limits::default())) {
        true => Ok(()),
        false => Err(Error::NotByQemu { what: "limit of what goes through a network card" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    #[test]
    fn limits_are_said_as_qemu_takes_them() {
        let rate = |per_second, burst| Some(Rate { per_second: NonZeroU64::new(per_second).unwrap(), burst });
        let mut command = Command::new("qemu");
        assert_eq!(over(&mut command, "disk", false, Limits::default()), "disk");
        assert_eq!(command.get_args().count(), 0);
        let limits = Limits { bytes: rate(1 << 20, 1 << 22), operations: rate(u64::MAX, 0) };
        assert_eq!(over(&mut command, "disk", true, limits), "disk-limited");
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap()).collect();
        let [_, object, _, node] = arguments[..] else { panic!("{arguments:?}") };
        let limits = json!({ "bps-total": 1 << 20, "bps-total-max": 1 << 22, "iops-total": MOST });
        let group = json!({ "qom-type": "throttle-group", "id": "disk-limits", "limits": limits });
        assert_eq!(serde_json::from_str::<Value>(object).unwrap(), group);
        let over = json!({ "driver": "throttle", "node-name": "disk-limited", "read-only": true, "throttle-group": "disk-limits", "file": "disk", "discard": "unmap" });
        assert_eq!(serde_json::from_str::<Value>(node).unwrap(), over);
    }
}
