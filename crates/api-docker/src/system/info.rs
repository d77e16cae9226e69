//! `GET /info`

use std::collections::BTreeMap;

use engine::model::Timestamp;
use engine::{Limits, SystemInfo};
use serde::Serialize;

use crate::body::{self, Response};
use crate::call::Call;
use crate::containers::inspect::STORAGE_DRIVER;
use crate::error::Result;
use crate::time::rfc3339;
use crate::version::{ApiVersion, DOCKER_VERSION};

/// The runtime that containers run with: this program's own.
const RUNTIME: &str = "stratus";
const MICROVM: &str = "microvm";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PoolBody {
    base: String,
    size: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InfoBody {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    default_address_pools: Vec<PoolBody>,
    #[serde(rename = "ID")]
    id: String,
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    driver: &'static str,
    driver_status: Vec<[String; 2]>,
    plugins: PluginsBody,
    memory_limit: bool,
    swap_limit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_memory: Option<bool>,
    cpu_cfs_period: bool,
    cpu_cfs_quota: bool,
    #[serde(rename = "CPUShares")]
    cpu_shares: bool,
    #[serde(rename = "CPUSet")]
    cpu_set: bool,
    pids_limit: bool,
    #[serde(rename = "IPv4Forwarding")]
    ipv4_forwarding: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge_nf_iptables: Option<bool>,
    #[serde(rename = "BridgeNfIp6tables", skip_serializing_if = "Option::is_none")]
    bridge_nf_ip6tables: Option<bool>,
    debug: bool,
    #[serde(rename = "NFd")]
    files: usize,
    oom_kill_disable: bool,
    #[serde(rename = "NGoroutines")]
    threads: usize,
    system_time: String,
    logging_driver: String,
    cgroup_driver: &'static str,
    cgroup_version: &'static str,
    #[serde(rename = "NEventsListener")]
    event_listeners: usize,
    kernel_version: String,
    operating_system: String,
    #[serde(rename = "OSVersion")]
    os_version: String,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: String,
    index_server_address: &'static str,
    registry_config: RegistryBody,
    #[serde(rename = "NCPU")]
    cpus: u32,
    mem_total: u64,
    generic_resources: Option<Vec<String>>,
    docker_root_dir: String,
    http_proxy: String,
    https_proxy: String,
    no_proxy: String,
    name: String,
    labels: Vec<String>,
    experimental_build: bool,
    server_version: &'static str,
    runtimes: BTreeMap<&'static str, RuntimeBody>,
    default_runtime: String,
    swarm: SwarmBody,
    live_restore_enabled: bool,
    isolation: &'static str,
    init_binary: &'static str,
    containerd_commit: CommitBody,
    runc_commit: CommitBody,
    init_commit: CommitBody,
    security_options: Vec<&'static str>,
    #[serde(rename = "CDISpecDirs", skip_serializing_if = "Option::is_none")]
    cdi_spec_dirs: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    firewall_backend: Option<FirewallBody>,
    warnings: Option<Vec<String>>,
}

/// What carries published ports, and where its rules are.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct FirewallBody {
    driver: &'static str,
    info: Vec<[String; 2]>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PluginsBody {
    volume: [&'static str; 1],
    network: [&'static str; 5],
    authorization: Option<Vec<String>>,
    log: [&'static str; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RegistryBody {
    #[serde(rename = "InsecureRegistryCIDRs")]
    insecure_networks: Vec<String>,
    index_configs: BTreeMap<String, IndexBody>,
    mirrors: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IndexBody {
    name: String,
    mirrors: Vec<String>,
    secure: bool,
    official: bool,
}

#[derive(Serialize)]
struct RuntimeBody {
    path: &'static str,
    #[serde(rename = "runtimeArgs")]
    arguments: [&'static str; 1],
    /// What else is to be known of it (API 1.44).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, String>,
}

/// How a container's process can be run here.
fn runtimes(microvm_driver: Option<String>) -> BTreeMap<&'static str, RuntimeBody> {
    let body = |arguments, status| RuntimeBody { path: RUNTIME, arguments, status };
    let machine = microvm_driver.map(|driver| (MICROVM, body(["machine"], BTreeMap::from([("driver", driver)]))));
    [(RUNTIME, body(["runtime"], BTreeMap::new()))].into_iter().chain(machine).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmBody {
    #[serde(rename = "NodeID")]
    node_id: &'static str,
    node_addr: &'static str,
    local_node_state: &'static str,
    control_available: bool,
    error: &'static str,
    remote_managers: Option<Vec<String>>,
}

/// Of programs that stratus does not use.
#[derive(Default, Serialize)]
struct CommitBody {
    #[serde(rename = "ID")]
    id: &'static str,
    #[serde(rename = "Expected", skip_serializing_if = "Option::is_none")]
    expected: Option<&'static str>,
}

/// `GET /info`
pub(crate) async fn info(call: Call) -> Result<Response> {
    body::ok_json(&InfoBody::shown(call.engine().info(), call.version))
}

impl InfoBody {
    fn shown(info: SystemInfo, version: ApiVersion) -> Self {
        let (containers, running, paused, stopped) = info.containers;
        let v2 = info.cgroup_version == "2";
        let limits = info.limits;
        let commit = || CommitBody { id: "", expected: version.before(48).then_some("") };
        let environment = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase()));
            value.map(|url| without_password(&url)).unwrap_or_default()
        };
        let mut security_options = Vec::new();
        if info.apparmor {
            security_options.push("name=apparmor");
        }
        security_options.push("name=seccomp,profile=builtin");
        if v2 {
            security_options.push("name=cgroupns");
        }
        let pool = |pool: &net::AddressPool| PoolBody { base: pool.base.to_string(), size: pool.size };
        Self {
            default_address_pools: info.address_pools.iter().map(pool).collect(),
            id: info.id,
            containers,
            containers_running: running,
            containers_paused: paused,
            containers_stopped: stopped,
            images: info.images,
            driver: STORAGE_DRIVER,
            driver_status: [
                ["Backing Filesystem", info.backing_filesystem],
                ["Supports d_type", "true"],
                ["Native Overlay Diff", "true"],
                ["userxattr", "false"],
            ]
            .map(|line| line.map(str::to_owned))
            .to_vec(),
            plugins: PluginsBody {
                volume: ["local"],
                network: ["bridge", "host", "ipvlan", "macvlan", "null"],
                authorization: None,
                log: ["json-file", "local"],
            },
            memory_limit: limits.memory,
            swap_limit: limits.swap,
            kernel_memory: version.before(42).then_some(false),
            cpu_cfs_period: limits.cpu_quota,
            cpu_cfs_quota: limits.cpu_quota,
            cpu_shares: limits.cpu_shares,
            cpu_set: limits.cpu_set,
            pids_limit: limits.pids,
            ipv4_forwarding: limits.ipv4_forwarding,
            // Nothing here depends on them; at moby neither, since 28.0, which has said so of any host from then on.
            bridge_nf_iptables: version.before(50).then_some(false),
            bridge_nf_ip6tables: version.before(50).then_some(false),
            debug: false,
            files: info.resources.0,
            oom_kill_disable: limits.oom_kill_disable,
            threads: info.resources.1,
            system_time: rfc3339(Timestamp::now()),
            logging_driver: info.log_driver,
            cgroup_driver: "cgroupfs",
            cgroup_version: info.cgroup_version,
            event_listeners: 0,
            kernel_version: info.kernel,
            operating_system: info.operating_system,
            os_version: info.os_version,
            os_type: "linux",
            architecture: info.architecture,
            index_server_address: "https://index.docker.io/v1/",
            registry_config: RegistryBody::shown(info.insecure_registries, &info.mirrors),
            cpus: info.cpus,
            mem_total: info.memory,
            generic_resources: None,
            docker_root_dir: info.data_dir,
            http_proxy: environment("HTTP_PROXY"),
            https_proxy: environment("HTTPS_PROXY"),
            no_proxy: environment("NO_PROXY"),
            name: info.name,
            labels: info.labels,
            experimental_build: false,
            server_version: DOCKER_VERSION,
            runtimes: runtimes(info.microvm_driver),
            default_runtime: info.runtime,
            swarm: SwarmBody {
                node_id: "",
                node_addr: "",
                local_node_state: "inactive",
                control_available: false,
                error: "",
                remote_managers: None,
            },
            // Containers outlive the daemon, always.
            live_restore_enabled: true,
            isolation: "",
            init_binary: RUNTIME,
            containerd_commit: commit(),
            runc_commit: commit(),
            init_commit: commit(),
            security_options,
            cdi_spec_dirs: version.at_least(44).then(Vec::new),
            firewall_backend: version.at_least(49).then(|| FirewallBody {
                driver: "nftables",
                info: vec![["Table".to_owned(), format!("inet {}", info.firewall_table)]],
            }),
            warnings: Some(warnings(&limits, v2, info.silent_keeper.into_iter().chain(info.no_microvm_driver)))
                .filter(|warnings| !warnings.is_empty()),
        }
    }
}

impl RegistryBody {
    /// Networks and hosts that are reached without TLS, apart, as clients print them.
    fn shown(insecure: Vec<String>, mirrors: &[String]) -> Self {
        const HUB: &str = "docker.io";
        let is_network = |text: &String| text.parse::<ipnet::IpNet>().is_ok();
        let (mut networks, hosts): (Vec<String>, Vec<String>) = insecure.into_iter().partition(is_network);
        // Registries on this machine need no TLS, whatever is configured.
        for own in ["::1/128", "127.0.0.0/8"] {
            if !networks.iter().any(|network| network == own) {
                networks.push(own.to_owned());
            }
        }
        let mirrors: Vec<String> = mirrors.iter().map(|mirror| shown_mirror(mirror)).collect();
        let index =
            |name: &str, mirrors, secure| IndexBody { name: name.to_owned(), mirrors, secure, official: name == HUB };
        let insecure = hosts.iter().map(|host| (host.clone(), index(host, Vec::new(), false)));
        let mut index_configs: BTreeMap<_, _> = insecure.collect();
        index_configs.insert(HUB.to_owned(), index(HUB, mirrors.clone(), true));
        Self { insecure_networks: networks, index_configs, mirrors }
    }
}

/// A mirror's address, as clients print it.
fn shown_mirror(mirror: &str) -> String {
    format!("{}/", without_password(mirror).trim_end_matches('/'))
}

/// What containers have to do without on this machine, in dockerd's words. Where a version of cgroups never had a limit,
/// there is nothing that anybody could do about it, and nothing is said.
fn warnings(limits: &Limits, v2: bool, others: impl IntoIterator<Item = String>) -> Vec<String> {
    let io = match v2 {
        true => ["io.max (rbps)", "io.max (wbps)", "io.max (riops)", "io.max (wiops)"],
        false => [
            "blkio throttle.read_bps_device",
            "blkio throttle.write_bps_device",
            "blkio throttle.read_iops_device",
            "blkio throttle.write_iops_device",
        ],
    };
    let parts = [
        (limits.memory, "memory limit"),
        (limits.swap, "swap limit"),
        (limits.oom_kill_disable || v2, "oom kill disable"),
        (limits.cpu_quota, "cpu cfs quota"),
        (limits.cpu_quota, "cpu cfs period"),
        (limits.cpu_shares, "cpu shares"),
        (limits.cpu_set, "cpuset"),
        (limits.io_weight || !v2, "io.weight"),
        (limits.io_weight || !v2, "io.weight (per device)"),
    ];
    let parts = parts.into_iter().chain(io.map(|what| (limits.io_throttle, what)));
    let missing = parts.filter(|(there, _)| !there).map(|(_, what)| format!("WARNING: No {what} support"));
    let forwarding = (!limits.ipv4_forwarding).then(|| "WARNING: IPv4 forwarding is disabled".to_owned());
    let others = others.into_iter().map(|other| format!("WARNING: {other}"));
    missing.chain(forwarding).chain(others).collect()
}

/// A proxy's URL with the name and password in it hidden.
fn without_password(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_do_not_tell_their_passwords() {
        assert_eq!(without_password("http://me:secret@proxy:3128"), "http://xxxxx:xxxxx@proxy:3128");
        assert_eq!(without_password("http://proxy:3128"), "http://proxy:3128");
    }

    #[test]
    fn networks_and_hosts_are_told_apart() {
        let body = RegistryBody::shown(vec!["10.0.0.0/8".to_owned(), "registry:5000".to_owned()], &[]);
        assert_eq!(body.insecure_networks, ["10.0.0.0/8", "::1/128", "127.0.0.0/8"]);
        assert!(!body.index_configs["registry:5000"].secure && body.index_configs["docker.io"].official);
    }

    #[test]
    fn mirrors_are_those_of_the_hub_and_do_not_tell_their_passwords() {
        let body = RegistryBody::shown(
            vec!["registry:5000".to_owned()],
            &["https://mirror.example".to_owned(), "https://me:secret@other.example/hub/".to_owned()],
        );
        let shown = ["https://mirror.example/", "https://xxxxx:xxxxx@other.example/hub/"];
        assert_eq!(
            (&body.mirrors[..], &body.index_configs["docker.io"].mirrors[..]),
            (&shown.map(str::to_owned)[..], &shown.map(str::to_owned)[..])
        );
        assert!(body.index_configs["registry:5000"].mirrors.is_empty());
    }

    #[test]
    fn what_the_kernel_lacks_is_warned_of() {
        let nothing = Limits::default();
        let v1 = warnings(&nothing, false, None);
        assert_eq!((v1.len(), v1[1].as_str()), (12, "WARNING: No swap limit support"));
        assert_eq!(v1[7], "WARNING: No blkio throttle.read_bps_device support");
        let v2 = warnings(&nothing, true, Some("it is stopped".to_owned()));
        assert_eq!((v2.len(), v2[12].as_str()), (14, "WARNING: IPv4 forwarding is disabled"));
        assert_eq!(v2[13], "WARNING: it is stopped");
        assert!(v2.contains(&"WARNING: No io.weight (per device) support".to_owned()), "{v2:?}");
        assert!(!v2.contains(&"WARNING: No oom kill disable support".to_owned()), "{v2:?}");
        let all = Limits { memory: true, swap: true, oom_kill_disable: true, cpu_quota: true, ..nothing };
        let all =
            Limits { cpu_shares: true, cpu_set: true, pids: true, io_throttle: true, ipv4_forwarding: true, ..all };
        assert_eq!(warnings(&all, false, None), Vec::<String>::new());
        assert_eq!(warnings(&Limits { swap: false, ..all }, false, None), ["WARNING: No swap limit support"]);
    }

    #[test]
    fn fields_go_with_the_version_that_dropped_them() {
        let shown = |minor| {
            serde_json::to_value(InfoBody::shown(SystemInfo::default(), ApiVersion::new(1, minor))).expect("JSON")
        };
        assert!(shown(41).get("KernelMemory").is_some() && shown(49).get("BridgeNfIp6tables").is_some());
        assert!(shown(50).get("KernelMemory").is_none() && shown(50).get("BridgeNfIptables").is_none());
        assert!(shown(48).get("FirewallBackend").is_none());
        assert_eq!(shown(49)["FirewallBackend"]["Driver"], "nftables");
        assert_eq!(shown(50)["Swarm"]["LocalNodeState"], "inactive");
    }
}
