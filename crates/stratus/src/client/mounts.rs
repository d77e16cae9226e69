//! `--volume`, `--mount`, `--tmpfs` and `--device`.

use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::error::{Error, Result};
use super::human::parse_bytes;

/// A `--volume`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Volume {
    /// One without a source.
    Anonymous(String),
    /// One with a source, as the API has it.
    Bind(String),
}

/// Reads a `--volume`. A source that is a relative path is one of this directory's.
pub(super) fn volume(text: &str) -> Result<Volume> {
    let Some((source, rest)) = text.split_once(':') else {
        return Ok(Volume::Anonymous(text.to_owned()));
    };
    let is_relative = source == "." || source == ".." || source.starts_with("./") || source.starts_with("../");
    Ok(Volume::Bind(if is_relative { format!("{}:{rest}", absolute(source)?) } else { text.to_owned() }))
}

fn absolute(path: &str) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(Error::io(format!("looking up {path:?}")))?;
    // Not `canonicalize`: it is the daemon that looks it up, with the links that are there then.
    let mut clean = std::path::PathBuf::new();
    for part in Path::new(&absolute).components() {
        match part {
            std::path::Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean.into_os_string().into_string().map_err(|path| Error::Usage(format!("{} is not UTF-8", path.display())))
}

/// Directories in memory by their paths.
pub(super) fn tmpfs(texts: &[String]) -> Map<String, Value> {
    let one = |text: &String| {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        (path.to_owned(), json!(options))
    };
    texts.iter().map(one).collect()
}

/// Reads a `--device`.
pub(super) fn device(text: &str) -> Result<Value> {
    let is_mode = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, mode) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, container] => (host, container, "rwm"),
        [host, container, mode] if is_mode(mode) => (host, container, mode),
        _ => return Err(Error::Usage(format!("{text:?} is no device: give PATH[:PATH IN CONTAINER[:rwm]]"))),
    };
    Ok(json!({ "PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode }))
}

/// A `--mount`, as the API has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mount(pub(super) Value);

impl FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mount = json!({ "Type": "volume" });
        for field in fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field.as_str(), None),
            };
            set(&mut mount, &key.trim().to_lowercase(), value)?;
        }
        if mount["Target"].as_str().is_none_or(str::is_empty) {
            return Err("the mount has no target: give target=PATH".into());
        }
        let kind = mount["Type"].as_str().unwrap_or_default();
        for (options, owner) in
            [("BindOptions", "bind"), ("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs"), ("ImageOptions", "image")]
        {
            if kind != owner && !mount[options].is_null() {
                return Err(format!("options of {owner} mounts can't be given for one of type {kind}"));
            }
        }
        Ok(Mount(mount))
    }
}

/// What a mount may be told.
const FIELDS: [&str; 17] = [
    "type",
    "source",
    "target",
    "readonly",
    "consistency",
    "bind-propagation",
    "bind-nonrecursive",
    "bind-create-src",
    "bind-recursive",
    "volume-nocopy",
    "volume-subpath",
    "volume-driver",
    "volume-label",
    "volume-opt",
    "image-subpath",
    "tmpfs-size",
    "tmpfs-mode",
];

/// Sets what one field of a `--mount` says.
fn set(mount: &mut Value, key: &str, value: Option<&str>) -> Result<(), String> {
    // Fields that say yes by being there.
    let yes = || match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{key}={other}: give true or false")),
    };
    let given = || value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{key} has no value"));
    let pair = || {
        let (name, value) = given()?.split_once('=').unwrap_or((given()?, ""));
        Ok::<_, String>((name.to_owned(), value.to_owned()))
    };
    match key {
        "type" => mount["Type"] = json!(given()?.to_lowercase()),
        "source" | "src" => {
            let source = given()?;
            let is_relative = source == "." || source.starts_with("./") || source.starts_with("../");
            let absolute = if is_relative { absolute(source).map_err(|e| e.to_string())? } else { source.to_owned() };
            mount["Source"] = json!(absolute);
        }
        "target" | "dst" | "destination" => mount["Target"] = json!(given()?),
        "readonly" | "ro" => mount["ReadOnly"] = json!(yes()?),
        "consistency" => mount["Consistency"] = json!(given()?),
        "bind-propagation" => mount["BindOptions"]["Propagation"] = json!(given()?),
        "bind-nonrecursive" => mount["BindOptions"]["NonRecursive"] = json!(yes()?),
        "bind-create-src" => mount["BindOptions"]["CreateMountpoint"] = json!(yes()?),
        "bind-recursive" => match given()? {
            "enabled" => {}
            "disabled" => mount["BindOptions"]["NonRecursive"] = json!(true),
            "writable" => mount["BindOptions"]["ReadOnlyNonRecursive"] = json!(true),
            "readonly" => mount["BindOptions"]["ReadOnlyForceRecursive"] = json!(true),
            other => return Err(format!("bind-recursive={other}: give enabled, disabled, writable or readonly")),
        },
        "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(yes()?),
        "volume-subpath" => mount["VolumeOptions"]["Subpath"] = json!(given()?),
        "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(given()?),
        "volume-label" => {
            let (name, value) = pair()?;
            mount["VolumeOptions"]["Labels"][name] = json!(value);
        }
        "volume-opt" => {
            let (name, value) = pair()?;
            mount["VolumeOptions"]["DriverConfig"]["Options"][name] = json!(value);
        }
        "image-subpath" => mount["ImageOptions"]["Subpath"] = json!(given()?),
        "tmpfs-size" => mount["TmpfsOptions"]["SizeBytes"] = json!(parse_bytes(given()?)?),
        "tmpfs-mode" => {
            let mode =
                u32::from_str_radix(given()?, 8).map_err(|_| format!("{key} is no mode: give one such as 1777"))?;
            mount["TmpfsOptions"]["Mode"] = json!(mode);
        }
        other => return Err(format!("{other:?} is no field of a mount: there are {}", FIELDS.join(", "))),
    }
    Ok(())
}

/// The fields of a line of comma-separated values, in which quotes keep commas together (RFC 4180).
pub(super) fn fields(line: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    if quoted {
        return Err(format!("a quote in {line:?} has no end"));
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Value, String> {
        text.parse::<Mount>().map(|mount| mount.0)
    }

    #[test]
    fn mounts_in_all_forms() {
        let bind = mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave").expect("a mount");
        let expected = json!({ "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
            "BindOptions": { "Propagation": "rslave" } });
        assert_eq!(bind, expected);
        let volume = mount(r#"source=v,target=/v,"volume-opt=o=size=1m,uid=7",volume-label=a=b"#).expect("a mount");
        assert_eq!(volume["VolumeOptions"]["DriverConfig"]["Options"]["o"], "size=1m,uid=7");
        assert_eq!(volume["VolumeOptions"]["Labels"]["a"], "b");
        let tmpfs = mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777").expect("a mount");
        assert_eq!(tmpfs["TmpfsOptions"], json!({ "SizeBytes": 1 << 20, "Mode": 0o1777 }));
    }

    #[test]
    fn mounts_that_make_no_sense() {
        for bad in ["type=bind,src=/a", "target=/a,x=y", "type=tmpfs,dst=/a,volume-nocopy", "dst=/a,ro=maybe", "\"a"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes_have_a_source_or_none() {
        assert_eq!(volume("/data").expect("a volume"), Volume::Anonymous("/data".into()));
        assert_eq!(volume("name:/data:ro").expect("a volume"), Volume::Bind("name:/data:ro".into()));
        let here = std::env::current_dir().expect("a directory");
        let expected = Volume::Bind(format!("{}/x:/data", here.display()));
        assert_eq!(volume("./y/../x:/data").expect("a volume"), expected);
    }

    #[test]
    fn devices_have_paths_and_rights() {
        let expected = json!({ "PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "r" });
        assert_eq!(device("/dev/fuse:r").expect("a device"), expected);
        assert_eq!(device("/dev/a:/dev/b").expect("a device")["PathInContainer"], "/dev/b");
        assert!(device("/dev/a:/dev/b:x").is_err());
    }
    #[test]
    fn all_fields_that_are_told_of_are_there() {
        let unknown = "foo".parse::<Mount>().unwrap_err();
        assert!(unknown.contains("there are type, source, target"), "{unknown}");
        for field in FIELDS {
            let error = set(&mut json!({}), field, Some("x")).err().unwrap_or_default();
            assert!(!error.contains("is no field"), "{error}");
        }
    }
}
