//! Containers in microVMs whose kernels are older and newer than the one that the other tests boot.

use e2e::{Daemon, Release, eventually, kernel_of};

#[test]
fn a_kernel_before_what_containers_take_is_refused() {
    let host = Daemon::start();
    let (vmlinuz, modules) = kernel_of(Release::Debian11);
    let (vmlinuz, modules, data) = (vmlinuz.display(), modules.display(), host.data());
    host.sh(&format!("$STRATUS microvm kernel --use {vmlinuz} --modules {modules} --data-dir {}", data.display()))
        .exits_with(1)
        .complains("is of version 5.10.")
        .complains("takes Linux 5.12 or newer");
}

#[test]
fn the_kernel_of_the_distribution_is_fetched() {
    let host = Daemon::start();
    let kernel = format!("$STRATUS microvm kernel --data-dir {}", host.data().display());
    let installed = "dpkg-query -W -f '${Package} ${Version} ${db:Status-Abbrev}\\n' 'linux-image-*' 2>/dev/null; ls -A /boot /lib/modules 2>/dev/null; true";
    let before = host.sh(installed).stdout().to_owned();
    let data = host.data().display().to_string();
    let fetch = format!("stratus microvm kernel --fetch --data-dir {data}");
    host.sh(&kernel).exits_with(1).complains(&format!("Fetch the distribution's with \"{fetch}\""));
    host.sh("docker run --rm --runtime microvm busybox true").exits_with(125).complains(&fetch);
    // The daemon runs, and is not told.
    let fetched = host.slowly(&format!("{kernel} --fetch"));
    fetched.prints("Version:").prints("linux-image-");
    let version = host.sh(&format!("{kernel} --output json | jq -r .Version")).text().to_owned();
    host.slowly("docker run --rm --runtime microvm busybox uname -r").says(&version);
    // It was not installed, and nothing that it took is left.
    host.sh(installed).says(before.trim_end());
    let left = host.sh(&format!("ls -A {}/microvm", host.data().display()));
    assert!(!left.stdout().contains(".deb") && left.lines().contains(&"kernel"), "{left}");
    host.sh(&format!("find {} -name '*.deb'", host.data().display())).says("");
}

#[test]
fn containers_run_behind_the_kernel_of_debian_13() {
    let host = Daemon::start();
    let (vmlinuz, modules) = kernel_of(Release::Debian13);
    let (vmlinuz, modules, data) = (vmlinuz.display(), modules.display(), host.data());
    host.slowly(&format!("$STRATUS microvm kernel --use {vmlinuz} --modules {modules} --data-dir {}", data.display()))
        .ok();
    host.sh("docker run --rm -v data:/data busybox sh -c 'echo from the host >/data/in'").ok();
    host.slowly("docker run --rm --runtime microvm -v data:/data busybox sh -c 'cat /data/in; uname -r >/data/out'")
        .says("from the host");
    host.sh("docker run --rm -v data:/data busybox cat /data/out").prints("6.12.");
    let serve = "echo hello >/www/index.html; trap \"exit 3\" TERM; httpd -h /www; while :; do sleep 0.1; done";
    host.slowly(&format!(
        "docker run -d --name web --runtime microvm -m 256m -p $PORT:80 --tmpfs /www busybox sh -c '{serve}'"
    ))
    .ok();
    let answers = || host.sh("curl -s -m 20 http://127.0.0.1:$PORT").stdout() == "hello\n";
    eventually("the service", answers);
    host.slowly("docker exec -u 5:6 web sh -c 'id -u; id -g'").says("5\n6");
    host.slowly("docker cp web:/etc/hostname . && cat hostname")
        .says(host.sh("docker inspect -f '{{.Config.Hostname}}' web").text());
    // More memory, by a device that the kernel has a driver for.
    host.slowly("docker update -m 400m --memory-swap 400m web").ok();
    eventually("memory to come", || {
        let kibibytes = host.slowly("docker exec web sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
        kibibytes.text().parse::<u32>().is_ok_and(|kibibytes| kibibytes > 360 << 10)
    });
    host.slowly("$STRATUS suspend web").ok();
    host.slowly("$STRATUS resume web").ok();
    eventually("the service again", answers);
    host.slowly("docker stop web").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' web").says("3");
    host.sh("docker rm web && docker volume rm data").ok();
}
