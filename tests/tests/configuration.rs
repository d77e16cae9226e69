//! The configuration file: every key has its effect.

use std::collections::BTreeSet;
use std::fs;

use e2e::{Daemon, eventually};

/// One key of the file.
struct Key {
    name: &'static str,
    /// As it is written in the file.
    value: &'static str,
    /// What shows that it is so.
    command: &'static str,
    /// A part of what that prints.
    prints: &'static str,
}

const fn key(name: &'static str, value: &'static str, command: &'static str, prints: &'static str) -> Key {
    Key { name, value, command, prints }
}

/// In all of them, `%WORK%` stands for the shell's directory, `%RUN%` and `%DATA%` for the daemon's, `%NET%` for the start of
/// its addresses.
const KEYS: [Key; 26] = [
    key("data-dir", "'%DATA%'", "docker info -f '{{.DockerRootDir}}'", "%DATA%"),
    key("run-dir", "'%RUN%'", "test -S %RUN%/keeper.sock && echo it is there", "it is there"),
    key("group", "'staff'", "stat -c %G %RUN%/docker.sock", "staff"),
    key("host", "['unix://%RUN%/docker.sock', 'tcp://127.0.0.1:%PORT%']", "docker -H $DOCKER_HOST ps -q | wc -l", "0"),
    key("tlscacert", "'%WORK%/ca.pem'", "%REMOTE% version", "Server: stratus"),
    key("tlscert", "'%WORK%/node.pem'", "openssl s_client -connect 127.0.0.1:%PORT% </dev/null 2>&1", "CN = node"),
    key("tlskey", "'%WORK%/node.key'", "%REMOTE% info -f '{{.DockerRootDir}}'", "%DATA%"),
    key("tlsverify", "true", "docker -H tcp://127.0.0.1:%PORT% --tls ps 2>&1 || echo refused", "refused"),
    key("bridge", "'stbr%PORT%'", "docker run --rm busybox true && ls /sys/class/net", "stbr%PORT%"),
    key(
        "default-address-pool",
        "'%NET%.0.0/16,size=27'",
        "docker network create net >/dev/null && docker network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' net",
        "/27",
    ),
    key(
        "insecure-registry",
        "['r.example']",
        "docker info -f '{{(index .RegistryConfig.IndexConfigs \"r.example\").Secure}}'",
        "false",
    ),
    key("registry-mirror", "'https://m.example'", "docker info -f '{{.RegistryConfig.Mirrors}}'", "https://m.example/"),
    key("log-driver", "'local'", "docker info -f '{{.LoggingDriver}}'", "local"),
    key(
        "log-opt",
        "['max-size=3m', 'max-file=7']",
        "docker inspect -f '{{json .HostConfig.LogConfig}}' $(docker create busybox)",
        r#"{"Type":"local","Config":{"max-file":"7","max-size":"3m"}}"#,
    ),
    key("dns", "['10.9.8.7', '10.9.8.6']", RESOLVER, "nameserver 10.9.8.7\nnameserver 10.9.8.6\n"),
    key("dns-opt", "'ndots:7'", RESOLVER, "options ndots:7"),
    key("dns-search", "['in.example']", RESOLVER, "search in.example"),
    key(
        "host-gateway-ip",
        "'10.9.8.5'",
        "docker run --rm --add-host gate:host-gateway busybox cat /etc/hosts",
        "10.9.8.5\tgate",
    ),
    key("init", "true", "docker run --rm busybox cat /proc/1/comm", "init"),
    key("default-runtime", "'stratus'", "docker info -f '{{.DefaultRuntime}}'", "stratus"),
    key("microvm-driver", "'qemu'", "docker info -f '{{.Runtimes.microvm.Status.driver}}'", "qemu ("),
    key(
        "microvm-endpoint",
        "'https://127.0.0.1:%THIRD%'",
        "curl -s --cacert ca.pem https://127.0.0.1:%THIRD%/",
        "no token",
    ),
    key("label", "['rack=7']", "docker info -f '{{.Labels}}'", "[rack=7]"),
    key("metrics-addr", "'127.0.0.1:%NEXT%'", "curl -s -m 5 127.0.0.1:%NEXT%/metrics", "stratus_images 1"),
    key("log-level", "'debug'", "grep -c '\"level\":\"DEBUG\"' ../log | grep -vx 0 && echo it is told", "it is told"),
    key("log-format", "'json'", "sed -n '$p' ../log | jq 'has(\"target\")'", "true"),
];

const RESOLVER: &str = "docker run --rm busybox cat /etc/resolv.conf";

/// An authority, and one certificate of it for both sides.
const CERTIFICATES: &str = "set -e
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=node -keyout node.key -out node.csr
    printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > node.ext
    openssl x509 -req -days 2 -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile node.ext -out node.pem";

#[test]
fn every_key_has_its_effect() {
    let mut host = Daemon::start();
    host.sh(CERTIFICATES).ok();
    let remote = "docker -H tcp://127.0.0.1:%PORT% --tlsverify --tlscacert ca.pem --tlscert node.pem --tlskey node.key";
    let words = [
        ("%REMOTE%", remote.to_owned()),
        ("%WORK%", host.work().display().to_string()),
        ("%RUN%", host.run_dir().display().to_string()),
        ("%DATA%", host.data().display().to_string()),
        ("%NET%", host.addresses().trim_end_matches(".0.0/16").to_owned()),
        ("%PORT%", host.port().to_string()),
        ("%NEXT%", (host.port() + 1).to_string()),
        ("%THIRD%", (host.port() + 2).to_string()),
    ];
    let filled = |text: &str| words.iter().fold(text.to_owned(), |text, (name, word)| text.replace(name, word));
    let file: String = KEYS.iter().map(|key| format!("{} = {}\n", key.name, filled(key.value))).collect();
    let path = host.work().join("daemon.toml");
    fs::write(&path, file).expect("write the configuration");
    host.restart_with(&["--config", &path.display().to_string()]);
    for key in &KEYS {
        let outcome = host.sh(&filled(key.command));
        assert!(outcome.stdout().contains(&filled(key.prints)), "{} has no effect: {outcome}", key.name);
    }
    // Flags that are not in the table above have tests of their own elsewhere.
    let builds = ["build-allow-address", "build-allow-entitlement", "build-cache-days", "build-cache-size"];
    let own = [
        "config",
        "clean",
        "help",
        "ip-forward-no-drop",
        "microvm-boot",
        "microvm-processor",
        "microvm-start-timeout",
        "usage-days",
        "usage-runs",
    ];
    let help = host.sh("$STRATUS daemon --help").ok().stdout().to_owned();
    let words = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let flags: BTreeSet<&str> = words.map(|word| word.trim_end_matches(|c: char| !c.is_ascii_lowercase())).collect();
    let known: BTreeSet<&str> = KEYS.iter().map(|key| key.name).chain(own).chain(builds).collect();
    assert_eq!(flags, known);
}

/// Values that are refused, and what is said.
const REFUSED: [(&str, &str); 24] = [
    ("microvm-driver = 'xen'", "microvm-driver \"xen\": write auto, kvm or qemu"),
    (
        "microvm-processor = 'x86-64'",
        "microvm-processor \"x86-64\": write one of host, x86-64-v2, x86-64-v3, x86-64-v4",
    ),
    ("label = 'two words'", "label \"two words\": write NAME=VALUE, with no white space in the name"),
    ("label = ['rack=7', 'the rack=7']", "label \"the rack=7\": write NAME=VALUE"),
    ("dns-search = 'two words'", "dns-search \"two words\": write one domain's name, such as internal.example"),
    ("dns-search = ['internal', '']", "dns-search \"\": write one domain's name"),
    ("dns-opt = 'ndots:1 rotate'", "dns-opt \"ndots:1 rotate\": write one option without white space"),
    ("dns = 'ns.example'", "dns ns.example: a DNS server is given by its IP address"),
    (
        "host = 'unix://docker.sock'",
        "host unix://docker.sock: the socket's path must begin at the root: write unix:///docker.sock",
    ),
    (
        "microvm-endpoint = 'https://a.example:1'",
        "microvm-endpoint https://a.example:1: write an IP address and a port",
    ),
    ("microvm-endpoint = '127.0.0.1:1'", "microvm-endpoint 127.0.0.1:1: write http://127.0.0.1:PORT, or https://"),
    ("microvm-endpoint = 'http://0.0.0.0:1'", "by http it is for this machine alone"),
    ("host = 'docker.sock'", "host docker.sock: write unix:///PATH, tcp://ADDRESS:PORT or fd://"),
    (
        "bridge = 'sixteen-letters-'",
        "bridge \"sixteen-letters-\": invalid link name \"sixteen-letters-\": 1 to 15 bytes",
    ),
    ("bridge = 'br 0'", "bridge \"br 0\": invalid link name \"br 0\": 1 to 15 bytes without white space, '/' and ':'"),
    ("insecure-registry = 'a b'", "insecure-registry \"a b\": "),
    (
        "build-allow-entitlement = 'all'",
        "build-allow-entitlement: there is no entitlement \"all\": there are onbuild.secrets, security.insecure",
    ),
    ("log-driver = 'syslog'", "log-driver syslog: "),
    ("log-opt = 'max-size=huge'", "log-opt max-size: invalid size: 'huge'"),
    ("bridge = 'lo'", "bridge lo: a link of that name is there, and is no bridge: choose another name"),
    ("group = 'nobodys'", "group nobodys: no such group: add it with groupadd nobodys"),
    ("host = 'fd://'", "host fd://: systemd gave no socket"),
    ("host = 'unix:///etc/passwd'", "host unix:///etc/passwd: that is there already, and is no socket"),
    ("colour = 'red'", "unknown key `colour`: the keys are data-dir, run-dir, host, "),
];

#[test]
fn what_can_not_be_is_refused_with_its_key_and_what_could() {
    let host = Daemon::start();
    for (line, says) in REFUSED {
        let file = format!("data-dir = '{0}/other/data'\nrun-dir = '{0}/other/run'\n{line}\n", host.work().display());
        fs::write(host.work().join("wrong.toml"), file).expect("write the configuration");
        host.sh("timeout 60 $STRATUS daemon --config $PWD/wrong.toml").exits_with(1).complains(says);
    }
    // Whatever is wrong, it is known before anything is begun: no store, no keeper, nothing in the kernel.
    host.sh("test ! -e other/data/stratus.db && ! ls -A other/run | grep -v daemon.lock").ok();
    host.sh("$STRATUS daemon --clean --data-dir $PWD/other/data --run-dir $PWD/other/run")
        .mentions("nothing to take out");
}

#[test]
fn an_address_of_metrics_that_is_taken_is_refused_before_anything_is_touched() {
    let host = Daemon::start();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", host.port())).expect("listen");
    let other = "$STRATUS daemon --data-dir $PWD/other/data --run-dir $PWD/other/run";
    let outcome = host.sh(&format!("timeout 60 {other} --metrics-addr 127.0.0.1:$PORT"));
    outcome.exits_with(1).complains(&format!("metrics-addr 127.0.0.1:{}: cannot listen there", host.port()));
    assert!(outcome.stderr().contains("choose another port") && !outcome.stderr().contains(" INFO "), "{outcome}");
    host.sh(&format!("test ! -e other/data/stratus.db && {other} --clean")).ok();
}

#[test]
fn by_what_microvms_are_run_is_chosen_and_shown() {
    let mut host = Daemon::start();
    let shown = "$STRATUS info | sed -n 's/^MicroVMs  *//p'";
    let best = host.sh(shown).text().to_owned();
    assert!(["kvm", "qemu (kvm)", "qemu (emulation)"].contains(&best.as_str()), "{best}");
    host.sh("docker info -f '{{.Runtimes.microvm.Status.driver}}'").says(&best);
    // A flag comes before what the file says.
    let (file, data, run) = (host.work().join("daemon.toml"), host.data(), host.run_dir());
    let pool = format!("{},size=24", host.addresses());
    let text =
        format!("data-dir = {data:?}\nrun-dir = {run:?}\ndefault-address-pool = {pool:?}\nmicrovm-driver = 'kvm'\n");
    fs::write(&file, text).expect("write the configuration");
    let file = file.display().to_string();
    host.restart_with(&["--config", &file, "--microvm-driver", "qemu"]);
    host.sh(shown).says(if best == "kvm" { "qemu (kvm)" } else { &best });
    host.sh("$STRATUS info").spares("microvm-driver");
    host.restart_with(&["--microvm-driver", "auto"]);
    host.sh(shown).says(&best);
    // What is asked for and can't be is said, and nothing else is taken for it.
    host.restart_with(&["--config", &file]);
    if best == "kvm" {
        host.sh(shown).says("kvm");
    } else {
        not_there(&host, "this machine runs no microVMs, as microvm-driver is \"kvm\": ");
    }
    host.restart_with(&["--microvm-driver", "qemu"]);
    // All programs that are here, but that one.
    host.sh("mkdir path && IFS=: && ln -s -f $(printf '%s/*:' $PATH) path/ && rm path/qemu-system-x86_64").ok();
    let path = host.work().join("path").display().to_string();
    host.restart_in(&[("PATH", &path)]);
    not_there(&host, "this machine runs no microVMs, as microvm-driver is \"qemu\": there is no qemu-system-x86_64");
}

/// No microVM runs, and everybody who asks is told why.
fn not_there(host: &Daemon, why: &str) {
    host.sh("docker run --rm --runtime microvm busybox true").exits_with(125).complains(why);
    host.sh("$STRATUS info").complains(why).omits("MicroVMs");
    host.sh("docker info 2>&1").mentions(why);
    eventually("the log", || host.sh("cat ../log").stdout().contains(why));
    host.sh("docker run --rm busybox echo runs").says("runs");
}
