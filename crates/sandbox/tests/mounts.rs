//! A person mounts things into a container; an image tries to get out by way of them.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use support::Bundle;

#[test]
fn binds_are_writable_or_not_as_asked() {
    let mut bundle = Bundle::new("touch /rw/made && echo one; touch /ro/made 2>&1; cat /file");
    let (rw, ro, file) = (bundle.path("rw"), bundle.path("ro"), bundle.path("file"));
    fs::create_dir(&rw).unwrap();
    fs::create_dir(&ro).unwrap();
    fs::write(&file, "content").unwrap();
    bundle.mount("/rw", "bind", &rw, &["rbind"]);
    bundle.mount("/ro", "bind", &ro, &["bind", "ro", "nosuid"]);
    bundle.mount("/file", "bind", &file, &["bind", "ro"]);
    let output = bundle.run();
    assert!(output.contains("one") && output.contains("Read-only") && output.ends_with("content"), "{output}");
    assert!(rw.join("made").exists() && !ro.join("made").exists());
}

#[test]
fn recursive_read_only_reaches_what_is_mounted_below() {
    let mut bundle = Bundle::new("touch /ro/sub/x 2>&1; touch /plain/sub/x && echo below is writable");
    let source = bundle.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    let mounts =
        "mount --bind \"$0\" \"$0\" && mount --make-private \"$0\" && mount -t tmpfs tmpfs \"$0/sub\" && exec \"$@\"";
    bundle.mount("/ro", "bind", &source, &["rbind", "rro"]);
    bundle.mount("/plain", "bind", &source, &["rbind", "ro"]);
    bundle.save();
    let runtime = support::example("runtime");
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", mounts])
        .arg(&source)
        .arg(runtime)
        .arg("--root")
        .arg(bundle.path("state"))
        .args(["run", &bundle.id])
        .current_dir(bundle.dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("Read-only") && text.contains("below is writable"), "{text} {output:?}");
}

#[test]
fn a_tmpfs_takes_its_options_and_what_was_beneath() {
    let mut bundle = Bundle::new(
        "cat /data/file /data/sub/deep; readlink /data/link; stat -c '%a %u' /data/file /data; touch /data/x; grep ' /data ' /proc/mounts",
    );
    let data = bundle.rootfs().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("file"), "one\n").unwrap();
    fs::write(data.join("sub/deep"), "two\n").unwrap();
    symlink("file", data.join("link")).unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(12), Some(13)).unwrap();
    bundle.mount("/data", "tmpfs", Path::new("tmpfs"), &["tmpcopyup", "size=1m", "noexec", "mode=700"]);
    let output = bundle.run();
    assert!(output.starts_with("one\ntwo\nfile\n644 12\n700 0\n"), "{output}");
    assert!(output.contains("noexec") && output.contains("size=1024k"), "{output}");
    assert!(!data.join("x").exists());
}

#[test]
fn links_in_an_image_lead_nowhere_outside() {
    let mut bundle = Bundle::new("ls /volume /away/deep");
    let outside = bundle.path("outside");
    fs::create_dir(&outside).unwrap();
    let source = bundle.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("inside"), "").unwrap();
    symlink(&outside, bundle.rootfs().join("volume")).unwrap();
    symlink("../../../../../../../../away", bundle.rootfs().join("link")).unwrap();
    bundle.mount("/volume", "bind", &source, &["bind"]);
    bundle.mount("/link/deep", "bind", &source, &["bind"]);
    let output = bundle.run();
    assert_eq!(output.matches("inside").count(), 2, "{output}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!Path::new("/away").exists());
}

#[test]
fn an_image_cannot_have_proc_covered_or_mounted_elsewhere() {
    let mut bundle = Bundle::new("true");
    symlink("/proc/sys", bundle.rootfs().join("trap")).unwrap();
    let source = bundle.path("source");
    fs::create_dir(&source).unwrap();
    bundle.mount("/trap", "bind", &source, &["bind"]);
    let text = String::from_utf8(bundle.run_any().stderr).unwrap();
    assert!(text.contains("mount point"), "{text}");

    let mut bundle = Bundle::new("true");
    bundle.mount("/proc/sys", "bind", Path::new("/tmp"), &["bind"]);
    let text = String::from_utf8(bundle.run_any().stderr).unwrap();
    assert!(text.contains("inside /proc"), "{text}");

    let bundle = Bundle::new("true");
    fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
    symlink("elsewhere", bundle.rootfs().join("proc")).unwrap();
    assert!(!bundle.run_any().status.success());
}

#[test]
fn a_wrong_option_is_named_by_the_kernel() {
    let mut bundle = Bundle::new("true");
    bundle.mount("/x", "tmpfs", Path::new("tmpfs"), &["nonsense=1"]);
    let text = String::from_utf8(bundle.run_any().stderr).unwrap();
    assert!(text.contains("mount tmpfs on /x") && text.contains("nonsense"), "{text}");
}

#[test]
fn propagation_is_as_asked() {
    let mut bundle = Bundle::new("grep -E ' /(a|b|c) ' /proc/self/mountinfo");
    for name in ["a", "b", "c"] {
        fs::create_dir(bundle.path(name)).unwrap();
    }
    let (a, b, c) = (bundle.path("a"), bundle.path("b"), bundle.path("c"));
    bundle.mount("/a", "bind", &a, &["rbind", "rprivate"]);
    bundle.mount("/b", "bind", &b, &["rbind", "shared"]);
    bundle.mount("/c", "bind", &c, &["rbind", "unbindable", "nosymfollow"]);
    let output = bundle.run();
    let line = |name: &str| output.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(!line(" /a ").contains("shared:") && line(" /b ").contains("shared:"), "{output}");
    assert!(line(" /c ").contains("unbindable") && line(" /c ").contains("nosymfollow"), "{output}");
}

#[test]
fn an_id_mapped_bind_shows_other_owners() {
    let mut bundle = Bundle::new("stat -c %u /mapped/file; touch /mapped/new");
    let source = bundle.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    let maps = json!([{ "containerID": 0, "hostID": 5000, "size": 1000 }]);
    bundle.mount("/mapped", "bind", &source, &["bind", "idmap"]);
    let mounts = bundle.spec["mounts"].as_array_mut().unwrap();
    let last = mounts.last_mut().unwrap();
    last["uidMappings"] = maps.clone();
    last["gidMappings"] = maps;
    bundle.spec["process"]["user"] = json!({ "uid": 5000, "gid": 5000 });
    assert_eq!(bundle.run(), "5000\n");
    let made = fs::metadata(source.join("new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 0);
}

#[test]
fn nothing_mounted_inside_is_seen_outside() {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["rootfsPropagation"] = json!("shared");
    bundle.run();
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!after.contains(bundle.dir.path().to_str().unwrap()), "{before}\n{after}");
}
