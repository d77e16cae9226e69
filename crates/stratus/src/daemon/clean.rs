//! `stratus daemon --clean`: everything that an instance put into the kernel is found by name and taken out.

use std::path::Path;

use keeper::client::{Client, ClientError, recover_orphans};
use keeper::protocol::Request;

use super::config::Config;
use super::{Error, instance};

/// Ends what runs and takes everything out of the kernel. The data directory stays.
pub(super) fn clean(config: &Config) -> Result<(), Error> {
    let held = instance::hold_what_is_there(config)?;
    if config.data_dir.is_dir() {
        engine::note_clean(&config.data_dir)?;
    }
    // Before the keeper, which waits for the end of what it holds: what is frozen ends by no signal. And after it, as it
    // may just have been starting something.
    sandbox::cgroup::clean(&config.cgroup_parent()).map_err(failed)?;
    end_keeper(&config.run_dir)?;
    sandbox::cgroup::clean(&config.cgroup_parent()).map_err(failed)?;
    net::forward::clean(&config.run_dir).map_err(failed)?;
    let profile = engine::apparmor_profile(&config.instance);
    sandbox::apparmor::unload(&profile).map_err(Error::io("unload the AppArmor profile", &profile))?;
    let name: net::Instance = config.instance.parse().map_err(failed)?;
    net::clean(&name).map_err(failed)?;
    unmount_below(&config.data_dir)?;
    unmount_below(&config.run_dir)?;
    held.part()
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Config(error.to_string())
}

fn end_keeper(run_dir: &Path) -> Result<(), Error> {
    match Client::connect(run_dir) {
        Ok(mut keeper) => match keeper.call(Request::Shutdown { kill: true }) {
            Ok(()) | Err(ClientError::Disconnected) => Ok(()),
            Err(error) => Err(failed(error)),
        },
        Err(ClientError::NotRunning { .. }) => end_orphans(run_dir),
        // Of another release: it understands no request, but a signal.
        Err(ClientError::Refused { .. }) => {
            keeper::client::kill(run_dir).map_err(failed)?;
            end_orphans(run_dir)
        }
        Err(error) => Err(failed(error)),
    }
}

fn end_orphans(run_dir: &Path) -> Result<(), Error> {
    for orphan in recover_orphans(run_dir).map_err(failed)? {
        orphan.kill().map_err(failed)?;
    }
    Ok(())
}

/// Unmounts what is mounted below `directory`, the last mount first.
fn unmount_below(directory: &Path) -> Result<(), Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read", "/proc/self/mountinfo"))?;
    let prefix = format!("{}/", directory.display());
    let targets: Vec<&str> =
        table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| target.starts_with(&prefix)).collect();
    for target in targets.into_iter().rev() {
        rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH)
            .map_err(|error| Error::io("unmount", target)(error.into()))?;
    }
    Ok(())
}
