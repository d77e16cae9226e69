//! What is asked for beside the context, as the API has it.

use std::path::PathBuf;

use clap::Args;
use image::Reference;
use serde_json::{Value, json};

use super::super::error::{Error, Result};
use super::super::human::parse_bytes;
use super::super::request::Request;
use super::super::{networking, options};
use super::BuildArgs;

/// How the commands of a build run.
#[derive(Args, Debug)]
#[command(next_help_heading = "Commands of the build")]
pub(super) struct Running {
    #[command(flatten)]
    share: options::Share,
    /// Network: default, host, none or a network's name
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// Add a line to /etc/hosts, NAME:ADDRESS; repeats
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    shm_size: Option<i64>,
    /// Limit of their processes, NAME=SOFT[:HARD]; repeats
    #[arg(long, value_name = "LIMIT", value_parser = options::ulimit)]
    ulimit: Vec<Value>,
}

// Flags of docker's that a build does not have: who gives them is told so, and not that they are unknown.
#[derive(Args, Debug)]
pub(super) struct Later {
    #[arg(long, hide = true)]
    secret: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    ssh: Option<Vec<String>>,
    #[arg(long, hide = true)]
    build_context: Vec<String>,
    #[arg(long, hide = true)]
    cache_from: Vec<String>,
    #[arg(long, hide = true)]
    cache_to: Vec<String>,
    #[arg(short = 'o', hide = true)]
    export: Vec<String>,
    #[arg(long, hide = true)]
    metadata_file: Option<PathBuf>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    provenance: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    sbom: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    print: Option<Option<String>>,
}

impl Later {
    /// Says which of them there are not.
    pub(super) fn refused(&self) -> Result<()> {
        let given = [
            ("--secret", !self.secret.is_empty()),
            ("--ssh", self.ssh.is_some()),
            ("--build-context", !self.build_context.is_empty()),
            ("--cache-from", !self.cache_from.is_empty()),
            ("--cache-to", !self.cache_to.is_empty()),
            ("-o", !self.export.is_empty()),
            ("--metadata-file", self.metadata_file.is_some()),
            ("--provenance", self.provenance.is_some()),
            ("--sbom", self.sbom.is_some()),
            ("--print", self.print.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some(("-o", _)) => Err(Error::Usage(
                "stratus build has no -o yet: what it builds goes into the daemon's images. \"stratus save\" writes one into an archive."
                    .to_owned(),
            )),
            Some((flag, _)) => Err(Error::Usage(format!("stratus build has no {flag} yet"))),
        }
    }
}

/// The call, without the context.
pub(super) fn request(args: &BuildArgs, names: &[Reference]) -> Result<Request> {
    let mut request = Request::post("/build")
        .flag("q", args.quiet)
        .flag("nocache", args.no_cache)
        .flag("pull", args.pull)
        .flag("rm", true)
        .flag("forcerm", true)
        .maybe("target", args.target.as_deref())
        .maybe("platform", args.platform.as_ref().map(ToString::to_string));
    for name in names {
        request = request.query("t", name.familiar());
    }
    let arguments = args.arguments()?;
    if !arguments.is_empty() {
        request = request.query("buildargs", json!(arguments).to_string());
    }
    let labels = options::named(&args.label)?;
    if !labels.is_empty() {
        request = request.query("labels", Value::from(labels).to_string());
    }
    running(request, &args.running)
}

fn running(mut request: Request, running: &Running) -> Result<Request> {
    for host in networking::extra_hosts(&running.add_host)? {
        request = request.query("extrahosts", host);
    }
    if !running.ulimit.is_empty() {
        request = request.query("ulimits", json!(running.ulimit).to_string());
    }
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    Ok(request
        .maybe("networkmode", running.network.as_deref())
        .maybe("shmsize", number(running.shm_size))
        .maybe("memory", number(running.share.memory))
        .maybe("memswap", number(running.share.memory_swap))
        .maybe("cpushares", number(running.share.cpu_shares))
        .maybe("cpuperiod", number(running.share.cpu_period))
        .maybe("cpuquota", number(running.share.cpu_quota))
        .maybe("cpusetcpus", running.share.cpuset_cpus.as_deref())
        .maybe("cpusetmems", running.share.cpuset_mems.as_deref()))
}
