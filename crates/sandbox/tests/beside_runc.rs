//! What the runtime's command prints, beside what runc prints of a container of the same bundle.

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Bundle, example};

/// One of the two, on a container of its own.
struct Side<'b> {
    bundle: &'b Bundle,
    program: std::path::PathBuf,
    state: &'static str,
    id: String,
}

impl Side<'_> {
    fn new<'b>(bundle: &'b Bundle, program: std::path::PathBuf, state: &'static str) -> Side<'b> {
        let side = Side { bundle, program, state, id: format!("{}-{state}", bundle.id) };
        // A terminal's streams are nobody's here, and whoever waited for their end would wait for the container.
        let run = side.command(&["run", "--detach", &side.id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(run.unwrap().success(), "{} runs nothing", side.program.display());
        side
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.bundle.path(self.state)).args(args);
        command.current_dir(self.bundle.dir.path()).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }
}

impl Drop for Side<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output();
    }
}

/// A container of the same bundle under both, each with a cgroup of its own.
fn both(check: impl Fn(&Side<'_>, &Side<'_>)) {
    let mut bundles = [Bundle::new("sleep 1000"), Bundle::new("sleep 1000")];
    for bundle in &mut bundles {
        // runc 1.1 knows no newer version.
        bundle.spec["ociVersion"] = "1.0.2".into();
        bundle.save();
    }
    let [first, second] = &bundles;
    check(&Side::new(first, "runc".into(), "theirs"), &Side::new(second, example("runtime"), "ours"));
}

/// The names of a document, with the kind of what each names.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(values) => values.first().map(shape).into_iter().collect(),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "bool".into(),
        Value::Null => "null".into(),
    }
}

#[test]
fn a_state_and_a_list_have_the_same_fields_and_columns() {
    both(|theirs, ours| {
        assert_eq!(shape(&ours.json(&["state", &ours.id])), shape(&theirs.json(&["state", &theirs.id])));
        let list = ["list", "--format", "json"];
        assert_eq!(shape(&ours.json(&list)), shape(&theirs.json(&list)));
        let columns = |side: &Side<'_>| {
            let table = side.ok(&["list"]);
            table.lines().next().unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(columns(ours), columns(theirs));
        assert_eq!(ours.ok(&["list", "--quiet"]).trim(), ours.id);
        assert_eq!(theirs.ok(&["list", "--quiet"]).trim(), theirs.id);
    });
}

#[test]
fn processes_are_listed_alike() {
    both(|theirs, ours| {
        let count = |side: &Side<'_>| side.json(&["ps", "--format", "json", &side.id]).as_array().unwrap().len();
        assert_eq!((count(ours), count(theirs)), (1, 1));
        let header = |side: &Side<'_>| side.ok(&["ps", &side.id]).lines().next().unwrap().to_owned();
        assert_eq!(header(ours), header(theirs));
    });
}

#[test]
fn statistics_have_what_runc_tells_of_processors_memory_and_processes() {
    both(|theirs, ours| {
        let told = |side: &Side<'_>| side.json(&["events", "--stats", &side.id]);
        let (ours, theirs) = (told(ours), told(theirs));
        assert_eq!(ours["type"], theirs["type"]);
        for path in
            ["/data/cpu/usage/total", "/data/cpu/usage/kernel", "/data/cpu/usage/user", "/data/memory/usage/usage"]
        {
            assert_eq!(ours.pointer(path).map(shape), theirs.pointer(path).map(shape), "{path}: {ours}");
        }
        assert_eq!(ours.pointer("/data/pids/current"), theirs.pointer("/data/pids/current"), "{ours}");
    });
}

/// Which processors may be used, and what of each was used: on version 1 of cgroups all of it, on version 2 runc has but
/// the names of the flags, and ours the processors, too.
#[test]
fn statistics_have_what_runc_tells_of_each_processor() {
    both(|theirs, ours| {
        let told = |side: &Side<'_>| side.json(&["events", "--stats", &side.id])["data"].take();
        let (ours, theirs) = (told(ours), told(theirs));
        for (name, value) in theirs["cpuset"].as_object().unwrap() {
            assert_eq!(&ours["cpuset"][name], value, "{name}: {ours}");
        }
        let of_each = |side: &Value| {
            let usage = side["cpu"]["usage"].as_object().unwrap();
            let names = usage.iter().filter(|(name, _)| name.starts_with("percpu"));
            names.map(|(name, figures)| (name.clone(), figures.as_array().unwrap().len())).collect::<Vec<_>>()
        };
        assert_eq!(of_each(&ours), of_each(&theirs), "{ours}");
    });
}

#[test]
fn specs_differ_from_runcs_by_what_is_meant_to() {
    for rootless in [&[][..], &["--rootless"]] {
        let spec = |program: std::path::PathBuf| -> Value {
            let directory = tempfile::tempdir().unwrap();
            let made = Command::new(program).arg("spec").args(rootless).current_dir(directory.path()).status().unwrap();
            assert!(made.success());
            serde_json::from_slice(&std::fs::read(directory.path().join("config.json")).unwrap()).unwrap()
        };
        let (mut ours, mut theirs) = (spec(example("runtime")), spec("runc".into()));
        for side in [&mut ours, &mut theirs] {
            let side = side.as_object_mut().unwrap();
            // Their own names; the version that each knows.
            side.remove("hostname");
            side.remove("ociVersion");
            // Newer runcs give no ambient capabilities either, as who gets them keeps them over an exec.
            side["process"]["capabilities"].as_object_mut().unwrap().remove("ambient");
            let mounts = side["mounts"].as_array_mut().unwrap();
            mounts.iter_mut().for_each(|mount| {
                let mount = mount.as_object_mut().unwrap();
                mount.entry("options").or_insert_with(|| Value::Array(Vec::new()));
            });
            let linux = side["linux"].as_object_mut().unwrap();
            linux.entry("resources").or_insert_with(|| Value::Object(serde_json::Map::new()));
        }
        assert_eq!(ours, theirs, "spec {rootless:?}");
    }
}

#[test]
fn features_are_told_under_the_same_names() {
    let features = |program: std::path::PathBuf| -> Value {
        let output = Command::new(program).arg("features").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (ours, theirs) = (features(example("runtime")), features("runc".into()));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for path in ["", "/linux", "/linux/cgroup", "/linux/seccomp"] {
        let ours = names(ours.pointer(path).unwrap());
        let missing: Vec<_> =
            names(theirs.pointer(path).unwrap()).into_iter().filter(|name| !ours.contains(name)).collect();
        assert!(missing.is_empty(), "{path} lacks {missing:?}");
    }
    let of = |value: &Value, path: &str| -> Vec<String> {
        serde_json::from_value(value.pointer(path).unwrap().clone()).unwrap()
    };
    for path in ["/hooks", "/linux/namespaces", "/linux/capabilities"] {
        let ours = of(&ours, path);
        let missing: Vec<_> = of(&theirs, path).into_iter().filter(|name| !ours.contains(name)).collect();
        assert!(missing.is_empty(), "{path} lacks {missing:?}");
    }
}

#[test]
fn checkpoints_are_said_not_to_be_there() {
    let bundle = Bundle::new("true");
    for command in ["checkpoint", "restore"] {
        let output = bundle.runtime(&[command, &bundle.id]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains("checkpoint and restore are not supported"), "{told}");
    }
}
