//! What runs in a container, independent of the machine that it runs on: what an image also carries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What runs: the client's wishes merged over the image's configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Host name in the container's UTS namespace; empty: the short identifier.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers; empty: root.
    pub user: String,
    /// The client means to attach to standard input.
    pub attach_stdin: bool,
    /// The client means to attach to standard output.
    pub attach_stdout: bool,
    /// The client means to attach to standard error.
    pub attach_stderr: bool,
    /// A terminal as standard streams.
    pub tty: bool,
    /// Standard input is kept open while nobody is attached.
    pub open_stdin: bool,
    /// Standard input closes when the first attached client leaves.
    pub stdin_once: bool,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// The arguments (or the whole command where there is no entrypoint); `None`: the image's.
    pub cmd: Option<Vec<String>>,
    /// The command before the arguments; `None`: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The image as the client named it.
    pub image: String,
    /// Working directory; empty: `/`.
    pub working_dir: String,
    /// Labels of people and programs.
    pub labels: BTreeMap<String, String>,
    /// Signal that `stop` sends, by name or number; empty: SIGTERM.
    pub stop_signal: String,
    /// Seconds between `stop`'s signal and SIGKILL; `None`: 10; negative: wait for ever.
    pub stop_timeout: Option<i64>,
    /// How to tell whether it is well.
    pub healthcheck: Option<Healthcheck>,
    /// Ports that the image says it serves.
    pub exposed_ports: BTreeSet<ExposedPort>,
    /// Paths that get an anonymous volume.
    pub volumes: BTreeSet<String>,
    /// Requested MAC address of the first endpoint.
    pub mac_address: Option<String>,
    /// No network beyond loopback.
    pub network_disabled: bool,
    /// Build triggers of the image, carried along.
    pub on_build: Option<Vec<String>>,
    /// Shell of the shell forms.
    pub shell: Option<Vec<String>>,
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// The protocol's name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            other => Err(format!("invalid proto: {other}")),
        }
    }
}

/// `80/tcp`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExposedPort {
    /// 1 to 65535
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ExposedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol.name())
    }
}

impl FromStr for ExposedPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let port = port.parse().map_err(|_| format!("invalid port specification: \"{text}\""))?;
        Ok(Self { port, protocol: protocol.parse()? })
    }
}

impl TryFrom<String> for ExposedPort {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ExposedPort> for String {
    fn from(port: ExposedPort) -> Self {
        port.to_string()
    }
}

/// How to tell whether a container is well. A zero duration or count means the default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// What to run.
    pub test: HealthTest,
    /// Between two probes; default 30 s.
    pub interval: Duration,
    /// For one probe; default 30 s.
    pub timeout: Duration,
    /// Failures do not count until then; default 0.
    pub start_period: Duration,
    /// Between probes during the start period; default 5 s.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy; default 3.
    pub retries: u32,
}

/// The command of a health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// The image's check counts.
    Inherit,
    /// No check, whatever the image says.
    None,
    /// A program and its arguments.
    Command(Vec<String>),
    /// A line for the shell.
    Shell(String),
}
