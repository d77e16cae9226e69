//! The command line, as runc has it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::log::Log;
use super::state::Store;
use super::{RuntimeError, create, events, exec, features, lifecycle, list, spec, update};

/// An OCI runtime: runs containers from bundles, as the OCI runtime specification describes them.
#[derive(Debug, Parser)]
#[command(name = "stratus runtime", bin_name = "stratus runtime", version = VERSION, subcommand_required = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// In runc's form, which dockerd takes apart: the name, `version`, and the number on one line.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Directory for the state of containers
    #[arg(long, default_value = "/run/stratus/runtime")]
    pub(super) root: PathBuf,
    /// Write errors to this file, besides standard error
    #[arg(long)]
    pub(super) log: Option<PathBuf>,
    /// The format of the log
    #[arg(long, value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Log what is done, not only what fails
    #[arg(long)]
    pub(super) debug: bool,
    /// Have systemd manage the cgroups: their paths are of the form slice:prefix:name
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    /// Ignore cgroup permission errors (true, false, or auto)
    #[arg(long, default_value = "auto", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(super) rootless: String,
    /// Accepted for compatibility; checkpoints are not supported
    #[arg(long, hide = true)]
    pub(super) criu: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a container
    Create(Create),
    /// Start the program of a created container
    Start(Id),
    /// Create and start a container
    Run(Run),
    /// Run a further process in a container
    Exec(Box<Exec>),
    /// Print the state of a container
    State(Id),
    /// Send a signal to a container's first process
    Kill(Kill),
    /// Remove what a container left
    Delete(Delete),
    /// Suspend all processes of a container
    Pause(Id),
    /// Resume all processes of a container
    Resume(Id),
    /// Change a container's limits
    Update(Box<Update>),
    /// List a container's processes
    Ps(Ps),
    /// Print statistics and out-of-memory events
    Events(Events),
    /// List containers
    List(List),
    /// Write a specification to start from
    Spec(Spec),
    /// Print what this runtime supports
    Features,
    /// Not supported
    #[command(disable_help_flag = true)]
    Checkpoint(Ignored),
    /// Not supported
    #[command(disable_help_flag = true)]
    Restore(Ignored),
}

impl Command {
    pub(super) fn starts_a_process(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Exec(_))
    }
}

#[derive(Debug, Args)]
pub(super) struct Id {
    /// The container
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct Ignored {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The bundle's directory
    #[arg(long, short, default_value = ".")]
    pub(super) bundle: PathBuf,
    /// A socket to send the terminal's master to
    #[arg(long)]
    pub(super) console_socket: Option<PathBuf>,
    /// A file to write the process id to
    #[arg(long)]
    pub(super) pid_file: Option<PathBuf>,
    /// Change the root without pivot_root, for a root on a RAM disk
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Pass on N further descriptors
    #[arg(long, default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// The new container's id
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) create: Create,
    /// Return when the program runs
    #[arg(long, short)]
    pub(super) detach: bool,
    /// Keep the container after its end
    #[arg(long)]
    pub(super) keep: bool,
    /// Do not become the parent of orphans
    #[arg(long)]
    pub(super) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// A socket to send the terminal's master to
    #[arg(long)]
    pub(super) console_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long)]
    pub(super) cwd: Option<PathBuf>,
    /// Set an environment variable
    #[arg(long, short)]
    pub(super) env: Vec<String>,
    /// Allocate a terminal
    #[arg(long, short)]
    pub(super) tty: bool,
    /// UID[:GID]
    #[arg(long, short)]
    pub(super) user: Option<String>,
    /// Further groups
    #[arg(long, short = 'g')]
    pub(super) additional_gids: Vec<u32>,
    /// A file with the process in JSON
    #[arg(long, short)]
    pub(super) process: Option<PathBuf>,
    /// Return when the program runs
    #[arg(long, short)]
    pub(super) detach: bool,
    /// A file to write the process id to
    #[arg(long)]
    pub(super) pid_file: Option<PathBuf>,
    /// SELinux label
    #[arg(long)]
    pub(super) process_label: Option<String>,
    /// AppArmor profile
    #[arg(long)]
    pub(super) apparmor: Option<String>,
    /// Set no_new_privs
    #[arg(long)]
    pub(super) no_new_privs: bool,
    /// Add a capability
    #[arg(long, short)]
    pub(super) cap: Vec<String>,
    /// Pass on N further descriptors
    #[arg(long, default_value_t = 0)]
    pub(super) preserve_fds: u32,
    /// A cgroup below the container's: [CONTROLLER:]PATH
    #[arg(long)]
    pub(super) cgroup: Vec<String>,
    /// Even if the container is paused
    #[arg(long)]
    pub(super) ignore_paused: bool,
    /// The container
    pub(super) id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Kill {
    /// To all processes of the container
    #[arg(long, short)]
    pub(super) all: bool,
    /// The container
    pub(super) id: String,
    /// The signal, by name or number
    #[arg(default_value = "SIGTERM")]
    pub(super) signal: String,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// Kill it first if it runs
    #[arg(long, short)]
    pub(super) force: bool,
    /// The container
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    /// table or json
    #[arg(long, short, value_enum, default_value = "table")]
    pub(super) format: TableFormat,
    /// The container
    pub(super) id: String,
    /// Arguments for ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) args: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TableFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Events {
    /// How often (5s, 500ms)
    #[arg(long, default_value = "5s")]
    pub(super) interval: String,
    /// Print statistics once
    #[arg(long)]
    pub(super) stats: bool,
    /// The container
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// table or json
    #[arg(long, short, value_enum, default_value = "table")]
    pub(super) format: TableFormat,
    /// Ids only
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct Spec {
    /// The bundle's directory
    #[arg(long, short, default_value = ".")]
    pub(super) bundle: PathBuf,
    /// For a user without privileges
    #[arg(long)]
    pub(super) rootless: bool,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    /// A file with resources in JSON, or - for standard input
    #[arg(long, short)]
    pub(super) resources: Option<PathBuf>,
    /// 10 to 1000
    #[arg(long)]
    pub(super) blkio_weight: Option<u16>,
    /// Microseconds
    #[arg(long)]
    pub(super) cpu_period: Option<u64>,
    /// Microseconds in a period
    #[arg(long, allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    /// Microseconds
    #[arg(long)]
    pub(super) cpu_burst: Option<u64>,
    /// Relative weight
    #[arg(long, alias = "cpu-shares")]
    pub(super) cpu_share: Option<u64>,
    /// Microseconds
    #[arg(long)]
    pub(super) cpu_rt_period: Option<u64>,
    /// Microseconds
    #[arg(long, allow_hyphen_values = true)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// 1 for the idle class
    #[arg(long, allow_hyphen_values = true)]
    pub(super) cpu_idle: Option<i64>,
    /// CPUs, as 0-3,7
    #[arg(long)]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long)]
    pub(super) cpuset_mems: Option<String>,
    /// Bytes
    #[arg(long, allow_hyphen_values = true)]
    pub(super) memory: Option<String>,
    /// Bytes
    #[arg(long, allow_hyphen_values = true)]
    pub(super) memory_reservation: Option<String>,
    /// Bytes, memory and swap together; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Bytes; obsolete
    #[arg(long, allow_hyphen_values = true, hide = true)]
    pub(super) kernel_memory: Option<String>,
    /// Bytes; obsolete
    #[arg(long, allow_hyphen_values = true, hide = true)]
    pub(super) kernel_memory_tcp: Option<String>,
    /// Processes
    #[arg(long, allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    /// Intel RDT: which parts of each L3 cache, as L3:0=ff;1=c0
    #[arg(long)]
    pub(super) l3_cache_schema: Option<String>,
    /// Intel RDT: how much of the way to the memory for each L3 cache, as MB:0=20;1=70
    #[arg(long)]
    pub(super) mem_bw_schema: Option<String>,
    /// The container
    pub(super) id: String,
}

/// Runs the command; the exit status is the container's where it ran in the foreground.
pub(super) fn dispatch(cli: &Cli, log: &Log) -> super::Result<u8> {
    if !matches!(cli.global.rootless.as_str(), "auto" | "true" | "false") {
        return Err(RuntimeError::Usage(format!("--rootless is {:?}, not true, false or auto", cli.global.rootless)));
    }
    match &cli.command {
        Command::Create(options) => preserved(options.preserve_fds, create::listen_fds())?,
        Command::Run(options) => preserved(options.create.preserve_fds, create::listen_fds())?,
        Command::Exec(options) => preserved(options.preserve_fds, 0)?,
        _ => {}
    }
    let store = Store::new(&cli.global.root);
    let done = |()| 0;
    match &cli.command {
        Command::Create(options) => create::create(&store, options, cli.global.systemd_cgroup, log).map(done),
        Command::Start(options) => create::start(&store, &options.id, log).map(done),
        Command::Run(options) => create::run(&store, options, cli.global.systemd_cgroup, log),
        Command::Exec(options) => exec::exec(&store, options, log),
        Command::State(options) => list::state(&store, &options.id).map(done),
        Command::Kill(options) => lifecycle::kill(&store, options).map(done),
        Command::Delete(options) => lifecycle::delete(&store, options, log).map(done),
        Command::Pause(options) => lifecycle::pause(&store, &options.id).map(done),
        Command::Resume(options) => lifecycle::resume(&store, &options.id).map(done),
        Command::Update(options) => update::update(&store, options).map(done),
        Command::Ps(options) => list::ps(&store, options).map(done),
        Command::Events(options) => events::events(&store, options).map(done),
        Command::List(options) => list::list(&store, options).map(done),
        Command::Spec(options) => spec::write(options).map(done),
        Command::Features => features::print().map(done),
        Command::Checkpoint(_) | Command::Restore(_) => {
            Err(RuntimeError::Usage("checkpoint and restore are not supported".into()))
        }
    }
}

/// Looked at before anything is opened here: a number that is free now would become one of our own.
fn preserved(wanted: u32, listened: u32) -> super::Result<()> {
    for fd in 3..wanted.saturating_add(listened).saturating_add(3) {
        if !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists() {
            let whose = match listened {
                0 => format!("--preserve-fds {wanted}"),
                _ => format!("--preserve-fds {wanted} and LISTEN_FDS={listened}"),
            };
            return Err(RuntimeError::Usage(format!("{whose}: descriptor {fd} is not open")));
        }
    }
    Ok(())
}
