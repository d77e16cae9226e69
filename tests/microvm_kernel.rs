//! A daemon whose microVMs have a kernel.

use e2e::Daemon;

pub(crate) fn host() -> Daemon {
    with_kernel(Daemon::start())
}

/// One with these flags.
#[allow(dead_code, reason = "it is for some of the files that have this one")]
pub(crate) fn host_with(flags: &[&str]) -> Daemon {
    with_kernel(Daemon::start_with(flags))
}

fn with_kernel(host: Daemon) -> Daemon {
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
