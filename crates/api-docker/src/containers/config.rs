//! The part of a container that an image carries too: `Config` in API documents.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use engine::model::{ContainerConfig, HealthTest, Healthcheck};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::ports::{self, Nothing, PortSet};
use crate::error::{ApiError, Result};

/// A list of words that may also be written as one word.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Words(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordsVisitor;
        impl<'de> Visitor<'de> for WordsVisitor {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_unit<E>(self) -> Result<Words, E> {
                Ok(Words::default())
            }

            fn visit_str<E>(self, word: &str) -> Result<Words, E> {
                Ok(Words(vec![word.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = items.next_element()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }
        deserializer.deserialize_any(WordsVisitor)
    }
}

/// `Config`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "CreateRequest", rename_all = "PascalCase")]
pub(crate) struct ConfigBody {
    hostname: String,
    domainname: String,
    user: String,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "PortSet::is_empty")]
    exposed_ports: PortSet,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Option<Vec<String>>,
    cmd: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<HealthcheckBody>,
    #[serde(skip_serializing_if = "is_false")]
    args_escaped: bool,
    image: String,
    volumes: Option<BTreeMap<String, Option<Nothing>>>,
    working_dir: String,
    entrypoint: Option<Words>,
    #[serde(skip_serializing_if = "is_false")]
    network_disabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    mac_address: String,
    on_build: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Words>,
}

/// `Healthcheck`; durations in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "HealthConfig", rename_all = "PascalCase")]
pub(crate) struct HealthcheckBody {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    test: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    retries: i64,
}

/// For fields that Go omits when they are zero.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields by reference")]
pub(crate) fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// For fields that Go omits when they are false.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields by reference")]
pub(crate) fn is_false(yes: &bool) -> bool {
    !*yes
}

impl ConfigBody {
    /// The engine's form of it.
    ///
    /// # Errors
    /// 400 for ports and health checks that make no sense.
    pub(crate) fn into_model(self) -> Result<ContainerConfig> {
        Ok(ContainerConfig {
            hostname: self.hostname,
            domainname: self.domainname,
            user: self.user,
            attach_stdin: self.attach_stdin,
            attach_stdout: self.attach_stdout,
            attach_stderr: self.attach_stderr,
            tty: self.tty,
            open_stdin: self.open_stdin,
            stdin_once: self.stdin_once,
            env: self.env.unwrap_or_default(),
            cmd: self.cmd.map(|words| words.0),
            entrypoint: self.entrypoint.map(|words| words.0),
            image: self.image,
            working_dir: self.working_dir,
            labels: self.labels.unwrap_or_default(),
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            healthcheck: self.healthcheck.map(HealthcheckBody::into_model).transpose()?,
            exposed_ports: ports::exposed(&self.exposed_ports)?,
            volumes: self.volumes.unwrap_or_default().into_keys().collect(),
            mac_address: Some(self.mac_address).filter(|address| !address.is_empty()),
            network_disabled: self.network_disabled,
            on_build: self.on_build,
            shell: self.shell.map(|words| words.0),
        })
    }
}

impl From<&ContainerConfig> for ConfigBody {
    fn from(config: &ContainerConfig) -> Self {
        let volumes: BTreeMap<_, _> = config.volumes.iter().map(|path| (path.clone(), Some(Nothing {}))).collect();
        Self {
            hostname: config.hostname.clone(),
            domainname: config.domainname.clone(),
            user: config.user.clone(),
            attach_stdin: config.attach_stdin,
            attach_stdout: config.attach_stdout,
            attach_stderr: config.attach_stderr,
            exposed_ports: ports::port_set(&config.exposed_ports),
            tty: config.tty,
            open_stdin: config.open_stdin,
            stdin_once: config.stdin_once,
            env: Some(config.env.clone()),
            cmd: config.cmd.clone().map(Words),
            healthcheck: config.healthcheck.as_ref().map(HealthcheckBody::from),
            args_escaped: false,
            image: config.image.clone(),
            volumes: Some(volumes).filter(|volumes| !volumes.is_empty()),
            working_dir: config.working_dir.clone(),
            entrypoint: config.entrypoint.clone().map(Words),
            network_disabled: config.network_disabled,
            mac_address: config.mac_address.clone().unwrap_or_default(),
            on_build: config.on_build.clone(),
            labels: Some(config.labels.clone()),
            stop_signal: config.stop_signal.clone(),
            stop_timeout: config.stop_timeout,
            shell: config.shell.clone().map(Words),
        }
    }
}

impl HealthcheckBody {
    fn into_model(self) -> Result<Healthcheck> {
        Ok(Healthcheck {
            interval: duration("Interval", self.interval)?,
            timeout: duration("Timeout", self.timeout)?,
            start_period: duration("StartPeriod", self.start_period)?,
            start_interval: duration("StartInterval", self.start_interval)?,
            retries: u32::try_from(self.retries)
                .map_err(|_| ApiError::bad_request("Retries in Healthcheck cannot be negative"))?,
            test: test(self.test)?,
        })
    }
}

fn test(words: Vec<String>) -> Result<HealthTest> {
    let mut words = words.into_iter();
    match words.next().as_deref() {
        None => Ok(HealthTest::Inherit),
        Some("NONE") => Ok(HealthTest::None),
        Some("CMD") => Ok(HealthTest::Command(words.collect())),
        Some("CMD-SHELL") => Ok(HealthTest::Shell(words.collect::<Vec<_>>().join(" "))),
        Some(other) => {
            let message = format!("Unknown healthcheck type {other:?}: expected NONE, CMD or CMD-SHELL");
            Err(ApiError::bad_request(message))
        }
    }
}

/// dockerd takes nothing between zero, which means the default, and a millisecond.
fn duration(field: &str, nanoseconds: i64) -> Result<Duration> {
    match u64::try_from(nanoseconds) {
        Ok(nanoseconds @ (0 | 1_000_000..)) => Ok(Duration::from_nanos(nanoseconds)),
        _ => Err(ApiError::bad_request(format!("{field} in Healthcheck cannot be less than 1ms"))),
    }
}

impl From<&Healthcheck> for HealthcheckBody {
    fn from(check: &Healthcheck) -> Self {
        let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let test = match &check.test {
            HealthTest::Inherit => Vec::new(),
            HealthTest::None => vec!["NONE".to_owned()],
            HealthTest::Command(words) => [&["CMD".to_owned()], words.as_slice()].concat(),
            HealthTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
        };
        Self {
            test,
            interval: nanoseconds(check.interval),
            timeout: nanoseconds(check.timeout),
            start_period: nanoseconds(check.start_period),
            start_interval: nanoseconds(check.start_interval),
            retries: i64::from(check.retries),
        }
    }
}
