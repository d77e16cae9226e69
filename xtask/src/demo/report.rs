//! What the copies cost, as a table.

use super::copies::Copy;
use super::image::Image;
use crate::figures::{Figures, milliseconds};
use crate::http::Connection;
use crate::instance::Instance;
use crate::memory::{self, disk_usage, pss, size};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What one copy takes.
struct Cost {
    /// Proportional set size of its processes, in bytes.
    pss: u64,
    /// What its cgroup is charged with, the kernel's part and cached files included, in bytes.
    cgroup: u64,
    /// Bytes on the disk besides the image.
    disk: u64,
}

pub(super) fn print(
    instance: &Instance,
    api: &mut Connection<UnixStream>,
    image: &Image,
    copies: &[Copy],
) -> Result<()> {
    let costs = copies.iter().map(|copy| cost(api, copy)).collect::<Result<Vec<_>>>()?;
    println!(
        "\n{:10} {:24} {:>10} {:>13} {:>10} {:>10}",
        "COPY", "URL", "STARTED IN", "ANSWERED IN", "PROCESSES", "CGROUP"
    );
    for (copy, cost) in copies.iter().zip(&costs) {
        let url = format!("http://localhost:{}/", copy.port);
        println!(
            "{:10} {url:24} {:>7.1} ms {:>10.1} ms {:>10} {:>10}",
            copy.name,
            milliseconds(copy.started_in),
            milliseconds(copy.answered_in),
            size(cost.pss),
            size(cost.cgroup),
        );
    }
    println!();
    print_times("create + start", copies.iter().map(|copy| copy.started_in).collect());
    print_times("… first answer", copies.iter().map(|copy| copy.answered_in).collect());
    print_memory(instance, &costs)?;
    let written: u64 = costs.iter().map(|cost| cost.disk).sum();
    row(
        "disk",
        &format!(
            "{} for all {} copies, besides the image's {} ({} and the service)",
            size(written),
            costs.len(),
            size(image.size),
            image.base
        ),
    );
    Ok(())
}

fn row(name: &str, text: &str) {
    println!("{name:16} {text}");
}

fn print_times(name: &str, times: Figures) {
    row(name, &format!("p50 {:.1} ms, p99 {:.1} ms", times.percentile(50.0), times.percentile(99.0)));
}

fn print_memory(instance: &Instance, costs: &[Cost]) -> Result<()> {
    let processes: u64 = costs.iter().map(|cost| cost.pss).sum();
    let cgroups: Figures = costs.iter().map(|cost| cost.cgroup as f64).collect();
    let each: Figures = costs.iter().map(|cost| cost.pss as f64).collect();
    row(
        "memory of one",
        &format!("{} in its processes, {} by its cgroup", size(each.median() as u64), size(cgroups.median() as u64)),
    );
    let mut own: BTreeMap<String, u64> = BTreeMap::new();
    for (role, process) in instance.own_processes()? {
        *own.entry(role).or_default() += pss(process.pid);
    }
    let parts: Vec<String> = own.iter().map(|(role, bytes)| format!("{role} {}", size(*bytes))).collect();
    let total = processes + own.values().sum::<u64>();
    row(
        "memory of all",
        &format!("{}: {} in the copies' processes, {}", size(total), size(processes), parts.join(", ")),
    );
    Ok(())
}

fn cost(api: &mut Connection<UnixStream>, copy: &Copy) -> Result<Cost> {
    let details = api.get(&format!("/containers/{}/json", copy.id))?;
    let main = details["State"]["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
    let stats = api.get(&format!("/containers/{}/stats?stream=false&one-shot=true", copy.id))?;
    let processes = memory::family(&memory::processes()?, main);
    Ok(Cost {
        pss: processes.iter().map(|process| pss(process.pid)).sum(),
        cgroup: stats["memory_stats"]["usage"].as_u64().unwrap_or_default(),
        disk: disk(&details).with_context(|| format!("{} does not tell where its files are", copy.name))?,
    })
}

/// The directories that hold what the container wrote, and its log.
fn disk(details: &Value) -> Option<u64> {
    let parent = |path: &Value| Some(disk_usage(Path::new(path.as_str()?).parent()?));
    Some(parent(&details["GraphDriver"]["Data"]["UpperDir"])? + parent(&details["LogPath"])?)
}

pub(super) fn print_what_next(root: &Path, instance: &Instance, copies: &[Copy]) {
    let program =
        instance.program.strip_prefix(root).map_or(instance.program.clone(), |short| Path::new(".").join(short));
    let first = copies.first().map_or(("hello-01", 8081), |copy| (copy.name.as_str(), copy.port));
    println!("\nThey run on. To look at them, with stratus or with docker:");
    println!("    export DOCKER_HOST={}", instance.host());
    println!("    {} ps", program.display());
    println!("    docker stats");
    println!("    docker logs -f {}", first.0);
    println!("    curl http://localhost:{}/", first.1);
    println!("To take all of it down:\n    make stop");
}
