//! Flags of `stratus create` that an image of microVMs is made with as well: there is one text, and one meaning, of each.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::marker::PhantomData;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::client::options::ContainerArgs;

/// Some of the flags of [`ContainerArgs`], as they were given.
#[derive(Debug)]
pub(super) struct Given<F> {
    words: Vec<OsString>,
    which: PhantomData<F>,
}

/// Which flags they are.
pub(super) trait Flags {
    /// By their names within [`ContainerArgs`].
    const NAMES: &'static [&'static str];
}

/// Those of `image build` and `image create`. What would be somebody's at one moment alone is not among them: volumes, a terminal, a name, an address.
#[derive(Debug)]
pub(super) enum OfBoth {}

impl Flags for OfBoth {
    const NAMES: &'static [&'static str] = &[
        "annotation",
        "blkio_weight",
        "cap_add",
        "cap_drop",
        "cgroup_parent",
        "cpu_period",
        "cpu_quota",
        "cpu_shares",
        "cpuset_cpus",
        "device_read_bps",
        "device_read_iops",
        "device_write_bps",
        "device_write_iops",
        "dns",
        "dns_option",
        "dns_search",
        "domainname",
        "entrypoint",
        "env_file",
        "expose",
        "group_add",
        "health_cmd",
        "health_interval",
        "health_retries",
        "health_start_interval",
        "health_start_period",
        "health_timeout",
        "hostname",
        "init",
        "log_driver",
        "log_opt",
        "memory_reservation",
        "memory_swap",
        "network_alias",
        "no_healthcheck",
        "oom_score_adj",
        "pids_limit",
        "privileged",
        "publish_all",
        "read_only",
        "security_opt",
        "stop_signal",
        "stop_timeout",
        "storage_opt",
        "sysctl",
        "tmpfs",
        "user",
        "workdir",
    ];
}

/// Those of `image create` alone, as with `image build` they are the build's.
#[derive(Debug)]
pub(super) enum OfCreate {}

impl Flags for OfCreate {
    const NAMES: &'static [&'static str] = &["add_host", "label", "label_file", "shm_size", "ulimit"];
}

impl<F> Given<F> {
    /// As they are written for `stratus create`.
    pub(super) fn words(&self) -> &[OsString] {
        &self.words
    }
}

/// The flags, as [`ContainerArgs`] has them.
fn flags<F: Flags>() -> Vec<Arg> {
    let all = ContainerArgs::augment_args(Command::new("create"));
    let wanted: BTreeSet<&str> = F::NAMES.iter().copied().collect();
    let is_wanted = |flag: &&Arg| wanted.contains(flag.get_id().as_str());
    all.get_arguments().filter(is_wanted).map(|flag| flag.clone().display_order(None)).collect()
}

impl<F: Flags> Args for Given<F> {
    fn augment_args(command: Command) -> Command {
        // `-h` asks these commands for help.
        let own = |flag: Arg| match flag.get_short() {
            Some('h') => flag.short(Resettable::Reset),
            _ => flag,
        };
        command.args(flags::<F>().into_iter().map(own))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<F: Flags> FromArgMatches for Given<F> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut words = Vec::new();
        for flag in flags::<F>() {
            let name = flag.get_id().as_str();
            let long = OsString::from(format!("--{}", flag.get_long().unwrap_or(name)));
            if matches!(flag.get_action(), ArgAction::SetTrue) {
                words.extend(matches.get_flag(name).then_some(long));
                continue;
            }
            for value in matches.get_raw(name).into_iter().flatten() {
                let mut word = long.clone();
                word.push("=");
                word.push(value);
                words.push(word);
            }
        }
        Ok(Self { words, which: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known<F: Flags>() {
        let known: BTreeSet<String> = flags::<F>().iter().map(|flag| flag.get_id().to_string()).collect();
        assert_eq!(known, F::NAMES.iter().map(|name| (*name).to_owned()).collect());
    }

    #[test]
    fn each_is_a_flag_of_create() {
        known::<OfBoth>();
        known::<OfCreate>();
    }

    #[test]
    fn they_are_handed_on_as_they_were_given() {
        let command = Given::<OfBoth>::augment_args(Command::new("create"));
        let line =
            ["create", "-u", "5:6", "--init", "--storage-opt", "size=64m", "--dns=10.0.0.1", "--dns", "10.0.0.2"];
        let given = Given::<OfBoth>::from_arg_matches(&command.get_matches_from(line)).unwrap();
        assert_eq!(
            given.words(),
            ["--dns=10.0.0.1", "--dns=10.0.0.2", "--init", "--storage-opt=size=64m", "--user=5:6"]
        );
    }
}
