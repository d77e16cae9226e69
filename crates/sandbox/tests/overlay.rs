//! The engine runs an image's layers through the library.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

use support::Bundle;

/// A bundle whose root is `count` layers, the bottom one with busybox, each further one with a file of its own.
struct Layers {
    bundle: Bundle,
    names: Vec<String>,
}

impl Layers {
    fn new(script: &str, count: usize) -> Self {
        let bundle = Bundle::new(script);
        let layers = bundle.path("layers");
        fs::create_dir(&layers).unwrap();
        let mut names = Vec::new();
        for number in (0..count).rev() {
            let name = format!("{number:0>26}");
            let layer = layers.join(&name);
            fs::create_dir(&layer).unwrap();
            fs::write(layer.join(format!("from-{number}")), number.to_string()).unwrap();
            names.push(name);
        }
        let bottom = layers.join("base");
        fs::rename(bundle.rootfs(), &bottom).unwrap();
        fs::create_dir(bundle.rootfs()).unwrap();
        names.push("base".to_owned());
        fs::create_dir_all(bundle.path("top/upper")).unwrap();
        fs::create_dir_all(bundle.path("top/work")).unwrap();
        Self { bundle, names }
    }

    fn run(&self, init: bool) -> Output {
        self.bundle.save();
        let mut command = Command::new(support::example("overlay"));
        command.arg(self.bundle.dir.path()).arg(self.bundle.path("layers"));
        command.arg(self.bundle.path("top/upper")).arg(self.bundle.path("top/work"));
        command.args(init.then_some("init")).args(&self.names).output().unwrap()
    }

    #[track_caller]
    fn ok(&self) -> String {
        let output = self.run(false);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn changes_go_to_the_upper_directory_and_the_host_sees_no_mount() {
    let layers = Layers::new("cat /from-0 /from-2; echo new > /made; rm /from-1; ls / | grep -c from", 3);
    assert_eq!(layers.ok(), "022\n");
    assert_eq!(fs::read_to_string(layers.bundle.path("top/upper/made")).unwrap(), "new\n");
    let whiteout = fs::symlink_metadata(layers.bundle.path("top/upper/from-1")).unwrap();
    assert_eq!((whiteout.mode() & libc::S_IFMT, whiteout.rdev()), (libc::S_IFCHR, 0));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(layers.bundle.dir.path().to_str().unwrap()));
}

#[test]
fn a_hundred_and_twenty_layers_are_as_good_as_three() {
    assert_eq!(Layers::new("ls / | grep -c from", 120).ok(), "120\n");
}

#[test]
fn more_layers_than_fit_into_a_page() {
    let layers = Layers::new("ls / | grep -c from", 200);
    if kernel() >= (6, 5) {
        assert_eq!(layers.ok(), "200\n");
    } else {
        // Nobody can mount them there, and an image's 127 layers do fit.
        let output = layers.run(false);
        assert!(String::from_utf8_lossy(&output.stderr).contains("options too large"), "{output:?}");
    }
}

fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn layers_owned_by_root_are_roots_in_a_user_namespace_as_well() {
    let mut layers =
        Layers::new("stat -c %u /bin/busybox /from-1; echo x > /made; rm /from-0; ls /opaque; ls / | grep -c from", 2);
    // A directory that a layer has replaced as a whole.
    let (top, base) = (layers.bundle.path("layers").join(&layers.names[0]), layers.bundle.path("layers/base"));
    for (layer, file) in [(&top, "after"), (&base, "before")] {
        fs::create_dir(layer.join("opaque")).unwrap();
        fs::write(layer.join("opaque").join(file), "").unwrap();
    }
    rustix::fs::setxattr(top.join("opaque"), "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    layers.bundle.with_user_namespace();
    assert_eq!(layers.ok(), "0\n0\nafter\n1\n");
    let made = fs::metadata(layers.bundle.path("top/upper/made")).unwrap();
    assert_eq!(made.uid(), 0, "what the container's root makes is root's on disk, ready to become a layer");
}

#[test]
fn an_init_of_our_own_reaps_and_hands_on_the_status() {
    let layers = Layers::new("echo $$; (sleep 0.01 &); sleep 0.1; ps | grep -c '[Z]'; exit 7", 1);
    let output = layers.run(true);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_ne!(text.lines().next(), Some("1"));
}
