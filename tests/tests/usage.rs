//! What ran, and what it used.

use e2e::{Daemon, eventually};
use serde_json::Value;

fn usage(host: &Daemon, flags: &str) -> Value {
    host.sh(&format!("$STRATUS --host $DOCKER_HOST usage --output json {flags}")).ok().json()
}

/// Name, runs and running ones of each group.
fn groups(report: &Value, name: &str) -> Vec<(String, u64, u64)> {
    let groups = report["Groups"].as_array().expect("groups");
    let number = |group: &Value, field: &str| group[field].as_u64().expect("a number");
    let row = |group: &Value| {
        (group[name].as_str().unwrap_or_default().to_owned(), number(group, "Runs"), number(group, "Running"))
    };
    let mut rows: Vec<_> = groups.iter().map(row).collect();
    rows.sort();
    rows
}

fn row(name: &str, runs: u64, running: u64) -> (String, u64, u64) {
    (name.to_owned(), runs, running)
}

#[test]
fn what_ran_is_told_when_it_is_gone() {
    let mut host = Daemon::start();
    host.sh("docker tag busybox other").ok();
    let work = "dd if=/dev/zero of=/dev/null bs=1M count=2000; dd if=/dev/zero of=/f bs=1M count=4; sync /f";
    host.sh(&format!("docker run --name burner -l team=blue busybox sh -c '{work}' && docker start -a burner")).ok();
    host.sh("docker run --rm --network none -l team=red other true").ok();
    host.sh("docker run -d --name idle -l team=red busybox sh -c 'wget -q -T 1 http://127.0.0.1/; sleep 1000'").ok();
    let before = host.sh("date +%s.%N").text().to_owned();

    let all = usage(&host, "");
    assert_eq!(groups(&all, "Image"), [row("busybox", 1, 1), row("busybox", 2, 0), row("other", 1, 0)]);
    assert_eq!((all["Total"]["Runs"].as_u64(), all["Total"]["Running"].as_u64()), (Some(4), Some(1)));
    // The greatest consumer comes first.
    let first = &all["Groups"][0];
    assert_eq!((first["Name"].as_str(), first["Kind"].as_str()), (Some("burner"), Some("container")));
    assert!(
        first["VCPUSeconds"].as_f64() > Some(0.0)
            && first["Seconds"].as_f64() >= first["VCPUSeconds"].as_f64().map(|cpu| cpu / 64.0)
    );
    assert!(first["FirstStarted"].as_str() < first["LastEnded"].as_str(), "{first}");
    let sum: f64 =
        all["Groups"].as_array().expect("groups").iter().filter_map(|group| group["VCPUSeconds"].as_f64()).sum();
    assert!((all["Total"]["VCPUSeconds"].as_f64().expect("a number") - sum).abs() < 1e-6);

    let burner = |flags: &str| groups(&usage(&host, flags), "Name");
    host.sh("docker rm burner").ok();
    assert_eq!(burner("--filter container=burner"), [row("burner", 2, 0)]);
    let id = first["ID"].as_str().expect("an identifier");
    assert_eq!(burner(&format!("--filter container={}", &id[..12])), [row("burner", 2, 0)]);
    assert_eq!(burner("--filter label=team=blue --filter image=busybox:latest"), [row("burner", 2, 0)]);
    assert_eq!(burner("--filter kind=function"), []);
    assert_eq!(groups(&usage(&host, "--by image"), "Image"), [row("busybox", 3, 1), row("other", 1, 0)]);
    assert_eq!(groups(&usage(&host, "--by label=team"), "Label"), [row("blue", 2, 0), row("red", 2, 1)]);
    assert_eq!(burner(&format!("--since {before}")), [row("idle", 1, 1)]);
    assert_eq!(burner(&format!("--until {before} --filter label=team=red --filter container=idle")), []);
    assert_eq!(
        groups(&usage(&host, &format!("--by image --until {before}")), "Image"),
        [row("busybox", 2, 0), row("other", 1, 0)]
    );

    host.sh("$STRATUS --host $DOCKER_HOST usage")
        .mentions("VCPU-S")
        .mentions("burner")
        .mentions("running")
        .mentions("total");
    host.sh("$STRATUS --host $DOCKER_HOST usage --by label=team").mentions("TEAM").mentions("blue");
    host.sh("$STRATUS --host $DOCKER_HOST usage --by colour").fails_with("write container, image or label=NAME");
    host.sh("$STRATUS --host $DOCKER_HOST usage --filter colour=red").fails_with("invalid filter 'colour'");
    host.sh("$STRATUS --host $DOCKER_HOST usage --since 2026-02-30").fails_with("is no moment");
    let api = "curl -s --unix-socket ${DOCKER_HOST#unix://} 'http://d/stratus/usage?by=image'";
    host.sh(&format!("{api} | jq -r '.Groups | length'")).says("2");

    // Neither a killed daemon nor one that comes with less room forgets more than it has to.
    host.kill9();
    host.restart();
    assert_eq!(groups(&usage(&host, "--by label=team"), "Label"), [row("blue", 2, 0), row("red", 2, 1)]);
    host.sh("docker rm -f idle").ok();
    host.restart_with(&["--usage-runs", "2"]);
    eventually("the oldest runs to go", || groups(&usage(&host, ""), "Image").len() == 2);
    assert_eq!(groups(&usage(&host, ""), "Image"), [row("busybox", 1, 0), row("other", 1, 0)]);
}

#[test]
fn a_run_that_ends_while_no_daemon_runs_is_counted_until_then() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name early busybox sleep 1000").ok();
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' early").text().to_owned();
    host.kill9();
    host.sh(&format!("kill -9 {pid}")).ok();
    host.restart();
    host.sh("docker wait early").says("137");
    let report = usage(&host, "--filter container=early");
    let group = &report["Groups"][0];
    let ended = group["LastEnded"].as_str().expect("its end");
    let nanoseconds = |time: &str| host.sh(&format!("date -d '{time}' +%s%N")).text().parse::<u64>().expect("a time");
    let told = |field: &str| nanoseconds(host.sh(&format!("docker inspect -f '{{{{.State.{field}}}}}' early")).text());
    let (started, finished) = (told("StartedAt"), told("FinishedAt"));
    assert_eq!(nanoseconds(ended), finished, "{group}");
    let counted = group["Seconds"].as_f64().expect("a number");
    assert!(counted <= (finished - started) as f64 / 1e9, "{group}");
}

/// Its end is heard of before the daemon has taken up what runs, in the middle of that, or after it: the keeper is slow.
#[test]
fn a_run_that_ends_as_the_daemon_comes_is_counted_once() {
    let mut host = Daemon::start();
    let slow = format!("strace -p {} -e trace=recvmsg -e inject=recvmsg:delay_exit=30000 -o /dev/null", host.keeper());
    for round in 0..8 {
        let id = host.sh("docker run -d busybox sleep 1000").text().to_owned();
        let pid = host.sh(&format!("docker inspect -f '{{{{.State.Pid}}}}' {id}")).text().to_owned();
        host.kill9();
        let mut tracer = host.session(&slow);
        tracer.waits_for("attached");
        let killed = format!("sleep 0.{:03}; kill -9 {pid}", round * 30);
        let killer = std::thread::spawn(move || std::process::Command::new("sh").args(["-c", &killed]).status());
        host.restart();
        killer.join().expect("a thread").expect("a shell");
        tracer.signal("INT");
        tracer.exit_code();
        host.sh(&format!("docker wait {id}")).says("137");
        let report = usage(&host, &format!("--filter container={id}"));
        let total = &report["Total"];
        assert_eq!((total["Runs"].as_u64(), total["Running"].as_u64()), (Some(1), Some(0)), "{report:#}");
    }
}
