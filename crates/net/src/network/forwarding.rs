//! Forwarding between the host's links: switched on where it is off, and then kept from being more than containers need.
//!
//! A host that forwards is a router for all who reach it, with whatever its firewall lets pass. Where this instance is
//! the one that made it so, its table drops what neither comes from nor goes to a bridge of an instance. Forwarding stays on
//! when the daemon ends, so who switched it on is kept in the store, with the boot that it was in.

use crate::config::NetConfig;
use crate::error::{Error, Result};
use crate::firewall::Confined;
use crate::sysctl;
use store::Store;

/// One network protocol's switch, and where it is kept that this instance turned it.
struct Switch {
    sysctl: &'static str,
    record: &'static str,
}

const IPV4: Switch = Switch { sysctl: "net/ipv4/ip_forward", record: "net/forwarding/ipv4" };
const IPV6: Switch = Switch { sysctl: "net/ipv6/conf/all/forwarding", record: "net/forwarding/ipv6" };

/// What is to be switched on, once the table drops what it has to.
#[must_use]
pub(super) struct Forwarding {
    pub(super) confined: Confined,
    off: Vec<Switch>,
}

impl Forwarding {
    /// Finds out what has to be done for containers to be reached, and for nobody else. `ipv6`: also over IPv6.
    pub(super) fn look(config: &NetConfig, ipv6: bool) -> Result<Forwarding> {
        let boot = sysctl::read("kernel/random/boot_id")?.unwrap_or_default();
        let mut off = Vec::new();
        let mut is_ours = |switch: Switch, wanted: bool| -> Result<bool> {
            let value = sysctl::read(switch.sysctl)?;
            if wanted && value.as_deref() == Some("0") {
                config
                    .store
                    .txn()
                    .put(switch.record, boot.as_bytes())
                    .commit()
                    .map_err(|e| Error::store("store who switched forwarding on", e))?;
                off.push(switch);
                return Ok(true);
            }
            Ok(value.is_some_and(|value| value != "0") && was_by_us(&config.store, &switch, &boot)?)
        };
        let wanted = config.ip_forward;
        let (ipv4, ipv6) = (is_ours(IPV4, wanted)?, is_ours(IPV6, wanted && ipv6)?);
        let drop = config.ip_forward_drop;
        Ok(Forwarding { confined: Confined { ipv4: drop && ipv4, ipv6: drop && ipv6 }, off })
    }

    /// Makes the host forward packets.
    pub(super) fn switch_on(self) -> Result<()> {
        for switch in self.off {
            sysctl::write(switch.sysctl, "1")?;
            let name = switch.sysctl.replace('/', ".");
            let confined = if switch.sysctl == IPV4.sysctl { self.confined.ipv4 } else { self.confined.ipv6 };
            match confined {
                true => tracing::info!(
                    "switched {name} on; what is forwarded between other links than containers' is dropped (--ip-forward-no-drop: it is not)"
                ),
                false => tracing::warn!(
                    "switched {name} on: the host forwards between all its links, as its firewall allows"
                ),
            }
        }
        Ok(())
    }
}

/// Whether this instance switched it on, since the machine's boot.
fn was_by_us(store: &Store, switch: &Switch, boot: &str) -> Result<bool> {
    let record = store.get(switch.record).map_err(|e| Error::store("read who switched forwarding on", e))?;
    Ok(record.is_some_and(|record| record.value[..] == *boot.as_bytes()))
}
