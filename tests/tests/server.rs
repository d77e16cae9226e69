//! stratus as a service of an ordinary server: systemd's unit and socket, an upgrade in place, limits by cgroup v2.
//!
//! These change the machine that they run on, so they are ignored elsewhere: `cargo xtask server` boots one for them.

use e2e::{Server, eventually};

/// A service that answers on port 8080, and counts what it is told.
const WEB: &str = "docker run -di --name web -p 8080:80 busybox \
    sh -c 'mkdir /www; echo hello > /www/index.html; httpd -h /www -p 80; echo begun; while read l; do echo got $l; done'";
const PID: &str = "docker inspect -f '{{.State.Pid}}' web";

/// An installed daemon, started as a service, with the image `busybox`.
fn with_service() -> Server {
    let host = Server::install();
    host.sh("systemctl enable --now stratus").ok();
    host.import_busybox();
    host
}

fn serves(host: &Server) -> bool {
    host.sh("curl -s -m 5 http://127.0.0.1:8080").stdout() == "hello\n"
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn installed_and_used() {
    let host = with_service();
    host.sh("systemctl is-active stratus.service stratus.socket").says("active\nactive");
    host.sh("systemctl is-enabled stratus.service stratus.socket").says("enabled\nenabled");
    host.sh("docker run --rm busybox echo hello").says("hello");
    host.sh("stratus run --rm busybox echo hello").says("hello");
    host.sh("docker info -f '{{.CgroupVersion}} {{.CgroupDriver}} {{.LiveRestoreEnabled}}'").says("2 cgroupfs true");
    // Who is in the group may use it, and nobody else.
    host.sh("stat -c '%a %U:%G' /run/stratus/docker.sock").says("660 root:docker");
    host.sh("setpriv --reuid=nobody --regid=docker --clear-groups docker ps -q").says("");
    host.sh("setpriv --reuid=nobody --regid=nogroup --clear-groups docker ps -q").fails_with("permission denied");
    for file in [
        "man/man1/stratus-run.1",
        "bash-completion/completions/stratus",
        "zsh/site-functions/_stratus",
        "fish/vendor_completions.d/stratus.fish",
    ] {
        host.sh(&format!("grep -q stratus /usr/local/share/{file}")).ok();
    }
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn containers_outlive_the_service() {
    let host = with_service();
    host.sh(WEB).ok();
    eventually("the web server", || serves(&host));
    let pid = host.sh(PID).text().to_owned();
    host.sh("systemctl restart stratus").ok();
    host.sh(PID).says(&pid);

    host.sh("systemctl stop stratus stratus.socket").ok();
    host.sh("docker ps").fails_with("Cannot connect to the Docker daemon");
    assert!(serves(&host));
    host.sh("systemctl start stratus").ok();
    host.sh(PID).says(&pid);

    let daemon = host.property("MainPID");
    host.sh(&format!("kill -9 {daemon}")).ok();
    assert!(serves(&host));
    eventually("systemd to start it again", || {
        host.property("NRestarts") == "1" && host.property("ActiveState") == "active"
    });
    assert_ne!(host.property("MainPID"), daemon);
    host.sh(PID).says(&pid);
    host.sh("docker exec web echo hello && docker logs web").says("hello\nbegun");
    assert!(serves(&host));
    host.sh("docker rm -f web && docker run --rm busybox echo hello").says("web\nhello");
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn started_by_its_first_client() {
    let host = Server::install();
    host.sh("systemctl start stratus.socket").ok();
    assert_eq!(host.property("ActiveState"), "inactive");
    host.sh("docker version -f '{{.Server.Os}}'").says("linux");
    assert_eq!(host.property("ActiveState"), "active");
    host.import_busybox();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    // Who is stopped comes back for whoever asks next.
    host.sh("systemctl stop stratus").ok();
    host.sh("docker ps --format '{{.Names}}'").says("box");
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn upgraded_in_place() {
    let host = with_service();
    host.sh(WEB).ok();
    eventually("the web server", || serves(&host));
    let pid = host.sh(PID).text().to_owned();
    let keeper = host.sh("pgrep -f '^[^ ]*stratus keeper'").text().to_owned();
    host.sh("$CONTRIB/install.sh $STRATUS")
        .mentions("systemctl restart stratus")
        .mentions(", and stratus image bootstrap");
    // Whose shell does not look there is told the whole path.
    host.sh("PATH=/usr/sbin:/usr/bin:/sbin:/bin $CONTRIB/install.sh $STRATUS")
        .mentions(", and /usr/local/bin/stratus image bootstrap");
    // Until then, the one before goes on.
    host.sh("docker exec web echo hello").says("hello");
    host.sh("systemctl restart stratus").ok();
    host.sh(PID).says(&pid);
    let of_file = |path: &str| host.sh(&format!("stat -L -c %d:%i {path}")).text().to_owned();
    let installed = of_file("/usr/local/bin/stratus");
    assert_eq!(of_file(&format!("/proc/{}/exe", host.property("MainPID"))), installed);
    assert_eq!(of_file(&format!("/proc/{keeper}/exe")), installed);
    assert!(serves(&host));
    host.sh("docker exec web echo hello && docker logs web").says("hello\nbegun");
    host.sh("docker run --rm busybox echo hello").says("hello");
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn limits() {
    let host = with_service();
    host.sh(
        "docker run -d --name box -m 64m --memory-swap 80m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 \
         --pids-limit 20 --cpuset-cpus 0 --device-read-bps /dev/vda:1mb --device-write-iops /dev/vda:100 busybox sleep 1000",
    )
    .ok();
    let inside = "docker exec box sh -c 'cd /sys/fs/cgroup; \
         cat memory.max memory.swap.max memory.low cpu.max cpu.weight pids.max cpuset.cpus.effective; cut -d\" \" -f2- io.max'";
    let limits = "67108864\n16777216\n33554432\n50000 100000\n20\n20\n0\nrbps=1048576 wbps=max riops=max wiops=100";
    host.sh(inside).says(limits);
    // systemd looks after the controllers of the cgroups at the root, and takes away what it does not need.
    host.sh("systemd-run --quiet --wait --slice=other -p CPUWeight=50 -p AllowedCPUs=0 -p IOWeight=50 true && systemctl daemon-reload")
        .ok();
    host.sh(inside).says(limits);
    let pid = host.sh("docker inspect -f '{{.State.Pid}} {{.Id}}' box").text().to_owned();
    let (pid, id) = pid.split_once(' ').unwrap();
    host.sh(&format!("cut -d/ -f3 /proc/{pid}/cgroup")).says(id);
    let service = host.property("ControlGroup");
    let own = host.sh(&format!("cat /sys/fs/cgroup{service}/cgroup.procs")).text().to_owned();
    assert!(!own.lines().any(|process| process == pid), "the container's process is the service's: {own}");

    host.sh("docker update -m 96m --memory-swap 96m --cpus 1.5 box").says("box");
    host.sh("docker exec box sh -c 'cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max'")
        .says("100663296\n0\n150000 100000");
    let stats = host.sh("docker stats --no-stream --format '{{.MemUsage}} {{.PIDs}}' box").text().to_owned();
    assert!(stats.ends_with("/ 96MiB 1"), "{stats}");
    host.sh("docker pause box && docker inspect -f '{{.State.Status}}' box").says("box\npaused");
    host.sh(&format!("grep frozen /sys/fs/cgroup/$(cut -d: -f3 /proc/{pid}/cgroup)/cgroup.events")).says("frozen 1");
    host.sh("docker unpause box && docker exec box echo hello").says("box\nhello");
    // What runs out of memory is killed, and told so.
    host.sh("docker run --name greedy -m 32m --memory-swap 32m busybox tail /dev/zero").exits_with(137);
    host.sh("docker inspect -f '{{.State.OOMKilled}}' greedy").says("true");
    host.sh("docker run --rm --pids-limit 4 busybox sh -c 'for n in 1 2 3 4 5; do sleep 1 & done; wait'")
        .complains("can't fork");
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn devices() {
    let host = with_service();
    host.sh("docker run --rm busybox sh -c 'mknod /disk b $((0x'$(stat -c %t /dev/vda)')) 0 && head -c 1 /disk'")
        .exits_with(1)
        .complains("Operation not permitted");
    host.sh("docker run --rm --device /dev/vda:/dev/disk:r busybox head -c 4096 /dev/disk | wc -c").says("4096");
    host.sh("docker run --rm --device /dev/vda:/dev/disk:r busybox sh -c ': > /dev/disk'")
        .complains("Operation not permitted");
    host.sh("docker run --rm --privileged busybox head -c 4096 /dev/vda | wc -c").says("4096");
    host.sh("docker run --rm busybox sh -c 'echo lost > /dev/null; head -c 8 /dev/urandom | wc -c'").says("8");
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn confined_by_apparmor() {
    let host = with_service();
    host.sh("docker info -f '{{.SecurityOptions}}'").mentions("name=apparmor");
    host.sh("docker run -d --name box --cap-add SYS_ADMIN --cap-add SYS_PTRACE busybox sleep 1000").ok();
    let profile = host.sh("docker inspect -f '{{.AppArmorProfile}}' box").text().to_owned();
    assert!(profile.starts_with("stratus-default"), "{profile}");
    let confinement = "cat /proc/self/attr/current";
    host.sh(&format!("docker exec box {confinement}")).says(&format!("{profile} (enforce)"));
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' box").text().to_owned();
    host.sh(&format!("cat /proc/{pid}/attr/current")).says(&format!("{profile} (enforce)"));
    // What capabilities alone would let it do.
    host.sh("docker exec box sh -c 'mkdir /made && mount -t tmpfs none /made'").fails_with("ermission denied");
    host.sh("docker run --rm --security-opt systempaths=unconfined busybox sh -c 'echo 1 > /proc/sys/kernel/sysrq'")
        .fails_with("Permission denied");
    host.sh("docker run --rm busybox sh -c 'echo hello > /file && chmod 700 /file && cat /file && kill -0 1'")
        .says("hello");
    host.sh("docker stop -t 0 box && docker start box && docker exec box sh -c 'sleep 1000 & kill $! && wait $!'")
        .exits_with(143);

    // Who asks for it is confined otherwise, or not at all.
    let shown = "docker inspect -f '{{.AppArmorProfile}}'";
    for (options, expected) in [("--privileged", "unconfined"), ("--security-opt apparmor=unconfined", "unconfined")] {
        host.sh(&format!("docker run --rm {options} busybox {confinement}")).says(expected);
        host.sh(&format!("docker create --name made {options} busybox && {shown} made && docker rm made"))
            .mentions(expected);
    }
    host.sh(&format!("docker exec --privileged box {confinement}")).says("unconfined");
    host.sh("docker run --rm --security-opt apparmor=nonsense busybox true")
        .exits_with(125)
        .complains("the AppArmor profile \"nonsense\" is not loaded");
    host.sh("echo 'profile mine { file, network, capability, deny /secret r, }' | apparmor_parser --replace").ok();
    host.sh("docker run --rm --security-opt apparmor=mine busybox sh -c 'echo x > /secret; cat /secret'")
        .fails_with("Permission denied");
    host.sh("printf mine > /sys/kernel/security/apparmor/.remove").ok();

    // A daemon finds what the one before has loaded; it goes with everything else.
    host.sh("systemctl restart stratus && docker run --rm busybox cat /proc/self/attr/current")
        .says(&format!("{profile} (enforce)"));
    host.sh("systemctl stop stratus stratus.socket && stratus daemon --clean").ok();
    host.sh(&format!("! grep '^{profile} ' /sys/kernel/security/apparmor/profiles")).ok();
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn a_user_namespace() {
    let host = with_service();
    let run = "stratus run --rm --userns private busybox";
    host.sh(&format!("{run} sh -c 'id -u; stat -c %u /bin/busybox; echo new > /new && stat -c %u /new'"))
        .says("0\n0\n0");
    assert_ne!(host.sh(&format!("{run} awk '{{print $2}}' /proc/self/uid_map")).number(), 0);
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn as_a_runtime() {
    let host = Server::install();
    host.make_base();
    host.sh("mkdir bundle && mv base bundle/rootfs && cd bundle && stratus runtime spec && mv config.json plain.json")
        .ok();
    let with = |resources: &str| {
        let change = ".process.terminal = false | .linux.cgroupsPath = \"/by-hand\"";
        host.sh(&format!(
            "cd bundle && jq '{change} | {resources}' plain.json > config.json && stratus runtime run one"
        ))
    };
    with(
        ".process.args = [\"sh\", \"-c\", \"cd /sys/fs/cgroup && cat memory.max memory.high hugetlb.2MB.max\"] \
         | .linux.resources += {memory: {limit: 33554432}, unified: {\"memory.high\": \"16777216\"}, \
           hugepageLimits: [{pageSize: \"2MB\", limit: 4194304}]}",
    )
    .says("33554432\n16777216\n4194304");
    host.sh("ls -d /sys/fs/cgroup/by-hand").fails_with("No such file");
    // No card is there that the limit could be of.
    with(".linux.resources += {rdma: {mlx5_0: {hcaHandles: 2}}}").fails_with("rdma.max");
    host.sh("ls -d /sys/fs/cgroup/by-hand").fails_with("No such file");
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn containers_in_scopes_of_systemd() {
    let host = Server::install();
    host.make_base();
    host.sh(
        "mkdir bundle && mv base bundle/rootfs && cd bundle && stratus runtime spec && jq '.process.terminal = false | .process.args = [\"sh\", \"-c\", \"while :; do sleep 1; done\"]
         | .linux.cgroupsPath = \"machine.slice:trial:box\"
         | .linux.resources += {memory: {limit: 67108864}, pids: {limit: 55}, cpu: {quota: 50000, period: 100000, shares: 512}}' config.json > c \
         && mv c config.json",
    )
    .ok();
    let scope = "/sys/fs/cgroup/machine.slice/trial-box.scope";
    host.sh("stratus runtime --systemd-cgroup run -d -b bundle box > /dev/null 2>&1 < /dev/null").ok();
    host.sh("systemctl is-active trial-box.scope").says("active");
    host.sh(&format!("cat {scope}/memory.max {scope}/pids.max {scope}/cpu.max")).says("67108864\n55\n50000 100000");
    host.sh(&format!("grep -qx $(stratus runtime state box | jq .pid) {scope}/cgroup.procs")).ok();
    let properties = "systemctl show -p MemoryMax -p TasksMax -p CPUQuotaPerSecUSec -p Slice -p Delegate --value trial-box.scope | sort";
    host.sh(properties).says("500ms\n55\n67108864\nmachine.slice\nyes");
    // What systemd sets again is what was asked for.
    host.sh("stratus runtime --systemd-cgroup update --memory 32m --pids-limit 44 box && systemctl daemon-reload").ok();
    host.sh(&format!("cat {scope}/memory.max {scope}/pids.max")).says("33554432\n44");
    host.sh("stratus runtime --systemd-cgroup pause box && stratus runtime --systemd-cgroup resume box").ok();
    host.sh("stratus runtime --systemd-cgroup exec box sh -c 'exit 3'").exits_with(3);
    host.sh("stratus runtime --systemd-cgroup delete -f box").ok();
    eventually("the scope's end", || host.sh("systemctl is-active trial-box.scope").code() != 0);
    host.sh(&format!("test ! -e {scope}")).ok();
    host.sh("cd bundle && jq '.process.args = [\"nonsense\"]' config.json > c && mv c config.json").ok();
    host.sh("stratus runtime --systemd-cgroup run -b bundle box").fails_with("not found");
    host.sh("cd bundle && jq '.linux.cgroupsPath = \"/a/b\"' config.json > c && mv c config.json").ok();
    host.sh("stratus runtime --systemd-cgroup run -b bundle box").fails_with("slice:prefix:name");
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn what_is_built_by_an_emulator() {
    let host = with_service();
    // A static program of another processor's, which the emulator that the distribution registered runs.
    host.sh("ls /proc/sys/fs/binfmt_misc/qemu-aarch64").ok();
    host.sh("docker image inspect -f '{{.Architecture}}' busybox").says("amd64");
    host.sh("mkdir -p context && cp /usr/local/share/busybox.aarch64 context/busybox && chmod 755 context/busybox")
        .ok();
    host.sh("printf 'FROM scratch\\nCOPY busybox /bin/busybox\\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\\nRUN uname -m >/machine\\nCMD cat /machine\\n' >context/Dockerfile").ok();
    host.sh("cd context && stratus build -t foreign --platform linux/arm64 .").ok();
    host.sh("docker image inspect -f '{{.Architecture}}' foreign").says("arm64");
    host.sh("docker run --rm --platform linux/arm64 foreign").says("aarch64");
    // The same by the classic builder, and for two platforms at once, of which one has no such program.
    host.sh("cd context && docker build -q -t again --platform linux/arm64 .").ok();
    host.sh("test $(docker image inspect -f '{{.Id}}' foreign) = $(docker image inspect -f '{{.Id}}' again)").ok();
    host.sh("docker rmi -f foreign again").ok();
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn an_image_is_the_same_on_another_day() {
    let host = with_service();
    host.sh("mkdir -p context && echo one >context/file && printf 'FROM busybox\\nCOPY file /\\nRUN date >/dev/null; echo made >/made; mkdir /dir\\n' >context/Dockerfile").ok();
    let build = "cd context && stratus build -q --no-cache -t day . && docker image inspect -f '{{.Id}}' day";
    let today = host.sh(build).text().to_owned();
    host.sh("date -s '2031-05-06 07:08:09' && touch context/file").ok();
    host.sh(build).says(&today);
    host.sh("date -s '2001-02-03 04:05:06' && touch context/file").ok();
    host.sh(build).says(&today);
}

/// firewalld, which the machine has for this test alone: it is off again when this is dropped.
struct Firewalld<'a>(&'a Server);

impl Firewalld<'_> {
    /// It has its name on the bus before it is ready.
    fn start(&self) {
        self.0.sh("systemctl unmask firewalld && systemctl start firewalld").ok();
        let mut told = String::new();
        eventually("firewalld to run", || {
            let state = self.0.sh("firewall-cmd --state");
            if state.stderr() != told {
                told = state.stderr().to_owned();
                println!("firewalld: {told}");
            }
            state.code() == 0
        });
    }
}

impl Drop for Firewalld<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = self.0.sh("journalctl --no-pager --output=cat --unit=firewalld; tail /var/log/firewalld");
            eprintln!("--- what firewalld logged:\n{journal}---");
        }
        self.0.sh("systemctl stop firewalld; systemctl mask firewalld; ip netns del elsewhere; kill $(cat served.pid)");
    }
}

/// Beside what the containers serve: the host serves something itself, and so does somebody elsewhere.
const NEIGHBOURS: &str = "ip netns add elsewhere && ip link add outside type veth peer name eth0 netns elsewhere \
    && ip addr add 192.0.2.1/24 dev outside && ip link set outside up \
    && ip -n elsewhere addr add 192.0.2.2/24 dev eth0 && ip -n elsewhere link set eth0 up \
    && mkdir host there && echo host >host/index.html && echo there >there/index.html \
    && { busybox httpd -f -h host -p 8090 & echo $!; ip netns exec elsewhere busybox httpd -f -h there -p 8090 & echo $!; } >served.pid 2>&1";

/// Who reaches whom: the host by 127.0.0.1, somebody elsewhere, and a container: by a name, by the host's address (a port of
/// another network's and one of its own network's), what the host serves itself, and elsewhere.
const ASKED: &str = "for port in 8080 8081; do curl -s -m 9 http://127.0.0.1:$port; done; \
    ip netns exec elsewhere curl -s -m 9 http://192.0.2.1:8080; \
    docker exec client sh -c 'for at in web2 192.0.2.1:8080 192.0.2.1:8081 192.0.2.1:8090 192.0.2.2:8090; do timeout 9 wget -qO- http://$at; done'";
const ANSWERED: &str = "hello\ntwo\nhello\ntwo\nhello\ntwo\nhost\nthere\n";

fn all_are_reached(host: &Server, when: &str) {
    println!("{when}");
    let mut told = String::new();
    eventually(when, || {
        let answer = host.sh(ASKED);
        if answer.stdout() != told {
            told = answer.stdout().to_owned();
            println!("{answer}");
        }
        told == ANSWERED
    });
}

#[test]
#[ignore = "it takes a machine of its own: cargo xtask server"]
fn beside_firewalld() {
    let host = with_service();
    let firewalld = Firewalld(&host);
    host.sh(NEIGHBOURS).ok();
    host.sh(WEB).ok();
    let serving = |name: &str, port: u16| {
        format!(
            "docker run -d --name {name} -p {port}:80 --network net busybox sh -c 'echo two >/index.html; httpd -f -h / -p 80'"
        )
    };
    host.sh(&format!("docker network create net && {}", serving("web2", 8081))).ok();
    host.sh("docker run -d --name client --network net busybox sleep 100000").ok();
    all_are_reached(&host, "before it is started");
    firewalld.start();
    all_are_reached(&host, "beside it");
    // It does its work: what the host serves is for containers, and not for everybody.
    host.sh("ip netns exec elsewhere curl -s -m 9 http://192.0.2.1:8090").exits_with(7);
    for way in ["--reload", "--complete-reload"] {
        host.sh(&format!("firewall-cmd {way}")).ok();
        all_are_reached(&host, way);
    }

    // What comes while it runs is reached at once, and leaves nothing there.
    let bound = || host.sh("firewall-cmd --zone=trusted --list-interfaces | tr ' ' '\\n' | sort").text().to_owned();
    let before = bound();
    assert_eq!(before.lines().count(), 2, "the bridges of both networks: {before}");
    host.sh(&serving("later", 8082)).ok();
    eventually("a port that is published later", || host.sh("curl -s -m 9 http://127.0.0.1:8082").stdout() == "two\n");
    host.sh(
        "docker network create new && docker run --rm --network new busybox timeout 9 wget -qO- http://192.0.2.1:8090",
    )
    .mentions("host");
    assert_eq!(bound().lines().count(), 3);
    host.sh("docker network rm new").ok();
    assert_eq!(bound(), before);

    host.sh("systemctl stop firewalld").ok();
    all_are_reached(&host, "without it again");
    // The daemon is restarted beside it, and taken down.
    firewalld.start();
    host.sh("systemctl restart stratus").ok();
    all_are_reached(&host, "after a restart of the daemon");
    host.sh("systemctl stop stratus stratus.socket && stratus daemon --clean").ok();
    assert_eq!(bound(), "");
}
