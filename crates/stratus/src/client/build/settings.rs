//! What is asked for beside the context, as the daemon is told.

use api_build::{Ask, Credentials, Source, Ulimit};
use build::Entitlement;
use clap::Args;
use image::Reference;
use serde_json::Value;

use super::super::error::Result;
use super::super::human::{parse_bytes, parse_span};
use super::super::{credentials, networking, options};
use super::BuildArgs;

/// What limits the commands of a build.
#[derive(Args, Debug)]
#[command(next_help_heading = "Commands of the build")]
pub(super) struct Running {
    #[command(flatten)]
    share: options::Share,
    /// Network: default, host, none or a network's name
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Number of processors, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = options::nano_cpus)]
    cpus: Option<i64>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
}

impl Running {
    /// On that network, where one is said.
    pub(super) fn on(&mut self, network: Option<String>) {
        self.network = network.or(self.network.take());
    }
}

/// What the commands of a build have
#[derive(Args, Debug)]
#[command(next_help_heading = "Commands of the build")]
pub(super) struct Steps {
    /// What they may ask for beside what any container has: security.insecure (RUN --security=insecure) or network.host (RUN --network=host),
    /// where the daemon allows it, too; onbuild.secrets (secrets and agents for what a base's ONBUILD does); repeats
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    allow: Vec<Entitlement>,
    /// Add a line to /etc/hosts, NAME:ADDRESS; repeats
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    shm_size: Option<i64>,
    /// Most time that each of them may take, as 10m; 0 for no end
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    step_timeout: Option<i64>,
    /// Limit of their processes, NAME=SOFT[:HARD]; repeats
    #[arg(long, value_name = "LIMIT", value_parser = options::ulimit)]
    ulimit: Vec<Value>,
}

/// What is asked for, with all but the files.
pub(super) fn ask(args: &BuildArgs, names: &[Reference], source: Source) -> Result<Ask> {
    let labels = options::named(&args.recipe.label)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Ask {
        source,
        names: names.iter().map(|name| name.familiar()).collect(),
        target: args.recipe.target.clone(),
        // An argument without a value takes none of the daemon's.
        arguments: args.recipe.arguments()?.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        labels: labels.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        platforms: args.platforms(),
        squash: args.squash,
        look: args.print.is_some(),
        no_cache: args.recipe.no_cache,
        no_cache_filter: args.recipe.no_cache_filter.clone(),
        pull: args.recipe.pull,
        attest: args.attests.wanted()?,
        running: running(&args.running, &args.recipe.steps)?,
        allowed: args.recipe.steps.allow.iter().copied().collect(),
        credentials: credentials::all()?.into_iter().map(|(name, document)| (name, Credentials(document))).collect(),
        ..Ask::default()
    })
}

fn running(args: &Running, steps: &Steps) -> Result<api_build::Running> {
    let share = &args.share;
    let ulimit = |limit: &Value| {
        let number = |name: &str| limit[name].as_i64().unwrap_or_default();
        Ulimit {
            name: limit["Name"].as_str().unwrap_or_default().to_owned(),
            soft: number("Soft"),
            hard: number("Hard"),
        }
    };
    Ok(api_build::Running {
        network: args.network.clone().unwrap_or_default(),
        extra_hosts: networking::extra_hosts(&steps.add_host)?,
        shm_size: steps.shm_size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
        ulimits: steps.ulimit.iter().map(ulimit).collect(),
        memory: share.memory.unwrap_or_default(),
        memory_swap: share.memory_swap.unwrap_or_default(),
        cpu_shares: share.cpu_shares.unwrap_or_default(),
        cpu_period: share.cpu_period.unwrap_or_default(),
        cpu_quota: share.cpu_quota.unwrap_or_default(),
        cpuset_cpus: share.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: share.cpuset_mems.clone().unwrap_or_default(),
        nano_cpus: args.cpus.unwrap_or_default(),
        pids_limit: args.pids_limit,
        // Of less than a thousandth of a second, that.
        timeout: steps
            .step_timeout
            .filter(|time| *time > 0)
            .and_then(|time| u64::try_from(time / 1_000_000).ok())
            .map(|time| time.max(1)),
    })
}
