//! `stratus daemon --clean`: everything that an instance put into the kernel is found by name and taken out.

use std::path::Path;

use keeper::client::{Client, ClientError, List, recover_orphans};
use keeper::protocol::{Request, State};

use super::config::Config;
use super::{Error, instance};

/// What was taken out.
struct Taken {
    /// Containers with a living process; `None`: their keeper is of another release, and does not tell.
    containers: Option<usize>,
    keeper: bool,
    forwarder: bool,
    profile: bool,
    net: net::Cleaned,
    mounts: usize,
}

/// Ends what runs, takes everything out of the kernel, and says what that was. The data directory stays.
pub(super) fn clean(config: &Config) -> Result<String, Error> {
    let held = instance::hold_what_is_there(config)?;
    if config.data_dir.is_dir() {
        engine::note_clean(&config.data_dir)?;
    }
    let containers = running(&config.run_dir)?;
    // Before the keeper, which waits for the end of what it holds: what is frozen ends by no signal. And after it, as it
    // may just have been starting something.
    sandbox::cgroup::clean(&config.cgroup_parent()).map_err(failed)?;
    let keeper = end_keeper(&config.run_dir)?;
    sandbox::cgroup::clean(&config.cgroup_parent()).map_err(failed)?;
    let forwarder = net::forward::clean(&config.run_dir).map_err(failed)?;
    let profile = engine::apparmor_profile(&config.instance);
    let profile = sandbox::apparmor::unload(&profile).map_err(Error::io("unload the AppArmor profile", &profile))?;
    let name: net::Instance = config.instance.parse().map_err(failed)?;
    let net = net::clean(&name).map_err(failed)?;
    let mounts = unmount_below(&config.data_dir)? + unmount_below(&config.run_dir)?;
    held.part()?;
    Ok(Taken { containers, keeper, forwarder, profile, net, mounts }.told(&config.data_dir))
}

impl Taken {
    fn told(&self, data_dir: &Path) -> String {
        let there = |is_there: bool, what: &str| is_there.then(|| what.to_owned());
        let some = |count: usize, what: &str| {
            (count > 0).then(|| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
        };
        let ended = [
            self.containers.map_or_else(|| Some("all containers".to_owned()), |count| some(count, "container")),
            there(self.keeper, "the keeper"),
            there(self.forwarder, "the forwarder of ports"),
        ];
        let removed = [
            some(self.net.bridges, "bridge"),
            there(self.net.table, "the firewall's table"),
            there(self.profile, "the AppArmor profile"),
            some(self.mounts, "mount"),
        ];
        let steps = [("ended", listed(ended)), ("took out", listed(removed))];
        let steps: Vec<String> =
            steps.into_iter().filter_map(|(verb, what)| Some(format!("{verb} {}", what?))).collect();
        let (data, steps) = (data_dir.display(), steps.join("; "));
        match (steps.is_empty(), data_dir.is_dir()) {
            (false, _) => format!("of {data}: {steps}. What is on the disk stays"),
            (true, true) => format!("of {data} there was nothing to take out"),
            (true, false) => format!("there was nothing to take out, and no {data}: is that the right --data-dir?"),
        }
    }
}

/// `a, b and c`; `None`: nothing.
fn listed<const N: usize>(what: [Option<String>; N]) -> Option<String> {
    let what: Vec<String> = what.into_iter().flatten().collect();
    match what.split_last()? {
        (last, []) => Some(last.clone()),
        (last, others) => Some(format!("{} and {last}", others.join(", "))),
    }
}

/// How many containers have a living process.
fn running(run_dir: &Path) -> Result<Option<usize>, Error> {
    let count = match Client::connect(run_dir) {
        Ok(mut keeper) => {
            let held = keeper.call(List).map_err(failed)?;
            held.iter().filter(|entry| entry.sandbox.is_none() && entry.state != State::Exited).count()
        }
        Err(ClientError::NotRunning { .. }) => {
            let left = recover_orphans(run_dir).map_err(failed)?;
            left.iter().filter(|orphan| orphan.sandbox.is_none() && orphan.is_alive()).count()
        }
        Err(ClientError::Refused { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    Ok(Some(count))
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Config(error.to_string())
}

/// Ends the keeper and what it holds, or what it left; says whether there was one.
fn end_keeper(run_dir: &Path) -> Result<bool, Error> {
    match Client::connect(run_dir) {
        Ok(mut keeper) => match keeper.call(Request::Shutdown { kill: true }) {
            Ok(()) | Err(ClientError::Disconnected) => Ok(true),
            Err(error) => Err(failed(error)),
        },
        Err(ClientError::NotRunning { .. }) => end_orphans(run_dir).map(|()| false),
        // Of another release: it understands no request, but a signal.
        Err(ClientError::Refused { .. }) => {
            keeper::client::kill(run_dir).map_err(failed)?;
            end_orphans(run_dir).map(|()| true)
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

/// Unmounts what is mounted below `directory`, the last mount first. Returns how many there were.
fn unmount_below(directory: &Path) -> Result<usize, Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read", "/proc/self/mountinfo"))?;
    let prefix = format!("{}/", directory.display());
    let targets: Vec<&str> =
        table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| target.starts_with(&prefix)).collect();
    for target in targets.iter().rev() {
        rustix::mount::unmount(*target, rustix::mount::UnmountFlags::DETACH)
            .map_err(|error| Error::io("unmount", target)(error.into()))?;
    }
    Ok(targets.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Taken = Taken {
        containers: Some(0),
        keeper: false,
        forwarder: false,
        profile: false,
        net: net::Cleaned { bridges: 0, table: false },
        mounts: 0,
    };

    #[test]
    fn what_was_taken_out_is_told_and_so_is_that_there_was_nothing() {
        let everything = Taken {
            containers: Some(2),
            keeper: true,
            forwarder: true,
            profile: true,
            net: net::Cleaned { bridges: 3, table: true },
            mounts: 1,
        };
        assert_eq!(
            everything.told(Path::new("/")),
            "of /: ended 2 containers, the keeper and the forwarder of ports; took out 3 bridges, the firewall's \
             table, the AppArmor profile and 1 mount. What is on the disk stays"
        );
        assert_eq!(
            Taken { keeper: true, ..NOTHING }.told(Path::new("/")),
            "of /: ended the keeper. What is on the disk stays"
        );
        let of_another_release = Taken { containers: None, keeper: true, ..NOTHING };
        assert!(of_another_release.told(Path::new("/")).starts_with("of /: ended all containers and the keeper."));
        assert_eq!(NOTHING.told(Path::new("/")), "of / there was nothing to take out");
        assert_eq!(
            NOTHING.told(Path::new("/nowhere")),
            "there was nothing to take out, and no /nowhere: is that the right --data-dir?"
        );
    }
}
