//! A client's connection: by HTTP/1.1, or by HTTP/2 where that is how it begins (RFC 9113, section 3.4), with TLS or without.

use std::convert::Infallible;
use std::io::{Cursor, Result};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, join, split};

use super::forward::{Client, Taken};
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
        true => second(client, stream).await,
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

/// Whoever asks nothing for a while is told to go, as by HTTP/1.1, and who is not let in as well: what is under way is answered before.
async fn second(client: Client, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (taken, asked) = (Taken::default(), Arc::new(AtomicBool::new(false)));
    let (under_way, told) = (taken.clone(), Arc::clone(&asked));
    let service = service_fn(move |request| {
        told.store(true, Ordering::Relaxed);
        let (client, taken) = (client.clone(), under_way.clone());
        async move { Ok::<_, Infallible>(client.answer(request, taken).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_MAX as u32)
        .max_send_buf_size(KEPT)
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            // Clients come and go as they like.
            _ = connection.as_mut() => return,
            () = taken.refused() => break,
            () = tokio::time::sleep(PATIENCE) => {
                // The service has a handle of its own.
                if !asked.swap(false, Ordering::Relaxed) && taken.others() <= 1 {
                    break;
                }
            }
        }
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a connection on which these pieces come.
    async fn read(pieces: &[&[u8]]) -> Vec<u8> {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let pieces: Vec<_> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let writes = tokio::spawn(async move {
            for piece in pieces {
                tokio::io::AsyncWriteExt::write_all(&mut theirs, &piece).await.unwrap();
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
}
