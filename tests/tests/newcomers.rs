//! Who comes from docker: what they type, and what they are told where that is wrong or not there.

use e2e::{Daemon, Registry, eventually};

#[test]
fn commands_that_are_docker_s_alone_show_the_way() {
    let host = Daemon::start();
    let socket = format!("unix://{}", host.socket().display());
    host.sh("$STRATUS compose up -d").exits_with(2).complains(&format!("DOCKER_HOST={socket} docker compose up"));
    host.sh("$STRATUS compose up -d").complains(" docker-compose up");
    host.sh("$STRATUS context use other")
        .exits_with(2)
        .complains(&format!("--docker host={socket}"))
        .complains("--host URL");
    host.sh("$STRATUS swarm init").exits_with(2).complains("no Swarm");
    host.sh("$STRATUS nonsense").exits_with(2).complains("unrecognized subcommand 'nonsense'");
}

#[test]
fn a_format_of_docker_s_is_taken_where_it_is_json() {
    let host = Daemon::start();
    host.sh("docker create --name box busybox").ok();
    for format in ["json", "'{{json .}}'", "'{{ json . }}'"] {
        host.sh(&format!("$STRATUS ps -a --format {format} | jq -r '.[0].Names[0]'")).says("/box");
        host.sh(&format!("$STRATUS inspect -f {format} box | jq -r '.[0].Name'")).says("/box");
    }
    for command in
        ["images", "info", "version", "network ls", "volume ls", "system df", "history busybox", "container ls"]
    {
        host.sh(&format!("$STRATUS {command} --format json | jq -e . >/dev/null")).ok();
    }
    host.sh("$STRATUS ps --format table").mentions("IMAGE");
    host.sh("$STRATUS ps --format '{{.Names}}'")
        .exits_with(2)
        .complains("no templates such as \"{{.Names}}\"")
        .complains("jq");
    host.sh("$STRATUS inspect -f '{{.State}}' box").exits_with(2).complains("jq -r '.[0].State.Status'");
    host.sh("$STRATUS save --output x.tar busybox").exits_with(2).complains("write table or json").complains("-o");
}

#[test]
fn the_id_goes_into_a_file_for_scripts() {
    let host = Daemon::start();
    host.sh("$STRATUS run --cidfile id --name box busybox true && test $(cat id) = $(docker inspect -f '{{.Id}}' box)")
        .ok();
    host.sh("test $(docker inspect -f '{{.HostConfig.ContainerIDFile}}' box) = id").ok();
    // As docker does, which is asked the same.
    host.sh("wc -c < id").says("64");
    for command in ["$STRATUS", "docker"] {
        host.sh(&format!("{command} run --cidfile id busybox true")).exits_with(125).complains("id");
        host.sh(&format!("{command} create --cidfile nowhere/id busybox")).exits_with(1).complains("nowhere/id");
        host.sh(&format!("{command} create --cidfile none --name box busybox")).fails_with("is already in use");
        host.sh("test ! -e none").ok();
    }
    host.sh("test $($STRATUS create --cidfile other busybox) = $(cat other) && docker ps -aq | wc -l").says("2");
}

#[test]
fn limits_and_devices_are_asked_for_as_docker_does() {
    let host = Daemon::start();
    // Nobody looks before it is started what that is.
    let disk = "/dev/null";
    let flags = format!(
        "--blkio-weight 300 --blkio-weight-device {disk}:400 --device-read-bps {disk}:1m --device-write-bps {disk}:2mb \
         --device-read-iops {disk}:30 --device-write-iops {disk}:40 --memory 32m --memory-swappiness 10 \
         --device-cgroup-rule 'c 10:* rw' --cpu-shares 700 --runtime runc --ulimit nofile=9:10 --oom-score-adj 5"
    );
    host.sh(&format!("$STRATUS create --name ours {flags} busybox && docker create --name theirs {flags} busybox"))
        .ok();
    let shown = |name: &str| {
        host.sh(&format!("docker inspect -f '{{{{json .HostConfig}}}}' {name} | jq -S 'del(.ConsoleSize)'"))
    };
    assert_eq!(shown("ours").text(), shown("theirs").text());
    for (wrong, says) in [
        ("--runtime kata", "unknown or invalid runtime name: kata"),
        ("--gpus all", "could not select device driver \"\" with capabilities: [[gpu]]"),
        ("--storage-opt size=1g", "--storage-opt is supported only for overlay over xfs"),
    ] {
        for command in ["$STRATUS", "docker"] {
            host.sh(&format!("{command} run {wrong} busybox true")).exits_with(125).complains(says);
        }
    }
    host.sh("$STRATUS run --gpus some busybox").exits_with(125).complains("\"some\" is no number of processors");
    host.sh("$STRATUS run --device-read-bps sda:1m busybox").exits_with(125).complains("such as /dev/sda:10m");
    host.sh("$STRATUS update --blkio-weight 500 ours").says("ours");
}

#[test]
fn only_the_streams_that_are_asked_for_are_tied_to_the_terminal() {
    let host = Daemon::start();
    // Both ways it is what docker does.
    for command in ["$STRATUS", "docker"] {
        let both = format!("{command} run --rm %FLAGS% busybox sh -c 'cat; echo out; echo err >&2'");
        let with = |flags: &str| host.sh(&format!("echo in | {} 2>err; echo; cat err", both.replace("%FLAGS%", flags)));
        with("-a stdout").says("out");
        with("-a stderr").says("err");
        with("-a STDOUT -a stderr").says("out\n\nerr");
        with("-i -a stdin -a stdout").says("in\nout");
        host.sh(&format!("echo in | {command} run -i -a stdin --name box busybox cat")).says("");
        host.sh("docker logs box && docker rm box").says("in\nbox");
        host.sh(&format!("{command} run -d -a stdout busybox")).fails_with("");
    }
    host.sh("$STRATUS create -a stderr --name box busybox && docker inspect -f '{{.Config.AttachStdout}} {{.Config.AttachStderr}}' box")
        .mentions("false true");
}

#[test]
fn flags_of_networks_and_images() {
    let host = Daemon::start();
    let net = host.addresses().replace(".0.0/16", ".200");
    host.sh(&format!(
        "$STRATUS network create --attachable --ipam-driver default --ipam-opt a=b --ipv4 --subnet {net}.0/24 net"
    ))
    .ok();
    host.sh("docker network inspect -f '{{.Attachable}} {{.EnableIPv4}} {{.IPAM.Options.a}}' net").says("true true b");
    host.sh("$STRATUS network create --ipv4=false unaddressed").fails_with("IPv4 or IPv6 must be enabled");
    host.sh("$STRATUS create --name box busybox && $STRATUS network connect --gw-priority 7 --driver-opt x=y --link-local-ip 169.254.1.1 net box").ok();
    host.sh("docker inspect -f '{{with .NetworkSettings.Networks.net}}{{.GwPriority}} {{.DriverOpts.x}} {{.IPAMConfig.LinkLocalIPs}}{{end}}' box")
        .says("7 y [169.254.1.1]");
    host.sh("$STRATUS create --network net --link-local-ip 169.254.1.2 --name other busybox").ok();
    host.sh("docker inspect -f '{{.NetworkSettings.Networks.net.IPAMConfig.LinkLocalIPs}}' other")
        .says("[169.254.1.2]");
    assert_eq!(
        host.sh("$STRATUS history -q --no-trunc busybox").text(),
        host.sh("docker history -q --no-trunc busybox").text()
    );
    host.sh(
        "$STRATUS history --human=false busybox | tail -n 1 | grep -cE ' [0-9]{4}-[0-9-]+T[0-9:]+Z .* [0-9]+( |$)'",
    )
    .says("1");
    let own = host.sh("docker version -f '{{.Server.Os}}/{{.Server.Arch}}'").text().to_owned();
    host.sh(&format!(
        "$STRATUS save --platform {own} -o saved.tar busybox && $STRATUS load --platform {own} -qi saved.tar"
    ))
    .ok();
    for command in ["save -o other.tar", "history", "push"] {
        host.sh(&format!("$STRATUS {command} --platform linux/s390x busybox")).exits_with(1).complains("linux/s390x");
        host.sh(&format!("$STRATUS {command} --platform a/b/c/d busybox")).exits_with(2).complains("is no platform");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let host = Daemon::start();
    host.sh("$STRATUS run -p 1.2.3:80:80 busybox").exits_with(125).complains("\"1.2.3\" is no IP address");
    host.sh("$STRATUS run --add-host db:1.2.3 busybox").complains("\"1.2.3\" is no IP address: give NAME:ADDRESS");
    host.sh("$STRATUS run --add-host db busybox").complains("\"db\" has no address: give NAME:ADDRESS");
    for command in ["$STRATUS", "docker"] {
        host.sh(&format!("{command} run --log-opt max-size=huge busybox true"))
            .exits_with(125)
            .complains("log-opt max-size: invalid size: 'huge'");
    }
    host.sh("$STRATUS run --pids-limit x busybox")
        .exits_with(125)
        .complains("'--pids-limit <NUMBER>': give a whole number");
    host.sh("$STRATUS cp noise web:").exits_with(2).complains("Its root is web:/");
    host.sh("$STRATUS run --label =x busybox").complains("\"=x\" is no label: give NAME=VALUE");
    for (list, knows) in
        [("ps", "ancestor"), ("images", "reference"), ("network ls", "scope"), ("volume ls", "dangling")]
    {
        host.sh(&format!("$STRATUS {list} -f colour=red"))
            .exits_with(2)
            .complains("invalid filter 'colour': there are ")
            .complains(knows);
    }
    host.sh("$STRATUS logs --tail x box").exits_with(2).complains("give a number of lines, or all");
    host.sh("$STRATUS network create --subnet nonsense net")
        .exits_with(2)
        .complains("\"nonsense\" is no subnet: give one such as");
    host.sh("docker tag busybox localhost:1/box && $STRATUS push localhost:1/box")
        .complains("The registry localhost:1 can't be reached");
    host.sh("$STRATUS save -o nowhere/x.tar busybox").exits_with(1).complains("creating nowhere/x.tar: No such file");
    host.sh("docker create --name box busybox && $STRATUS export -o nowhere/x.tar box")
        .exits_with(1)
        .complains("creating nowhere/x.tar: No such file");
    host.sh("head -c 2000 /dev/zero | tr '\\0' x > junk").ok();
    for command in ["load -i junk", "import junk"] {
        host.sh(&format!("$STRATUS {command}")).exits_with(1).complains("error: junk: ");
    }
    for command in ["load", "import -"] {
        host.sh(&format!("$STRATUS {command} < junk")).exits_with(1).complains("error: standard input: ");
    }
}

#[test]
fn what_is_pruned_stands_under_its_kind() {
    let host = Daemon::start();
    host.sh("docker create --name kept -v /data busybox && docker commit kept >/dev/null").ok();
    host.sh("docker create --name named busybox && docker rm -v kept >/dev/null && docker volume create >/dev/null && docker network create net").ok();
    let unnamed = host.sh("docker images -q --no-trunc --filter dangling=true").text().to_owned();
    host.sh(&format!("$STRATUS system df -v | grep '^<none>' | grep -c {}", &unnamed["sha256:".len()..][..12]))
        .says("1");
    let id = host.sh("docker ps -aq --no-trunc").text().to_owned();
    let volume = host.sh("docker volume ls -q").text().to_owned();
    let said = host.sh("$STRATUS system prune -f --volumes").text().to_owned();
    let start = format!(
        "Deleted Containers:\n{id}\n\nDeleted Networks:\nnet\n\nDeleted Volumes:\n{volume}\n\nDeleted Images:\nDeleted: {unnamed}\n"
    );
    assert!(said.starts_with(&start), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.starts_with("Total reclaimed space: ")), "{said}");
    // For programs, it is one document.
    host.sh("docker create busybox && docker network create net").ok();
    host.sh("$STRATUS system prune -f --output json | jq -c '[.ContainersDeleted, .NetworksDeleted | length]'")
        .says("[1,1]");
    host.sh("$STRATUS container prune -f").says("Total reclaimed space: 0B");
}

#[test]
fn three_signals_leave_a_container_that_heeds_none() {
    let host = Daemon::start();
    // A first process that has no handler takes neither.
    let mut run = host.session("$STRATUS run --name deaf busybox sleep 1000");
    eventually("it to run", || host.sh("docker ps -q | wc -l").number() == 1);
    for (count, name) in [(1, "INT"), (2, "TERM"), (3, "INT")] {
        run.signal(name);
        if count < 3 {
            let sent = "docker events --since 0 --until $(date +%s) --filter event=kill | wc -l";
            eventually("it to be passed on", || host.sh(sent).number() == count);
        }
    }
    assert_eq!(run.exit_code(), 1);
    run.waits_for("goes on after three signals");
    host.sh("docker ps --format '{{.Names}}'").says("deaf");
    host.sh("docker rm -f deaf").ok();
}

#[test]
fn who_follows_is_told_why_that_ends() {
    let mut host = Daemon::start();
    host.sh("docker run -d --name box busybox sh -c 'echo begun; sleep 1000'").ok();
    let mut logs = host.session("$STRATUS logs -f box");
    let mut events = host.session("$STRATUS events --since 0");
    logs.waits_for("begun");
    events.waits_for("container start");
    host.stop();
    for session in [&mut logs, &mut events] {
        assert_eq!(session.exit_code(), 1);
        session.waits_for("the daemon went away in the middle");
    }
    host.restart();
    // What ends by itself has its end.
    let mut logs = host.session("$STRATUS logs -f box");
    logs.waits_for("begun");
    host.sh("docker stop -t 0 box").ok();
    assert_eq!(logs.exit_code(), 0);
}

#[test]
fn a_keeper_that_died_is_told_to_who_waits() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let mut run = host.session("$STRATUS run --name front busybox sleep 1000");
    let mut exec = host.session("$STRATUS exec box sleep 1000");
    let runs = |name: &str, count: usize| {
        eventually(name, || host.sh(&format!("docker top {name}")).stdout().matches("sleep 1000").count() == count);
    };
    runs("front", 1);
    runs("box", 2);
    host.sh(&format!("kill -9 {}", host.keeper())).ok();
    for (session, code) in [(&mut run, 125), (&mut exec, 137)] {
        assert_eq!(session.exit_code(), code, "{}", session.output());
        session.waits_for("the keeper that held it ended");
    }
    eventually("the log", || host.log().contains("the keeper is gone"));
    assert!(!host.log().contains("that no record knows"), "{}", host.log());
}

#[test]
fn a_prune_frees_what_was_said_to_be_free() {
    let host = Daemon::start();
    let socket = host.socket().display().to_string();
    host.sh("docker run --name box busybox sh -c 'head -c 100000 /dev/urandom > /noise' && docker commit box own && docker rm box").ok();
    let size = host.sh(&format!("curl -s --unix-socket {socket} http://d/system/df | jq .LayersSize")).number();
    let prune = format!(
        "curl -s -G --unix-socket {socket} http://d/images/prune -X POST --data-urlencode 'filters={{\"dangling\":[\"false\"]}}'"
    );
    assert_eq!(host.sh(&format!("{prune} | jq .SpaceReclaimed")).number(), size);
}

#[test]
fn small_answers_are_right() {
    let host = Daemon::start();
    host.sh("docker run -d --name box -p $PORT:80 busybox true && docker wait box").ok();
    // It is no mistake in how it was asked.
    host.sh("$STRATUS port box 81").exits_with(1).complains("port 81/tcp of container box is not published");
    for what in ["exec box true", "top box", "pause box"] {
        host.sh(&format!("$STRATUS {what}")).fails_with("container box is not running");
    }
    for archive in ["save -o saved.tar busybox", "export -o saved.tar box"] {
        host.sh(&format!("umask 022; rm -f saved.tar; $STRATUS {archive} && stat -c %a saved.tar")).says("600");
    }
    host.sh("$STRATUS ps -aq --output json | jq -c 'map(length)'").says("[12]");
    host.sh("$STRATUS images -q --no-trunc --output json | jq -c 'map(length)'").says("[71]");
    host.sh("$STRATUS network ls -q --output json | jq length").says("3");
    host.sh("$STRATUS volume ls -q --output json").says("[]");
    let registry = Registry::start(&host);
    host.sh(&format!("$STRATUS -H tcp://{} usage", registry.name()))
        .exits_with(1)
        .complains("keeps no record of what ran");
    let name = format!("{}/box", registry.name());
    host.sh(&format!("docker tag busybox {name} && docker push -q {name}")).ok();
    host.sh(&format!("$STRATUS pull {name}")).mentions(&format!("{name}:latest"));
    // The registry has it for this machine alone, and the name has no index that would say so.
    for command in ["$STRATUS", "docker"] {
        host.sh(&format!("{command} pull --platform linux/s390x {name}"))
            .mentions("WARNING: image with reference")
            .mentions("does not match the specified platform (linux/s390x)");
        host.sh(&format!("{command} pull {name}")).omits("WARNING");
    }
    // Without a volume's directory it is the container that can't be made, and no program that is not there.
    host.sh("$STRATUS run --mount type=volume,src=data,dst=/d,volume-subpath=nothing busybox true").exits_with(125);
    host.sh("$STRATUS run -m -5 busybox").exits_with(125).complains("-5").spares("-- -5");
    host.sh("$STRATUS run --nosuch busybox").exits_with(125).complains("--nosuch").spares("-- --nosuch");
}

/// A daemon that may not lower it below its own says so where that was asked for, and is silent where nobody did.
#[test]
fn a_score_that_is_not_kept_is_told() {
    let host = Daemon::start();
    let may = host.sh("grep CapEff /proc/self/status | cut -f2").text().to_owned();
    let may = u64::from_str_radix(&may, 16).is_ok_and(|effective| effective >> 24 & 1 == 1);
    for command in ["$STRATUS", "docker"] {
        let told = host.sh(&format!("{command} create --oom-score-adj -900 busybox 2>&1")).text().to_owned();
        assert_eq!(told.contains("CAP_SYS_RESOURCE and can't lower oom_score_adj to -900"), !may, "{told}");
        host.sh(&format!("{command} create --oom-score-adj 900 busybox 2>&1")).omits("oom_score_adj");
    }
    host.sh("$STRATUS run --rm --userns private busybox true && docker run --rm busybox true").ok();
    assert!(!host.log().contains("oom_score_adj"), "{}", host.log());
}

/// What takes root asks for nothing else before, and who is told to type something can do so.
#[test]
fn what_takes_root_says_so_first() {
    let host = Daemon::start();
    let project = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    host.sh(&format!("chmod 755 . && mkdir place && cp {project}/Makefile place && chmod -R a+rX place")).ok();
    for target in ["run", "install"] {
        host.sh(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups make -C place {target}"))
            .exits_with(2)
            .complains(&format!("This takes root. Try again with: sudo make {target}"))
            .spares("Rust");
    }
}

#[test]
fn a_start_that_is_refused_leaves_nothing() {
    let host = Daemon::start();
    let work = host.work().display().to_string();
    for (name, flags) in [
        ("used", format!("--data-dir {} --run-dir {work}/used", host.data().display())),
        ("file", format!("--data-dir /etc/passwd --run-dir {work}/file")),
        (
            "bridge",
            format!(
                "--data-dir {work}/bridge --run-dir {work}/bridge-run --bridge $(docker network inspect bridge -f '{{{{index .Options \"com.docker.network.bridge.name\"}}}}')"
            ),
        ),
    ] {
        assert_ne!(
            host.sh(&format!("timeout 20 $STRATUS daemon {flags} --host unix://{work}/other.sock")).code(),
            0,
            "{name}"
        );
        host.sh(&format!("ls -d {work}/{name}* 2>/dev/null | wc -l")).says("0");
    }
}
