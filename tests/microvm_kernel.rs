//! A daemon whose microVMs have a kernel.

use e2e::Daemon;

pub(crate) fn host() -> Daemon {
    let host = Daemon::start();
    let (vmlinuz, modules) = e2e::kernel_as_packaged();
    let data = host.data();
    host.slowly(&format!(
        "$STRATUS microvm kernel --use {} --modules {} --data-dir {}",
        vmlinuz.display(),
        modules.display(),
        data.display()
    ))
    .ok();
    host
}
