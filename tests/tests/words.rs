//! What people read, and what programs do: the command's output and the daemon's refusals.

use e2e::{Daemon, Registry, eventually};

#[test]
fn programs_get_documents() {
    let host = Daemon::start();
    host.sh("$STRATUS run -d --name box --output json busybox sh -c 'echo out; echo two words >&2; sleep 1000' | jq -r '.Id | length'").says("64");
    eventually("its output", || host.sh("docker logs box 2>&1 | wc -l").number() == 2);
    host.sh("$STRATUS logs box --output json | jq -r '\"\\(.stream) \\(.line)\"' | sort")
        .says("stderr two words\nstdout out");
    host.sh("$STRATUS logs box --output json | jq -r .time | head -1 | grep -cE '^[0-9-]+T[0-9:.]+Z$'").says("1");
    host.sh("docker run -dt --name tty busybox sh -c 'echo on a terminal; sleep 1000'").ok();
    eventually("its output", || host.sh("docker logs tty").text() == "on a terminal");
    host.sh("$STRATUS logs tty --output json | jq -r '\"\\(.stream) \\(.line)\"'").says("stdout on a terminal");
    host.sh("$STRATUS update --restart always box --output json | jq -c .").says("[\"box\"]");
    host.sh("$STRATUS stop -t 0 box tty --output json | jq -c .").says("[\"box\",\"tty\"]");
    host.sh("$STRATUS wait box --output json | jq -c .").says("[{\"Container\":\"box\",\"StatusCode\":137}]");
    let some = host.sh("$STRATUS rm box nobody --output json");
    some.exits_with(1).prints("\"box\"").complains("No such container: nobody");
    host.sh("docker volume create data && $STRATUS volume rm data --output json | jq -c .").mentions("[\"data\"]");
}

#[test]
fn people_read_lines_that_fit() {
    let host = Daemon::start();
    host.sh("docker tag busybox registry.example.org/some/long/name:of-an-image").ok();
    host.sh(
        "docker run -d --name box -p $PORT:80 -l a.label=x registry.example.org/some/long/name:of-an-image sleep 1000",
    )
    .ok();
    let widths = |flags: &str| {
        let mut shown = host.terminal(&format!("$STRATUS ps {flags}"));
        assert_eq!(shown.exit_code(), 0, "{}", shown.output());
        let output = shown.waits_for("box").output();
        output.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or_default()
    };
    assert!(widths("") <= 80, "{}", widths(""));
    assert!(widths("--no-trunc") > 80);
    // Whoever reads it by a program gets all of it.
    host.sh("$STRATUS ps").mentions("registry.example.org/some/long/name:of-an-image").mentions("0.0.0.0:");
    let events = "$STRATUS events --since 1h --until $(date +%s.%N) -f event=start";
    host.sh(events).mentions("name=box").omits("a.label");
    host.sh(&format!("{events} --output json | jq -r '.Actor.Attributes[\"a.label\"]'")).says("x");
}

#[test]
fn a_pull_on_a_terminal() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    let name = registry.name();
    host.sh(&format!("docker tag busybox {name}/bb:1 && docker push {name}/bb:1 && docker rmi {name}/bb:1 busybox"))
        .ok();
    let mut pulls = host.terminal(&format!("env TERM=xterm sh -c '$STRATUS pull {name}/bb:1; echo what follows'"));
    assert_eq!(pulls.exit_code(), 0, "{}", pulls.output());
    let output = pulls.waits_for("what follows").output();
    assert!(output.contains(&format!("Pulling {name}/bb:1")) || output.contains("Pulling bb:1"), "{output:?}");
    assert!(!output.contains("Pulling from"), "{output:?}");
    let digest = output.rfind("Digest: ").unwrap_or_else(|| panic!("no digest in {output:?}"));
    assert!(output[..digest].ends_with('\n'), "{output:?}");
}

#[test]
fn failures_say_whose_and_what() {
    let host = Daemon::start();
    host.sh("docker network create net && docker run -d --name web -p $PORT:80 --network net busybox sleep 1000").ok();
    host.sh("docker run --rm -p $PORT:80 busybox true").fails_with("port is already allocated (by the container web)");
    let fails = host.sh("$STRATUS run -d --name second -p $PORT:80 busybox true");
    fails.fails_with("(by the container web)");
    host.sh("docker inspect -f '{{.Id}}' second").says(fails.stdout().trim());
    host.sh("docker network rm net").fails_with("network net has active endpoints (name:\"web\" id:\"");
    host.sh("$STRATUS ps --filter status=foo").fails_with("invalid filter 'status=foo': there are created");
    host.sh("$STRATUS ps --filter bogus=1").fails_with("invalid filter 'bogus': there are ");
    host.sh("$STRATUS run --mount foo busybox").fails_with("is no field of a mount: there are type, source");
    host.sh("docker run --rm --tmpfs /x:size=foo busybox true").fails_with("(tmpfs: Bad value for 'size')");
    let nothing = host.sh("$STRATUS run --rm busybox nosuch");
    nothing.exits_with(127).complains("nosuch");
    assert!(!nothing.stderr().contains("OCI runtime"), "{nothing}");
    host.sh("docker run --rm busybox nosuch").fails_with("OCI runtime create failed");
    host.sh("$STRATUS stop -t abc web").fails_with("whole number of seconds");
    host.sh("$STRATUS man nosuch/dir").fails_with("nosuch/dir");
    host.sh("test ! -e nosuch && $STRATUS man pages && test -e pages/stratus.1").ok();
    host.sh("$STRATUS pull 127.0.0.1:1/x").fails_with("The registry 127.0.0.1:1 can't be reached");
    let pull = host.sh("$STRATUS pull 127.0.0.1:1/x");
    assert!(!pull.stderr().contains("bootstrap"), "{pull}");
    for lists in ["inspect web", "image inspect busybox", "ps", "images"] {
        host.sh(&format!("$STRATUS {lists} --format '{{{{.X}}}}'")).fails_with("--output json");
    }
    host.sh("$STRATUS --help").mentions("runtime");
    host.sh("$STRATUS runtime --help").mentions("Usage: stratus runtime");
    assert!(!host.log().contains("ERROR"), "what clients did wrong is no failure of the daemon: {}", host.log());
}

#[test]
fn processes_of_others_are_shown() {
    let host = Daemon::start();
    host.sh("docker run -d --name box -u nobody busybox sleep 1000").ok();
    host.sh("docker top box -o pid,args").mentions("sleep 1000");
    host.sh("docker top box").mentions("sleep 1000");
    // Not together with a list of processes.
    host.sh("docker top box -eo pid,args f").mentions("sleep 1000");
}

#[test]
fn a_suite_that_is_not_there() {
    let host = Daemon::start();
    let _mirror = host.session("busybox httpd -f -p 127.0.0.1:$PORT -h .");
    eventually("the mirror", || host.sh("curl -s -o /dev/null http://127.0.0.1:$PORT/").code() == 0);
    host.sh("$STRATUS image bootstrap debian:nosuch --mirror http://127.0.0.1:$PORT/debian")
        .fails_with("Debian has no suite nosuch (asked 127.0.0.1:");
}
