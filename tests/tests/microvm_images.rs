//! Images of microVMs: a Dockerfile becomes a machine that was saved when its program was ready, and what is run of it goes on from there.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::host;

/// Answers the hooks at port 9000: one HTTP request for each time that it is run. What it is told is in /hooks, and `/refuse-HOOK` has it refuse.
const HOOK: &str = r#"#!/bin/sh
read -r method path version
length=0
while read -r line; do
    line=$(printf %s "$line" | tr -d '\r')
    case $line in "") break ;; [Cc]ontent-[Ll]ength:*) length=${line#*: } ;; esac
done
body=$(head -c "$length")
hook=${path##*/}
echo $hook $body >>/hooks
[ -e "/refuse-$hook" ] && status='500 not now' || status='200 OK'
[ "$hook" = ready ] && [ ! -e /warm ] && status='503 soon' && touch /warm
printf 'HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$status"
"#;

/// A service that takes its time to start, and counts how often it did.
const START: &str = r"#!/bin/sh
echo started | tee -a /starts
mkdir /www && hostname >/www/index.html && httpd -h /www -p 80
exec nc -ll -p 9000 -e /hook
";

fn write_project(host: &Daemon) {
    let project = host.work().join("web");
    std::fs::create_dir(&project).unwrap();
    for (name, text) in [
        ("Dockerfile", "FROM busybox\nCOPY --chmod=755 hook start /\nCMD [\"/start\"]\n"),
        ("hook", HOOK),
        ("start", START),
    ] {
        std::fs::write(project.join(name), text).unwrap();
    }
}

#[test]
fn what_is_run_of_an_image_is_up_already() {
    let mut host = host();
    write_project(&host);
    let hooks =
        "--hooks-port 9000 --hook ready=60 --hook validate --hook run=5 --hook suspend --hook resume --hook terminate";
    host.slowly(&format!("$STRATUS microvm image build -t web --ready-port 80 {hooks} web")).says("web:1");
    host.sh("$STRATUS microvm image ls").mentions("web:1");
    // Nothing runs, and nothing but the image is left.
    host.sh("docker ps -aq").says("");
    host.sh("docker image prune -f").ok();
    host.sh("docker rmi -f $(docker images -aq --filter dangling=true)").exits_with(1).complains("machine image web:1");

    host.slowly("$STRATUS microvm run --name one --payload 'tenant 7' web").says("one");
    host.slowly("$STRATUS microvm run --name two web:1").says("two");
    host.slowly("docker exec one cat /starts /hooks").says("started\nready\nready\nrun tenant 7");
    host.slowly("docker exec two cat /hooks").says("ready\nready\nrun");
    let address = |name: &str| {
        host.sh(&format!("docker inspect -f '{{{{.NetworkSettings.IPAddress}}}}' {name}")).text().to_owned()
    };
    let (one, two) = (address("one"), address("two"));
    assert_ne!(one, two);
    host.sh(&format!("curl -s -m 20 http://{one}/ && curl -s -m 20 http://{two}/")).ok();
    host.sh("$STRATUS microvm ls").mentions("running").mentions("web:1");

    // It is told before it is suspended, and can refuse.
    host.slowly("docker exec one touch /refuse-suspend").ok();
    host.slowly("$STRATUS microvm suspend one")
        .exits_with(1)
        .complains("the hook suspend at port 9000: it answers 500");
    host.slowly("docker exec one rm /refuse-suspend").ok();
    host.slowly("$STRATUS microvm suspend one").ok();
    host.sh("$STRATUS microvm ls").mentions("suspended");
    host.slowly("$STRATUS microvm resume one").ok();
    host.slowly("docker exec one tail -n 3 /hooks").says("suspend\nsuspend\nresume");

    // Another version; what runs of the first one goes on without its image.
    host.slowly("$STRATUS microvm image create -t web -e A=b busybox sleep 1000").says("web:2");
    host.sh("$STRATUS microvm run --payload x web").exits_with(1).complains("its program has no hook run");
    host.sh("$STRATUS microvm image rm web:1").ok();
    host.sh("$STRATUS microvm run web:1").exits_with(1).complains("No such microVM image: web:1");
    host.slowly("$STRATUS microvm suspend two").ok();

    // The daemon is killed: all is there.
    host.kill9();
    host.restart();
    host.slowly("$STRATUS microvm resume two && $STRATUS microvm run -q web").ok();
    host.slowly("docker exec two tail -n 1 /hooks").says("resume");
    host.slowly("docker exec $($STRATUS microvm ls --output json | jq -r '.[0].Id') sh -c 'echo $A; cat /proc/1/cmdline | tr \"\\0\" \" \"'")
        .says("b\nsleep 1000");
    host.slowly("$STRATUS microvm terminate $($STRATUS microvm ls --output json | jq -r '.[].Name')").ok();
    host.sh("$STRATUS microvm image rm web && docker ps -aq").says("web");
    let snapshots = host.data().join("microvm/snapshots");
    eventually("nothing is kept", || std::fs::read_dir(&snapshots).unwrap().next().is_none());
}

#[test]
fn what_does_not_get_ready_is_no_image() {
    let mut host = host();
    host.slowly("$STRATUS microvm image create -t a --ready-port 81 --ready-timeout 1 busybox sh -c 'echo looking for a model; sleep 1000'")
        .exits_with(1)
        .complains("it does not listen at port 81 within 1 seconds")
        .complains("looking for a model");
    host.slowly("$STRATUS microvm image create -t a --ready-port 81 busybox sh -c 'echo no model; exit 3'")
        .exits_with(1)
        .complains("no model");
    host.slowly("$STRATUS microvm image create -t a --hooks-port 9000 --hook ready=1 busybox sleep 1000")
        .exits_with(1)
        .complains("the hook ready at port 9000: not within 1 seconds");
    host.sh("$STRATUS microvm image create -t a --hooks-port 9000 --hook run busybox true")
        .exits_with(1)
        .complains("a program with hooks has the hook ready, too");
    host.sh("$STRATUS microvm image create -t a/b busybox true")
        .exits_with(1)
        .complains("Invalid name of a microVM image");
    host.sh("$STRATUS microvm image create -t a -e A=b no-such-image true").exits_with(1).complains("no-such-image");
    host.sh("$STRATUS microvm image ls --output json").says("[]");
    host.sh("docker ps -aq").says("");

    // Whoever goes away gives it up.
    host.sh("timeout 5 $STRATUS microvm image create -t a --ready-port 81 busybox sleep 1000").exits_with(124);
    eventually("it is given up", || host.sh("docker ps -aq").stdout().is_empty());
    // A daemon that is killed in the middle leaves no image, and nothing that runs.
    host.sh("$STRATUS microvm image create -t a --ready-port 81 busybox sleep 1000 >/dev/null 2>&1 &").ok();
    eventually("its container", || !host.sh("docker ps -q").stdout().is_empty());
    host.kill9();
    host.restart();
    host.sh("$STRATUS microvm image ls --output json; docker ps -aq").says("[]");
    // Whatever a container's labels say, it is an ordinary one.
    let labels = "--label stratus.microvm.image=a:1 --label stratus.microvm.build=a";
    host.sh(&format!("docker run -d --name plain {labels} busybox sleep 1000 && $STRATUS microvm suspend plain"))
        .exits_with(1)
        .complains("container plain did not go on from an image of microVMs");
    host.sh("$STRATUS microvm ls --output json").says("[]");
    host.kill9();
    host.restart();
    host.sh("docker ps --format '{{.Names}}'").says("plain");
    host.sh("docker rm -f plain").ok();
}

#[test]
fn an_image_is_built_with_what_a_build_takes() {
    let host = host();
    let steps = "FROM busybox AS first\nARG SAYS=nothing\n\
        RUN --mount=type=secret,id=key echo $SAYS $(cat /run/secrets/key) $(grep -c other.example /etc/hosts) >/says\n\
        CMD [\"httpd\", \"-f\", \"-h\", \"/\"]\nFROM first\nRUN exit 7\n";
    host.write("web", &[("Containerfile", steps), ("Dockerfile", "FROM nowhere\n"), ("key", "hush")]);
    let build = "$STRATUS microvm image build -t web --tag web:plain -f web/Containerfile --target first --build-arg SAYS=hello \
        --secret id=key,src=web/key --add-host other.example:10.1.2.3 --build-network none --label of=mine --ready-port 80";
    host.slowly(&format!("{build} web")).says("web:1");
    host.sh("docker image inspect -f '{{.Config.Labels.of}}' web:plain").says("mine");
    host.sh("docker run --rm web:plain cat /says").says("hello hush 1");
    host.slowly("$STRATUS microvm run --name one web && docker exec one cat /says").says("one\nhello hush 1");
    // Who wants nothing but its name gets nothing else, and what was done is not done again, unless all is.
    host.slowly(&format!("{build} --progress quiet --no-cache web")).says("web:2").spares("CACHED");
    host.slowly(&format!("{build} --progress plain web")).says("web:3").complains("CACHED");
    host.slowly("$STRATUS microvm image build -t web --ready-port 80 -f web/Containerfile web")
        .exits_with(1)
        .complains("exit 7");
    host.sh("docker rm -f one").ok();
}

#[test]
fn each_that_is_run_has_a_disk_with_what_was_written_before_it_was_ready() {
    let host = host();
    let steps = "FROM busybox\nRUN mkdir /data && chown 5:6 /data\nWORKDIR /\n\
        CMD [\"sh\", \"-c\", \"id -u >model && id -g >>model && hostname >>model && exec httpd -f -h /data -p 8080\"]\n";
    host.write("web", &[("Dockerfile", steps), ("settings", "A=b\n")]);
    host.sh("$STRATUS microvm image build -t web --volume data:/data web").exits_with(2).complains("--volume");
    host.slowly("$STRATUS microvm image create -t web --storage-opt size=1m busybox true")
        .exits_with(1)
        .complains("32 MiB to 2 TiB");
    let options = "--storage-opt size=64m --user 5:6 --workdir /data --hostname web --env-file web/settings";
    host.slowly(&format!("$STRATUS microvm image build -t web --ready-port 8080 {options} web")).says("web:1");
    host.slowly("$STRATUS microvm run --name one web && $STRATUS microvm run --name two web").says("one\ntwo");
    // It went on, and was not started anew: what it wrote is on a disk of that size, whatever the machine's memory.
    for name in ["one", "two"] {
        host.slowly(&format!("docker exec {name} cat model")).says("5\n6\nweb");
        host.slowly(&format!("docker exec {name} sh -c 'echo $A; df -m / | awk \"END {{ print (\\$2 < 64) }}\"'"))
            .says("b\n1");
    }
    // Each writes to its own.
    host.slowly("docker exec one sh -c 'echo of one >>model; sync'").ok();
    host.slowly("docker exec two sh -c 'tail -n 1 model; echo of two >>model; sync'").says("web");
    host.slowly("docker exec one tail -n 1 model").says("of one");
    // What is run later begins as the others did, and each keeps its own when the image has gone.
    host.slowly("$STRATUS microvm run --name three web && docker exec three tail -n 1 model").says("three\nweb");
    host.sh("$STRATUS microvm image rm web").ok();
    host.slowly("$STRATUS microvm suspend two && $STRATUS microvm resume two").ok();
    host.slowly("docker exec two tail -n 1 model").says("of two");
    host.slowly("docker kill one && docker cp one:/data/model - | tar -xO").mentions("of one");
    host.sh("docker rm -f one two three").ok();
    let snapshots = host.data().join("microvm/snapshots");
    eventually("nothing is kept", || std::fs::read_dir(&snapshots).unwrap().next().is_none());
}

#[test]
fn an_image_is_made_with_what_a_container_takes() {
    let host = host();
    host.write("settings", &[("env", "A=b\n"), ("labels", "of=mine\n")]);
    let options = "--entrypoint sh --env-file settings/env --label-file settings/labels --label rack=7 --init --add-host other.example:10.1.2.3 \
        --ulimit nofile=100 --shm-size 1m --tmpfs /scratch --cap-drop ALL --group-add 7 --read-only --pids-limit 50 --stop-timeout 1 \
        --dns 10.9.8.7 --health-cmd true";
    let program = "-c 'echo kept >/scratch/kept; exec sleep 1000'";
    host.slowly(&format!("$STRATUS microvm image create -t box {options} -- busybox {program}")).says("box:1");
    host.slowly("$STRATUS microvm run --name one box").says("one");
    let look = "cat /scratch/kept /proc/1/comm; echo $A; grep -c other.example /etc/hosts; ulimit -n; grep -c 10.9.8.7 /etc/resolv.conf; \
        df -m /dev/shm | awk \"END { print \\$2 }\"; sed -n s/CapEff:.//p /proc/self/status; id -G; cat /sys/fs/cgroup/pids.max; \
        touch /file 2>/dev/null || echo it is read-only";
    host.slowly(&format!("docker exec one sh -c '{look}'"))
        .says("kept\ninit\nb\n1\n100\n1\n1\n0000000000000000\n0 7\n50\nit is read-only");
    host.sh("docker inspect -f '{{.Config.Labels.of}} {{.Config.Labels.rack}} {{.Config.StopTimeout}}' one")
        .says("mine 7 1");
    host.slowly("docker stop one").ok();
    host.sh("docker rm one && $STRATUS microvm image rm box").ok();
}
