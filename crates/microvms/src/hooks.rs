//! What a program in a microVM is told of what becomes of it: HTTP requests to a port of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use engine::{Error, Result};
use guest_protocol::plain;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// What stands before a hook's name in its path: as on AWS, so that a program needs no other one here.
const PATH: &str = "/aws/lambda-microvms/runtime/v1/";
/// Between two questions whether a program is ready.
const PAUSE: Duration = Duration::from_millis(100);
/// The most that is read of what a hook answers, in bytes: it is told where it refuses.
const ANSWER_MAX: usize = 4096;
/// How long the hooks may take that an image is built with, and those of what goes on from it, in seconds.
const LONGEST: [u16; 2] = [3600, 60];
/// How long they may take where nobody says.
const USUAL: [u16; 2] = [300, 10];

/// A moment of a microVM's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Before the machine is saved into an image: it is ready.
    Ready,
    /// A machine has gone on from the new image, to be tried out.
    Validate,
    /// One has gone on from the image, to stay.
    Run,
    /// It goes on where it was suspended.
    Resume,
    /// It is about to be suspended.
    Suspend,
    /// It is about to end.
    Terminate,
}

impl Hook {
    /// All of them, in the order of a microVM's life.
    pub const ALL: [Self; 6] = [Self::Ready, Self::Validate, Self::Run, Self::Resume, Self::Suspend, Self::Terminate];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Validate => "validate",
            Self::Run => "run",
            Self::Resume => "resume",
            Self::Suspend => "suspend",
            Self::Terminate => "terminate",
        }
    }

    fn is_of_the_image(self) -> bool {
        matches!(self, Self::Ready | Self::Validate)
    }

    fn of(self, times: [u16; 2]) -> u16 {
        let [image, microvm] = times;
        if self.is_of_the_image() { image } else { microvm }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The hooks that a program has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Where it listens, in its container.
    port: u16,
    /// How long each may take, in seconds.
    seconds: BTreeMap<Hook, u16>,
}

impl Hooks {
    /// The hooks of a program that listens at `port`: those that are named, each with how long it may take, in seconds, where that is said.
    ///
    /// # Errors
    /// There is no port, one may not take that long, or the program can't say when it is ready, which it has to where it has others.
    pub fn new(port: u16, hooks: impl IntoIterator<Item = (Hook, Option<u16>)>) -> Result<Self> {
        if port == 0 {
            return Err(Error::invalid("hooks need the port where the program listens for them, 1 to 65535"));
        }
        let mut seconds = BTreeMap::new();
        for (hook, time) in hooks {
            let (time, longest) = (time.unwrap_or_else(|| hook.of(USUAL)), hook.of(LONGEST));
            if time == 0 || time > longest {
                return Err(Error::invalid(format!("hook {hook}={time}: it may take 1 to {longest} seconds")));
            }
            seconds.insert(hook, time);
        }
        if !seconds.contains_key(&Hook::Ready) {
            return Err(Error::invalid(
                "a program with hooks has the hook ready, too: before that it may not listen for the others",
            ));
        }
        Ok(Self { port, seconds })
    }

    /// Whether the program has a hook.
    pub fn has(&self, hook: Hook) -> bool {
        self.seconds.contains_key(&hook)
    }

    /// Tells the program, if it has that hook, and waits until it says that it is done.
    ///
    /// # Errors
    /// It refuses, or takes longer than it may.
    pub(crate) async fn tell(&self, hook: Hook, address: IpAddr, body: Bytes) -> Result<()> {
        let Some(seconds) = self.seconds.get(&hook) else { return Ok(()) };
        let until = Instant::now() + Duration::from_secs((*seconds).into());
        let address = SocketAddr::new(address, self.port);
        let mut last = "it does not listen".to_owned();
        loop {
            match timeout_at(until, ask(hook, address, body.clone())).await {
                Ok(Ok((StatusCode::OK, _))) => return Ok(()),
                Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, text))) if hook.is_of_the_image() => {
                    last = format!("it answers {}{text}", StatusCode::SERVICE_UNAVAILABLE);
                }
                Ok(Ok((status, text))) => {
                    return Err(Error::conflict(format!(
                        "the hook {hook} at port {}: it answers {status}{text}",
                        self.port
                    )));
                }
                // It has not begun to listen, or its network has not.
                Ok(Err(error)) => last = error,
                Err(_) => {
                    let port = self.port;
                    return Err(Error::conflict(format!(
                        "the hook {hook} at port {port}: not within {seconds} seconds: {last}"
                    )));
                }
            }
            // Where that is too late, the next question says so.
            let _ = timeout_at(until, sleep(PAUSE)).await;
        }
    }
}

/// One request, and what came of it; in an answer that is not `200` the beginning of its text, for people.
async fn ask(hook: Hook, address: SocketAddr, body: Bytes) -> Result<(StatusCode, String), String> {
    let said = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{PATH}{hook}"))
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(said)?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok((status, String::new()));
        }
        let text = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        let text = text.map(|text| text.to_bytes()).unwrap_or_default();
        Ok((status, told(&text)))
    };
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        // The connection may end with the answer.
        _ = connection => exchange.await,
    }
}

/// A stranger's text, on its way to a person: its first line, as far as that can be shown.
fn told(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line: String = text.trim().lines().next().unwrap_or_default().chars().take(200).collect();
    if line.is_empty() { line } else { format!(": {}", plain::text(&line)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn a_program_with_hooks_says_when_it_is_ready() {
        assert!(Hooks::new(0, [(Hook::Ready, None)]).is_err());
        assert!(Hooks::new(9000, [(Hook::Run, None)]).is_err());
        assert!(Hooks::new(9000, [(Hook::Ready, Some(3600)), (Hook::Run, Some(61))]).is_err());
        let hooks = Hooks::new(9000, [(Hook::Ready, Some(3600)), (Hook::Run, None)]).unwrap();
        assert!(hooks.has(Hook::Run) && !hooks.has(Hook::Suspend));
    }

    /// Answers one request after the other, and gives what they were.
    async fn program(answers: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; 4096];
                let count = stream.read(&mut bytes).await.unwrap();
                asked.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (port, served)
    }

    const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    const BROKEN: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 14\r\n\r\nno \x1b[31mmodel\n";

    #[tokio::test]
    async fn one_that_is_not_ready_is_asked_again() {
        let (port, served) = program(vec![BUSY, BUSY, DONE]).await;
        let hooks = Hooks::new(port, [(Hook::Ready, None)]).unwrap();
        hooks.tell(Hook::Ready, [127, 0, 0, 1].into(), Bytes::new()).await.unwrap();
        let asked = served.await.unwrap();
        assert_eq!(asked.len(), 3);
        assert!(asked[0].starts_with("POST /aws/lambda-microvms/runtime/v1/ready HTTP/1.1\r\n"), "{}", asked[0]);
    }

    #[tokio::test]
    async fn one_that_refuses_is_told_with_its_words_and_gets_what_it_is_for() {
        let (port, served) = program(vec![BROKEN]).await;
        let hooks = Hooks::new(port, [(Hook::Ready, None), (Hook::Run, None)]).unwrap();
        let refused = hooks.tell(Hook::Run, [127, 0, 0, 1].into(), Bytes::from_static(b"tenant 7")).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("it answers 500 Internal Server Error: no \\u{1b}[31mmodel"), "{refused}");
        assert!(served.await.unwrap()[0].ends_with("\r\n\r\ntenant 7"));
        // And one that it does not have is not asked.
        hooks.tell(Hook::Suspend, [127, 0, 0, 1].into(), Bytes::new()).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_never_listens_is_given_up() {
        let hooks = Hooks::new(1, [(Hook::Ready, Some(1))]).unwrap();
        let late = hooks.tell(Hook::Ready, [127, 0, 0, 1].into(), Bytes::new()).await.unwrap_err().to_string();
        assert!(late.contains("not within 1 seconds"), "{late}");
    }
}
