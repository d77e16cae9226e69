//! `/metrics` in Prometheus' text format (version 0.0.4).

use std::fmt::Write as _;
use std::net::SocketAddr;

use engine::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Error;

/// The longest request that is read.
const REQUEST: usize = 8 << 10;

/// Listens at `address`: who asks is answered once [`serve`] does.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    super::listen::at("metrics-addr", address).await
}

/// Answers until the daemon ends.
pub(super) async fn serve(listener: TcpListener, engine: Engine) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let engine = engine.clone();
                tokio::spawn(async move {
                    let answered =
                        tokio::time::timeout(std::time::Duration::from_secs(10), answer(stream, &engine)).await;
                    if let Ok(Err(error)) = answered {
                        tracing::debug!(%error, "a reader of metrics went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a reader of metrics");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, engine: &Engine) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    // Prometheus may be told to send parameters, which mean nothing here.
    let (status, body) = if request.starts_with(b"GET /metrics ") || request.starts_with(b"GET /metrics?") {
        ("200 OK", text(engine))
    } else {
        ("404 Not Found", "metrics are at /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// What a family's samples are.
#[derive(Clone, Copy)]
enum Kind {
    /// They grow, and begin anew with the daemon.
    Counter,
    /// They go up and down.
    Gauge,
}

/// The text, a family after the other.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A family with one sample a list of labels.
    fn family(&mut self, kind: Kind, name: &str, help: &str, samples: &[(&str, f64)]) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    fn one(&mut self, kind: Kind, name: &str, help: &str, value: f64) {
        self.family(kind, name, help, &[("", value)]);
    }
}

fn text(engine: &Engine) -> String {
    let (info, counts) = (engine.info(), engine.counts());
    let (_, running, paused, stopped) = info.containers;
    let mut text = Text::default();
    let version = format!("{{version=\"{}\"}}", info.version);
    text.family(Kind::Gauge, "stratus_build_info", "Version of this daemon.", &[(&version, 1.0)]);
    let states = [
        ("{state=\"running\"}", running as f64),
        ("{state=\"paused\"}", paused as f64),
        ("{state=\"stopped\"}", stopped as f64),
    ];
    text.family(Kind::Gauge, "stratus_containers", "Containers by state.", &states);
    text.one(Kind::Gauge, "stratus_images", "Images.", info.images as f64);
    for (name, help, count) in [
        ("stratus_container_starts_total", "Containers' starts.", counts.starts),
        ("stratus_container_start_failures_total", "Containers' starts that came to nothing.", counts.failed_starts),
        ("stratus_container_ends_total", "Containers' ends.", counts.ends),
        ("stratus_container_oom_kills_total", "Ends of containers that ran out of memory.", counts.oom_kills),
        ("stratus_execs_total", "Further processes started in containers.", counts.execs),
    ] {
        text.one(Kind::Counter, name, help, count as f64);
    }
    let (files, threads) = info.resources;
    text.one(Kind::Gauge, "process_open_fds", "Open file descriptors of the daemon.", files as f64);
    text.one(Kind::Gauge, "process_threads", "Threads of the daemon.", threads as f64);
    text.one(Kind::Gauge, "process_resident_memory_bytes", "Resident memory of the daemon.", resident() as f64);
    text.one(Kind::Counter, "process_cpu_seconds_total", "Time on CPUs of the daemon.", cpu_seconds());
    text.0
}

/// Time on CPUs of this process, user and system.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident bytes of this process (proc_pid_statm(5), second field, in pages).
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
