//! The daemon: reads its configuration, opens the engine, and listens.

mod clean;
mod config;
mod instance;
mod listen;
mod metrics;
mod quiet;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use api_docker::{Door, DoorInfo, Protocol};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use config::Config;
pub(crate) use config::Options;
pub(crate) use instance::KEEPER_ARGUMENT;

/// Bytes that a thread's stack may take. Futures are polled one within the other, a step of a build thirty deep; without optimisation each
/// takes kilobytes. Less than a huge page, so that the kernel gives none where a few small ones are touched.
const STACK: usize = if cfg!(debug_assertions) { 8 << 20 } else { (2 << 20) - (64 << 10) };

/// Of the threads, of which a slow client or disk may hold hundreds, few allocate at a time.
const HEAPS: u16 = 2;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Builder(String),
    #[error("{what} {on}: {source}")]
    Io { what: &'static str, on: String, source: std::io::Error },
    #[error("a daemon{} uses {} already{}", process(*daemon), directory.display(), how_to_stop(*daemon))]
    InUse { directory: PathBuf, daemon: Option<u32> },
    #[error(
        "the run directory {} belongs to the data directory {}{}: name that with --data-dir, or another run directory with \
         --run-dir. Nothing was touched",
        run_dir.display(),
        data_dir.display(),
        daemon.map(|daemon| format!(", where a daemon runs (process {daemon})")).unwrap_or_default()
    )]
    OtherData { run_dir: PathBuf, data_dir: PathBuf, daemon: Option<u32> },
    #[error(
        "what runs of the data directory {} is held in the run directory {}: name that with --run-dir. Nothing was touched",
        data_dir.display(),
        run_dir.display()
    )]
    OtherRun { data_dir: PathBuf, run_dir: PathBuf },
    #[error(
        "the bridge {bridge} belongs to another stratus daemon{} (instance {owner}): choose another name with --bridge. Where that daemon \
         is no more, take out what it left: stratus daemon --clean --data-dir {}. Nothing was touched",
        data_dir.as_ref().map(|data_dir| format!(", that of the data directory {}", data_dir.display())).unwrap_or_default(),
        data_dir.as_ref().map_or_else(|| "ITS_DATA_DIRECTORY".into(), |data_dir| data_dir.display().to_string())
    )]
    OtherBridge { bridge: String, owner: net::Instance, data_dir: Option<PathBuf> },
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

fn process(daemon: Option<u32>) -> String {
    daemon.map(|daemon| format!(" (process {daemon})")).unwrap_or_default()
}

fn how_to_stop(daemon: Option<u32>) -> String {
    let kill = daemon.map(|daemon| format!("kill {daemon}, or ")).unwrap_or_default();
    format!(": stop it first ({kill}systemctl stop stratus.socket stratus.service where systemd started it)")
}

impl Error {
    fn io(what: &'static str, on: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        let on = on.to_string();
        move |source| Self::Io { what, on, source }
    }
}

/// Why a configuration file with this text would be refused, if it would.
pub(crate) fn check_configuration(text: &str) -> Result<(), String> {
    Config::check(text).map_err(|error| error.to_string())
}

/// Where a daemon keeps its data: what was given, else as the configuration file says, else by default.
pub(crate) fn data_dir(given: Option<PathBuf>) -> Result<PathBuf, String> {
    Config::data_dir(given).map_err(|error| error.to_string())
}

/// Makes the data directory, for who puts something into it before any daemon has.
pub(crate) fn make_data_dir(directory: &Path) -> Result<(), String> {
    instance::make_data_dir(directory).map_err(|error| error.to_string())
}

/// Runs the daemon until it is told to end.
pub(crate) fn main(options: Options) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        return fail(&Error::Config("must be root: try again with sudo".to_owned()));
    }
    let config = match Config::from_options(&options) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    if options.clean {
        return match clean::clean(&config) {
            Ok(done) => {
                // Who listens to nothing has no need of it.
                let _ = writeln!(std::io::stdout(), "{done}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error),
        };
    }
    log_to_stderr(&config);
    raise_descriptor_limit();
    sandbox::residence::limit_heaps(HEAPS);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn run(config: Config) -> Result<(), Error> {
    let of_engine = config.engine()?;
    let mut held = instance::hold(&config)?;
    instance::check_bridge(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)))
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(Error::io("start", "the asynchronous runtime"))?;
    let ended = runtime.block_on(serve(&config, of_engine));
    // Waits for what is being done, such as the start of a keeper.
    drop(runtime);
    match ended {
        Ok(()) => held.keep(),
        Err(_) => instance::end_unused_keeper(&config.run_dir),
    }
    ended
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("stratus daemon: {error}");
    ExitCode::FAILURE
}

async fn serve(config: &Config, of_engine: engine::EngineConfig) -> Result<(), Error> {
    // Whatever is wrong with that is known before anything is touched.
    let metrics = match config.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let endpoint = listen::microvm_endpoint(config).await?;
    let mut listeners = listen::bind(config).await?;
    let engine = engine::Engine::open(of_engine).await?;
    let info =
        DoorInfo { version: env!("CARGO_PKG_VERSION").to_owned(), commit: String::new(), build_time: String::new() };
    let builder = build::Builder::open(engine.clone(), &config.data_dir, config.build.clone());
    let builder = builder.map_err(|e| Error::Builder(e.to_string()))?;
    tokio::spawn({
        let builder = builder.clone();
        async move {
            builder.tidy().await;
            builder.keep_limits().await
        }
    });
    let builds = builds(builder.clone());
    let microvms = microvms::Microvms::open(engine.clone(), endpoint).await?;
    let door = Arc::new(Door::new(engine.clone(), builder.clone(), microvms, info).with(builds));
    let shutdown = CancellationToken::new();
    let mut servers = tokio::task::JoinSet::new();
    listeners.publish().await?;
    for listener in listeners.unix {
        servers.spawn(api_docker::serve(door.clone(), listener, shutdown.clone()));
    }
    for listener in listeners.tls {
        servers.spawn(api_docker::serve(door.clone(), listener, shutdown.clone()));
    }
    if let Some(listener) = metrics {
        tokio::spawn(metrics::serve(listener, engine.clone()));
    }
    tracing::info!(
        data_dir = %config.data_dir.display(),
        hosts = ?config.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        metrics = config.metrics.map(|address| address.to_string()),
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    tokio::spawn(quiet::give_back_for_ever(door.clone()));
    // Outside of systemd nobody listens: that is no failure.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("wait for", "SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("wait for", "SIGINT"))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("ending; what runs goes on");
    shutdown.cancel();
    while servers.join_next().await.is_some() {}
    // Of a container it is true that what runs goes on; of a step of a build it isn't.
    builder.ended().await;
    listen::remove(config);
    Ok(())
}

/// What `stratus build` speaks.
fn builds(builder: build::Builder) -> Protocol {
    Protocol {
        path: api_build::PATH,
        name: api_build::PROTOCOL,
        serve: Box::new(move |connection, shutdown| Box::pin(api_build::serve(builder.clone(), connection, shutdown))),
    }
}

/// Each container on a network with names costs three descriptors; the soft limit is that of programs from before poll(2).
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "could not raise the limit of open files to its hard limit");
    }
}

fn log_to_stderr(config: &Config) {
    use std::io::IsTerminal;
    use tracing_subscriber::prelude::*;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_json {
        true => lines.json().boxed(),
        false => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(config.log_filter.clone())).init();
}
