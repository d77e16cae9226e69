//! What a container in a microVM is shown to use.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use e2e::{Daemon, eventually};
use microvm_kernel::host;
use serde_json::Value;

fn sample(host: &Daemon, name: &str) -> Value {
    let socket = host.socket();
    let path = format!("http://d/containers/{name}/stats?stream=false&one-shot=true");
    host.sh(&format!("curl -s --unix-socket {} '{path}'", socket.display())).json()
}

fn number(sample: &Value, path: &str) -> u64 {
    sample.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

#[test]
fn what_runs_inside_is_what_is_counted() {
    let host = host();
    host.slowly("docker run -d --name box --runtime microvm --pids-limit 50 busybox sh -c 'sleep 1000 & sleep 1001 & sleep 1002 & wait'")
        .ok();
    host.slowly("docker run -d --name limited --runtime microvm -m 100m busybox sleep 1000").ok();
    // The shell, and what it has started: not the threads of the machine's process on the host.
    eventually("its processes", || number(&sample(&host, "box"), "/pids_stats/current") == 4);
    let found = sample(&host, "box");
    assert_eq!(number(&found, "/pids_stats/limit"), 50, "{found:#}");
    assert_eq!(number(&found, "/memory_stats/limit"), 512 << 20, "{found:#}");
    assert_eq!(number(&sample(&host, "limited"), "/memory_stats/limit"), 100 << 20);
    // Less than what a kernel and an emulator take.
    assert!((1..32 << 20).contains(&number(&found, "/memory_stats/usage")), "{found:#}");
    host.slowly("docker exec box sh -c 'head -c 50000000 /dev/zero >/file'").ok();
    let more = sample(&host, "box");
    // What it has in memory is in files, which nobody could have back from a file system in memory; and the rest of the machine is told of.
    let of = |name: &str| number(&more, &format!("/memory_stats/stats/{name}"));
    assert!(of("shmem") >= 50_000_000 && of("file") >= of("shmem") && of("anon") > 0 && of("pgfault") > 0, "{more:#}");
    assert!(of("inactive_file") <= number(&more, "/memory_stats/usage"), "{more:#}");
    let (total, free, available) = (of("machine_total"), of("machine_free"), of("machine_available"));
    assert!((400 << 20..=512 << 20).contains(&total) && free < total && available < total, "{more:#}");
    assert!(of("machine_cached") >= 50_000_000 && of("machine_host") >= 50_000_000, "{more:#}");
    assert!((50_000_000..100 << 20).contains(&number(&more, "/memory_stats/usage")), "{more:#}");
    // Processor time is what the host has spent on it.
    assert!(number(&found, "/cpu_stats/cpu_usage/total_usage") > 0, "{found:#}");
    // Of its card, what it sends is what was sent.
    let before = number(&more, "/networks/eth0/tx_bytes");
    let other = "$(docker inspect -f '{{.NetworkSettings.IPAddress}}' limited)";
    host.slowly(&format!("docker exec box ping -c 3 -s 1000 {other}")).ok();
    let after = sample(&host, "box");
    assert!(number(&after, "/networks/eth0/tx_bytes") >= before + 3_000, "{after:#}");
    assert_eq!(after["networks"].as_object().map(serde_json::Map::len), Some(1), "{after:#}");
    host.slowly("docker stats --no-stream --format '{{.PIDs}}' limited").says("1");
    // One that stands still says nothing, and holds nobody up.
    host.sh("docker pause box").ok();
    assert!(number(&sample(&host, "box"), "/memory_stats/usage") > 0);
    host.sh("docker unpause box").ok();
    // A copy is as large as what it was copied from.
    host.slowly("$STRATUS fork limited --name copy").ok();
    assert_eq!(number(&sample(&host, "copy"), "/memory_stats/limit"), 100 << 20);
    assert_eq!(number(&sample(&host, "copy"), "/pids_stats/current"), 1);
    host.sh("docker rm -f box limited copy").ok();
}
