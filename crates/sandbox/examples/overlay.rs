//! Runs a bundle's process in an overlay, through the library: `overlay BUNDLE LAYERS_DIR UPPER WORK [init] LAYER…`.

use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::runtime::Spec;
use sandbox::cgroup::Cgroup;
use sandbox::{CompileOptions, Fds, Home, InitPlan, RootFs, SyncEvent, spawn};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8, Box<dyn std::error::Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    if args.len() < 5 {
        return Err("usage: overlay BUNDLE LAYERS_DIR UPPER WORK [init] LAYER...".into());
    }
    let mut lower = args.split_off(4);
    let init = lower.first().is_some_and(|word| word == "init");
    if init {
        lower.remove(0);
    }
    let bundle = PathBuf::from(&args[0]);
    let spec = Spec::load(bundle.join("config.json"))?;
    let linux = spec.linux().clone().unwrap_or_default();
    let path = linux.cgroups_path().clone().ok_or("the spec has no cgroupsPath")?;
    let cgroup = Cgroup::new(&path.to_string_lossy())?;
    cgroup.create(&linux.resources().clone().unwrap_or_default())?;
    let options = CompileOptions {
        rootfs: Some(RootFs::Overlay {
            layers_dir: PathBuf::from(&args[1]),
            lower,
            upper: Some(PathBuf::from(&args[2])),
            work: Some(PathBuf::from(&args[3])),
            options: Vec::new(),
            mount_point: None,
        }),
        cgroup: Some(cgroup.placement()?),
        wait_for_start: true,
        init,
        ..CompileOptions::default()
    };
    // As it is between daemon and keeper: compiled here, cloned from bytes there.
    let bytes = InitPlan::compile(&spec, &bundle, &options)?.to_bytes()?;
    let plan = InitPlan::from_bytes(&bytes)?;
    let mut spawned = spawn(&plan, &Fds::default(), &mut Home::default())?;
    loop {
        match spawned.sync.wait()? {
            SyncEvent::Ready => spawned.sync.start()?,
            SyncEvent::Executed => break,
            SyncEvent::Failed(failure) => {
                rustix::process::waitpid(
                    rustix::process::Pid::from_raw(spawned.pid),
                    rustix::process::WaitOptions::empty(),
                )?;
                cgroup.delete()?;
                return Err(failure.into());
            }
            event => eprintln!("{event:?}"),
        }
    }
    let pid = rustix::process::Pid::from_raw(spawned.pid);
    let ended = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    cgroup.delete()?;
    let status = ended.map(|(_, status)| status);
    Ok(status.and_then(|status| status.exit_status()).map_or(255, |code| code as u8))
}
