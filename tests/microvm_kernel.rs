//! A daemon whose microVMs have a kernel.

use e2e::Daemon;

#[path = "cloud_kernel.rs"]
mod cloud_kernel;

pub(crate) fn host() -> Daemon {
    let host = Daemon::start();
    let (vmlinuz, modules) = cloud_kernel::as_packaged(&host.work().join("kernel"));
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
