//! `docker exec`: another process in a container that runs.

use e2e::{Daemon, eventually};

fn with_box() -> Daemon {
    let host = Daemon::start();
    host.sh("docker run -d --name box -e FROM=run busybox sleep 1000").ok();
    host
}

#[test]
fn exit_codes_and_streams() {
    let host = with_box();
    host.sh("docker exec box true").exits_with(0);
    host.sh("docker exec box sh -c 'exit 33'").exits_with(33);
    host.sh("docker exec box sh -c 'kill -9 $$'").exits_with(137);
    let both = host.sh("docker exec box sh -c 'echo out; echo err >&2'");
    assert_eq!((both.ok().stdout(), both.stderr()), ("out\n", "err\n"));
    host.sh("echo hello | docker exec -i box cat").says("hello");
    host.sh("seq 200000 | docker exec -i box md5sum").says(host.sh("seq 200000 | md5sum").text());
    host.sh("docker exec box no-such-program").exits_with(127).prints("executable file not found in $PATH");
    host.sh("docker exec box /etc/passwd").exits_with(126).prints("permission denied");
    host.sh("docker exec nobody true").fails_with("No such container: nobody");
    host.sh("docker create --name idle busybox && docker exec idle true").fails_with("is not running");
}

#[test]
fn environment_user_and_directory() {
    let host = with_box();
    host.sh("docker exec -e MORE=yes box sh -c 'echo $FROM $MORE $HOME'").says("run yes /root");
    host.sh("docker exec -u nobody box id -un").says("nobody");
    host.sh("docker exec -u 12:34 box id").says("uid=12 gid=34 groups=34");
    host.sh("docker exec -w /tmp box pwd").says("/tmp");
    host.sh("docker exec -w /not/there box pwd").exits_with(127);
    let all = host.sh("grep CapBnd /proc/1/status").text().to_owned();
    host.sh("docker exec --privileged box grep CapBnd /proc/self/status").says(&all);
    host.sh("docker exec -u ghost box true").exits_with(126).prints("unable to find user ghost");
}

#[test]
fn on_a_terminal() {
    let host = with_box();
    for _ in 0..10 {
        host.terminal("docker exec -it box stty size").waits_for("24 80");
    }
    let mut shell = host.terminal("docker exec -it box sh");
    shell.waits_for("/ # ");
    shell.types("tty; stty size; exit 6\r").waits_for("24 80");
    assert_eq!(shell.exit_code(), 6);
    // Detached by the keys, it goes on.
    let mut left = host.terminal("docker exec -it box sh -c 'echo ready; sleep 999'");
    left.waits_for("ready");
    left.types("\u{10}\u{11}");
    left.exit_code();
    host.sh("docker exec box ps").mentions("sleep 999");
}

#[test]
fn those_that_have_not_ended_are_told() {
    let host = with_box();
    let ids = "docker inspect -f '{{json .ExecIDs}}' box";
    host.sh(ids).says("null");
    let made = host.ask("POST /containers/box/exec", r#"{"Cmd":["sleep","1000"],"Env":["A=b"]}"#).expect("an answer");
    let id = made.json()["Id"].as_str().expect("an identifier").to_owned();
    host.sh(ids).says(&format!("[\"{id}\"]"));
    host.ask(&format!("POST /exec/{id}/start"), r#"{"Detach":true}"#).expect("an answer");
    host.sh(ids).says(&format!("[\"{id}\"]"));
    // What it was given for its start it still has: nobody else keeps it.
    let find = "docker exec box sh -c 'tr \"\\0\" \"\\n\" < /proc/$(pidof sleep | cut -d\" \" -f1)/environ | grep ^A='";
    host.sh(find).says("A=b");
    host.sh("docker exec box sh -c 'kill $(pidof sleep | cut -d\" \" -f1)'").ok();
    eventually("it has ended", || host.sh(ids).text() == "null");
    let ended = host.ask(&format!("GET /exec/{id}/json"), "").expect("an answer").json();
    assert_eq!((&ended["Running"], &ended["ExitCode"]), (&false.into(), &143.into()));
}

#[test]
fn in_the_background() {
    let host = with_box();
    host.sh("docker exec -d box sh -c 'echo done > /tmp/proof'").says("");
    eventually("the proof", || host.sh("docker exec box cat /tmp/proof").stdout() == "done\n");
    host.sh("docker exec -d box sleep 777").ok();
    host.sh("docker inspect -f '{{len .ExecIDs}}' box").says("1");
    host.sh("docker top box").mentions("sleep 777");
    // All processes end with the first.
    host.sh("docker stop -t 0 box").ok();
    host.sh("docker start box && docker exec box ps").omits("sleep 777");
}

/// Where the kernel does not let the daemon watch a process's input, its client is told so, and it does not run on without anybody
/// who could write to it.
#[test]
fn what_nobody_could_be_attached_to_is_ended() {
    let host = with_box();
    // It ends once it was told to, and goes on where nobody does.
    let waits = "sh -c 'read line; test \"$line\" = go || sleep 1000'";
    let exec = format!("echo go | docker exec -i box {waits}");
    let run = format!("echo go | docker run -i --name more busybox {waits}");
    let told = "watch a process's standard input";
    // Counted for each thread, of which any may do it: several times, so that it is met.
    for nth in (1..=6).cycle().take(18) {
        let inject = format!("-e trace=epoll_ctl -e inject=epoll_ctl:error=ENOSPC:when={nth}");
        for command in [&exec, &run] {
            let mut tracer = host.session(&format!("strace -f -p {} {inject} -o /dev/null", host.pid()));
            tracer.waits_for("attached");
            let came = host.sh(command);
            tracer.signal("INT");
            tracer.exit_code();
            if came.stdout().contains(told) || came.stderr().contains(told) {
                eventually("it to end", || host.sh("docker top box -o pid,comm; docker ps -q").lines().len() == 3);
            }
            // Whoever was cut off otherwise has left it running.
            host.sh("docker rm -f more; docker exec box killall sleep");
        }
    }
}

#[test]
fn what_it_does_is_in_the_container() {
    let host = with_box();
    host.sh("docker exec box sh -c 'echo kept > /kept'").ok();
    host.sh("docker restart -t 0 box && docker exec box cat /kept").mentions("kept");
    host.sh("docker exec box cat /proc/1/cmdline | tr '\\0' ' '").says("sleep 1000");
    let inside = host.sh("docker exec box grep CapEff /proc/self/status").text().to_owned();
    host.sh("docker exec box grep CapEff /proc/1/status").says(&inside);
    for n in 0..8 {
        host.sh(&format!("docker exec box sh -c 'echo {n} >> /list'")).ok();
    }
    host.sh("docker exec box wc -l /list").says("8 /list");
}
