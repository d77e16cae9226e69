use engine::model::{HealthTest, PortBinding, Protocol, RestartPolicy};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn parts(document: &Value) -> Result<Parts> {
    decode::document::<CreateBody>(document.to_string().as_bytes()).and_then(CreateBody::into_parts)
}

fn refusal(document: &Value) -> String {
    parts(document).expect_err("refused").message().to_owned()
}

/// What `docker run -p 8080:80 --health-cmd … --network web --ip …` sends.
fn from_the_client() -> Value {
    serde_json::from_str(
        r#"{
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
        "ExposedPorts": {"80/tcp": {}}, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": null,
        "Cmd": ["true"], "Healthcheck": {"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 5000000000},
        "Image": "alpine", "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        "HostConfig": {
            "Binds": ["/a:/b"], "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "web",
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "AutoRemove": false, "VolumeDriver": "",
            "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null, "CgroupnsMode": "",
            "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "IpcMode": "",
            "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "", "Privileged": false,
            "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
            "ShmSize": 0, "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
            "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1024}],
            "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0,
            "CpuQuota": 0, "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "",
            "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0,
            "MemorySwap": 0, "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0, "Ulimits": [],
            "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
            "Mounts": [{"Type": "tmpfs", "Target": "/x"}], "MaskedPaths": null, "ReadonlyPaths": null
        },
        "NetworkingConfig": {"EndpointsConfig": {"web": {
            "IPAMConfig": {"IPv4Address": "10.1.2.3"}, "Links": null, "Aliases": null, "MacAddress": "",
            "DriverOpts": null, "GwPriority": 0, "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "",
            "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null
        }}}
    }"#,
    )
    .expect("JSON")
}

#[test]
fn what_the_docker_client_sends_is_read() {
    let (config, host, endpoints) = parts(&from_the_client()).expect("read");
    assert_eq!((config.image.as_str(), config.cmd), ("alpine", Some(vec!["true".to_owned()])));
    assert_eq!(config.entrypoint, None);
    let check = config.healthcheck.expect("a check");
    assert_eq!(check.test, HealthTest::Shell("curl -f localhost".to_owned()));
    assert_eq!(check.interval.as_secs(), 5);
    assert_eq!(host.network_mode, NetworkMode::Network("web".to_owned()));
    assert_eq!(host.restart, RestartPolicy::OnFailure { retries: 3 });
    let (port, bindings) = host.port_bindings.first_key_value().expect("a port");
    assert_eq!((port.port, port.protocol), (80, Protocol::Tcp));
    let binding = PortBinding { host_ip: Some([127, 0, 0, 1].into()), host_ports: Some((8080, 8080)) };
    assert_eq!(*bindings, [binding]);
    assert_eq!((host.resources.memory_swappiness, host.resources.oom_kill_disable), (None, Some(false)));
    assert_eq!(host.resources.blkio_read_bps[0].rate, 1024);
    assert_eq!(host.mounts[0].target, "/x");
    assert_eq!(endpoints["web"].ipv4, Some([10, 1, 2, 3].into()));
}

#[test]
fn what_was_read_is_shown_as_it_was_sent() {
    let sent = from_the_client();
    let (config, host, _) = parts(&sent).expect("read");
    let shown = serde_json::to_value(HostConfigBody::from(&host)).expect("JSON");
    for (field, value) in sent["HostConfig"].as_object().expect("fields") {
        let expected = match field.as_str() {
            "MemorySwappiness" | "PidsLimit" => Value::Null,
            "IpcMode" => json!("private"),
            _ => value.clone(),
        };
        assert_eq!(shown[field], expected, "{field}");
    }
    let shown = serde_json::to_value(ConfigBody::from(&config)).expect("JSON");
    for field in ["ExposedPorts", "Cmd", "Entrypoint", "Healthcheck", "Image", "Labels", "OnBuild"] {
        assert_eq!(shown[field], sent[field], "{field}");
    }
}

#[test]
fn fields_are_shown_in_dockerds_order() {
    let text = serde_json::to_string(&HostConfigBody::from(&HostConfig::default())).expect("JSON");
    let place = |field: &str| text.find(&format!("\"{field}\":")).unwrap_or_else(|| panic!("{field} in {text}"));
    let order = [
        "Binds",
        "LogConfig",
        "CapAdd",
        "Dns",
        "UTSMode",
        "ShmSize",
        "Isolation",
        "CpuShares",
        "BlkioDeviceReadIOps",
        "Ulimits",
        "MaskedPaths",
    ];
    assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])));
}

#[test]
fn one_word_may_stand_for_a_list_of_one() {
    let (config, host, _) =
        parts(&json!({"Image": "a", "Cmd": "true", "Entrypoint": [], "HostConfig": {"CapAdd": "NET_ADMIN"}}))
            .expect("read");
    assert_eq!((config.cmd, config.entrypoint), (Some(vec!["true".to_owned()]), Some(vec![])));
    assert_eq!(host.cap_add, ["NET_ADMIN"]);
}

#[test]
fn the_default_network_is_the_bridge() {
    let (_, host, endpoints) = parts(&json!({
        "HostConfig": {"NetworkMode": "default"}, "NetworkingConfig": {"EndpointsConfig": {"default": null}}
    }))
    .expect("read");
    assert_eq!(host.network_mode, NetworkMode::Default);
    assert!(endpoints.contains_key("bridge"));
}

#[test]
fn nonsense_is_refused_in_dockerds_words() {
    let host = |field: &str, value: Value| refusal(&json!({"Image": "a", "HostConfig": {field: value}}));
    for (said, expected) in [
        (host("IpcMode", json!("x")), "invalid IPC mode: x"),
        (host("PidMode", json!("container:")), "invalid PID mode: container:"),
        (host("UTSMode", json!("x")), "invalid UTS mode: x"),
        (host("ShmSize", json!(-1)), "SHM size can not be less than 0"),
        (host("PortBindings", json!({"x/tcp": []})), "invalid port specification: \"x/tcp\""),
        (host("PortBindings", json!({"80/tcp": [{"HostPort": "x"}]})), "invalid port specification: \"x\""),
        (host("PortBindings", json!({"80/icmp": []})), "invalid proto: icmp"),
        (
            host("RestartPolicy", json!({"Name": "always", "MaximumRetryCount": 2})),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            host("RestartPolicy", json!({"Name": "x"})),
            "invalid restart policy: unknown policy 'x'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            host("Mounts", json!([{"Type": "nfs", "Target": "/x"}])),
            "invalid mount config for type \"nfs\": mount type unknown",
        ),
        (
            host("Mounts", json!([{"Type": "bind", "Target": "/x"}])),
            "invalid mount config for type \"bind\": field Source must not be empty",
        ),
        (
            host("Mounts", json!([{"Type": "tmpfs", "Target": "/x", "BindOptions": {}}])),
            "invalid mount config for type \"tmpfs\": field BindOptions must not be specified",
        ),
        (
            host("Memory", json!("1g")),
            "invalid JSON: json: cannot unmarshal string into Go struct field HostConfig.HostConfig.Memory of type int64",
        ),
    ] {
        assert_eq!(said, expected);
    }
}

#[test]
fn older_clients_get_what_they_count_on() {
    let (_, mut host, endpoints) = parts(&from_the_client()).expect("read");
    host.annotations.insert("a".to_owned(), "b".to_owned());
    for_older_clients(&mut host, false, ApiVersion::new(1, 39));
    assert_eq!((&host.ipc_mode, host.annotations.len()), (&IpcMode::Shareable, 0));
    let mut two = endpoints;
    two.insert("second".to_owned(), EndpointRequest::default());
    let error = check_endpoints(&two, ApiVersion::new(1, 43)).expect_err("refused");
    assert_eq!(error.message(), "Container cannot be created with multiple network endpoints: second, web");
    assert!(check_endpoints(&two, ApiVersion::new(1, 44)).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzz::container_create(&bytes);
    }

    #[test]
    fn a_field_of_any_kind_is_read_or_refused(at in any::<prop::sample::Index>(), kind in 0..7usize) {
        let mut document = from_the_client();
        let strange = [json!(null), json!(-1), json!(1.5), json!("x"), json!([1, "a", null]), json!({"a": null}), json!(true)];
        let host = document["HostConfig"].as_object_mut().expect("fields");
        let field = host.keys().nth(at.index(host.len())).cloned().expect("a field");
        host.insert(field, strange[kind].clone());
        let _ = parts(&document);
    }
}
