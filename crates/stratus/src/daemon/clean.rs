//! `stratus daemon --clean`: everything that an instance put into the kernel is found by name and taken out.

use std::path::Path;
use std::time::Duration;

use keeper::client::{Client, ClientError, List, recover_orphans};
use keeper::protocol::{Request, State};

use super::config::Config;
use super::{Error, instance};

/// Whoever answers at all does so by then; and what a keeper waits for was killed before.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);

/// What was taken out.
struct Taken {
    /// Containers with a living process; `None`: their keeper is of another release, and does not tell.
    containers: Option<usize>,
    keeper: Ended,
    forwarder: bool,
    profile: bool,
    net: net::Cleaned,
    /// Of bridges that are not its own.
    addresses: usize,
    mounts: usize,
    /// The host forwards packets, whoever began that: others may rely on it by now.
    forwards: bool,
}

/// Ends what runs, takes everything out of the kernel, and says what that was. The data directory stays.
pub(super) fn clean(config: &Config) -> Result<String, Error> {
    let held = instance::hold_what_is_there(config)?;
    if config.data_dir.is_dir() {
        engine::note_clean(&config.data_dir)?;
    }
    let mut found = Keeper::of(&config.run_dir)?;
    let containers = found.containers(&config.run_dir)?;
    // Before the keeper, which waits for the end of what it holds: what is frozen ends by no signal. And after it, as it
    // may just have been starting something.
    sandbox::cgroup::clean(&config.cgroup_parent()).map_err(failed)?;
    let keeper = found.end(&config.run_dir)?;
    sandbox::cgroup::clean(&config.cgroup_parent()).map_err(failed)?;
    let forwarder = net::forward::clean(&config.run_dir).map_err(failed)?;
    let profile = engine::apparmor_profile(&config.instance);
    let profile = sandbox::apparmor::unload(&profile).map_err(Error::io("unload the AppArmor profile", &profile))?;
    let name: net::Instance = config.instance.parse().map_err(failed)?;
    // A store that can't be read holds nothing else up.
    let addresses = engine::take_back_addresses(&config.data_dir, &name).unwrap_or_else(|error| {
        eprintln!("stratus daemon: what bridges of others were given as addresses stays there: {error}");
        0
    });
    let net = net::clean(&name).map_err(failed)?;
    let mounts = unmount_below(&config.data_dir)? + unmount_below(&config.run_dir)?;
    held.part()?;
    let forwards =
        net.table && std::fs::read("/proc/sys/net/ipv4/ip_forward").is_ok_and(|is_on| is_on.starts_with(b"1"));
    Ok(Taken { containers, keeper, forwarder, profile, net, addresses, mounts, forwards }.told(&config.data_dir))
}

impl Taken {
    fn told(&self, data_dir: &Path) -> String {
        let there = |is_there: bool, what: &str| is_there.then(|| what.to_owned());
        let some = |count: usize, what: &str| {
            (count > 0).then(|| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
        };
        let ended = [
            self.containers.map_or_else(|| Some("all containers".to_owned()), |count| some(count, "container")),
            self.keeper.told(),
            there(self.forwarder, "the forwarder of ports"),
        ];
        let removed = [
            some(self.net.bridges, "bridge"),
            there(self.net.table, "the firewall's table"),
            match self.addresses {
                0 => None,
                1 => Some("1 address of a bridge that is not its own".to_owned()),
                more => Some(format!("{more} addresses of bridges that are not its own")),
            },
            there(self.profile, "the AppArmor profile"),
            some(self.mounts, "mount"),
        ];
        let steps = [("ended", listed(ended)), ("took out", listed(removed))];
        let steps: Vec<String> =
            steps.into_iter().filter_map(|(verb, what)| Some(format!("{verb} {}", what?))).collect();
        let (data, steps) = (data_dir.display(), steps.join("; "));
        match (steps.is_empty(), data_dir.is_dir()) {
            (false, _) if self.forwards => format!(
                "of {data}: {steps}. What is on the disk stays, and so does net.ipv4.ip_forward, which others may rely on by now \
                 (sysctl net.ipv4.ip_forward=0)"
            ),
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

/// The keeper, as it was found.
enum Keeper {
    None,
    Answers(Client),
    /// Of another release: it understands no request, but a signal.
    Foreign,
    /// It was stopped, or hung, and is no more.
    Killed(u32),
}

impl Keeper {
    /// Looks for it. One that does not answer is killed at once: what it holds, its records tell then.
    fn of(run_dir: &Path) -> Result<Self, Error> {
        match Client::connect_within(run_dir, ANSWERS_WITHIN) {
            Ok(client) => Ok(Self::Answers(client)),
            // Or it has ended since.
            Err(ClientError::NotRunning { .. } | ClientError::Disconnected) => Ok(Self::None),
            Err(ClientError::Refused { .. }) => Ok(Self::Foreign),
            Err(ClientError::Silent { pid, .. }) => kill(run_dir).map(|()| Self::Killed(pid)),
            Err(error) => Err(failed(error)),
        }
    }

    /// How many containers have a living process; `None`: nobody tells.
    fn containers(&mut self, run_dir: &Path) -> Result<Option<usize>, Error> {
        if let Self::Answers(client) = self {
            match client.call_within(List, ANSWERS_WITHIN) {
                Ok(held) => {
                    let running = held.iter().filter(|entry| entry.sandbox.is_none() && entry.state != State::Exited);
                    return Ok(Some(running.count()));
                }
                Err(ClientError::Silent { pid, .. }) => {
                    kill(run_dir)?;
                    *self = Self::Killed(pid);
                }
                // It has ended since, and its records tell.
                Err(ClientError::Disconnected) => *self = Self::None,
                Err(error) => return Err(failed(error)),
            }
        }
        if matches!(self, Self::Foreign) {
            return Ok(None);
        }
        let left = recover_orphans(run_dir).map_err(failed)?;
        Ok(Some(left.iter().filter(|orphan| orphan.sandbox.is_none() && orphan.is_alive()).count()))
    }

    /// Ends it and what it holds, or what it left.
    fn end(self, run_dir: &Path) -> Result<Ended, Error> {
        let ended = match self {
            Self::Answers(mut client) => match client.call_within(Request::Shutdown { kill: true }, ANSWERS_WITHIN) {
                Ok(()) | Err(ClientError::Disconnected) => return Ok(Ended::InOrder),
                Err(ClientError::Silent { pid, .. }) => {
                    kill(run_dir)?;
                    Ended::Killed(pid)
                }
                Err(error) => return Err(failed(error)),
            },
            Self::Foreign => {
                kill(run_dir)?;
                Ended::InOrder
            }
            Self::Killed(pid) => Ended::Killed(pid),
            Self::None => Ended::WasNot,
        };
        for orphan in recover_orphans(run_dir).map_err(failed)? {
            orphan.kill().map_err(failed)?;
        }
        Ok(ended)
    }
}

/// What became of the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    WasNot,
    InOrder,
    /// It did not answer. Its process.
    Killed(u32),
}

impl Ended {
    fn told(self) -> Option<String> {
        match self {
            Self::WasNot => None,
            Self::InOrder => Some("the keeper".to_owned()),
            Self::Killed(pid) => Some(format!(
                "the keeper (process {pid}, killed as it did not answer within {} s)",
                ANSWERS_WITHIN.as_secs()
            )),
        }
    }
}

/// Kills a keeper, unless it has ended meanwhile.
fn kill(run_dir: &Path) -> Result<(), Error> {
    match keeper::client::kill(run_dir) {
        Ok(()) | Err(ClientError::NotRunning { .. }) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Config(error.to_string())
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
        keeper: Ended::WasNot,
        forwarder: false,
        profile: false,
        net: net::Cleaned { bridges: 0, table: false },
        addresses: 0,
        mounts: 0,
        forwards: false,
    };

    #[test]
    fn a_keeper_that_ends_meanwhile_is_none() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
        let run_dir = tempfile::tempdir().expect("a directory");
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket");
        let address = SocketAddrUnix::new(run_dir.path().join(keeper::SOCKET_NAME)).expect("a name");
        rustix::net::bind(&listener, &address).expect("bound");
        rustix::net::listen(&listener, 1).expect("listening");
        let ends = std::thread::spawn(move || drop(rustix::net::accept(&listener).expect("a client")));
        let mut found = Keeper::of(run_dir.path()).expect("looked");
        ends.join().expect("it ended");
        assert!(matches!(found, Keeper::None));
        assert_eq!(found.containers(run_dir.path()).expect("counted"), Some(0));
        assert_eq!(found.end(run_dir.path()).expect("ended"), Ended::WasNot);
    }

    #[test]
    fn what_was_taken_out_is_told_and_so_is_that_there_was_nothing() {
        let everything = Taken {
            containers: Some(2),
            keeper: Ended::InOrder,
            forwarder: true,
            profile: true,
            net: net::Cleaned { bridges: 3, table: true },
            addresses: 1,
            mounts: 1,
            forwards: true,
        };
        assert_eq!(
            everything.told(Path::new("/")),
            "of /: ended 2 containers, the keeper and the forwarder of ports; took out 3 bridges, the firewall's \
             table, 1 address of a bridge that is not its own, the AppArmor profile and 1 mount. What is on the disk stays, and so does \
             net.ipv4.ip_forward, which others may rely on by now (sysctl net.ipv4.ip_forward=0)"
        );
        assert_eq!(
            Taken { keeper: Ended::InOrder, ..NOTHING }.told(Path::new("/")),
            "of /: ended the keeper. What is on the disk stays"
        );
        let silent = Taken { containers: Some(1), keeper: Ended::Killed(7), ..NOTHING };
        assert_eq!(
            silent.told(Path::new("/")),
            "of /: ended 1 container and the keeper (process 7, killed as it did not answer within 15 s). What is on the \
             disk stays"
        );
        let of_another_release = Taken { containers: None, keeper: Ended::InOrder, ..NOTHING };
        assert!(of_another_release.told(Path::new("/")).starts_with("of /: ended all containers and the keeper."));
        assert_eq!(NOTHING.told(Path::new("/")), "of / there was nothing to take out");
        assert_eq!(
            NOTHING.told(Path::new("/nowhere")),
            "there was nothing to take out, and no /nowhere: is that the right --data-dir?"
        );
    }
}
