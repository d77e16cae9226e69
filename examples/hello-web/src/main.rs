//! A small web service: it says who it is, how long it has been up, and how many requests it has answered.
#![forbid(unsafe_code)]

mod http;
mod service;

use service::Service;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, thread};

/// How long requests that are being answered may take after the signal to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Memory for a connection's thread: it holds one request's head.
const STACK: usize = 64 << 10;

fn main() -> ExitCode {
    let outcome = port().and_then(|port| match env::args().nth(1).as_deref() {
        None => serve(port),
        Some("--check") => check(port),
        Some(other) => Err(io::Error::other(format!("{other}: unknown; there is only --check"))),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello-web: {error}");
            ExitCode::FAILURE
        }
    }
}

fn port() -> io::Result<u16> {
    match env::var("PORT") {
        Ok(port) => port.parse().map_err(|_| io::Error::other(format!("PORT={port} is no port"))),
        Err(_) => Ok(8080),
    }
}

/// Serves until it is told to stop.
fn serve(port: u16) -> io::Result<()> {
    // Before it listens: whoever can reach it can stop it.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let listener = listen(port)?;
    let address = listener.local_addr()?;
    let service = Arc::new(Service::new());
    println!("listening on {address}");

    let stopped = service.clone();
    thread::Builder::new().stack_size(STACK).spawn(move || {
        if signals.forever().next().is_some() {
            stopped.stop();
            // Wakes the loop below, which waits for a connection.
            let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())));
        }
    })?;

    for connection in listener.incoming() {
        if service.is_stopped() {
            break;
        }
        // One that went before it was taken is no reason to stop; neither is one too many.
        let Ok(connection) = connection else { continue };
        let service = service.clone();
        let started = thread::Builder::new().stack_size(STACK).spawn(move || service.attend(connection));
        if let Err(error) = started {
            eprintln!("hello-web: a connection is dropped: {error}");
        }
    }
    drop(listener);
    if service.wait_until_idle(GRACE) {
        Ok(())
    } else {
        Err(io::Error::other("gave up on requests that take too long"))
    }
}

/// Listens on all addresses, of IPv6 and IPv4 where there are both.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|error| io::Error::other(format!("cannot listen on port {port}: {error}")))
}

/// Asks the one that runs here whether it is well.
fn check(port: u16) -> io::Result<()> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    connection.take(4096).read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") { Ok(()) } else { Err(io::Error::other("it is not well")) }
}
