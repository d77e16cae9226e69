//! The service as its users meet it: over TCP, and by signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Service {
    process: Child,
    port: String,
}

impl Service {
    /// Starts one on a port that the kernel picks, and waits until it listens.
    fn start() -> Service {
        let mut process =
            Command::new(env!("CARGO_BIN_EXE_hello-web")).env("PORT", "0").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit(':').next().unwrap().to_owned();
        Service { process, port }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(format!("127.0.0.1:{}", self.port)).unwrap()
    }

    fn ask(&self, request: &str) -> String {
        let mut connection = self.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    fn check(&self) -> bool {
        let program = env!("CARGO_BIN_EXE_hello-web");
        Command::new(program).arg("--check").env("PORT", &self.port).stderr(Stdio::null()).status().unwrap().success()
    }

    fn terminate(&self) {
        // The shell's own `kill`: not every machine has the program.
        let command = format!("kill {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn it_says_who_it_is_and_counts() {
    let service = Service::start();
    let first = service.get("/");
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
    assert!(first.contains("\r\n\r\nHello from "), "{first}");
    assert!(first.ends_with("request 1\n"), "{first}");
    assert!(service.get("/?again").ends_with("request 2\n"));
    assert!(service.get("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(service.get("/nowhere").starts_with("HTTP/1.1 404 "));
    assert!(service.ask("DELETE / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(service.ask("HEAD / HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(service.check());
}

#[test]
fn told_to_stop_it_answers_what_was_asked_and_ends_well() {
    let mut service = Service::start();
    let mut silent = service.connect();
    let mut connection = service.connect();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 16];
    connection.read_exact(&mut answer).unwrap();
    service.terminate();
    assert!(service.process.wait().unwrap().success());
    assert_eq!(silent.read(&mut answer).unwrap_or(0), 0);
    assert!(!service.check(), "nobody is there any more");
}

#[test]
fn a_port_that_cannot_be_is_told() {
    let program = Command::new(env!("CARGO_BIN_EXE_hello-web")).env("PORT", "http").output().unwrap();
    assert!(!program.status.success());
    assert_eq!(String::from_utf8_lossy(&program.stderr), "hello-web: PORT=http is no port\n");
}
