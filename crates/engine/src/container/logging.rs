//! Where a container's output goes.

use std::path::PathBuf;

use keeper::protocol::{LogConfig, Rotation};

use crate::model::{self, ContainerRecord};
use crate::{Engine, Error, Result};

impl Engine {
    /// The log's current file; `None`: nothing is kept.
    pub(crate) fn log_path(&self, record: &ContainerRecord) -> Option<PathBuf> {
        let directory = self.container_dir(&record.id);
        match record.host.log.driver.as_str() {
            "none" => None,
            "local" => Some(directory.join("local-logs/container.log")),
            _ => Some(directory.join(format!("{}-json.log", record.id))),
        }
    }

    /// How the keeper writes the log.
    pub(super) fn log_config(&self, record: &ContainerRecord) -> Result<LogConfig> {
        let Some(path) = self.log_path(record) else { return Ok(LogConfig::None) };
        let rotation = rotation(&record.host.log)?;
        if record.host.log.driver == "local" {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)
                    .map_err(|error| Error::step(format!("create {}", directory.display()), error))?;
            }
            return Ok(LogConfig::Local { path, rotation: rotation.or(Some(Rotation::LOCAL_DEFAULT)) });
        }
        Ok(LogConfig::JsonFile { path, rotation, attributes: attributes(record) })
    }
}

/// Refuses a driver that is not there.
pub(super) fn check_driver(driver: &str) -> Result<()> {
    match driver {
        "" | "json-file" | "local" | "none" => Ok(()),
        other => Err(Error::not_implemented(format!(
            "logger: no log driver named '{other}' is registered: stratus has json-file, local and none"
        ))),
    }
}

/// Refuses what is to hold for containers that do not say, where it could hold for none.
pub(crate) fn check_logging(log: &model::LogConfig) -> Result<()> {
    check_driver(&log.driver)?;
    check(log)
}

/// Refuses options that the driver does not know, or can't use.
pub(super) fn check(log: &model::LogConfig) -> Result<()> {
    match log.driver.as_str() {
        "none" => Ok(()),
        _ => rotation(log).map(drop),
    }
}

/// `max-size`, `max-file`, `compress`
fn rotation(log: &model::LogConfig) -> Result<Option<Rotation>> {
    let options = &log.options;
    let local = log.driver == "local";
    let known = [
        "max-size",
        "max-file",
        "compress",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "mode",
        "max-buffer-size",
    ];
    if let Some(unknown) = options.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Error::invalid(format!("unknown log opt '{unknown}' for {} log driver", log.driver)));
    }
    let max_size = match options.get("max-size").map(String::as_str) {
        None | Some("-1") => None,
        Some(text) => Some(size(text).ok_or_else(|| Error::invalid(format!("invalid size: '{text}'")))?),
    };
    let max_files: Option<u32> = match options.get("max-file") {
        None => None,
        Some(text) => {
            let count = text.parse().ok().filter(|count| *count >= 1);
            Some(count.ok_or_else(|| Error::invalid(format!("max-file cannot be less than 1: '{text}'")))?)
        }
    };
    let compress = match options.get("compress") {
        None => None,
        Some(text) => {
            Some(text.parse().map_err(|_| Error::invalid(format!("compress must be true or false: '{text}'")))?)
        }
    };
    if local {
        let default = Rotation::LOCAL_DEFAULT;
        return Ok(Some(Rotation {
            max_size: max_size.unwrap_or(default.max_size),
            max_files: max_files.unwrap_or(default.max_files),
            compress: compress.unwrap_or(default.compress),
        }));
    }
    match max_size {
        Some(max_size) => {
            Ok(Some(Rotation { max_size, max_files: max_files.unwrap_or(1), compress: compress.unwrap_or(false) }))
        }
        // A number of files alone means nothing, as a log is rotated by size: Docker takes it, too.
        None => Ok(None),
    }
}

/// `10m`, `1g`, `512k`, `1024`; binary units.
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let number: f64 = digits.trim().parse().ok()?;
    (number > 0.0).then_some((number * (1u64 << shift) as f64) as u64)
}

/// Labels and variables that the `labels` and `env` options name, and the tag.
fn attributes(record: &ContainerRecord) -> Vec<(String, String)> {
    let options = &record.host.log.options;
    let names = |key: &str| -> Vec<String> {
        options.get(key).map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default()
    };
    let mut out = Vec::new();
    for name in names("labels") {
        out.extend(record.config.labels.get(&name).map(|value| (name.clone(), value.clone())));
    }
    for name in names("env") {
        let value = record.config.env.iter().find_map(|variable| variable.strip_prefix(&name)?.strip_prefix('='));
        out.extend(value.map(|value| (name.clone(), value.to_owned())));
    }
    if let Some(tag) = options.get("tag") {
        out.push(("tag".to_owned(), tag.replace("{{.ID}}", record.id.short()).replace("{{.Name}}", &record.name)));
    }
    out.sort();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!((size("10m"), size("1.5k"), size("7")), (Some(10 << 20), Some(1536), Some(7)));
        assert_eq!((size("0"), size("x"), size("1z")), (None, None, None));
    }
}
