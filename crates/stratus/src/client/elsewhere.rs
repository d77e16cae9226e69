//! Commands of docker's that stratus has not, and what is the way here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::address::{self, Address};

/// Where the daemon of this command would be, in the texts below.
const DAEMON: &str = "%DAEMON%";

const NO_SWARM: &str = "stratus runs on one machine, and has no Swarm";

/// The commands, and what is said to who tries one.
const COMMANDS: [(&str, &str); 12] = [
    (
        "compose",
        "Docker Compose works with stratus: install it, and tell it where stratus is. With Docker's package docker-compose-plugin:\n\
         \n    DOCKER_HOST=%DAEMON% docker compose up\n\
         \nWith Debian's docker-compose, which is older:\n\
         \n    DOCKER_HOST=%DAEMON% docker-compose up\n",
    ),
    (
        "context",
        "stratus has no contexts: --host URL, or DOCKER_HOST, says which daemon is meant (now %DAEMON%). For docker, make one:\n\
         \n    docker context create stratus --docker host=%DAEMON%\n",
    ),
    ("checkpoint", "stratus does not freeze containers to the disk; stratus pause freezes them in memory"),
    ("plugin", "stratus has no plugins: volumes are local, and networks have the drivers bridge, host and none"),
    (
        "manifest",
        "manifests of registries are the docker client's own work, without a daemon: docker manifest inspect IMAGE",
    ),
    ("trust", "signatures are the docker client's own work: docker trust inspect IMAGE"),
    ("swarm", NO_SWARM),
    ("node", NO_SWARM),
    ("service", NO_SWARM),
    ("stack", NO_SWARM),
    ("secret", NO_SWARM),
    ("config", NO_SWARM),
];

/// What to say of a command line that names none of stratus' commands, where it is one of docker's.
pub(crate) fn hint(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let (_, way) = COMMANDS.iter().find(|(command, _)| command == name)?;
    let daemon = Address::choose(None).map_or_else(|_| address::DEFAULT.to_owned(), |address| address.to_string());
    Some(way.replace(DAEMON, &daemon))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tries_a_command_of_dockers_is_told_the_way_here() {
        let said = |line: &str| {
            let cli = clap::Command::new("stratus").subcommand(clap::Command::new("ps")).subcommand_required(true);
            hint(&cli.try_get_matches_from(line.split(' ')).expect_err(line))
        };
        for (command, _) in COMMANDS {
            let hint = said(&format!("stratus {command} up -d")).expect(command);
            assert!(!hint.contains('%'), "{hint}");
        }
        assert_eq!(said("stratus nonsense"), None);
        assert_eq!(said("stratus ps compose"), None);
    }
}
