//! Where a container's output goes.

mod tag;

use std::collections::BTreeMap;
use std::path::PathBuf;

use keeper::protocol::{LogConfig, Rotation};
use regex_lite::Regex;

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
        Ok(LogConfig::JsonFile { path, rotation, attributes: attributes(record)? })
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
pub(crate) fn check_logging_defaults(log: &model::LogConfig) -> Result<()> {
    check_driver(&log.driver).map_err(|error| error.context(format!("log-driver {}", log.driver)))?;
    check(log)
}

/// Refuses options that the driver does not know, or can't use.
pub(super) fn check(log: &model::LogConfig) -> Result<()> {
    match log.driver.as_str() {
        "none" => Ok(()),
        _ => {
            rotation(log)?;
            for pattern in ["labels-regex", "env-regex"] {
                log.options.get(pattern).map(|text| regex(text).map_err(|error| of(pattern, error))).transpose()?;
            }
            let tag = log.options.get("tag").map(|text| tag::Tag::parse(text)).transpose();
            tag.map_err(|error| of("tag", error)).map(drop)
        }
    }
}

/// Says which option is wrong.
fn of(option: &str, error: Error) -> Error {
    error.context(format!("log-opt {option}"))
}

/// `max-size`, `max-file`, `compress`
fn rotation(log: &model::LogConfig) -> Result<Option<Rotation>> {
    let options = &log.options;
    let local = log.driver == "local";
    let known = |key: &str| match key {
        "max-size" | "max-file" | "compress" | "mode" | "max-buffer-size" => true,
        "labels" | "labels-regex" | "env" | "env-regex" | "tag" => !local,
        _ => false,
    };
    if let Some(unknown) = options.keys().find(|key| !known(key)) {
        return Err(Error::invalid(match local {
            true => format!("unknown log opt '{unknown}' for log driver local"),
            false => format!("unknown log opt '{unknown}' for {} log driver", log.driver),
        }));
    }
    let max_size = match options.get("max-size").map(String::as_str) {
        None | Some("-1") => None,
        Some(text) => {
            Some(size(text).ok_or_else(|| Error::invalid(format!("log-opt max-size: invalid size: '{text}'")))?)
        }
    };
    let max_files: Option<u32> = match options.get("max-file") {
        None => None,
        Some(text) => {
            let count = text.parse().ok().filter(|count| *count >= 1);
            Some(count.ok_or_else(|| Error::invalid(format!("log-opt max-file: it cannot be less than 1: '{text}'")))?)
        }
    };
    let compress = match options.get("compress") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Error::invalid(format!("log-opt compress: it must be true or false: '{text}'")))?,
        ),
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

/// `10m`, `1g`, `512k`, `1024`: decimal units, whatever their spelling, as dockerd has it here and nowhere else.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &lower[digits.len()..] {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1e3,
        "m" | "mb" | "mib" => 1e6,
        "g" | "gb" | "gib" => 1e9,
        "t" | "tb" | "tib" => 1e12,
        "p" | "pb" | "pib" => 1e15,
        _ => return None,
    };
    let digits = digits.strip_suffix(' ').unwrap_or(digits);
    let number: f64 = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.').then(|| digits.parse().ok())??;
    let size = (number * unit) as u64;
    (size > 0).then_some(size)
}

/// Labels and variables that the options name, and the tag.
fn attributes(record: &ContainerRecord) -> Result<Vec<(String, String)>> {
    let options = &record.host.log.options;
    let wanted = |names: &str, pattern: &str| -> Result<_> {
        let names: Vec<String> =
            options.get(names).map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default();
        let pattern = options.get(pattern).map(|text| regex(text)).transpose()?;
        Ok(move |name: &str| {
            names.iter().any(|wanted| wanted == name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
        })
    };
    let (label, variable) = (wanted("labels", "labels-regex")?, wanted("env", "env-regex")?);
    let labels = record.config.labels.iter().filter(|(name, _)| label(name));
    let mut out: BTreeMap<String, String> = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
    let variables = record.config.env.iter().filter_map(|text| text.split_once('='));
    out.extend(variables.filter(|(name, _)| variable(name)).map(|(name, value)| (name.to_owned(), value.to_owned())));
    if let Some(tag) = options.get("tag") {
        out.insert("tag".to_owned(), tag::Tag::parse(tag)?.of(record));
    }
    Ok(out.into_iter().collect())
}

fn regex(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| Error::invalid(format!("error parsing regexp {text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(
            (size("10m"), size("1.5k"), size("7"), size("7 kB")),
            (Some(10_000_000), Some(1500), Some(7), Some(7000))
        );
        assert_eq!((size("100KiB"), size("0.1g")), (Some(100_000), Some(100_000_000)));
        for none in ["0", "x", "1z", "1e3k", "-1", "", " 1", "1  k", "inf"] {
            assert_eq!(size(none), None, "{none}");
        }
    }

    fn with(options: &[(&str, &str)]) -> model::LogConfig {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        model::LogConfig { driver: "json-file".to_owned(), options }
    }

    #[test]
    fn options_are_refused_where_they_can_not_be_used() {
        let refused = |option| check(&with(&[option])).expect_err("refused").to_string();
        assert!(refused(("labels-regex", "(")).starts_with("log-opt labels-regex: error parsing regexp"));
        assert!(refused(("tag", "{{.Nonsense}}")).starts_with("log-opt tag: "));
        assert_eq!(refused(("max-size", "huge")), "log-opt max-size: invalid size: 'huge'");
        assert_eq!(refused(("max-file", "0")), "log-opt max-file: it cannot be less than 1: '0'");
        assert!(refused(("tag", "{{.Nonsense}}")).contains("{{.Nonsense}}"));
        assert_eq!(refused(("colour", "red")), "unknown log opt 'colour' for json-file log driver");
        check(&with(&[("tag", "{{.Name}}"), ("env-regex", "^A"), ("max-size", "10m")])).expect("good ones");
        let local = model::LogConfig { driver: "local".to_owned(), ..with(&[("tag", "x")]) };
        assert_eq!(check(&local).expect_err("refused").to_string(), "unknown log opt 'tag' for log driver local");
    }

    #[test]
    fn attributes_are_named_one_by_one_or_by_a_pattern() {
        let mut record = ContainerRecord::sample();
        record.host.log = with(&[("labels", "b"), ("labels-regex", "^app"), ("env", "C"), ("env-regex", "^X")]);
        record.config.labels =
            [("app.a", "1"), ("b", "2"), ("c", "3")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        record.config.env = ["XA=5", "C=7=8", "D=9", "XB"].map(str::to_owned).to_vec();
        let found = attributes(&record).expect("attributes");
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("C", "7=8"), ("XA", "5"), ("app.a", "1"), ("b", "2")]);
    }
}
