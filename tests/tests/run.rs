//! `docker run`: what a process in a container gets, and how it ends.

use e2e::{Daemon, eventually};

#[test]
fn the_exit_code_is_the_commands() {
    let host = Daemon::start();
    host.sh("docker run --rm busybox true").exits_with(0);
    host.sh("docker run --rm busybox false").exits_with(1);
    host.sh("docker run --rm busybox sh -c 'exit 42'").exits_with(42);
    host.sh("docker run --rm busybox sh -c 'trap : TERM; sh -c \"kill -9 \\$\\$\"'").exits_with(137);
    host.sh("docker run --name kept busybox sh -c 'exit 3'").exits_with(3);
    host.sh("docker inspect kept -f '{{.State.ExitCode}} {{.State.Status}} {{.State.Running}}'").says("3 exited false");
    host.sh("docker ps -aq --no-trunc").says(host.sh("docker inspect kept -f '{{.Id}}'").text());
}

#[test]
fn a_program_that_is_not_there_or_cannot_run() {
    let host = Daemon::start();
    let missing = host.sh("docker run --rm busybox no-such-program");
    missing.exits_with(127).complains("exec: \"no-such-program\": executable file not found in $PATH");
    let missing = host.sh("docker run --rm busybox /no/such/program");
    missing.exits_with(127).complains("no such file or directory");
    host.sh("docker run --rm busybox /etc/passwd").exits_with(126).complains("permission denied");
    host.sh("docker run --rm busybox /etc").exits_with(126);
    host.sh("docker run --rm -w /etc/passwd busybox true").exits_with(125).complains("not a directory");
    for (from, to) in [("$PWD/file", "/etc"), ("$PWD", "/etc/passwd")] {
        host.sh(&format!("touch file && docker run --rm -v {from}:{to} busybox true"))
            .exits_with(125)
            .complains("not a directory: Are you trying to mount a directory onto a file (or vice-versa)?");
    }
    host.sh("docker ps -aq").says("");
    // Without --rm it stays, as created.
    host.sh("docker run --name broken busybox no-such-program").exits_with(127);
    host.sh("docker inspect broken -f '{{.State.Status}} {{.State.ExitCode}}'").says("created 127");
    host.sh("docker inspect broken -f '{{.State.Error}}'").mentions("executable file not found in $PATH");
}

#[test]
fn arguments_that_are_too_long() {
    let host = Daemon::start();
    let words = "argument list too long";
    let long = "x".repeat(3 << 20);
    let creates = |arguments: &[&str]| {
        let command = [&["echo"], arguments].concat();
        serde_json::json!({ "Image": "busybox", "Cmd": command }).to_string()
    };
    // One that is too long, and too many of them.
    for (name, arguments) in [("one", vec![long.as_str()]), ("many", vec![&long[..100_000]; 70])] {
        let body = creates(&arguments);
        assert_eq!(host.ask(&format!("POST /containers/create?name={name}"), &body).expect("an answer").status, 201);
        let refused = host.ask(&format!("POST /containers/{name}/start"), "").expect("an answer");
        assert!(refused.status == 400 && refused.text().contains(words), "{}", refused.text());
        host.sh(&format!("docker inspect -f '{{{{.State.Status}}}} {{{{.State.ExitCode}}}}' {name}"))
            .says("created 126");
    }
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let body = serde_json::json!({ "AttachStdout": true, "Cmd": ["echo", long] }).to_string();
    let exec = host.ask("POST /containers/box/exec", &body).expect("an answer").json();
    let id = exec["Id"].as_str().expect("an identifier");
    let said = host.ask(&format!("POST /exec/{id}/start"), "{}").expect("an answer");
    assert!(said.text().contains(words), "{}", said.text());
    // What the kernel takes is taken.
    let body = creates(&[&long[..100_000]; 15]);
    assert_eq!(host.ask("POST /containers/create?name=fits", &body).expect("an answer").status, 201);
    host.sh("docker start -a fits | wc -c").says("1500015");
}

#[test]
fn standard_streams() {
    let host = Daemon::start();
    let both = host.sh("docker run --rm busybox sh -c 'echo out; echo err >&2'");
    assert_eq!((both.ok().stdout(), both.stderr()), ("out\n", "err\n"));
    host.sh("echo hello | docker run --rm -i busybox cat").says("hello");
    host.sh("seq 200000 | docker run --rm -i busybox md5sum").says(host.sh("seq 200000 | md5sum").text());
    // Nobody listens to standard input without -i: it is empty.
    host.sh("echo hello | docker run --rm busybox cat").says("");
    host.sh("docker run --rm busybox sh -c 'seq 100000' | md5sum").says(host.sh("seq 100000 | md5sum").text());
    host.sh("docker run --rm -a stderr busybox sh -c 'echo out; echo err >&2'").says("");
}

#[test]
fn in_the_background() {
    let host = Daemon::start();
    let id = host.sh("docker run -d --name worker busybox sleep 1000").text().to_owned();
    assert_eq!(id.len(), 64);
    host.sh("docker ps --format '{{.Names}} {{.Image}} {{.Command}} {{.State}}'")
        .says("worker busybox \"sleep 1000\" running");
    host.sh("docker ps -q").says(&id[..12]);
    host.sh("docker ps").mentions("Up ");
    host.sh("docker inspect -f '{{.State.Pid}}' worker");
    host.sh("docker rm worker").fails_with("container is running: stop the container before removing or force remove");
    host.sh("docker rm -f worker").says("worker");
    host.sh("docker ps -aq").says("");
    host.sh("docker run -d --rm --cidfile id busybox true").ok();
    let id = host.sh("cat id").text().to_owned();
    eventually("--rm to remove it", || host.sh(&format!("docker inspect {id}")).code() == 1);
}

#[test]
fn on_a_terminal() {
    let host = Daemon::start();
    for _ in 0..10 {
        host.terminal("docker run --rm -it busybox stty size").waits_for("24 80");
    }
    let mut shell = host.terminal("docker run --rm -it busybox sh");
    shell.waits_for("/ # ");
    shell.types("tty; stty size; exit 5\r").waits_for("/dev/pts/0");
    shell.waits_for("24 80");
    assert_eq!(shell.exit_code(), 5);
    let mut ended = host.terminal("docker run --rm -it busybox sh -c 'trap \"exit 130\" INT; echo ready; cat'");
    ended.waits_for("ready");
    ended.types("hello\r").waits_until("the echo and cat's own", |seen| seen.matches("hello").count() == 2);
    ended.types("\u{3}");
    assert_eq!(ended.exit_code(), 130);
    host.sh("docker run --rm -it busybox true").fails_with("not a TTY");
    host.sh("docker run --rm -t busybox tty").says("/dev/pts/0");
}

#[test]
fn environment_directory_and_user() {
    let host = Daemon::start();
    host.sh("printf 'FROM_FILE=yes\\n# nothing\\nHOME\\n' > env").ok();
    let env = host.sh("HOME=/mine docker run --rm -h box -e A=1 -e 'B=two words' -e HOME --env-file env busybox env");
    for line in ["A=1", "B=two words", "FROM_FILE=yes", "HOME=/mine", "HOSTNAME=box", "PATH=/bin"] {
        assert!(env.lines().contains(&line), "{line}: {env}");
    }
    host.sh("docker run --rm busybox sh -c 'echo $HOME; pwd'").says("/root\n/");
    host.sh("docker run --rm -t busybox sh -c 'echo $TERM'").says("xterm");
    host.sh("docker run --rm -w /made/for/me busybox pwd").says("/made/for/me");
    host.sh("docker run --rm -u nobody busybox id")
        .says("uid=65534(nobody) gid=65534(nogroup) groups=50(staff),65534(nogroup)");
    host.sh("docker run --rm -u nobody busybox sh -c 'echo $HOME'").says("/");
    host.sh("docker run --rm -u 1234:50 busybox sh -c 'id -u; id -g'").says("1234\n50");
    host.sh("docker run --rm -u 1234 --group-add staff --group-add 77 busybox id -G").mentions("77");
    host.sh("docker run --rm -u ghost busybox true")
        .fails_with("unable to find user ghost: no matching entries in passwd file");
    host.sh("docker run --rm -h box --domainname example.org busybox sh -c 'hostname; hostname -f; cat /etc/hostname'")
        .says("box\nbox.example.org\nbox");
    host.sh("docker run --rm busybox hostname | wc -c").says("13");
}

#[test]
fn the_entrypoint() {
    let host = Daemon::start();
    host.sh("docker run --rm --entrypoint echo busybox one 'two  three'").says("one two  three");
    host.sh("docker run --rm --entrypoint true busybox").says("");
    host.sh("docker create --name templ busybox && docker commit -c 'ENTRYPOINT [\"echo\", \"so\"]' -c 'CMD [\"it goes\"]' templ talker")
        .ok();
    host.sh("docker run --rm talker").says("so it goes");
    host.sh("docker run --rm talker be it").says("so be it");
    host.sh("docker run --rm --entrypoint '' talker echo reset").says("reset");
    // An entrypoint resets the image's command, also an empty one.
    host.sh("docker run --rm --entrypoint '' busybox").exits_with(125).complains("no command specified");
    host.sh("tar -cT /dev/null | docker import - empty").ok();
    host.sh("docker run --rm empty").fails_with("no command specified");
}

#[test]
fn an_init_reaps_what_nobody_waits_for() {
    let host = Daemon::start();
    for _ in 0..10 {
        host.sh("docker run --rm --init busybox cat /proc/1/comm").says("init");
    }
    // It may do what the program may, and no more, and is as confined.
    let status = "grep -e Cap -e NoNew -e Seccomp: -e Groups -e Uid /proc";
    host.sh(&format!(
        "docker run --rm --init busybox sh -c '{status}/1/status > a; {status}/self/status > b; cmp a b && cat a'"
    ))
    .mentions("Seccomp:\t2");
    host.sh(&format!("docker run --rm --init --user 7 --cap-drop ALL busybox sh -c 'cd /tmp; {status}/1/status > a; {status}/self/status > b; cmp a b && cat a'"))
        .mentions("CapEff:\t0000000000000000");
    host.sh("docker run --rm busybox sh -c 'cat /proc/1/comm; true'").says("sh");
    host.sh("docker run --rm --init busybox sh -c 'exit 9'").exits_with(9);
    host.sh("docker run -d --init --name orphans busybox sleep 1000").ok();
    host.sh("docker exec orphans sh -c '(sleep 0 &) ; true'").ok();
    eventually("the orphan to be reaped", || !host.sh("docker exec orphans ps -o stat,comm").text().contains("Z "));
    // The init passes signals on: sleep ends by the first.
    host.sh("docker stop -t 60 orphans").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' orphans").says("143");
}

#[test]
fn read_only_and_tmpfs() {
    let host = Daemon::start();
    host.sh("docker run --rm --read-only busybox touch /x").fails_with("Read-only file system");
    host.sh("docker run --rm --read-only --tmpfs /scratch busybox touch /scratch/x").ok();
    host.sh("docker run --rm --read-only -v /data busybox touch /data/x").ok();
    let mount = host.sh("docker run --rm --tmpfs /scratch:size=64k,mode=1770,exec busybox grep /scratch /proc/mounts");
    mount
        .mentions("tmpfs /scratch tmpfs rw")
        .mentions("size=64k")
        .mentions("mode=1770")
        .omits("noexec")
        .mentions("nosuid");
    host.sh("docker run --rm --tmpfs /scratch:size=64k busybox dd if=/dev/zero of=/scratch/x bs=1k count=100")
        .fails_with("No space left on device");
    host.sh("docker run --rm --shm-size 16m busybox df -k /dev/shm").mentions("16384");
    host.sh("docker run --rm --mount type=tmpfs,target=/t,tmpfs-size=128k,tmpfs-mode=1700 busybox stat -c %a /t")
        .says("1700");
}

#[test]
fn limits_capabilities_and_privileges() {
    let host = Daemon::start();
    host.sh("docker run --rm --ulimit nofile=77:88 busybox sh -c 'ulimit -Sn; ulimit -Hn'").says("77\n88");
    host.sh("docker run --rm busybox chroot / true").ok();
    host.sh("docker run --rm --cap-drop SYS_CHROOT busybox chroot / true").fails_with("Operation not permitted");
    host.sh("docker run --rm --cap-drop ALL busybox grep CapEff /proc/self/status").mentions("0000000000000000");
    host.sh("docker run --rm --cap-drop ALL --cap-add CHOWN busybox grep CapEff /proc/self/status")
        .mentions("0000000000000001");
    host.sh("docker run --rm busybox grep CapEff /proc/self/status").mentions("00000000a80425fb");
    host.sh("docker run --rm --cap-add NOT_ONE busybox true")
        .fails_with("invalid CapAdd: unknown capability: \"CAP_NOT_ONE\"");
    host.sh("docker run --rm busybox mount -t tmpfs none /tmp").fails_with("permission denied");
    host.sh("docker run --rm --privileged busybox mount -t tmpfs none /tmp").ok();
    host.sh("docker run --rm --cap-add SYS_ADMIN busybox mount -t tmpfs none /tmp").ok();
    host.sh("docker run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status").mentions("1");
    host.sh("docker run --rm busybox grep Seccomp: /proc/self/status").mentions("2");
    host.sh("docker run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status").mentions("0");
    host.sh("docker run --rm --sysctl net.ipv4.ip_forward=1 busybox cat /proc/sys/net/ipv4/ip_forward").says("1");
    host.sh("docker run --rm --device /dev/null:/dev/mine:r busybox sh -c 'cat /dev/mine; echo $?'").says("0");
    host.sh("docker run --rm --oom-score-adj 300 busybox cat /proc/self/oom_score_adj").says("300");
}

#[test]
fn namespaces_of_others() {
    let host = Daemon::start();
    host.sh("docker run -d --name first busybox sleep 1000").ok();
    host.sh("docker run --rm --pid container:first busybox ps").mentions("sleep 1000");
    host.sh("docker run --rm --pid host busybox test -d /proc/$$").ok();
    let own = host.sh("readlink /proc/self/ns/uts").text().to_owned();
    host.sh("docker run --rm --uts host busybox readlink /proc/self/ns/uts").says(&own);
    host.sh("docker run -d --name sharer --ipc shareable busybox sleep 1000").ok();
    let ipc = host.sh("docker exec sharer readlink /proc/self/ns/ipc").text().to_owned();
    host.sh("docker run --rm --ipc container:sharer busybox readlink /proc/self/ns/ipc").says(&ipc);
}

#[test]
fn an_image_that_is_not_there() {
    let host = Daemon::start();
    host.sh("docker run --pull never --rm nothing:here").exits_with(125).complains("No such image: nothing:here");
    host.sh("docker run --rm localhost:1/nothing:here")
        .exits_with(125)
        .complains("Unable to find image 'localhost:1/nothing:here' locally");
    host.sh("docker create --name taken busybox").ok();
    host.sh("docker run --name taken busybox")
        .exits_with(125)
        .complains("Conflict. The container name \"/taken\" is already in use by container");
    host.sh("docker run --name '-x' busybox").exits_with(125);
    host.sh("docker run --name 'a/b' busybox").exits_with(125).complains("Invalid container name (a/b)");
}

#[test]
fn labels_and_what_ps_filters() {
    let host = Daemon::start();
    host.sh("docker run -d --name aa -l tier=front -l x busybox sleep 1000").ok();
    host.sh("docker run -d --name bb -l tier=back busybox sleep 1000").ok();
    host.sh("docker run --name cc busybox sh -c 'exit 4'").exits_with(4);
    host.sh("docker create --name dd busybox").ok();
    let ps =
        |filter: &str| host.sh(&format!("docker ps -a {filter} --format '{{{{.Names}}}}'")).text().replace('\n', " ");
    assert_eq!(ps(""), "dd cc bb aa");
    assert_eq!(ps("-f label=tier"), "bb aa");
    assert_eq!(ps("-f label=tier=front"), "aa");
    assert_eq!(ps("-f status=exited"), "cc");
    assert_eq!(ps("-f exited=4"), "cc");
    assert_eq!(ps("-f exited=0"), "");
    assert_eq!(ps("-f status=created -f status=running"), "dd bb aa");
    assert_eq!(ps("-f name=^/aa$"), "aa");
    assert_eq!(ps("-f since=aa -f before=dd"), "cc bb");
    assert_eq!(ps("-f ancestor=busybox -n 2"), "dd cc");
    assert_eq!(ps("-f network=bridge -f name=bb"), "bb");
    assert_eq!(ps("-l"), "dd");
    host.sh("docker ps -f nonsense=1").fails_with("invalid filter 'nonsense'");
    host.sh("docker ps --format '{{.Labels}}' -f name=aa").mentions("tier=front");
    host.sh("docker ps -as --format '{{.Size}}' -f name=cc").mentions("virtual");
    host.sh("docker inspect nobody").fails_with("No such object: nobody");
}

#[test]
fn a_parent_of_cgroups_goes_with_the_last_container() {
    let host = Daemon::start();
    let name = format!("parent-{}", &host.sh("docker info -f '{{.ID}}'").text()[..8]);
    let count = || host.sh(&format!("find /sys/fs/cgroup -maxdepth 4 -name '{name}*' | wc -l")).number();
    host.sh(&format!(
        "for n in 1 2; do docker run -d --name b$n --cgroup-parent /{name}/inner busybox sleep 1000; done"
    ))
    .ok();
    assert!(count() > 0);
    host.sh("docker rm -f b1 && docker exec b2 true && docker rm -f b2").ok();
    eventually("the parent to go", || count() == 0);
    // One that was there before is somebody's, who may have given it limits.
    let place = host.sh("findmnt -n -t cgroup,cgroup2 -o TARGET | tail -n 1").text().to_owned();
    host.sh(&format!("mkdir {place}/{name}")).ok();
    host.sh(&format!("docker run --rm --cgroup-parent /{name} busybox true")).ok();
    eventually("the rest to go", || count() == 1);
    host.sh(&format!("rmdir {place}/{name}")).ok();
}
