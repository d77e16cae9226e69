//! A client's connection: by HTTP/1.1, or by HTTP/2 where that is how it begins (RFC 9113, section 3.4), with TLS or without.

use std::convert::Infallible;
use std::io::{Cursor, Result};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, join, split};

use super::forward::{Answer, Client, Taken};
use super::{KEEPALIVE, PATIENCE};

/// How HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest head, in bytes.
const HEAD_MAX: usize = 64 << 10;
/// Requests of one connection at a time, by HTTP/2.
const STREAMS: u32 = 100;
/// Bytes of an answer that are kept for who does not read it, by HTTP/2.
const KEPT: usize = 64 << 10;

/// Serves one connection to its end, or until it becomes something else.
pub(super) async fn connection(client: Client, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (mut read, write) = split(stream);
    let begun = tokio::time::timeout(PATIENCE, begin(&mut read)).await;
    // Who says nothing, or goes, is not worth more.
    let Ok(Ok(begun)) = begun else { return };
    let is_second = begun == PREFACE;
    let stream = join(Cursor::new(begun).chain(read), write);
    match is_second {
        true => {
            let answer = move |request, taken| {
                let client = client.clone();
                async move { client.answer(request, taken).await }
            };
            second(stream, answer).await;
        }
        false => first(client, stream).await,
    }
}

/// Reads what a connection begins with, until it is seen whether that is [`PREFACE`].
async fn begin(from: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut begun = Vec::with_capacity(PREFACE.len());
    while begun.len() < PREFACE.len() && PREFACE.starts_with(&begun) {
        let mut more = (&mut *from).take((PREFACE.len() - begun.len()) as u64);
        if more.read_buf(&mut begun).await? == 0 {
            break;
        }
    }
    Ok(begun)
}

async fn first(client: Client, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service = service_fn(move |request| {
        let client = client.clone();
        async move { Ok::<_, Infallible>(client.answer(request, Taken::default()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // Clients come and go as they like.
    let _ = connection.await;
}

/// Whoever asks nothing for a while is told to go, as by HTTP/1.1, and who is not let in as well: what is under way is answered before. Who does not go
/// when nothing is under way any more that was let in is cut off: a client may as well leave unread what it is told.
async fn second<F: Future<Output = Response<Answer>> + Send + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: impl Fn(Request<Incoming>, Taken) -> F + Send + 'static,
) {
    let (taken, asked) = (Taken::default(), Arc::new(AtomicBool::new(false)));
    let (under_way, told) = (taken.clone(), Arc::clone(&asked));
    let service = service_fn(move |request| {
        told.store(true, Ordering::Relaxed);
        let answer = answer(request, under_way.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // The service has a handle of its own.
    let is_under_way = || taken.others() > 1;
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_MAX as u32)
        .max_send_buf_size(KEPT)
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let is_to_go = async {
        loop {
            tokio::select! {
                () = taken.refused() => return,
                () = tokio::time::sleep(PATIENCE) => {}
            }
            if !asked.swap(false, Ordering::Relaxed) && !is_under_way() {
                return;
            }
        }
    };
    tokio::select! {
        // Clients come and go as they like.
        _ = connection.as_mut() => return,
        () = is_to_go => {}
    }
    connection.as_mut().graceful_shutdown();
    let does_not_go = async {
        loop {
            tokio::time::sleep(PATIENCE).await;
            if !is_under_way() {
                return;
            }
        }
    };
    tokio::select! {
        _ = connection => {}
        () = does_not_go => {}
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use tokio::io::{AsyncWriteExt as _, DuplexStream};
    use tokio::sync::watch;

    use super::*;

    /// What is read of a connection on which these pieces come.
    async fn read(pieces: &[&[u8]]) -> Vec<u8> {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let pieces: Vec<_> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writes = tokio::spawn(async move {
            for piece in pieces {
                theirs.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let (mut from, _) = split(ours);
        let begun = begin(&mut from).await.unwrap();
        writes.await.unwrap();
        let mut rest = Vec::new();
        from.read_to_end(&mut rest).await.unwrap();
        assert!(begun.len() <= PREFACE.len());
        [begun, rest].concat()
    }

    #[tokio::test]
    async fn nothing_of_how_a_connection_begins_is_lost() {
        for pieces in [
            &[PREFACE, b"\0\0\0\x04\0\0\0\0\0"][..],
            &[&PREFACE[..5], &PREFACE[5..], b"more"],
            &[b"GET / HTTP/1.1\r\n\r\n"],
            &[b"P", b"RI", b"NT / HTTP/1.1\r\n\r\n"],
            &[b"PRI * HTTP/1.1\r\n\r\n"],
            &[b""],
            &[&PREFACE[..7]],
        ] {
            assert_eq!(read(pieces).await, pieces.concat());
        }
    }

    /// A client that asks once, reads no answer (it gives leave for no byte of one), and goes when it is cut off; `says` that it is there when it is asked.
    async fn stays(mut stream: DuplexStream, says: bool) {
        stream.write_all(PREFACE).await.unwrap();
        // SETTINGS with INITIAL_WINDOW_SIZE 0, and HEADERS: GET, http, /.
        stream.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0").await.unwrap();
        stream.write_all(b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84").await.unwrap();
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let [_, _, length, kind, flags, ..] = head;
            let mut payload = vec![0; length.into()];
            stream.read_exact(&mut payload).await.unwrap();
            // A PING; it may be gone when it is to read this.
            if says && (kind, flags) == (6, 0) {
                let _ = stream.write_all(&[b"\0\0\x08\x06\x01\0\0\0\0", &payload[..]].concat()).await;
            }
        }
    }

    fn of(body: &'static str) -> Response<Answer> {
        Response::new(Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {}).boxed_unsync())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_let_in_holds_no_place_by_not_going() {
        for says in [true, false] {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let client = tokio::spawn(stays(theirs, says));
            let served = second(ours, |_, taken| async move {
                taken.refuse();
                of("not you")
            });
            tokio::time::timeout(PATIENCE * 60, served).await.expect("it is cut off");
            client.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_holds_no_place_by_not_reading_that() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let silent = tokio::spawn(async move {
            theirs.write_all(PREFACE).await.unwrap();
            std::future::pending::<()>().await;
        });
        tokio::time::timeout(PATIENCE * 60, second(ours, |_, _| async { of("") })).await.expect("it is cut off");
        silent.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_let_in_is_answered_before() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let client = tokio::spawn(stays(theirs, true));
        let (ready, is_ready) = watch::channel(false);
        let served = tokio::spawn(second(ours, move |_, taken| {
            let mut is_ready = is_ready.clone();
            async move {
                taken.refuse();
                is_ready.wait_for(|is_ready| *is_ready).await.unwrap();
                drop(taken);
                of("here")
            }
        }));
        tokio::time::sleep(PATIENCE * 60).await;
        assert!(!served.is_finished());
        ready.send(true).unwrap();
        tokio::time::timeout(PATIENCE * 60, served).await.expect("it is cut off").unwrap();
        client.await.unwrap();
    }
}
