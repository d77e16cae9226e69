//! Volumes and mounts: what outlives a container, and what of the host is in it.

use e2e::{Daemon, Session, eventually};

#[test]
fn named() {
    let host = Daemon::start();
    host.sh("docker volume create --label tier=back data").says("data");
    host.sh("docker volume create data").says("data");
    host.sh("docker run --rm -v data:/data busybox sh -c 'echo kept > /data/f'").ok();
    host.sh("docker run --rm -v data:/data:ro busybox cat /data/f").says("kept");
    host.sh("docker run --rm -v data:/data:ro busybox touch /data/g").fails_with("Read-only file system");
    host.sh("docker volume inspect data -f '{{.Driver}} {{.Scope}} {{.Labels.tier}}'").says("local local back");
    host.sh("cat $(docker volume inspect data -f '{{.Mountpoint}}')/f").says("kept");
    host.sh("docker volume ls -q").says("data");
    host.sh("docker volume ls -q -f label=tier=back -f name=da -f dangling=true").says("data");
    host.sh("docker volume ls -q -f 'name=^d.ta$'").says("data");
    host.sh("docker volume ls -q -f 'name=^dat$'").says("");
    host.sh("docker volume ls -q -f driver=none").says("");
    host.sh("docker create --name user -v data:/data busybox").ok();
    host.sh("docker volume rm data").fails_with("volume is in use - [");
    host.sh("docker volume ls -q -f dangling=false").says("data");
    host.sh("docker ps -a -f volume=data --format '{{.Names}} {{.Mounts}}'").says("user data");
    host.sh("docker rm -v user && docker volume inspect data").ok();
    host.sh("docker volume rm data").says("data");
    host.sh("docker volume rm data").fails_with("get data: no such volume");
    host.sh("docker volume rm -f data").ok();
    host.sh("docker volume create 'not/good'").fails_with("includes invalid characters for a local volume name");
    host.sh("docker volume create -d fluffy x").fails_with("fluffy");
}

#[test]
fn anonymous() {
    let host = Daemon::start();
    host.sh("docker run --name box -v /data busybox touch /data/f").ok();
    let name = host.sh("docker inspect -f '{{(index .Mounts 0).Name}}' box").text().to_owned();
    assert_eq!(name.len(), 64);
    host.sh("docker volume ls -q").says(&name);
    host.sh("docker rm box && docker volume ls -q").mentions(&name);
    host.sh("docker volume prune -f").mentions(&name);
    host.sh("docker volume ls -q").says("");
    host.sh("docker run --rm -v /data busybox true && docker volume ls -q").says("");
    host.sh("docker create --name two -v /data busybox && docker rm -v two && docker volume ls -q").mentions("two");
    host.sh("docker volume ls -q").says("");
    // Named ones are pruned only when told so.
    host.sh("docker volume create named && docker volume prune -f && docker volume ls -q").mentions("named");
    host.sh("docker volume prune -af").mentions("named");
}

#[test]
fn what_the_image_has_there_is_copied() {
    let host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'mkdir -p /data/sub; echo image > /data/f; chown -R 12:34 /data; chmod 750 /data' && docker commit box full")
        .ok();
    host.sh("docker run --rm -v fresh:/data full sh -c 'cat /data/f; stat -c \"%a %u:%g\" /data'")
        .says("image\n750 12:34");
    host.sh("docker run --rm -v fresh:/data full sh -c 'echo own > /data/f' && docker run --rm -v fresh:/data full cat /data/f").says("own");
    host.sh("docker run --rm -v raw:/data:nocopy full ls -A /data").says("");
    host.sh("docker run --rm --mount type=volume,src=raw2,dst=/data,volume-nocopy full ls -A /data").says("");
}

#[test]
fn of_the_host() {
    let host = Daemon::start();
    host.sh("mkdir dir && echo hello > dir/f && docker run --rm -v $PWD/dir:/d busybox cat /d/f").says("hello");
    host.sh("docker run --rm -v $PWD/dir:/d busybox sh -c 'echo back > /d/g' && cat dir/g").says("back");
    host.sh("docker run --rm -v $PWD/dir:/d:ro busybox touch /d/x").fails_with("Read-only file system");
    host.sh("docker run --rm -v $PWD/dir/f:/etc/motd busybox cat /etc/motd").says("hello");
    host.sh("docker run --rm -v $PWD/made:/d busybox true && test -d made").ok();
    host.sh("docker run --rm --mount type=bind,src=$PWD/dir,dst=/d,readonly busybox sh -c 'cat /d/f; touch /d/x'")
        .fails_with("Read-only");
    host.sh("docker run --rm --mount type=bind,src=$PWD/nothing,dst=/d busybox true")
        .exits_with(125)
        .complains("bind source path does not exist: ");
    host.sh("docker run --rm -v relative/path:/d busybox true").exits_with(125);
    host.sh("docker run --rm -v $PWD/dir:relative busybox true")
        .exits_with(125)
        .complains("mount path must be absolute");
    host.sh("docker run --rm -v $PWD/dir:/ busybox true").exits_with(125).complains("destination can't be '/'");
    host.sh("docker run --rm -v $PWD/dir:/d -v data:/d busybox true")
        .exits_with(125)
        .complains("Duplicate mount point: /d");
    host.sh("docker run --rm -v $PWD/dir:/a -v $PWD/made:/a/sub busybox sh -c 'ls -d /a/sub /a/f'")
        .says("/a/f\n/a/sub");
}

#[test]
fn a_part_of_a_volume() {
    let host = Daemon::start();
    host.sh("docker run --rm -v data:/data busybox sh -c 'mkdir -p /data/sub/deep /data/etc; echo part > /data/sub/f; echo own > /data/etc/passwd; ln -s /etc /data/out; ln -s ../../.. /data/sub/deep/up'").ok();
    let part = |path: &str| format!("--mount type=volume,src=data,dst=/d,volume-subpath={path}");
    host.sh(&format!("docker run --rm {} busybox sh -c 'cat /d/f; echo new > /d/g'", part("sub"))).says("part");
    host.sh(&format!("docker run --rm {} busybox cat /d/g", part("sub/"))).says("new");
    host.sh(&format!("docker run --rm {} busybox cat /d", part("sub/f"))).says("part");
    // Wherever a link in it wants to lead, it stays in the volume.
    host.sh(&format!("docker run --rm {} busybox cat /d/passwd", part("out"))).says("own");
    host.sh(&format!("docker run --rm {} busybox ls /d", part("sub/deep/up"))).says("etc\nout\nsub");
    host.sh(&format!("docker create --name box {} busybox && docker cp box:/d/passwd - | tar -xO", part("out")))
        .mentions("own");
    host.sh(&format!("docker run --rm {} busybox true", part("../x"))).exits_with(125);
    host.sh(&format!("docker run --rm {} busybox true", part("nothing")))
        .fails_with("data/_data/nothing to /d: no such file or directory");
}

#[test]
fn mounts_that_come_later() {
    let host = Daemon::start();
    let refused = |how: &str, words: &str| {
        host.sh(&format!(
            "mkdir -p dir && mount -t tmpfs memory dir && mount --make-private dir && docker run --rm {how} busybox true; code=$?; umount dir; exit $code"
        ))
        .exits_with(125)
        .complains(&format!("path {0}/dir is mounted on {0}/dir but it is not a {words} mount", host.work().display()));
    };
    refused("-v $PWD/dir:/d:rshared", "shared");
    refused("-v $PWD/dir:/d:slave", "shared or slave");
    refused("--mount type=bind,src=$PWD/dir,dst=/d,bind-propagation=shared", "shared");
    // A mount of the host is seen in the container, and one of the container on the host.
    host.sh("mount -t tmpfs memory dir && mount --make-shared dir && mkdir dir/a dir/b && docker run -d --name box --privileged -v $PWD/dir:/s:rshared -v $PWD/dir:/f:rslave busybox sleep 1000 \
        && mount -t tmpfs memory dir/a && touch dir/a/of-the-host && docker exec box ls /s/a /f/a \
        && docker exec box mount -t tmpfs memory /s/b && docker exec box touch /s/b/of-the-container && ls dir/b; code=$?; docker rm -f box; umount -R dir; exit $code")
        .mentions("/s/a:\nof-the-host")
        .mentions("/f/a:\nof-the-host")
        .mentions("of-the-container");
}

#[test]
fn those_of_another_container() {
    let host = Daemon::start();
    host.sh("docker run --name first -v data:/data -v /anon busybox sh -c 'echo d > /data/f; echo a > /anon/f'").ok();
    host.sh("docker run --rm --volumes-from first busybox cat /data/f /anon/f").says("d\na");
    host.sh("docker run --rm --volumes-from first:ro busybox touch /data/g").fails_with("Read-only file system");
    host.sh("docker run --rm --volumes-from nobody busybox true")
        .exits_with(125)
        .complains("No such container: nobody");
}

#[test]
fn as_inspection_shows_them() {
    let host = Daemon::start();
    host.sh("mkdir dir && docker create --name box -v data:/v:ro -v $PWD/dir:/b --tmpfs /t --mount type=tmpfs,dst=/m busybox").ok();
    let mounts = host.sh("docker inspect -f '{{json .Mounts}}' box").json();
    let of = |destination: &str| {
        let all = mounts.as_array().unwrap();
        all.iter()
            .find(|mount| mount["Destination"] == destination)
            .unwrap_or_else(|| panic!("{destination}: {mounts}"))
    };
    assert_eq!(
        (of("/v")["Type"].as_str(), of("/v")["Name"].as_str(), of("/v")["RW"].as_bool()),
        (Some("volume"), Some("data"), Some(false))
    );
    assert_eq!(
        (of("/b")["Type"].as_str(), of("/b")["RW"].as_bool(), of("/b")["Propagation"].as_str()),
        (Some("bind"), Some(true), Some("rprivate"))
    );
    assert_eq!(of("/m")["Type"], "tmpfs");
    host.sh("docker inspect -f '{{json .HostConfig.Binds}}' box").mentions("\"data:/v:ro\"");
    host.sh("docker inspect -f '{{index .HostConfig.Tmpfs \"/t\"}}' box").says("");
    host.sh("docker inspect -f '{{range .Mounts}}{{println .Type}}{{end}}' box | sort | xargs")
        .says("bind tmpfs volume");
}

#[test]
fn of_other_file_systems() {
    let host = Daemon::start();
    host.sh("docker volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,uid=7 mem").says("mem");
    host.sh("docker run --rm -v mem:/m busybox sh -c 'grep \" /m \" /proc/mounts; stat -c %u /m'")
        .mentions("tmpfs")
        .mentions("size=1024k")
        .mentions("\n7");
    host.sh("mkdir dir && echo there > dir/f && docker volume create -o type=none -o o=bind -o device=$PWD/dir bound")
        .ok();
    host.sh("docker run --rm -v bound:/b busybox cat /b/f").says("there");
    // Flags hold for binds as well, and the kernel's words are not the file system's.
    host.sh("docker volume create -o type=none -o o=bind,ro -o device=$PWD/dir locked").ok();
    host.sh("docker run --rm -v locked:/b busybox touch /b/g").fails_with("Read-only file system");
    host.sh(
        "docker volume create -o type=tmpfs -o device=tmpfs -o o=sync,nodiratime,noexec,suid,dev,async,size=1m words",
    )
    .ok();
    host.sh("docker run --rm -v words:/m busybox grep ' /m ' /proc/mounts").mentions("noexec").mentions("nodiratime");
    host.sh("docker volume create -o size=10m limited").fails_with("quota size requested but no quota support");
    host.sh("docker volume create -o o=ro flags").fails_with("missing required option: \"device\"");
    host.sh("docker volume create -o type=none -o o=bind -o device=$PWD/nowhere gone").ok();
    host.sh("docker run --rm -v gone:/b busybox true").fails_with("failed to mount local volume");
    host.sh("docker volume rm mem bound locked words gone && cat dir/f").mentions("there");
}

/// Removing a volume takes its own files, and none of what is mounted in it.
#[test]
fn what_is_mounted_in_one_is_not_removed_with_it() {
    let mut host = Daemon::start();
    host.sh("mkdir dir && echo there > dir/f && docker volume create -o type=none -o o=bind -o device=$PWD/dir bound")
        .ok();
    host.sh("docker run -d --name box -v bound:/b busybox sleep 1000").ok();
    // It ends while nobody looks; its volume is still mounted on the host.
    let process = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    host.kill9();
    host.sh(&format!("kill -9 {process} && tail --pid {process} -f /dev/null")).ok();
    host.restart();
    host.sh("docker rm -f box && docker volume rm bound && cat dir/f").mentions("there");
    // By somebody's hand.
    host.sh("docker volume create plain && mkdir $(docker volume inspect -f '{{.Mountpoint}}' plain)/in").ok();
    host.sh("mount --bind dir $(docker volume inspect -f '{{.Mountpoint}}' plain)/in").ok();
    host.sh("docker volume rm plain").fails_with("something is mounted in it");
    host.sh("cat dir/f").says("there");
    let left = host.data().join("volumes");
    host.sh(&format!("umount {}/.removed-*/_data/in", left.display())).ok();
}

/// Containers that are made at the same time, and name the same new volume.
#[test]
fn made_by_many_at_once() {
    let host = Daemon::start();
    for round in 0..15 {
        host.sh(&format!(
            "for n in 1 2 3 4 5 6; do docker create -v new{round}:/data busybox >/dev/null & pids=\"$pids $!\"; done; \
             code=0; for pid in $pids; do wait $pid || code=1; done; exit $code"
        ))
        .ok();
    }
    // One that comes to nothing takes its volume away again, but not that of others.
    host.sh("docker create -v new0:/data -v own:/own --mount type=bind,src=$PWD/nothing,dst=/x busybox")
        .fails_with("does not exist");
    host.sh("docker volume ls -q | grep -c -e own -e '^new0$'").says("1");
    // Removals beside creations: what is made has its volume.
    for _ in 0..10 {
        host.sh("(docker volume rm race >/dev/null 2>&1 & docker create --name user -v race:/data busybox >/dev/null & docker volume rm race >/dev/null 2>&1 & wait); \
                 docker start user >/dev/null && docker volume inspect race >/dev/null && docker rm -f user >/dev/null && docker volume rm race")
            .says("race");
    }
}

/// A volume is filled as a whole or not at all, also where the daemon is killed in the middle.
#[test]
fn filled_as_a_whole() {
    let mut host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'mkdir /data; for n in $(seq 2000); do echo $n > /data/$n; done' && docker commit box full && docker rm box")
        .ok();
    for name in ["made", "new"] {
        if name == "made" {
            host.sh("docker volume create made").ok();
        }
        let mut create = host.session(&format!("docker create -v {name}:/data full"));
        let volumes = host.data().join("volumes");
        eventually("the first files, or the last", || {
            host.sh(&format!(
                "ls {}/.filling-*/_data/1 {}/{name}/_data/1 2>/dev/null | wc -l",
                volumes.display(),
                volumes.display()
            ))
            .number()
                > 0
        });
        host.kill9();
        create.exit_code();
        host.restart();
        host.sh(&format!("docker run --rm -v {name}:/data full ls /data | wc -l")).says("2000");
    }
    eventually("what was begun to go", || host.holdings().iter().all(|line| !line.contains("volumes/.")));
}

/// A file system that nobody answers for, at the directory `place`.
fn silent(host: &Daemon) -> Session {
    let options = "fd=3,rootmode=40000,user_id=0,group_id=0,allow_other";
    let script =
        format!("exec 3<>/dev/fuse; mount -i -t fuse -o {options} silent $PWD/place; echo mounted; exec sleep 1000");
    let silent = host.session(&format!("sh -c '{script}'"));
    silent.waits_for("mounted");
    silent
}

/// A file system of the host that nobody answers for holds up whoever wants it mounted, and nobody else.
#[test]
fn a_file_system_that_hangs_holds_up_nobody_else() {
    let host = Daemon::start();
    host.sh("docker run -d --name other busybox sleep 1000 && mkdir -p place/sub").ok();
    let binds = format!("[\"{}/place/sub:/sub\"]", host.work().display());
    let body =
        format!(r#"{{"Image":"busybox","Cmd":["ls","/sub"],"HostConfig":{{"UsernsMode":"private","Binds":{binds}}}}}"#);
    host.sh(&format!(
        "curl -s --unix-socket ${{DOCKER_HOST#unix://}} -H 'Content-Type: application/json' -d '{body}' 'http://d/containers/create?name=box'"
    ))
    .mentions("Id");
    host.sh("docker start -a box").ok();
    let silent = silent(&host);
    let mut start = host.session("docker start box");
    let waits =
        format!("grep -h '^State:.D' /proc/{}/task/*/status /proc/{}/task/*/status; true", host.pid(), host.keeper());
    eventually("somebody to wait for it", || !host.sh(&waits).text().is_empty());
    host.sh("docker exec other true && docker run --rm busybox echo begun").says("begun");
    host.sh("docker stop -t 0 other && docker inspect -f '{{.State.Status}}' other").says("other\nexited");
    host.sh("umount -l place").ok();
    drop(silent);
    assert_ne!(start.exit_code(), 0, "{}", start.output());
    host.sh("docker start -a box").ok();
}

/// Nor does it hold up the end of the container that wants it: its start is given up.
#[test]
fn a_start_that_waits_for_a_file_system_is_given_up() {
    let host = Daemon::start();
    host.sh("mkdir -p place/sub").ok();
    for name in ["stopped", "killed", "removed"] {
        host.sh(&format!("docker create --name {name} --restart always -v $PWD/place/sub:/sub busybox sleep 1000"))
            .ok();
    }
    let silent = silent(&host);
    let waits = format!("grep -l '^State:.D' /proc/{}/task/*/status | wc -l", host.pid());
    for (waiting, (name, end)) in
        [("stopped", "docker stop"), ("killed", "docker kill"), ("removed", "docker rm -f")].into_iter().enumerate()
    {
        let mut start = host.session(&format!("docker start {name}"));
        eventually("the start to wait for the file system", || host.sh(&waits).number() > waiting as u64);
        let ended = host.sh(&format!("{end} {name}"));
        match name {
            "killed" => ended.fails_with("is not running"),
            _ => ended.says(name),
        };
        assert_ne!(start.exit_code(), 0);
        assert!(start.output().contains("does not answer: the start was given up"), "{}", start.output());
    }
    host.sh("docker ps -a --format '{{.Names}} {{.State}}' | sort").says("killed created\nstopped created");
    host.sh("docker start stopped")
        .fails_with("place/sub does not answer: it has not answered a start before this one");
    host.sh("docker rm -f killed && docker run --rm busybox echo begun").says("killed\nbegun");
    host.sh("umount -l place").ok();
    drop(silent);
    // Once it is gone, whoever waited has an answer.
    eventually("another start", || host.sh("docker start stopped").code() == 0);
    host.sh("docker exec stopped ls /sub").ok();
}

#[test]
fn what_several_share_goes_with_the_last_of_them() {
    let host = Daemon::start();
    for _ in 0..10 {
        host.sh("docker run -d --name one -v /shared busybox sleep 1000 && docker run -d --name two --volumes-from one busybox sleep 1000").ok();
        host.sh("docker run -d --name three --volumes-from two busybox sleep 1000").ok();
        // The client has all of them removed at once.
        host.sh("docker rm -f -v one two three").ok();
        host.sh("docker volume ls -q").says("");
    }
}
