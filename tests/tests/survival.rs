//! What goes on when the daemon, or the keeper, is killed.

use e2e::{Daemon, Session, eventually};
use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpStream};

const TICKER: &str = "sh -c 'echo begun; while read l; do echo got $l; done'";

#[test]
fn containers_outlive_the_daemon() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name web -p $PORT:80 busybox sh -c 'mkdir /www; echo hello > /www/index.html; exec httpd -f -h /www -p 80'").ok();
    host.sh(&format!("docker run -di --name talker busybox {TICKER}")).ok();
    host.sh("docker network create net && docker run -d --name named --network net busybox sleep 1000").ok();
    let ends = "while [ ! -e /word/go ]; do sleep 0.02; done; echo gone; exit 7";
    host.sh(&format!("mkdir word && docker run -d --name ends -v $PWD/word:/word busybox sh -c '{ends}'")).ok();
    let pid =
        host.sh("docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web talker named ends").text().to_owned();
    let ending = host.sh("docker inspect -f '{{.State.Pid}}' ends").text().to_owned();
    eventually("the server", || host.sh("curl -s -m 5 http://127.0.0.1:$PORT").stdout() == "hello\n");

    host.kill9();
    host.sh("docker ps").fails_with("Cannot connect to the Docker daemon");
    host.sh("curl -s -m 5 http://127.0.0.1:$PORT && curl -s -m 5 http://[::1]:$PORT").says("hello\nhello");
    host.sh("touch word/go").ok();
    eventually("its end", || !std::path::Path::new(&format!("/proc/{ending}/root/bin")).exists());

    host.restart();
    host.sh("docker wait ends").says("7");
    host.sh("docker logs ends").says("gone");
    host.sh("docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' ends").says("exited 7");
    let now = host.sh("docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web talker named").text().to_owned();
    assert!(pid.starts_with(&now), "{pid} became {now}");
    host.sh("curl -s -m 5 http://127.0.0.1:$PORT").says("hello");
    host.sh("docker exec web true && docker port web 80 | wc -l").says("2");
    let mut attached = host.session("docker attach talker");
    eventually("the attachment", || {
        host.sh("docker events --since 1h --until $(date +%s.%N) --filter event=attach | wc -l").number() == 1
    });
    attached.types("again\n").waits_for("got again");
    host.sh("docker logs talker").says("begun\ngot again");
    host.sh("docker run --rm --network net busybox ping -c 1 -W 5 named").mentions("1 packets received");
    host.sh("docker stop -t 0 web talker named && docker rm web talker named ends && docker ps -aq").omits("Error");
    host.sh("curl -s -m 5 http://127.0.0.1:$PORT").exits_with(7);
}

#[test]
fn logs_go_on_while_no_daemon_runs() {
    let mut host = Daemon::start();
    let counts = "echo 0; n=0; while :; do while [ ! -e /word/go$n ]; do sleep 0.02; done; n=$((n+1)); echo $n; done";
    host.sh(&format!("mkdir word && docker run -d --name box -v $PWD/word:/word busybox sh -c '{counts}'")).ok();
    let log = host.sh("docker inspect -f '{{.LogPath}}' box").text().to_owned();
    for round in 0..3 {
        host.kill9();
        host.sh(&format!("touch word/go{round}")).ok();
        eventually("the line", || std::fs::read_to_string(&log).unwrap_or_default().lines().count() == round + 2);
        host.restart();
    }
    host.sh("docker logs box").says("0\n1\n2\n3");
}

#[test]
fn a_daemon_that_ends_in_order_leaves_them_too() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000 && docker create --name idle busybox && docker volume create data && docker network create net").ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    host.restart();
    host.sh("docker inspect -f '{{.State.Pid}}' box").says(&pid);
    host.sh("docker ps -a --format '{{.Names}} {{.State}}'").says("idle created\nbox running");
    host.sh("docker volume ls -q").says("data");
    host.sh("docker network ls -q -f name=net | wc -l").says("1");
    host.sh("docker images --format '{{.Repository}}'").says("busybox");
    host.sh("docker exec box true").ok();
}

#[test]
fn a_newer_program_takes_over() {
    let mut host = Daemon::start();
    host.sh(&format!("docker run -di --name talker -p $PORT:80 busybox {TICKER}")).ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' talker").text().to_owned();
    let keeper = host.keeper();
    let of_file = |host: &Daemon, path: &str| host.sh(&format!("stat -L -c %d:%i {path}")).text().to_owned();
    let before = of_file(&host, &format!("/proc/{keeper}/exe"));
    let program = host.upgrade();
    // The same process holds the same container, and is another program.
    assert_eq!(host.keeper(), keeper);
    let after = of_file(&host, &format!("/proc/{keeper}/exe"));
    assert_ne!(after, before);
    assert_eq!(after, of_file(&host, &program.display().to_string()));
    host.sh("docker inspect -f '{{.State.Pid}} {{.State.Running}}' talker").says(&format!("{pid} true"));
    let mut attached = host.session("docker attach talker");
    eventually("the attachment", || {
        host.sh("docker events --since 1h --until $(date +%s.%N) --filter event=attach | wc -l").number() == 1
    });
    attached.types("again\n").waits_for("got again");
    host.sh("docker logs talker").says("begun\ngot again");
    host.sh("docker exec talker true && docker run --rm busybox echo hello").says("hello");
    host.sh("docker rm -f talker && docker run --rm -p $PORT:80 busybox true").ok();
    // Nothing is to be done when the program is the same.
    host.restart();
    assert_eq!(host.log().matches("the keeper has gone on as this program").count(), 1, "{}", host.log());
}

#[test]
fn a_newer_program_carries_the_connections_of_the_one_before() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name echo -p $PORT:80 busybox nc -ll -p 80 -e cat").ok();
    // To a container without IPv6, the forwarder carries it.
    let connect = |host: &Daemon| TcpStream::connect((Ipv6Addr::LOCALHOST, host.port()));
    let say = |stream: &mut TcpStream, text: &str| {
        let mut answer = vec![0; text.len()];
        stream.write_all(text.as_bytes())?;
        stream.read_exact(&mut answer)?;
        std::io::Result::Ok(answer == text.as_bytes())
    };
    let mut connection = None;
    eventually("the server", || {
        connection = connect(&host).ok();
        connection.as_mut().is_some_and(|connection| say(connection, "before").is_ok_and(|same| same))
    });
    let mut connection = connection.unwrap();
    let forwarder = host.forwarder();
    let program = host.upgrade();
    assert_eq!(host.forwarder(), forwarder);
    let of_file = |path: &str| host.sh(&format!("stat -L -c %d:%i {path}")).text().to_owned();
    assert_eq!(of_file(&format!("/proc/{forwarder}/exe")), of_file(&program.display().to_string()));
    assert!(say(&mut connection, "after").unwrap());
    assert!(say(&mut connect(&host).unwrap(), "anew").unwrap());
    host.sh("docker rm -f echo").ok();
    assert_eq!(connect(&host).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    host.restart();
    assert_eq!(host.log().matches("the port forwarder has gone on as this program").count(), 1, "{}", host.log());
}

#[test]
fn a_killed_forwarder_is_replaced_also_by_a_daemon_that_found_it() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name web -p $PORT:80 busybox sh -c 'mkdir /www; echo hello > /www/index.html; exec httpd -f -h /www -p 80'").ok();
    host.kill9();
    host.restart();
    let forwarder = host.forwarder();
    host.sh(&format!("kill -9 {forwarder}")).ok();
    eventually("another forwarder", || host.sh("curl -s -m 5 http://[::1]:$PORT").stdout() == "hello\n");
    assert_ne!(host.forwarder(), forwarder);
}

#[test]
fn policies_hold_over_a_restart() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name always --restart always busybox sleep 1000").ok();
    host.sh("docker run -d --name stopped --restart unless-stopped busybox sleep 1000 && docker stop -t 0 stopped")
        .ok();
    let brief = "while [ ! -e /word/go ]; do sleep 0.02; done";
    host.sh(&format!("mkdir word && docker run -d --rm --name brief -v $PWD/word:/word busybox sh -c '{brief}'")).ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' always").text().to_owned();
    host.kill9();
    host.sh(&format!("touch word/go && kill -9 {pid}")).ok();
    eventually("its end", || !std::path::Path::new(&format!("/proc/{pid}/root/")).exists());
    host.restart();
    let runs_again = || {
        let now = host.sh("docker inspect -f '{{.State.Status}} {{.State.Pid}}' always").text().to_owned();
        now.strip_prefix("running ").is_some_and(|now| now != pid)
    };
    eventually("it to run again", runs_again);
    host.sh("docker inspect -f '{{.State.Status}}' stopped").says("exited");
    eventually("--rm to remove it", || host.sh("docker inspect brief").code() == 1);
}

#[test]
fn a_client_that_waits_is_told_that_the_daemon_is_gone() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let mut wait = host.session("docker wait box");
    let mut events = host.session("docker events");
    eventually("the wait", || host.sh("docker ps -q | wc -l").number() == 1);
    host.kill9();
    assert_ne!(wait.exit_code(), 0);
    assert_ne!(events.exit_code(), 125);
    host.restart();
    host.sh("docker ps --format '{{.Names}}'").says("box");
}

#[test]
fn when_the_keeper_is_killed_its_containers_end_and_can_start_again() {
    let host = Daemon::start();
    host.sh(
        "docker run -d --name box busybox sleep 1000 && docker run -d --name again --restart always busybox sleep 1000",
    )
    .ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    let before = host.sh("docker inspect -f '{{.State.StartedAt}}' again").text().to_owned();
    let keeper = host.keeper();
    let mut exec = host.session("docker exec box sleep 1000");
    eventually("the exec", || host.sh("docker top box").text().matches("sleep 1000").count() == 2);
    host.sh(&format!("kill -9 {keeper}")).ok();
    eventually("its end", || host.sh("docker inspect -f '{{.State.Status}}' box").text() == "exited");
    assert!(!std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists());
    assert_eq!(exec.exit_code(), 137);
    // Nobody was there to see how it ended.
    host.sh("docker inspect -f '{{.State.ExitCode}} {{.State.Error}}' box")
        .mentions("255 the keeper that held it ended");
    eventually("the policy", || {
        let state = host.sh("docker inspect -f '{{.State.Status}} {{.State.StartedAt}}' again").text().to_owned();
        state.strip_prefix("running ").is_some_and(|started| started != before)
    });
    host.sh("docker start box && docker exec box true && docker exec again true").ok();
    host.sh("docker run --rm busybox echo hello").says("hello");
    assert_ne!(host.keeper(), keeper);
}

/// The record of a start is written while the keeper is at it. Of a daemon that is killed then, the next one asks the keeper what
/// came of it.
#[test]
fn a_start_that_its_daemon_did_not_see_through_is_what_the_keeper_made_of_it() {
    let mut host = Daemon::start();
    host.sh("docker create --name runs -p 80 busybox sleep 1000 && docker create --name ends busybox true").ok();
    host.sh("docker create --name restarts --restart always busybox sleep 1000").ok();
    let keeper = host.keeper();
    for name in ["runs", "ends", "restarts"] {
        let id = host.sh(&format!("docker inspect -f '{{{{.Id}}}}' {name}")).text().to_owned();
        let (stopped, start) = cut_short(&host, name, "created");
        eventually("the keeper to be asked", || asked(&host));
        host.kill9();
        drop((stopped, start));
        eventually("its program to run", || has_run(&host, name, &id));
        host.restart();
        assert_eq!(host.keeper(), keeper);
    }

    host.sh("docker exec runs echo here").says("here");
    host.sh("docker exec restarts echo here").says("here");
    eventually("its end", || {
        host.sh("docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' ends").text() == "exited 0"
    });
    let shown = "docker inspect -f '{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}' runs restarts";
    let before = host.sh(shown).ok().text().to_owned();
    assert!(!before.starts_with("0 "), "{before}");
    host.kill9();
    host.restart();
    host.sh(shown).says(&before);
    host.sh("docker port runs 80 | wc -l").says("2");
    host.sh("docker rm -f runs ends restarts").ok();
}

#[test]
fn a_start_that_came_to_nothing_leaves_its_container_as_it_was() {
    let mut host = Daemon::start();
    host.sh("docker create --name fresh -p $PORT:80 busybox sleep 1000").ok();
    host.sh("docker run --name ended busybox sh -c 'exit 3'").exits_with(3);
    let shown = "docker inspect -f '{{json .State}} {{json .NetworkSettings}}' fresh ended";
    // Its daemon has the keeper forget what ended, and then it is over.
    eventually("the end to be over", || {
        host.holdings().iter().all(|line| !line.starts_with("kept ") && !line.starts_with("ended "))
    });
    let before = host.sh(shown).ok().text().to_owned();
    for (name, before_it) in [("fresh", "created"), ("ended", "exited")] {
        let (stopped, start) = cut_short(&host, name, before_it);
        host.kill9();
        // It ends without a look at what it was asked.
        assert!(stopped.signal("KILL"));
        drop((stopped, start));
        host.restart();
        host.sh(shown).says(&before);
    }
    host.kill9();
    // What it was is written down: a boot does not make a run of it.
    std::fs::write(host.run_dir().join("boot_id"), "another").expect("write");
    host.restart();
    host.sh(shown).says(&before);
    host.sh("docker start fresh && docker exec fresh echo here").mentions("here");
}

/// A keeper that is stopped, and answers nothing while this lives.
struct Stopped(String);

impl Stopped {
    fn signal(&self, signal: &str) -> bool {
        let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &self.0]).status();
        sent.is_ok_and(|status| status.success())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that was killed needs no more.
        self.signal("CONT");
    }
}

/// A start whose record is written, of a keeper that is stopped.
fn cut_short(host: &Daemon, name: &str, before: &str) -> (Stopped, Session) {
    let id = host.sh(&format!("docker inspect -f '{{{{.Id}}}}' {name}")).text().to_owned();
    let keeper = Stopped(host.keeper().to_string());
    assert!(keeper.signal("STOP"));
    let before_it = header(host);
    let start = host.session(&format!("docker start {name}"));
    // A record that is written counts once the file's header says so.
    eventually("the record", || start_is_on_record(host, &id, before) && header(host) != before_it);
    (keeper, start)
}

/// Whether the keeper has brought a container's program to run: it is there, by what it was given, or has ended.
fn has_run(host: &Daemon, name: &str, id: &str) -> bool {
    if name == "ends" {
        return host.holdings().iter().any(|line| line.starts_with("ended ") && line.ends_with(id));
    }
    host.sh(&format!("grep -las 'HOSTNAME={}' /proc/[0-9]*/environ | wc -l", &id[..12])).number() > 0
}

/// Whether something waits for the keeper to be read.
fn asked(host: &Daemon) -> bool {
    let socket = host.run_dir().join("keeper.sock");
    let waits = format!("ss -xH src {} | awk '$3 > 0' | wc -l", socket.display());
    host.sh(&waits).number() > 0
}

/// The header of the daemon's store, which each commit changes.
fn header(host: &Daemon) -> Vec<u8> {
    let mut header = vec![0; 512];
    let store = std::fs::File::open(host.data().join("stratus.db")).expect("the store");
    store.take(512).read_exact(&mut header).expect("its header");
    header
}

/// Whether the daemon's store has a record that says of a container that it is being started, and in which phase it was before.
fn start_is_on_record(host: &Daemon, id: &str, before: &str) -> bool {
    let beginning = format!("{{\"id\":\"{id}\"").into_bytes();
    let store = std::fs::read(host.data().join("stratus.db")).unwrap_or_default();
    let begins = store.windows(beginning.len()).enumerate().filter(|(_, window)| *window == beginning);
    let mut records = begins.filter_map(|(at, _)| {
        serde_json::Deserializer::from_slice(&store[at..]).into_iter::<serde_json::Value>().next()?.ok()
    });
    records.any(|record| record["before_start"]["state"]["phase"] == before)
}

/// After the machine's boot, policies start what others need first, and what can't be started keeps nobody waiting.
#[test]
fn what_others_need_starts_first_after_a_boot() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name db --restart always busybox sleep 1000").ok();
    for n in 0..4 {
        host.sh(&format!("docker run -d --name web{n} --restart always --link db:db busybox sleep 1000")).ok();
        host.sh(&format!(
            "docker run -d --name side{n} --restart always --network container:web{n} busybox sleep 1000"
        ))
        .ok();
    }
    host.sh("docker run -d --name off --restart unless-stopped busybox sleep 1000 && docker stop -t 0 off").ok();
    host.sh("docker run -d --name up --restart always busybox sleep 1000 && docker stop -t 0 up").ok();
    host.sh("mkdir there && docker run -d --name lacks --restart always --mount type=bind,src=$PWD/there,dst=/there busybox sleep 1000").ok();
    let keeper = host.keeper();
    host.kill9();
    host.sh(&format!("kill -9 {keeper}; rmdir there")).ok();
    // What a boot changes for a daemon.
    std::fs::write(host.run_dir().join("boot_id"), "another").expect("write");
    host.restart();
    let running = "docker ps --filter status=running --format '{{.Names}}' | sort | xargs";
    eventually("all to run", || host.sh(running).text() == "db side0 side1 side2 side3 up web0 web1 web2 web3");
    // Each was started once: none had to be tried again as another was missing.
    host.sh("docker inspect -f '{{.RestartCount}}' db web0 web1 web2 web3 side0 side1 side2 side3 | sort -u").says("1");
    // What was not there comes later.
    host.sh("mkdir there").ok();
    eventually("the last one", || host.sh("docker inspect -f '{{.State.Running}}' lacks").text() == "true");
    host.sh("docker inspect -f '{{.State.Status}}' off").says("exited");
}

/// What a boot is about to start has exited, to all who look, as at dockerd; it is not forgotten where the daemon is killed then.
#[test]
fn what_is_about_to_start_after_a_boot_has_exited() {
    const COUNT: usize = 24;
    let mut host = Daemon::start();
    let run = "docker run -d --network none --restart unless-stopped --name box$n busybox sleep 1000";
    host.sh(&format!("for n in $(seq {COUNT}); do {run} & done; wait")).ok();
    let keeper = host.keeper();
    host.kill9();
    host.sh(&format!("kill -9 {keeper}")).ok();
    std::fs::write(host.run_dir().join("boot_id"), "another").expect("write");
    host.restart();
    host.kill9();
    host.restart();
    let mut seen = std::collections::BTreeSet::new();
    eventually("all to run", || {
        let states = host.sh("docker ps -a --format '{{.State}}'").ok().text().to_owned();
        seen.extend(states.lines().map(str::to_owned));
        states.lines().filter(|state| *state == "running").count() == COUNT
    });
    assert!(seen.iter().all(|state| state == "exited" || state == "running"), "{seen:?}");
}

#[test]
fn a_run_directory_belongs_to_one_data_directory() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    let (daemon, run, data) = (host.pid(), host.run_dir().display().to_string(), host.data().display().to_string());
    let belongs = format!("the run directory {run} belongs to the data directory {data}");
    let refused = |host: &Daemon, says: &str| {
        for clean in ["", "--clean"] {
            host.sh(&format!("timeout 60 $STRATUS daemon --data-dir $PWD/other --run-dir {run} {clean}"))
                .fails_with(says);
        }
        host.sh("test ! -e other").ok();
        assert!(std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists(), "the container was ended");
    };
    refused(&host, &format!("{belongs}, where a daemon runs (process {daemon})"));
    // What says so may be lost: the keeper knows it as well.
    host.kill9();
    refused(&host, &belongs);
    host.sh(&format!("rm {run}/daemon.lock")).ok();
    refused(&host, &belongs);
    // Nor does a data directory leave the keeper of what it runs.
    host.sh(&format!("timeout 60 $STRATUS daemon --data-dir {data} --run-dir $PWD/else"))
        .fails_with(&format!("is held in the run directory {run}"));
    host.restart();
    host.sh("docker inspect -f '{{.State.Pid}}' box").says(&pid);
    // The same directories, for a second one and for whoever cleans.
    for clean in ["", "--clean"] {
        host.sh(&format!("timeout 60 $STRATUS daemon --data-dir {data}/ --run-dir {run} {clean}"))
            .fails_with(&format!("stop it first (kill {}", host.pid()));
    }
    host.sh("docker exec box true").ok();
    // A keeper that has gone on as another program says it as well.
    host.upgrade();
    host.kill9();
    host.sh(&format!("rm {run}/daemon.lock")).ok();
    refused(&host, &belongs);
    // Once nothing runs, it may go with another.
    host.sh(&format!("$STRATUS daemon --data-dir {data} --run-dir {run} --clean")).ok();
    host.sh(&format!("$STRATUS daemon --data-dir $PWD/other --run-dir {run} --clean && test ! -e other")).ok();
    let cleaned = host.sh("date -u +%s").text().to_owned();
    host.restart();
    // It ended then, and by that.
    host.sh("docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}' box")
        .says("exited 137 ended by stratus daemon --clean");
    host.sh(&format!("test $(date -d $(docker inspect -f '{{{{.State.FinishedAt}}}}' box) +%s) -le {cleaned}")).ok();
    host.sh("docker start box && docker exec box true").ok();
    // The same where nothing of the run directory is left.
    host.stop();
    host.sh(&format!("$STRATUS daemon --data-dir {data} --run-dir {run} --clean && rm -r {run}")).ok();
    host.restart();
    host.sh("docker inspect -f '{{.State.ExitCode}} {{.State.Error}}' box").says("137 ended by stratus daemon --clean");
}

#[test]
fn further_processes_outlive_the_daemon() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name box --health-cmd 'sleep 1003' --health-interval 1s --health-timeout 1h busybox sleep 1000").ok();
    host.sh("docker exec -d box sh -c 'sleep 1001; true'").ok();
    let _attached = host.session("docker exec box sh -c 'sleep 1002; true'");
    let runs = |host: &Daemon, seconds: u32| host.sh("docker top box").text().contains(&format!("sleep {seconds}"));
    eventually("all of them", || [1001, 1002, 1003].into_iter().all(|seconds| runs(&host, seconds)));
    let check = host.sh("docker top box | awk '/sleep 1003/ {print $2}'").text().replace('\n', " ");
    host.kill9();
    host.restart();
    host.sh("docker exec box true").ok();
    assert!(runs(&host, 1001) && runs(&host, 1002));
    // Nobody waits for the check any more: it is ended, and another begun.
    eventually("the end of the check", || host.sh(&format!("kill -0 {check}")).code() != 0);
    // Its end is nothing to anybody, and what it was is forgotten.
    host.sh("docker top box | awk '/sleep 100[12]/ {print $2}' | xargs kill").ok();
    eventually("their end", || !runs(&host, 1001) && !runs(&host, 1002));
    host.sh("docker rm -f box").says("box");
}

#[test]
fn a_daemon_that_cannot_listen_leaves_no_keeper() {
    let host = Daemon::start();
    let bridge = format!("sx{}", std::process::id());
    let daemon = format!("timeout 60 $STRATUS daemon --data-dir $PWD/d --bridge {bridge}");
    // Were a keeper left, the second run directory would be refused.
    for run in ["first", "second"] {
        host.sh(&format!("{daemon} --run-dir $PWD/{run} --host unix://$PWD"))
            .fails_with("is there already, and is no socket");
        host.sh(&format!("! pgrep -f -- \"--run-dir $PWD/{run}\"")).ok();
    }
    // Nor is one where it was there already.
    let taken = host.sh("docker network inspect bridge -f '{{(index .IPAM.Config 0).Subnet}}'").text().to_owned();
    for run in ["third", "fourth"] {
        host.sh(&format!("{daemon} --run-dir $PWD/{run} --default-address-pool {taken},size=24"))
            .fails_with(&format!("no subnet left for the default bridge, as {taken} is routed by"));
        host.sh(&format!("! pgrep -f -- \"--run-dir $PWD/{run}\"")).ok();
    }
    host.sh(&format!("{daemon} --run-dir $PWD/fourth --clean")).ok();
}

#[test]
fn a_daemon_says_what_it_can_not_do() {
    let host = Daemon::start();
    let refused = |flags: &str, says: &str| {
        host.sh(&format!("timeout 60 $STRATUS daemon --data-dir $PWD/d --run-dir $PWD/r {flags}")).fails_with(says);
        host.sh("test ! -e d && test ! -e r").ok();
    };
    refused("--log-driver syslog", "no log driver named 'syslog'");
    refused("--log-opt bogus=1", "unknown log opt 'bogus'");
    refused("--log-opt max-size=x", "invalid size: 'x'");
    refused("--dns foo", "dns foo: a DNS server is given by its IP address");
    refused("--registry-mirror foo", "registry-mirror foo: write its address");
    refused("--log-level loud", "log-level loud: write error, warn, info");
    host.sh("printf 'log-format = \"loud\"' > daemon.toml").ok();
    refused("--config daemon.toml", "log-format loud: write text or json");
    let as_nobody =
        "cp $STRATUS ./program && chmod 755 . program && setpriv --reuid 65534 --regid 65534 --clear-groups";
    host.sh(&format!("{as_nobody} ./program daemon --data-dir $PWD/d --run-dir $PWD/r")).fails_with("must be root");
    host.sh("test ! -e d && test ! -e r").ok();
}

/// Stops a process, all of its threads.
fn stops(host: &Daemon, process: u32) {
    host.sh(&format!("kill -STOP {process}")).ok();
    let stopped = format!("for status in /proc/{process}/task/*/status; do grep -q 'State:.T' $status || exit 1; done");
    eventually("it to be stopped", || host.sh(&stopped).code() == 0);
}

/// Whoever needs a stopped keeper waits, as what stopped it may pass; the log and `info` say why.
#[test]
fn a_keeper_that_is_stopped_under_a_daemon_is_told() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let keeper = host.keeper();
    stops(&host, keeper);
    let mut exec = host.session("docker exec box echo done");
    let told = format!("the keeper (process {keeper}) does not answer");
    eventually("a line of the log", || host.log().contains(&told));
    host.sh("docker info 2>&1").mentions(&format!("WARNING: {told}")).mentions("kill -CONT");
    host.sh("$STRATUS info").ok().complains(&format!("warning: {told}"));
    host.sh("docker ps --format '{{.Names}}'").says("box");
    host.sh(&format!("kill -CONT {keeper}")).ok();
    assert_eq!(exec.exit_code(), 0, "{}", exec.output());
    eventually("another line", || host.log().contains("the keeper answers again"));
    host.sh("docker info 2>&1").omits(&told);
}

/// What runs is not ended by a start: whatever holds the keeper up may pass. To take everything down is another matter.
#[test]
fn a_keeper_that_is_stopped_is_told_by_a_start_and_ended_by_clean() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name box -p $PORT:80 busybox sleep 1000").ok();
    let box_pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    let (keeper, forwarder) = (host.keeper(), host.forwarder());
    host.stop();
    stops(&host, keeper);
    host.fails_to_start().complains(&format!("the keeper (process {keeper}) does not answer")).complains("kill -CONT");
    host.sh(&format!("kill -0 {box_pid} && kill -CONT {keeper}")).ok();
    host.restart();
    host.sh("docker exec box true").ok();
    host.stop();
    stops(&host, keeper);
    stops(&host, forwarder);
    let clean =
        format!("$STRATUS daemon --clean --data-dir {} --run-dir {}", host.data().display(), host.run_dir().display());
    host.sh(&clean)
        .mentions(&format!("ended 1 container, the keeper (process {keeper}, killed as it did not answer within"))
        .mentions("the forwarder of ports");
    for ended in [&box_pid, &keeper.to_string(), &forwarder.to_string()] {
        // Whoever is the parent of orphans reaps it in its own time.
        eventually("the end of it", || host.sh(&format!("kill -0 {ended}")).code() != 0);
    }
    host.restart();
    host.sh("docker inspect -f '{{.State.Status}}' box").says("exited");
    host.sh("docker start box && docker exec box true").ok();
}
