//! `stratus microvm kernel`: what microVMs boot.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use guest_image::{Files, Prepared, Source};
use serde_json::json;

use crate::client::Context;
use crate::client::error::{Error, Result};
use crate::client::output::{self, Format};
use crate::client::progress::Single;

/// Show or choose the kernel that microVMs boot. Without a flag it is shown. Who chooses has to be root on the daemon's machine; microVMs that run
/// keep the kernel that they have
#[derive(Args, Debug)]
pub(crate) struct KernelArgs {
    /// Fetch the distribution's kernel for clouds with apt, which verifies it. It is not installed
    #[arg(long, conflicts_with_all = ["host_kernel", "kernel"])]
    fetch: bool,
    /// Take a kernel that is installed: one for clouds, else the one that runs
    #[arg(long = "installed", conflicts_with = "kernel")]
    host_kernel: bool,
    /// Take this kernel, a bzImage or an ELF file with an entry for PVH
    #[arg(long = "use", value_name = "VMLINUZ", requires = "modules")]
    kernel: Option<PathBuf>,
    /// The modules that were built with it, as /lib/modules/VERSION has them
    #[arg(long, value_name = "DIR", requires = "kernel")]
    modules: Option<PathBuf>,
    /// Data directory of the daemon [default: as /etc/stratus/daemon.toml says, else /var/lib/stratus]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl KernelArgs {
    fn source(&self) -> Option<Source> {
        match (&self.kernel, &self.modules) {
            (Some(kernel), Some(modules)) => {
                Some(Source::Files(Files { kernel: kernel.clone(), modules: modules.clone() }))
            }
            _ if self.fetch => Some(Source::Fetched),
            _ if self.host_kernel => Some(Source::Host),
            _ => None,
        }
    }
}

/// `stratus microvm kernel`
pub(super) fn kernel(context: &Context, args: &KernelArgs) -> Result<ExitCode> {
    let data_dir = crate::daemon::data_dir(args.data_dir.clone()).map_err(Error::Usage)?;
    let directory = data_dir.join("microvm");
    let prepared = match args.source() {
        Some(_) if !rustix::process::geteuid().is_root() => {
            return Err(Error::Failed("must be root, as the data directory is: try again with sudo".to_owned()));
        }
        Some(source) => {
            crate::daemon::make_data_dir(&data_dir).map_err(Error::Failed)?;
            let shown = Single::steps("looking for a kernel", context.format == Format::Table);
            let made = guest_image::prepare(&directory, &source, &crate::kernel::unpack, &|step| shown.step(step));
            shown.end();
            made.map_err(failed)?
        }
        None => guest_image::prepared(&directory).map_err(failed)?.ok_or_else(|| {
            let directory = data_dir.display();
            Error::Failed(format!(
                "no kernel for microVMs has been prepared in {directory} yet.\nFetch the distribution's with \"stratus microvm kernel --fetch --data-dir {directory}\", \
                 take an installed one with --installed, or one of your own with --use VMLINUZ --modules DIR."
            ))
        })?,
    };
    show(context, &prepared)?;
    Ok(ExitCode::SUCCESS)
}

fn failed(error: guest_image::Error) -> Error {
    let denied = matches!(&error, guest_image::Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
    let advice = if denied { ".\nThe data directory is root's: try again with sudo." } else { "" };
    Error::Failed(format!("{error}{advice}"))
}

fn show(context: &Context, prepared: &Prepared) -> Result<()> {
    let Prepared { kernel, vmlinuz, initramfs, version, from, agent } = prepared;
    if context.format == Format::Json {
        return output::document(&json!({
            "Version": version,
            "From": from,
            "Kernel": kernel,
            "Vmlinuz": vmlinuz,
            "Initramfs": initramfs,
            "Agent": format!("sha256:{agent}"),
        }));
    }
    for (name, value) in [
        ("Version", version.clone()),
        ("From", from.clone()),
        ("Kernel", kernel.display().to_string()),
        ("Initramfs", initramfs.display().to_string()),
        ("Agent", format!("sha256:{}", &agent[..agent.len().min(12)])),
    ] {
        output::line(format!("{:<11}{value}", format!("{name}:")))?;
    }
    Ok(())
}
