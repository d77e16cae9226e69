//! The whole: `version`, `info`, `events`, `stats`, `top`, `df`, and what inspection shows.

use std::collections::BTreeMap;

use e2e::{Daemon, eventually};

#[test]
fn who_is_there() {
    let host = Daemon::start();
    host.sh("docker version -f '{{.Server.APIVersion}} {{.Server.MinAPIVersion}} {{.Server.Os}}'")
        .says("1.50 1.24 linux");
    host.sh("docker version").mentions("Server: stratus").mentions("Version:          28.2.2");
    // Clients compare the version of Docker; ours stands beside it.
    host.sh("docker version -f '{{.Server.Version}}'").says("28.2.2");
    host.sh("docker info -f '{{.ServerVersion}}'").says("28.2.2");
    let own = env!("CARGO_PKG_VERSION");
    host.sh("docker version -f '{{.Server.Platform.Name}}'").says(&format!("stratus {own}"));
    host.sh("docker version -f '{{range .Server.Components}}{{.Name}} {{.Version}};{{end}}'")
        .says(&format!("Engine 28.2.2;stratus {own};"));
    host.sh("$STRATUS --host $DOCKER_HOST version").mentions(own);
    host.sh("DOCKER_API_VERSION=1.24 docker version -f '{{.Client.APIVersion}}'").says("1.24");
    host.sh("DOCKER_API_VERSION=1.24 docker run --rm busybox echo old").says("old");
    host.sh("DOCKER_API_VERSION=1.23 docker ps").fails_with("client version 1.23 is too old");
    host.sh("DOCKER_API_VERSION=1.99 docker ps")
        .fails_with("client version 1.99 is too new. Maximum supported API version is 1.50");
    host.sh("docker run -d --name runs busybox sleep 1000 && docker create busybox && docker run -d --name paused busybox sleep 1000 && docker pause paused").ok();
    host.sh("docker info -f '{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Images}}'").says("3 1 1 1 1");
    host.sh("docker info -f '{{.OSType}} {{.NCPU}} {{.LiveRestoreEnabled}}'")
        .says(&format!("linux {} true", host.sh("nproc").text()));
    host.sh("docker info").mentions("Storage Driver:").mentions("Cgroup Version:").mentions("Kernel Version:");
    host.sh("docker swarm init").fails_with("");
    host.sh("docker node ls").fails_with("This node is not a swarm manager");
    host.sh("docker plugin ls -q").says("");
    // The client asks no daemon for checkpoints that is not experimental; others do.
    for asked in [
        "GET /containers/runs/checkpoints",
        "POST /containers/runs/checkpoints",
        "DELETE /containers/runs/checkpoints/one",
    ] {
        let answer = host.ask(asked, "").expect("an answer");
        assert_eq!(answer.status, 501, "{answer:?}");
        assert!(answer.text().contains("stratus does not support checkpoints"), "{answer:?}");
    }
    let answer = host.ask("POST /containers/runs/start?checkpoint=one", "").expect("an answer");
    assert_eq!((answer.status, answer.text().contains("does not support checkpoints")), (400, true), "{answer:?}");
}

/// What `info` says of limits is what the kernel says of them, on whatever version of cgroups there is.
#[test]
fn what_the_kernel_can_limit() {
    let host = Daemon::start_with(&["--registry-mirror", "https://mirror.example", "--insecure-registry", "r.example"]);
    let has_file = |controller: &str, file: &str| {
        format!(
            "mount=$(findmnt -n -t cgroup -O {controller} -o TARGET | head -n 1) && test -n \"$mount\" && test -e $mount/{file}"
        )
    };
    let is_v1 = !host.sh("findmnt -n -t cgroup -o TARGET").text().is_empty();
    host.sh("docker info -f '{{.CgroupVersion}}'").says(if is_v1 { "1" } else { "2" });
    let mut missing = Vec::new();
    for (field, controller, file, what) in [
        ("MemoryLimit", "memory", "memory.limit_in_bytes", "memory limit"),
        ("SwapLimit", "memory", "memory.memsw.limit_in_bytes", "swap limit"),
        ("CPUCfsPeriod", "cpu", "cpu.cfs_period_us", "cpu cfs period"),
        ("CPUCfsQuota", "cpu", "cpu.cfs_quota_us", "cpu cfs quota"),
        ("CPUShares", "cpu", "cpu.shares", "cpu shares"),
        ("CPUSet", "cpuset", "cpuset.cpus", "cpuset"),
        ("PidsLimit", "pids", "", ""),
    ] {
        let in_v2 = format!("grep -qw {controller} /sys/fs/cgroup/cgroup.controllers");
        let in_v2 = if field == "SwapLimit" { format!("{in_v2} && test -e /proc/swaps") } else { in_v2 };
        let there = if is_v1 { has_file(controller, file) } else { in_v2 };
        let there = host.sh(&format!("{there} && echo true || echo false")).text() == "true";
        host.sh(&format!("docker info -f '{{{{.{field}}}}}'")).says(&there.to_string());
        if !there && !what.is_empty() {
            missing.push(format!("WARNING: No {what} support"));
        }
    }
    host.sh("docker info -f '{{.OomKillDisable}} {{.IPv4Forwarding}}'").says(&format!("{is_v1} true"));
    let warnings = host.sh("docker info -f '{{range .Warnings}}{{println .}}{{end}}'").text().to_owned();
    let of_devices = |line: &&str| line.contains(" io.") || line.contains(" blkio ");
    assert_eq!(warnings.lines().filter(|line| !of_devices(line)).collect::<Vec<_>>(), missing);
    let api = "curl -s --unix-socket ${DOCKER_HOST#unix://} http://d";
    host.sh(&format!("{api}/v1.41/info | jq '.BridgeNfIptables, .KernelMemory'")).says("false\nfalse");
    host.sh(&format!("{api}/v1.50/info | jq '.BridgeNfIptables, .KernelMemory'")).says("null\nnull");
    host.sh(&format!("{api}/v1.48/info | jq .FirewallBackend")).says("null");
    let table =
        host.sh("docker info -f '{{.FirewallBackend.Driver}} {{index .FirewallBackend.Info 0}}'").text().to_owned();
    let table =
        table.strip_prefix("nftables [Table ").and_then(|rest| rest.strip_suffix(']')).expect("its rules").to_owned();
    host.sh(&format!("nft list table {table}")).mentions("chain");
    host.sh("docker info -f '{{json .RegistryConfig}}' | jq -c '[.Mirrors, .IndexConfigs[\"docker.io\"].Mirrors, .IndexConfigs[\"r.example\"].Secure]'")
        .says(r#"[["https://mirror.example/"],["https://mirror.example/"],false]"#);
    host.sh("docker info").mentions("Registry Mirrors:\n  https://mirror.example/");
}

/// Samples by name and labels, of metrics of which every line is as Prometheus' text format has it: each family's help and type
/// once and before its samples, which stand together.
#[track_caller]
fn samples(text: &str) -> BTreeMap<String, f64> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
    let (mut helped, mut family) = (String::new(), String::new());
    assert!(text.ends_with('\n'), "the last line has no end: {text}");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect(line);
            assert!(is_name(name) && !words.trim().is_empty(), "{line}");
            name.clone_into(&mut helped);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert_eq!(name, helped, "{line}");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            // What only grows is named so, and nothing else.
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(families.insert(name.to_owned(), kind).is_none(), "{line} is there twice");
            name.clone_into(&mut family);
        } else {
            let (series, value) = line.rsplit_once(' ').expect(line);
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            assert_eq!(name, family, "{line} stands with others");
            for label in labels.strip_suffix('}').expect(line).split(',').filter(|label| !label.is_empty()) {
                let (label, text) = label.split_once("=\"").expect(line);
                let text = text.strip_suffix('"').expect(line);
                assert!(is_name(label) && !text.contains(['"', '\\']), "{line}");
            }
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(value >= 0.0 && samples.insert(series.to_owned(), value).is_none(), "{line}");
        }
    }
    for family in families.keys() {
        assert!(samples.keys().any(|series| series.split('{').next() == Some(family)), "{family} has no sample");
    }
    samples
}

#[test]
fn metrics() {
    let mut host = Daemon::start();
    let address = format!("127.0.0.1:{}", host.port());
    host.restart_with(&["--metrics-addr", &address]);
    // Who is answered by the daemon is answered there, too.
    host.sh("curl -s -m 60 -i http://127.0.0.1:$PORT/nothing").mentions("HTTP/1.1 404 ");
    host.sh("curl -s -m 5 -D - -o /dev/null http://127.0.0.1:$PORT/metrics")
        .mentions("HTTP/1.1 200 OK")
        .mentions("Content-Type: text/plain; version=0.0.4");
    let read = |host: &Daemon| samples(host.sh("curl -s -m 5 http://127.0.0.1:$PORT/metrics?with=more").ok().stdout());
    let before = read(&host);
    assert_eq!(before[&format!("stratus_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))], 1.0);
    assert_eq!((before["stratus_images"], before["stratus_containers{state=\"running\"}"]), (1.0, 0.0));
    assert!(before["process_resident_memory_bytes"] > 0.0 && before["process_open_fds"] > 0.0);

    host.sh("docker run --rm busybox true").ok();
    host.sh("docker run busybox /nonsense").exits_with(127);
    host.sh("docker run -d --name box busybox sleep 1000 && docker exec box true && docker exec -d box true").ok();
    host.sh("docker exec box /nonsense").exits_with(127);
    host.sh("docker run -d --name paused busybox sleep 1000 && docker pause paused && docker create busybox").ok();
    let after = read(&host);
    let grown = |series: &str| after[series] - before[series];
    assert_eq!(grown("stratus_container_starts_total"), 3.0);
    assert_eq!(grown("stratus_container_start_failures_total"), 1.0);
    assert_eq!(grown("stratus_container_ends_total"), 1.0);
    assert_eq!(grown("stratus_container_oom_kills_total"), 0.0);
    assert_eq!(grown("stratus_execs_total"), 2.0);
    assert!(grown("process_cpu_seconds_total") > 0.0);
    for (state, count) in [("running", 1.0), ("paused", 1.0), ("stopped", 2.0)] {
        assert_eq!(after[&format!("stratus_containers{{state=\"{state}\"}}")], count, "{state}");
    }
    // They begin anew with the daemon, as counts do at Prometheus.
    host.restart();
    let begun = read(&host);
    assert_eq!(begun["stratus_container_starts_total"], 0.0);
    assert_eq!(begun["stratus_containers{state=\"running\"}"], 1.0);
}

#[test]
fn events() {
    let host = Daemon::start();
    let mut all = host.session("docker events --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'");
    // It listens once it hears something.
    eventually("it to listen", || {
        host.sh("docker tag busybox tagged").ok();
        !all.output().is_empty()
    });
    host.sh("docker run --rm --name box -l tier=front busybox sh -c 'exit 3'").exits_with(3);
    host.sh("docker volume create data && docker volume rm data && docker network create net && docker network rm net")
        .ok();
    all.waits_for("network destroy net");
    let seen: Vec<String> =
        all.output().lines().filter(|line| line.starts_with("container ")).map(str::to_owned).collect();
    assert_eq!(seen, ["create", "attach", "start", "die", "destroy"].map(|action| format!("container {action} box")));
    for line in [
        "network connect bridge",
        "network disconnect bridge",
        "volume create ",
        "volume destroy ",
        "image tag tagged:latest",
    ] {
        all.waits_for(line);
    }
    all.signal("INT");
    all.exit_code();
    let past = |filter: &str| {
        host.sh(&format!(
            "docker events --since 1h --until $(date +%s.%N) {filter} --format '{{{{.Action}}}}' | sort -u | xargs"
        ))
        .text()
        .to_owned()
    };
    assert_eq!(past("-f type=volume"), "create destroy");
    assert_eq!(past("-f container=box"), "attach create destroy die start");
    assert_eq!(past("-f container=box -f event=die -f event=start"), "die start");
    assert_eq!(past("-f label=tier=front -f event=die"), "die");
    assert_eq!(past("-f label=tier=back"), "");
    assert_eq!(past("-f network=net"), "create destroy");
    assert_eq!(past("-f image=busybox -f event=start"), "start");
    // Either end of the time is enough to see what was.
    host.sh("docker events --until $(date +%s.%N) -f event=die --format '{{.Action}}' | sort -u").says("die");
    host.sh("docker events --since 0 --until $(date +%s.%N) -f event=die --format '{{.Action}}' | sort -u").says("die");
    host.sh("docker events --since 1h --until $(date +%s.%N) -f event=die --format '{{.Actor.Attributes.exitCode}} {{.Actor.Attributes.tier}} {{.Actor.Attributes.image}}'")
        .says("3 front busybox");
    host.sh("docker events --since 1h --until $(date +%s.%N) -f event=die --format '{{json .}}' | jq -r '.scope,.status,.from,.id|length > 0' | sort -u").says("true");
}

#[test]
fn what_runs_and_what_it_takes() {
    let host = Daemon::start();
    host.sh("docker run -d --name box -m 64m busybox sh -c 'sleep 1000 & sleep 2000 & wait'").ok();
    eventually("both", || host.sh("docker top box").lines().len() == 4);
    host.sh("docker top box").mentions("PID").mentions("sleep 2000");
    host.sh("docker top box -o pid,comm").mentions("COMMAND").mentions("sleep").omits("TTY");
    host.sh("docker top box -o nonsense").fails_with("");
    let stats = host.sh("docker stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}} {{.CPUPerc}} {{.NetIO}} {{.BlockIO}}' box").text().to_owned();
    assert!(stats.starts_with("box 3 ") && stats.contains("/ 64MiB") && stats.contains('%'), "{stats}");
    host.sh("docker stats --no-stream -a --format '{{.Name}}'").says("box");
    host.sh("docker stats --no-stream nobody").fails_with("No such container: nobody");
    let live = host.session("docker stats --format '{{.Name}}' box");
    live.waits_until("two rounds", |output| output.matches("box").count() >= 2);
    drop(live);
    host.sh("docker stop -t 0 box && docker top box").fails_with("is not running");
}

#[test]
fn disk_usage_and_prune() {
    let host = Daemon::start();
    host.sh("docker run --name box -v data:/data busybox sh -c 'head -c 100000 /dev/zero > /x; head -c 50000 /dev/zero > /data/y'").ok();
    host.sh("docker system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'")
        .says("Images 1 1\nContainers 1 0\nLocal Volumes 1 1\nBuild Cache 0 0");
    host.sh("docker system df -v --format '{{json .}}' | jq -r '.Volumes[0].Name'").says("data");
    host.sh("docker ps -as --format '{{.Size}}'").mentions("kB (virtual ");
    host.sh("docker system prune -af --volumes").mentions("Deleted Containers:").mentions("Total reclaimed space: ");
    host.sh("docker ps -aq; docker images -q").says("");
    host.sh("docker volume ls -q").says("data");
}

#[test]
fn what_inspection_shows() {
    let host = Daemon::start();
    host.sh("docker run -d --name box --hostname h -m 64m --cpus 0.5 --restart always -l a=b -e X=y -w /tmp --user nobody --cap-add NET_ADMIN --dns 10.1.1.1 --init busybox sleep 1000").ok();
    let says = |template: &str, text: &str| {
        host.sh(&format!("docker inspect -f '{{{{{template}}}}}' box")).says(text);
    };
    says(".Name", "/box");
    says(".Path", "sleep");
    says("json .Args", "[\"1000\"]");
    says(".Config.Image", "busybox");
    says(".Config.Hostname", "h");
    says(".Config.User", "nobody");
    says(".Config.WorkingDir", "/tmp");
    says(".Config.Labels.a", "b");
    says("json .Config.Env", "[\"X=y\",\"PATH=/bin\"]");
    says("json .Config.Cmd", "[\"sleep\",\"1000\"]");
    says(".HostConfig.Memory", "67108864");
    says(".HostConfig.MemorySwap", "134217728");
    says(".HostConfig.NanoCpus", "500000000");
    says(".HostConfig.RestartPolicy.Name", "always");
    says(".HostConfig.NetworkMode", "bridge");
    says("json .HostConfig.CapAdd", "[\"CAP_NET_ADMIN\"]");
    says("json .HostConfig.Dns", "[\"10.1.1.1\"]");
    says(".HostConfig.Init", "true");
    says(".HostConfig.ShmSize", "67108864");
    says("json .Mounts", "[]");
    says(".State.Running", "true");
    says("gt .State.Pid 1", "true");
    says(".RestartCount", "0");
    says(".Driver", "overlay2");
    says(".Platform", "linux");
    says(".NetworkSettings.Networks.bridge.IPPrefixLen", "24");
    says("json .NetworkSettings.Ports", "{}");
    says("len .Id", "64");
    says("slice .Image 0 7", "sha256:");
    host.sh("docker inspect -s -f '{{.SizeRootFs}}' box").number();
    host.sh("docker inspect -f '{{.Nonsense}}' box").fails_with("");
    let whole = host.sh("docker inspect box").json();
    assert_eq!(whole[0]["State"]["Status"], "running");
}
