//! `--gpus`: graphics processors, as the API asks for devices by what they can do.

use serde_json::{Map, Value, json};

use super::super::mounts::fields;

/// One request for devices: `all`, a number, or `KEY=VALUE,…`.
pub(super) fn request(text: &str) -> Result<Value, String> {
    let mut request = json!({ "Driver": "", "Capabilities": [["gpu"]], "Options": {} });
    let mut seen: Vec<String> = Vec::new();
    for field in fields(text)? {
        // A value by itself is how many.
        let (key, value) = field.split_once('=').unwrap_or(("count", &field));
        if seen.iter().any(|other| other == key) {
            return Err(format!("{text:?} says {key} twice"));
        }
        match key {
            "count" => request["Count"] = json!(count(value)?),
            "driver" => request["Driver"] = json!(value),
            "device" => request["DeviceIDs"] = json!(value.split(',').collect::<Vec<_>>()),
            "capabilities" => {
                let capabilities: Vec<&str> = value.split(',').chain(["gpu"]).collect();
                request["Capabilities"] = json!([capabilities]);
            }
            "options" => request["Options"] = Value::Object(options(value)?),
            other => {
                return Err(format!(
                    "{other:?} is no part of a request: give count, device, driver, capabilities or options"
                ));
            }
        }
        seen.push(key.to_owned());
    }
    if !seen.iter().any(|key| key == "count" || key == "device") {
        request["Count"] = json!(1);
    }
    Ok(request)
}

fn count(text: &str) -> Result<i64, String> {
    match text {
        "all" => Ok(-1),
        number => number.parse().map_err(|_| format!("{text:?} is no number of processors: give one, or all")),
    }
}

fn options(text: &str) -> Result<Map<String, Value>, String> {
    let option = |field: String| match field.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), json!(value))),
        None => Err(format!("the option {field:?} has no value")),
    };
    fields(text)?.into_iter().map(option).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_docker() {
        let plain = |count: i64| json!({ "Driver": "", "Count": count, "Capabilities": [["gpu"]], "Options": {} });
        assert_eq!((request("all").unwrap(), request("2").unwrap()), (plain(-1), plain(2)));
        assert_eq!(
            request("driver=nvidia,\"device=0,GPU-7\",\"capabilities=compute,utility\"").unwrap(),
            json!({ "Driver": "nvidia", "DeviceIDs": ["0", "GPU-7"], "Capabilities": [["compute", "utility", "gpu"]], "Options": {} })
        );
        assert_eq!(request("driver=x").unwrap()["Count"], 1);
        for wrong in ["some", "count=x", "colour=red", "1,count=2", "driver=a,driver=b", "options=x"] {
            assert!(request(wrong).is_err(), "{wrong}");
        }
    }
}
