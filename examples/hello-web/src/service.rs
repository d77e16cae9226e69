//! What the service answers, and who it is answering.

use crate::http::{Received, Request, Requests, Response};
use std::fs;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Service {
    host: String,
    started: Instant,
    requests: AtomicU64,
    stopped: AtomicBool,
    /// Connections on which a request is being answered.
    busy: Mutex<usize>,
    idle: Condvar,
}

impl Service {
    pub fn new() -> Service {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "somewhere".to_owned());
        Service {
            host: host.trim().to_owned(),
            started: Instant::now(),
            requests: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            busy: Mutex::new(0),
            idle: Condvar::new(),
        }
    }

    /// Answers no more requests than those that came.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits until nothing is being answered. Tells whether that was so in time.
    pub fn wait_until_idle(&self, patience: Duration) -> bool {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let (busy, _) =
            self.idle.wait_timeout_while(busy, patience, |busy| *busy > 0).unwrap_or_else(PoisonError::into_inner);
        *busy == 0
    }

    /// Answers a connection's requests, until it or the service is over.
    pub fn attend(&self, connection: TcpStream) {
        // Whatever goes wrong with a connection is over with it.
        let _ = self.answer_all(&connection);
        let _ = connection.shutdown(Shutdown::Both);
    }

    fn answer_all(&self, connection: &TcpStream) -> io::Result<()> {
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        connection.set_nodelay(true)?;
        let mut requests = Requests::new(connection);
        loop {
            let received = requests.next()?;
            let _answering = Answering::begin(self);
            match received {
                Received::Closed => return Ok(()),
                Received::Refused(status) => {
                    return Response { status, text: "", keep_alive: false, without_text: false }.send(connection);
                }
                Received::Request(request) => {
                    let keep_alive = request.keep_alive && !self.is_stopped();
                    let (status, text) = self.answer(&request);
                    let without_text = request.method == "HEAD";
                    Response { status, text: &text, keep_alive, without_text }.send(connection)?;
                    if !keep_alive {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn answer(&self, request: &Request) -> (&'static str, String) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/") => {
                let up = self.started.elapsed().as_secs_f64();
                ("200 OK", format!("Hello from {}\nup {up:.1} s, request {number}\n", self.host))
            }
            ("GET" | "HEAD", "/healthz") if self.is_stopped() => ("503 Service Unavailable", "stopping\n".to_owned()),
            ("GET" | "HEAD", "/healthz") => ("200 OK", "ok\n".to_owned()),
            ("GET" | "HEAD", _) => ("404 Not Found", "There is / and /healthz.\n".to_owned()),
            _ => ("405 Method Not Allowed", "There is GET and HEAD.\n".to_owned()),
        }
    }
}

/// A request that is being answered, for as long as the value lives.
struct Answering<'a>(&'a Service);

impl Answering<'_> {
    fn begin(service: &Service) -> Answering<'_> {
        *service.busy.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Answering(service)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        *self.0.busy.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.idle.notify_all();
    }
}
