//! The flags of `run` and `create`, which are docker's, and the request that they make.

mod gpus;
mod limits;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use super::human::parse_span;
use super::{mounts, networking, terminal};
pub(super) use limits::{Share, nano_cpus, ulimit};

/// What a container is made of.
#[derive(Args, Debug)]
pub(crate) struct ContainerArgs {
    /// Add a line to /etc/hosts, NAME:ADDRESS; repeats
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = NETWORK)]
    add_host: Vec<String>,
    /// Add an annotation; repeats
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Only tie these of its streams to this terminal: stdin, stdout, stderr; repeats [default: all that are open]
    #[arg(long, short, value_name = "STREAM", ignore_case = true)]
    pub(super) attach: Vec<Stream>,
    /// Add a capability, or ALL; repeats
    #[arg(long, value_name = "CAPABILITY", help_heading = SECURITY)]
    cap_add: Vec<String>,
    /// Take a capability away, or ALL; repeats
    #[arg(long, value_name = "CAPABILITY", help_heading = SECURITY)]
    cap_drop: Vec<String>,
    /// File to write its id into, which is made
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,
    /// Cgroup namespace: host or private
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    cgroupns: Option<String>,
    /// Device of the host, PATH[:PATH IN CONTAINER[:rwm]]; repeats
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Rule for devices that are not mapped, as cgroups have it ('c 13:* rw'); repeats
    #[arg(long, value_name = "RULE", help_heading = SECURITY)]
    device_cgroup_rule: Vec<String>,
    /// DNS server; repeats
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    dns: Vec<String>,
    /// Option of the resolver; repeats
    #[arg(long, alias = "dns-opt", value_name = "OPTION", help_heading = NETWORK)]
    dns_option: Vec<String>,
    /// Search domain; repeats
    #[arg(long, value_name = "DOMAIN", help_heading = NETWORK)]
    dns_search: Vec<String>,
    /// NIS domain name
    #[arg(long, value_name = "NAME", help_heading = NETWORK)]
    domainname: Option<String>,
    /// Program in place of the image's entry point; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Environment variable, NAME=VALUE, or NAME for the value it has here; repeats
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with one variable a line; repeats
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Port that is there for other containers, PORT[-PORT][/PROTOCOL]; repeats
    #[arg(long, value_name = "PORT", help_heading = NETWORK)]
    expose: Vec<String>,
    /// Graphics processors: all, a number, or device=…, driver=…, capabilities=…; repeats
    #[arg(long, value_name = "GPUS", value_parser = gpus::request)]
    gpus: Vec<Value>,
    /// Further group of the process; repeats
    #[arg(long, value_name = "GROUP", help_heading = SECURITY)]
    group_add: Vec<String>,
    /// Command that finds out whether it is well
    #[arg(long, value_name = "COMMAND", help_heading = HEALTH)]
    health_cmd: Option<String>,
    /// Time between two checks
    #[arg(long, value_name = "TIME", value_parser = parse_span, help_heading = HEALTH)]
    health_interval: Option<i64>,
    /// Failures in a row until it is unhealthy
    #[arg(long, value_name = "NUMBER", help_heading = HEALTH)]
    health_retries: Option<i64>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "TIME", value_parser = parse_span, help_heading = HEALTH)]
    health_start_period: Option<i64>,
    /// Time between two checks in that time
    #[arg(long, value_name = "TIME", value_parser = parse_span, help_heading = HEALTH)]
    health_start_interval: Option<i64>,
    /// Time after which a check has failed
    #[arg(long, value_name = "TIME", value_parser = parse_span, help_heading = HEALTH)]
    health_timeout: Option<i64>,
    /// No health check, whatever the image says
    #[arg(long, conflicts_with_all = ["health_cmd", "health_interval", "health_retries", "health_timeout"], help_heading = HEALTH)]
    no_healthcheck: bool,
    /// Host name
    #[arg(long, short = 'h', value_name = "NAME", help_heading = NETWORK)]
    hostname: Option<String>,
    /// Run a tiny init that passes signals on and reaps zombies
    #[arg(long)]
    init: bool,
    /// Keep standard input open
    #[arg(long, short)]
    pub(super) interactive: bool,
    /// IPv4 address in the network
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    ip: Option<String>,
    /// IPv6 address in the network
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    ip6: Option<String>,
    /// IPC namespace: none, private, shareable, host or container:NAME
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    ipc: Option<String>,
    /// What isolates it from the host: container, or microvm for a kernel of its own
    #[arg(long, value_name = "KIND", value_parser = isolation, help_heading = SECURITY)]
    isolation: Option<String>,
    /// Label; repeats
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// File with one label a line; repeats
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Another container that is reached by name, NAME[:ALIAS]; repeats
    #[arg(long, value_name = "CONTAINER", help_heading = NETWORK)]
    link: Vec<String>,
    /// Link-local address of it in the network; repeats
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    link_local_ip: Vec<String>,
    /// Where its output goes: json-file, local or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of the log driver; repeats
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// Address of its network device
    #[arg(long, value_name = "ADDRESS", help_heading = NETWORK)]
    mac_address: Option<String>,
    /// Mount: type=bind|volume|tmpfs|image,source=…,target=…[,readonly][,…]; repeats
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<mounts::Mount>,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Network: bridge, host, none, container:NAME or a network's name; repeats
    #[arg(long, alias = "net", value_name = "NETWORK", help_heading = NETWORK)]
    network: Vec<networking::Attachment>,
    /// Further name of it in its network; repeats
    #[arg(long, alias = "net-alias", value_name = "NAME", help_heading = NETWORK)]
    network_alias: Vec<String>,
    /// PID namespace: host or container:NAME
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    pid: Option<String>,
    /// Platform of the image, where it has several, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<String>,
    /// All capabilities, all devices, and none of the masks
    #[arg(long, help_heading = SECURITY)]
    privileged: bool,
    /// Publish a port, [ADDRESS:][PORT:]PORT[/PROTOCOL]; repeats
    #[arg(long, short, value_name = "PORT", help_heading = NETWORK)]
    publish: Vec<networking::Publication>,
    /// Publish all ports that the image exposes, on free ones
    #[arg(long, short = 'P', help_heading = NETWORK)]
    publish_all: bool,
    /// When to pull the image
    #[arg(long, value_enum, value_name = "WHEN", default_value = "missing")]
    pub(super) pull: Pull,
    /// Say nothing while the image is pulled
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Its root file system can't be written
    #[arg(long, help_heading = SECURITY)]
    read_only: bool,
    /// When to start it again: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = restart_policy)]
    restart: Option<Value>,
    /// Remove the container when it ends
    #[arg(long)]
    pub(super) rm: bool,
    /// OCI runtime: stratus, or runc, which is taken for it
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Option for the kernel's security: seccomp=FILE, no-new-privileges…; repeats
    #[arg(long, value_name = "OPTION", help_heading = SECURITY)]
    security_opt: Vec<String>,
    /// Signal that asks it to stop
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds until it is killed, after it was asked to stop
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    stop_timeout: Option<i64>,
    /// Option of the storage of its root file system; repeats
    #[arg(long, value_name = "NAME=VALUE")]
    storage_opt: Vec<String>,
    /// Kernel parameter of its namespaces; repeats
    #[arg(long, value_name = "NAME=VALUE", help_heading = limits::HEADING)]
    sysctl: Vec<String>,
    /// Directory in memory, PATH[:OPTIONS]; repeats
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<String>,
    /// Give it a terminal
    #[arg(long, short)]
    pub(super) tty: bool,
    /// User it runs as, USER[:GROUP]
    #[arg(long, short, value_name = "USER", help_heading = SECURITY)]
    user: Option<String>,
    /// User namespace: host (the daemon's own), or private (one whose root is nobody outside)
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    userns: Option<String>,
    /// UTS namespace: host
    #[arg(long, value_name = "MODE", help_heading = SECURITY)]
    uts: Option<String>,
    /// Volume or directory of the host, [SOURCE:]PATH[:OPTIONS]; repeats
    #[arg(long, short, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Driver of the volumes that are made for it
    #[arg(long, value_name = "DRIVER")]
    volume_driver: Option<String>,
    /// Take the volumes of another container, NAME[:ro]; repeats
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Directory it starts in
    #[arg(long, short, value_name = "PATH")]
    workdir: Option<String>,
    #[command(flatten)]
    limits: limits::LimitArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Image, by name or id
    pub(super) image: String,
    /// Command and arguments, in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

const NETWORK: &str = "Network";
const SECURITY: &str = "Isolation";
const HEALTH: &str = "Health";

/// When `run` and `create` pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Pull {
    // Before every container
    Always,
    // Where the image is not there
    Missing,
    // Never
    Never,
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Stream {
    // What is typed
    Stdin,
    // Its output
    Stdout,
    // Its errors
    Stderr,
}

/// Which streams the client reads and writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Attached {
    /// Those that are written.
    pub(super) const OUTPUT: Attached = Attached { stdin: false, stdout: true, stderr: true };
}

impl ContainerArgs {
    /// The streams of a container that is not left in the background.
    pub(super) fn attached(&self) -> Attached {
        let is_asked_for = |stream: Stream| self.attach.contains(&stream);
        Attached {
            stdin: self.interactive || is_asked_for(Stream::Stdin),
            stdout: self.attach.is_empty() || is_asked_for(Stream::Stdout),
            stderr: self.attach.is_empty() || is_asked_for(Stream::Stderr),
        }
    }

    /// The request's document.
    pub(super) fn body(&self, attached: Attached) -> Result<Value> {
        let mut bindings = Map::new();
        let mut exposed = Map::new();
        for one in &self.expose {
            for port in networking::exposed(one).map_err(Error::Usage)? {
                exposed.insert(port, json!({}));
            }
        }
        for (port, binding) in self.publish.iter().flat_map(|publication| &publication.ports) {
            exposed.insert(port.clone(), json!({}));
            if let Value::Array(all) = bindings.entry(port.as_str()).or_insert_with(|| json!([])) {
                all.push(binding.clone());
            }
        }
        let (mut binds, mut anonymous) = (Vec::new(), Map::new());
        for volume in &self.volume {
            match mounts::volume(volume)? {
                mounts::Volume::Anonymous(path) => drop(anonymous.insert(path, json!({}))),
                mounts::Volume::Bind(text) => binds.push(text),
            }
        }
        let mut body = json!({
            "Hostname": self.hostname,
            "Domainname": self.domainname,
            "User": self.user,
            "AttachStdin": attached.stdin,
            "AttachStdout": attached.stdout,
            "AttachStderr": attached.stderr,
            "ExposedPorts": exposed,
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && attached.stdin,
            "Env": self.environment()?,
            "Cmd": Some(&self.command).filter(|command| !command.is_empty()),
            "Image": self.image,
            "Volumes": anonymous,
            "WorkingDir": self.workdir,
            // An empty entry point resets the image's.
            "Entrypoint": self.entrypoint.as_ref().map(|program| [program]),
            "Labels": self.labels()?,
            "StopSignal": self.stop_signal,
            "StopTimeout": self.stop_timeout,
            "Healthcheck": self.healthcheck(),
        });
        body["HostConfig"] = self.host_config(binds, bindings)?;
        let (mode, endpoints) = networking::endpoints(
            &self.network,
            &networking::OfFirst {
                aliases: &self.network_alias,
                links: &self.link,
                ip: self.ip.as_deref(),
                ip6: self.ip6.as_deref(),
                link_local: &self.link_local_ip,
                mac: self.mac_address.as_deref(),
            },
        )?;
        body["HostConfig"]["NetworkMode"] = json!(mode);
        body["NetworkingConfig"] = json!({ "EndpointsConfig": endpoints });
        Ok(body)
    }

    fn host_config(&self, binds: Vec<String>, bindings: Map<String, Value>) -> Result<Value> {
        let mut host = self.surroundings(binds, bindings)?;
        if let (Value::Object(host), Value::Object(limits)) = (&mut host, self.limits.settings()) {
            host.extend(limits);
        }
        Ok(host)
    }

    /// What it is given of the host, and how it is set apart from it.
    fn surroundings(&self, binds: Vec<String>, bindings: Map<String, Value>) -> Result<Value> {
        Ok(json!({
            "Binds": binds,
            "LogConfig": { "Type": self.log_driver, "Config": pairs(&self.log_opt, "--log-opt")? },
            "PortBindings": bindings,
            "RestartPolicy": self.restart,
            "AutoRemove": self.rm,
            "VolumesFrom": self.volumes_from,
            "CapAdd": self.cap_add,
            "CapDrop": self.cap_drop,
            "CgroupnsMode": self.cgroupns,
            "Dns": self.dns,
            "DnsOptions": self.dns_option,
            "DnsSearch": self.dns_search,
            "ExtraHosts": networking::extra_hosts(&self.add_host)?,
            "GroupAdd": self.group_add,
            "IpcMode": self.ipc,
            "Links": self.link,
            "PidMode": self.pid,
            "Privileged": self.privileged,
            "PublishAllPorts": self.publish_all,
            "ReadonlyRootfs": self.read_only,
            "SecurityOpt": security_options(&self.security_opt)?,
            "Tmpfs": mounts::tmpfs(&self.tmpfs),
            "UTSMode": self.uts,
            "UsernsMode": self.userns,
            "Sysctls": pairs(&self.sysctl, "--sysctl")?,
            "Annotations": pairs(&self.annotation, "--annotation")?,
            "ConsoleSize": terminal::size().filter(|_| self.tty).map(|(rows, columns)| [rows, columns]),
            "Isolation": self.isolation,
            "ContainerIDFile": self.cidfile,
            "Runtime": self.runtime,
            "StorageOpt": pairs(&self.storage_opt, "--storage-opt")?,
            "VolumeDriver": self.volume_driver,
            "DeviceRequests": self.gpus,
            "DeviceCgroupRules": self.device_cgroup_rule,
            "Devices": self.device.iter().map(|device| mounts::device(device)).collect::<Result<Vec<_>>>()?,
            "Mounts": self.mount.iter().map(|mount| &mount.0).collect::<Vec<_>>(),
            "Init": self.init.then_some(true),
        }))
    }

    /// Variables of files, then those of flags.
    fn environment(&self) -> Result<Vec<String>> {
        let mut variables = Vec::new();
        for path in &self.env_file {
            variables.extend(lines(path)?);
        }
        variables.extend(self.env.iter().cloned());
        variables.into_iter().filter_map(|variable| environment_variable(variable).transpose()).collect()
    }

    fn labels(&self) -> Result<Map<String, Value>> {
        let mut labels = Map::new();
        for path in &self.label_file {
            labels.extend(named(&lines(path)?)?);
        }
        labels.extend(named(&self.label)?);
        Ok(labels)
    }

    fn healthcheck(&self) -> Option<Value> {
        if self.no_healthcheck {
            return Some(json!({ "Test": ["NONE"] }));
        }
        let times = [self.health_interval, self.health_timeout, self.health_start_period, self.health_start_interval];
        if self.health_cmd.is_none() && self.health_retries.is_none() && times.iter().all(Option::is_none) {
            return None;
        }
        let [interval, timeout, start_period, start_interval] = times;
        Some(json!({
            "Test": self.health_cmd.as_ref().map(|command| ["CMD-SHELL", command]),
            "Interval": interval.unwrap_or(0),
            "Timeout": timeout.unwrap_or(0),
            "StartPeriod": start_period.unwrap_or(0),
            "StartInterval": start_interval.unwrap_or(0),
            "Retries": self.health_retries.unwrap_or(0),
        }))
    }
}

/// A variable as the API has it; `None` for one that takes its value from here, where it has none.
pub(super) fn environment_variable(variable: String) -> Result<Option<String>> {
    match variable.split_once('=') {
        Some(("", _)) => Err(Error::Usage(format!("{variable:?} is no environment variable: give NAME=VALUE"))),
        Some(_) => Ok(Some(variable)),
        None => Ok(std::env::var(&variable).ok().map(|value| format!("{variable}={value}"))),
    }
}

/// Labels by their names; a value may be left out.
pub(super) fn named(labels: &[String]) -> Result<Map<String, Value>> {
    let label = |text: &String| match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err(Error::Usage(format!("{text:?} is no label: give NAME=VALUE"))),
        (name, value) => Ok((name.to_owned(), json!(value))),
    };
    labels.iter().map(label).collect()
}

/// `NAME=VALUE`s of a flag.
pub(super) fn pairs(texts: &[String], flag: &str) -> Result<Map<String, Value>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), json!(value))),
        None => Err(Error::Usage(format!("{flag} {text:?} has no value: give NAME=VALUE"))),
    };
    texts.iter().map(pair).collect()
}

/// The lines of a file, without comments and empty ones.
pub(super) fn lines(path: &PathBuf) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(format!("reading {}", path.display())))?;
    let is_one = |line: &&str| !line.is_empty() && !line.starts_with('#');
    Ok(text.lines().map(str::trim_start).filter(is_one).map(str::to_owned).collect())
}

/// Security options; a seccomp profile goes along as what is in its file.
fn security_options(options: &[String]) -> Result<Vec<String>> {
    let read = |option: &String| match option.split_once(['=', ':']) {
        Some(("seccomp", file)) if !matches!(file, "unconfined" | "builtin") => {
            let text =
                std::fs::read_to_string(file).map_err(Error::io(format!("reading the seccomp profile {file}")))?;
            let profile: Value = serde_json::from_str(&text)
                .map_err(|error| Error::Usage(format!("the seccomp profile {file} is no JSON: {error}")))?;
            Ok(format!("seccomp={profile}"))
        }
        _ => Ok(option.clone()),
    };
    options.iter().map(read).collect()
}

fn isolation(text: &str) -> Result<String, String> {
    match text {
        "" | "default" | "container" | "microvm" => Ok(text.into()),
        _ => Err("there are container (default) and microvm".into()),
    }
}

/// A restart policy as the API has it.
pub(super) fn restart_policy(text: &str) -> Result<Value, String> {
    let (name, times) = text.split_once(':').map_or((text, None), |(name, times)| (name, Some(times)));
    let times =
        times.map(str::parse::<u32>).transpose().map_err(|_| format!("{text:?}: the number of times is none"))?;
    match (name, times) {
        ("no" | "always" | "unless-stopped", None) | ("on-failure", _) => {
            Ok(json!({ "Name": name, "MaximumRetryCount": times.unwrap_or(0) }))
        }
        _ => Err(format!("{text:?} is no restart policy: give no, on-failure[:TIMES], always or unless-stopped")),
    }
}

#[cfg(test)]
#[path = "options/tests.rs"]
mod tests;
