//! A web server on loopback: files that a test puts there, redirections, and what was asked of it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A server that hands out what it is given, until it is dropped.
pub struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    ended: AtomicBool,
}

#[derive(Default)]
struct Known {
    pages: HashMap<String, Page>,
    /// Directories whose files are handed out, by what stands before them.
    directories: Vec<(String, PathBuf)>,
    /// What is to be shown for paths that begin so.
    guarded: Vec<(String, String)>,
    /// All that was shown.
    shown: Vec<String>,
    asked: Vec<String>,
}

/// What is said to whoever asks for a path.
#[derive(Clone)]
struct Page {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    tag: Option<String>,
}

impl Web {
    /// Starts one on a port that the kernel picks.
    ///
    /// # Panics
    /// When it can't listen.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        let address = listener.local_addr().expect("the server's own address");
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().flatten() {
                    if shared.ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // A client that goes away is no matter of the server's.
                    std::thread::spawn(move || drop(shared.answer(&stream)));
                }
            }
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Its address, with a path that begins with a slash.
    pub fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Puts a file there, whose tag says whether it changed.
    pub fn put(&self, path: &str, body: impl AsRef<[u8]>, tag: &str) {
        self.page(
            path,
            Page { status: "200 OK", headers: String::new(), body: body.as_ref().to_vec(), tag: Some(tag.into()) },
        );
    }

    /// Puts a file there of which nothing is said.
    pub fn put_plain(&self, path: &str, body: impl AsRef<[u8]>) {
        self.page(path, Page { status: "200 OK", headers: String::new(), body: body.as_ref().to_vec(), tag: None });
    }

    /// Sends whoever asks for a path somewhere else.
    pub fn redirect(&self, path: &str, to: &str) {
        let headers = format!("Location: {to}\r\n");
        self.page(path, Page { status: "302 Found", headers, body: Vec::new(), tag: None });
    }

    /// Hands out the files of a directory.
    pub fn put_directory(&self, path: &str, directory: impl Into<PathBuf>) {
        self.shared.known().directories.push((format!("{path}/"), directory.into()));
    }

    /// Hands out what is behind a path only to who shows this in a header `Authorization`.
    pub fn guard(&self, path: &str, authorization: &str) {
        self.shared.known().guarded.push((path.to_owned(), authorization.to_owned()));
    }

    /// What headers `Authorization` there were since this was last called.
    pub fn shown(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.known().shown)
    }

    /// What was asked since this was last called: `GET /path 200`, in order.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.known().asked)
    }

    fn page(&self, path: &str, page: Page) {
        self.shared.known().pages.insert(path.to_owned(), page);
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // What a proxy is asked for says of which server.
        let path =
            target.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(target);
        let (mut held, mut authorization) = (None, None);
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                let value = value.trim().to_owned();
                match name.to_ascii_lowercase().as_str() {
                    "if-none-match" => held = Some(value),
                    "authorization" => authorization = Some(value),
                    _ => {}
                }
            }
        }
        let page = match self.lets_in(path, authorization.as_deref()) {
            true => self.find(path),
            false => Page {
                status: "401 Unauthorized",
                headers: "WWW-Authenticate: Basic realm=\"x\"\r\n".to_owned(),
                body: Vec::new(),
                tag: None,
            },
        };
        self.known().shown.extend(authorization);
        let unchanged = page.tag.is_some() && page.tag == held;
        let status = if unchanged { "304 Not Modified" } else { page.status };
        let body: &[u8] = if unchanged { &[] } else { &page.body };
        self.known().asked.push(format!("{method} {target} {}", &status[..3]));
        let tag = page.tag.map_or_else(String::new, |tag| format!("ETag: {tag}\r\n"));
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{tag}{}\r\n",
            body.len(),
            page.headers
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    }

    fn lets_in(&self, path: &str, authorization: Option<&str>) -> bool {
        let known = self.known();
        let guard = known.guarded.iter().find(|(guarded, _)| path.starts_with(guarded));
        guard.is_none_or(|(_, wanted)| authorization == Some(wanted))
    }

    fn find(&self, path: &str) -> Page {
        let known = self.known();
        let missing = Page { status: "404 Not Found", headers: String::new(), body: Vec::new(), tag: None };
        if let Some(page) = known.pages.get(path) {
            return page.clone();
        }
        let path = path.split('?').next().unwrap_or_default();
        let file = known.directories.iter().find_map(|(at, directory)| Some(directory.join(path.strip_prefix(at)?)));
        match file.and_then(|file| std::fs::read(file).ok()) {
            Some(body) => Page { status: "200 OK", body, ..missing },
            None => missing,
        }
    }
}
