//! `linux.intelRdt`, as somebody uses it by the runtime's commands. No kernel that these tests meet has a `resctrl` file system, so a directory stands in
//! for one, which a mount table of the runtime's own says is one. What only the kernel does, the test does: files of a group go with it.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::Bundle;

struct Machine {
    bundle: Bundle,
}

impl Machine {
    fn new(rdt: Value) -> Self {
        let mut bundle = Bundle::new("exec sleep 1000");
        bundle.spec["linux"]["intelRdt"] = rdt;
        let this = Self { bundle };
        for (name, text) in [
            ("info/L3/cbm_mask", "ff\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("schemata", "L3:0=ff\nMB:0=100\n"),
            ("gold/schemata", "L3:0=f0\nMB:0=100\n"),
        ] {
            let path = this.bundle.path("resctrl").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let directory = this.bundle.path("resctrl");
        let mounts = format!("{mounts}999999 1 0:99999 / {} rw - resctrl resctrl rw\n", directory.display());
        fs::write(this.bundle.path("mountinfo"), mounts).unwrap();
        this
    }

    /// The runtime, which sees that mount table.
    fn runtime(&self, args: &[&str]) -> Output {
        let runtime = self.bundle.command(args);
        let script = "mount --bind \"$0\" /proc/$$/mountinfo && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(self.bundle.path("mountinfo"));
        command.arg(runtime.get_program()).args(runtime.get_args()).current_dir(self.bundle.dir.path());
        let (output, errors) = (self.bundle.path("output"), self.bundle.path("errors"));
        // What the container keeps open must not be waited for.
        command.stdin(Stdio::null()).stdout(fs::File::create(&output).unwrap());
        let status = command.stderr(fs::File::create(&errors).unwrap()).status().unwrap();
        Output { status, stdout: fs::read(output).unwrap(), stderr: fs::read(errors).unwrap() }
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.runtime(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn id(&self) -> &str {
        &self.bundle.id
    }

    fn read(&self, group: &str, file: &str) -> String {
        fs::read_to_string(self.bundle.path("resctrl").join(group).join(file)).unwrap_or_default()
    }
}

fn clear(group: &Path) {
    for entry in fs::read_dir(group).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
}

#[test]
fn a_group_of_the_containers_own_from_its_creation_to_its_deletion() {
    let machine = Machine::new(json!({ "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=50" }));
    let id = machine.id();
    machine.bundle.save();
    machine.ok(&["create", id]);
    // Its program has not begun yet.
    assert_eq!(machine.bundle.status(), "created");
    assert_eq!(machine.read(id, "tasks"), format!("{}\n", machine.bundle.pid()));
    assert_eq!(machine.read(id, "schemata"), "L3:0=f\nMB:0=50\n");
    machine.ok(&["start", id]);
    let event: Value = serde_json::from_str(&machine.ok(&["events", "--stats", id])).unwrap();
    let expected = json!({
        "l3_cache_info": { "cbm_mask": "ff" }, "l3_cache_schema_root": "L3:0=ff", "l3_cache_schema": "L3:0=f",
        "mem_bw_info": { "min_bandwidth": 10 }, "mem_bw_schema_root": "MB:0=100", "mem_bw_schema": "MB:0=50",
    });
    assert_eq!(event["data"]["intel_rdt"], expected);
    machine.ok(&["update", "--l3-cache-schema", "L3:0=3", "--mem-bw-schema", "MB:0=20", id]);
    assert_eq!(machine.read(id, "schemata"), "L3:0=3\nMB:0=20\n");
    // Whoever is cloned by what is in the group is there, too: the runtime enters it, and clones.
    machine.ok(&["exec", id, "true"]);
    let entered: i32 = machine.read(id, "tasks").trim().parse().unwrap();
    assert_ne!(entered, machine.bundle.pid());
    let group = machine.bundle.path("resctrl").join(id);
    clear(&group);
    machine.ok(&["delete", "--force", id]);
    assert!(!group.exists());
}

#[test]
fn a_class_that_is_there_stays() {
    let machine = Machine::new(json!({ "closID": "gold" }));
    machine.bundle.save();
    machine.ok(&["run", "--detach", machine.id()]);
    assert_eq!(machine.read("gold", "tasks"), format!("{}\n", machine.bundle.pid()));
    machine.ok(&["delete", "--force", machine.id()]);
    assert_eq!(machine.read("gold", "schemata"), "L3:0=f0\nMB:0=100\n");
}

#[test]
fn a_container_without_one_gets_one_by_its_update() {
    let mut machine = Machine::new(json!(null));
    machine.bundle.spec["linux"].as_object_mut().unwrap().remove("intelRdt");
    machine.bundle.save();
    let id = machine.id();
    machine.ok(&["run", "--detach", id]);
    assert!(!machine.bundle.path("resctrl").join(id).exists());
    machine.ok(&["update", "--mem-bw-schema", "MB:0=20", id]);
    assert_eq!(machine.read(id, "schemata"), "MB:0=20\n");
    assert_eq!(machine.read(id, "tasks"), format!("{}\n", machine.bundle.pid()));
    let group = machine.bundle.path("resctrl").join(id);
    clear(&group);
    machine.ok(&["delete", "--force", id]);
    assert!(!group.exists());
}

#[test]
fn what_fails_leaves_nothing() {
    let machine = Machine::new(json!({ "closID": "silver" }));
    machine.bundle.save();
    let failed = machine.runtime(&["run", machine.id()]);
    let text = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && text.contains("has to be made beforehand"), "{text}");
    assert!(!machine.bundle.path("resctrl/silver").exists());
    assert!(machine.bundle.fails(&["state", machine.id()]).contains("does not exist"));
}

#[test]
fn a_kernel_without_it_is_told_of() {
    if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" - resctrl ") {
        return eprintln!("this machine has it");
    }
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["intelRdt"] = json!({ "closID": "gold" });
    bundle.save();
    let text = bundle.fails(&["run", &bundle.id]);
    assert!(text.contains("Intel RDT is not enabled: no resctrl file system is mounted"), "{text}");
    assert!(bundle.fails(&["state", &bundle.id]).contains("does not exist"));
    bundle.spec["linux"].as_object_mut().unwrap().remove("intelRdt");
    bundle.create();
    let text = bundle.fails(&["update", "--mem-bw-schema", "MB:0=20", &bundle.id]);
    assert!(text.contains("Intel RDT is not enabled"), "{text}");
}
