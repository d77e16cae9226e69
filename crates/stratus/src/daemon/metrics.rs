//! `/metrics` in Prometheus' text format (version 0.0.4).

use std::fmt::Write as _;
use std::net::SocketAddr;

use engine::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::Error;

/// The longest request that is read.
const REQUEST: usize = 8 << 10;

/// Answers at `address` until the daemon ends.
pub(super) async fn serve(address: SocketAddr, engine: Engine) -> Result<(), Error> {
    let listener = TcpListener::bind(address).await.map_err(Error::io("listen on", address))?;
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
    let (status, body) = if request.starts_with(b"GET /metrics ") {
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

fn text(engine: &Engine) -> String {
    let info = engine.info();
    let (all, running, paused, stopped) = info.containers;
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, samples: &[(&str, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    gauge("stratus_build_info", "Version of this daemon.", &[(&format!("{{version=\"{}\"}}", info.version), 1.0)]);
    gauge(
        "stratus_containers",
        "Containers by state.",
        &[
            ("{state=\"running\"}", running as f64),
            ("{state=\"paused\"}", paused as f64),
            ("{state=\"stopped\"}", stopped as f64),
        ],
    );
    gauge("stratus_containers_total", "Containers of any state.", &[("", all as f64)]);
    gauge("stratus_images", "Images.", &[("", info.images as f64)]);
    gauge("process_open_fds", "Open file descriptors of the daemon.", &[("", info.resources.0 as f64)]);
    gauge("process_threads", "Threads of the daemon.", &[("", info.resources.1 as f64)]);
    gauge("process_resident_memory_bytes", "Resident memory of the daemon.", &[("", resident() as f64)]);
    out
}

/// Resident bytes of this process (proc_pid_statm(5), second field, in pages).
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
