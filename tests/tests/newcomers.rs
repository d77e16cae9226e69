//! Who comes from docker: what they type, and what they are told where that is wrong or not there.

use e2e::Daemon;

#[test]
fn commands_that_are_docker_s_alone_show_the_way() {
    let host = Daemon::start();
    let socket = format!("unix://{}", host.socket().display());
    host.sh("$STRATUS compose up -d").exits_with(2).complains(&format!("DOCKER_HOST={socket} docker compose up"));
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
        ("--storage-opt size=1g", "--storage-opt size is not supported"),
    ] {
        for command in ["$STRATUS", "docker"] {
            host.sh(&format!("{command} run {wrong} busybox true")).exits_with(125).complains(says);
        }
    }
    host.sh("$STRATUS run --gpus some busybox").exits_with(2).complains("\"some\" is no number of processors");
    host.sh("$STRATUS run --device-read-bps sda:1m busybox").exits_with(2).complains("such as /dev/sda:10m");
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
    host.sh("$STRATUS run -p 1.2.3:80:80 busybox").exits_with(2).complains("\"1.2.3\" is no IP address");
    host.sh("$STRATUS run --add-host db:1.2.3 busybox").complains("\"1.2.3\" is no IP address: give NAME:ADDRESS");
    host.sh("$STRATUS run --add-host db busybox").complains("\"db\" has no address: give NAME:ADDRESS");
    for command in ["$STRATUS", "docker"] {
        host.sh(&format!("{command} run --log-opt max-size=huge busybox true"))
            .exits_with(125)
            .complains("log-opt max-size: invalid size: 'huge'");
    }
    host.sh("$STRATUS run --pids-limit x busybox")
        .exits_with(2)
        .complains("'--pids-limit <NUMBER>': give a whole number");
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
