//! On a directory in the place of the file system: no kernel that these tests meet has one. It takes what is written, and looks at nothing; what the
//! kernel would put into a new group is made by the first write.

use super::*;
use proptest::prelude::*;
use std::process::{Child, Command, Stdio};

struct StandIn {
    root: tempfile::TempDir,
    resctrl: Resctrl,
}

impl StandIn {
    /// As on a processor with two caches, which limits and counts all.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let resctrl = Resctrl { root: root.path().to_owned() };
        let this = Self { root, resctrl };
        for (name, text) in [
            ("info/L3/cbm_mask", "7ff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3/num_closids", "16\n"),
            ("info/MB/bandwidth_gran", "10\n"),
            ("info/MB/delay_linear", "1\n"),
            ("info/MB/min_bandwidth", "10\n"),
            ("info/MB/num_closids", "8\n"),
            ("info/L3_MON/mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n"),
            ("info/last_cmd_status", "ok\n"),
            ("schemata", "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n"),
        ] {
            this.put(name, text);
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn prepare(&self, rdt: &Value) -> Result<Group> {
        self.resctrl.prepare("one", &spec(rdt))
    }

    fn refuses(&self, rdt: &Value) -> String {
        self.prepare(rdt).unwrap_err().to_string()
    }

    /// What the kernel does when a group's directory goes.
    fn clear(&self, group: &str) {
        let files = fs::read_dir(self.path(group)).unwrap().flatten().map(|entry| entry.path());
        files.filter(|path| path.is_file()).for_each(|path| fs::remove_file(path).unwrap());
    }
}

fn spec(rdt: &Value) -> Rdt {
    serde_json::from_value(rdt.clone()).unwrap()
}

#[test]
fn a_container_has_a_group_of_its_own_name() {
    let kernel = StandIn::new();
    let group = kernel.prepare(&json!({ "l3CacheSchema": "L3:0=7f0;1=1f", "memBwSchema": "MB:0=20;1=70" })).unwrap();
    assert_eq!(kernel.read("one/schemata"), "L3:0=7f0;1=1f\nMB:0=20;1=70\n");
    kernel.resctrl.enter(&group, 4711).unwrap();
    assert_eq!(kernel.read("one/tasks"), "4711\n");
    kernel.clear("one");
    group.remove().unwrap();
    assert!(!kernel.path("one").exists());
    group.remove().unwrap();
}

#[test]
fn memory_has_one_schema_and_what_is_whole_comes_last() {
    let limits = Limits::of(&spec(&json!({
        "l3CacheSchema": "L3:0=f\nMB:0=10\nL3:1=f", "memBwSchema": "MB:0=20", "schemata": ["L2:0=f", "L3:0=1"],
    })));
    assert_eq!(limits, Limits { single: "L3:0=f\nL3:1=f\nMB:0=20".into(), whole: "L2:0=f\nL3:0=1".into() });
    let kernel = StandIn::new();
    kernel.prepare(&json!({ "l3CacheSchema": "L3:0=f", "schemata": ["L2:0=f", "L3:0=1"] })).unwrap();
    assert_eq!(kernel.read("one/schemata"), "L2:0=f\nL3:0=1\n");
    // Without any, nothing is written.
    kernel.clear("one");
    kernel.prepare(&json!({})).unwrap();
    assert!(kernel.path("one").is_dir() && !kernel.path("one/schemata").exists());
}

#[test]
fn a_class_that_is_there_is_joined_and_stays() {
    let kernel = StandIn::new();
    assert!(kernel.refuses(&json!({ "closID": "gold" })).contains("has to be made beforehand"));
    assert!(!kernel.path("gold").exists());
    let present = "    L3:0=7f0;1=01f\n    MB:0= 20;1= 70\n";
    kernel.put("gold/schemata", present);
    for rdt in [
        json!({ "closID": "gold" }),
        json!({ "closID": "gold", "l3CacheSchema": "L3:1=1F;0=7f0" }),
        json!({ "closID": "gold", "l3CacheSchema": "L3:0=07f0", "memBwSchema": "MB:0=20;1=70" }),
    ] {
        let group = kernel.prepare(&rdt).unwrap();
        group.remove().unwrap();
        assert_eq!(kernel.read("gold/schemata"), present, "{rdt}");
    }
    let refused = kernel.refuses(&json!({ "closID": "gold", "memBwSchema": "MB:0=30" }));
    assert!(refused.contains("has not MB:0=30"), "{refused}");
    assert!(kernel.refuses(&json!({ "closID": "gold", "l3CacheSchema": "L3:2=1" })).contains("has not L3:2=1"));
    // That is said to be written.
    kernel.prepare(&json!({ "closID": "gold", "schemata": ["L3:0=1"] })).unwrap();
    assert_eq!(kernel.read("gold/schemata"), "L3:0=1\n");
}

#[test]
fn a_class_that_was_made_goes_with_the_last_that_is_in_it() {
    let kernel = StandIn::new();
    let group = kernel.prepare(&json!({ "closID": "new", "schemata": ["L3:0=f"] })).unwrap();
    let mut other = idle();
    kernel.resctrl.enter(&group, other.id() as i32).unwrap();
    group.remove().unwrap();
    assert!(kernel.path("new").is_dir(), "somebody else is in it");
    other.kill().unwrap();
    while start_time_of_living(other.id() as i32).is_some() {
        std::thread::yield_now();
    }
    // It is there still, and nobody has asked for its end.
    assert_eq!(kernel.read("new/tasks"), format!("{}\n", other.id()));
    assert!(!group.is_in_use());
    other.wait().unwrap();
    kernel.clear("new");
    group.remove().unwrap();
    assert!(!kernel.path("new").exists());
}

fn idle() -> Child {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
}

#[test]
fn the_group_of_all_has_a_name_too() {
    let kernel = StandIn::new();
    let group = kernel.prepare(&json!({ "closID": "/" })).unwrap();
    kernel.resctrl.enter(&group, 4711).unwrap();
    assert_eq!(kernel.read("tasks"), "4711\n");
    group.remove().unwrap();
    assert!(kernel.path("info").is_dir());
}

#[test]
fn what_is_done_is_counted() {
    let kernel = StandIn::new();
    kernel.put("gold/schemata", "    L3:0=f;1=f\n    MB:0=20;1=20\n");
    fs::create_dir(kernel.path("gold/mon_groups")).unwrap();
    let group = kernel.prepare(&json!({ "closID": "gold", "enableMonitoring": true })).unwrap();
    kernel.resctrl.enter(&group, 4711).unwrap();
    assert_eq!(
        (kernel.read("gold/tasks"), kernel.read("gold/mon_groups/one/tasks")),
        ("4711\n".into(), "4711\n".into())
    );
    for (cache, [occupancy, total, local]) in [("00", ["10", "20", "30"]), ("01", ["11", "Unavailable", "31"])] {
        let of = |name: &str| format!("gold/mon_groups/one/mon_data/mon_L3_{cache}/{name}");
        kernel.put(&of("llc_occupancy"), occupancy);
        kernel.put(&of("mbm_total_bytes"), total);
        kernel.put(&of("mbm_local_bytes"), local);
    }
    let expected = json!({
        "l3_cache_info": { "cbm_mask": "7ff", "min_cbm_bits": 1, "num_closids": 16 },
        "l3_cache_schema_root": "L3:0=7ff;1=7ff",
        "l3_cache_schema": "L3:0=f;1=f",
        "mem_bw_info": { "bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8 },
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=20;1=20",
        "mbm_stats": [{ "mbm_total_bytes": 20, "mbm_local_bytes": 30 }, { "mbm_local_bytes": 31 }],
        "cmt_stats": [{ "llc_occupancy": 10 }, { "llc_occupancy": 11 }],
    });
    assert_eq!(kernel.resctrl.stats(&group).unwrap(), expected);
    // The flags of before ask for the whole group's, one each.
    kernel.put("gold/mon_data/mon_L3_00/llc_occupancy", "99");
    let group = kernel.prepare(&json!({ "closID": "gold", "enableCMT": true })).unwrap();
    let stats = kernel.resctrl.stats(&group).unwrap();
    assert_eq!((&stats["cmt_stats"], stats.get("mbm_stats")), (&json!([{ "llc_occupancy": 99 }]), None));
}

#[test]
fn what_the_processor_can_not_do_is_refused() {
    let kernel = StandIn::new();
    for (field, value, missing, feature) in [
        ("l3CacheSchema", json!("L3:0=f"), "info/L3", "Intel RDT/CAT"),
        ("memBwSchema", json!("MB:0=10"), "info/MB", "Intel RDT/MBA"),
        ("enableMonitoring", json!(true), "info/L3_MON", "resctrl monitoring"),
    ] {
        fs::rename(kernel.path(missing), kernel.path("aside")).unwrap();
        let expected = format!("intelRdt.{field} is specified in config, but {feature} is not enabled");
        assert_eq!(kernel.refuses(&json!({ field: value })), expected);
        fs::rename(kernel.path("aside"), kernel.path(missing)).unwrap();
    }
    for class in [".", "..", "a/b", "info", "mon_groups", "mon_data", "a\nb"] {
        assert_eq!(kernel.refuses(&json!({ "closID": class })), format!("invalid intelRdt.closID {class:?}"));
    }
    for schema in ["L3:0=f", "MB:0=10\nL3:0=f"] {
        assert!(kernel.refuses(&json!({ "memBwSchema": schema })).contains("is not one line that begins with MB:"));
    }
    // A refusal has the kernel's own words.
    kernel.put("info/last_cmd_status", "mask f00 has non-consecutive 1-bits\n");
    fs::create_dir_all(kernel.path("one/schemata")).unwrap();
    let refused = kernel.refuses(&json!({ "l3CacheSchema": "L3:0=f00" }));
    assert!(refused.ends_with("last_cmd_status: mask f00 has non-consecutive 1-bits"), "{refused}");
}

#[test]
fn limits_of_what_runs() {
    let kernel = StandIn::new();
    let schema = |l3: &str| spec(&json!({ "l3CacheSchema": l3 }));
    let cgroup = Cgroup::new(&format!("/sandbox-test-rdt-{}", std::process::id())).unwrap();
    let group = kernel.resctrl.update("one", None, &cgroup, &schema("L3:0=f")).unwrap();
    assert_eq!(kernel.read("one/schemata"), "L3:0=f\n");
    let same = kernel.resctrl.update("one", Some(group.clone()), &cgroup, &schema("L3:0=1")).unwrap();
    assert_eq!((same, kernel.read("one/schemata").as_str()), (group, "L3:0=1\n"));
}

#[test]
fn a_container_that_runs_is_moved_with_all_its_threads() {
    let kernel = StandIn::new();
    let cgroup = Cgroup::new(&format!("/sandbox-test-rdt-run-{}", std::process::id())).unwrap();
    cgroup.create(&oci_spec::runtime::LinuxResources::default()).unwrap();
    let mut process = idle();
    for (_, directory) in cgroup.directories() {
        fs::write(directory.join("cgroup.procs"), process.id().to_string()).unwrap();
    }
    let rdt = spec(&json!({ "memBwSchema": "MB:0=50" }));
    let group = kernel.resctrl.update("one", None, &cgroup, &rdt);
    process.kill().unwrap();
    process.wait().unwrap();
    cgroup.delete().unwrap();
    assert!(group.unwrap().made);
    assert_eq!(kernel.read("one/tasks"), format!("{}\n", process.id()));
}

#[test]
fn where_it_is_mounted() {
    let table = "26 25 0:23 / /sys rw,nosuid - sysfs sysfs rw\n\
        99 26 0:70 / /sys/fs/resctrl\\040here rw,relatime shared:5 - resctrl resctrl rw,mba_MBps\n";
    assert_eq!(mount_point(table), Some("/sys/fs/resctrl here".into()));
    assert_eq!(mount_point("26 25 0:23 / /sys/fs/resctrl rw - sysfs resctrl rw\n"), None);
}

proptest! {
    #[test]
    fn any_text_is_a_schema_or_none(text in "\\PC*(\n\\PC*)*") {
        let values = parse(&text);
        for ((resource, cache), value) in &values {
            prop_assert_eq!(parse(&format!("{resource}:{cache}={value}")).len(), 1);
        }
        let _ = mount_point(&text);
    }
}
