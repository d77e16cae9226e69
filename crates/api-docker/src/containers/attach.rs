//! `POST /containers/{name}/attach`, and the pipe between a connection and a process that `exec` uses too.

use std::future::Future;

use bytes::Buf;
use engine::{AttachOptions, Attachment, InputSink, OutputReceiver};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::body::Response;
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::frames::Framing;
use crate::hijack::Taken;

/// How much is read from a client at once.
const CHUNK: usize = 32 << 10;

/// Why a pipe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The process closed its output.
    Output,
    /// The client typed its detach keys, or the process takes no more input and is gone.
    Detached,
    /// The client is gone.
    Gone,
}

/// `POST /containers/{name}/attach`
pub(crate) async fn attach(call: Call) -> Result<Response> {
    let options = AttachOptions {
        stdin: call.query.flag("stdin"),
        stdout: call.query.flag("stdout"),
        stderr: call.query.flag("stderr"),
        logs: call.query.flag("logs"),
        stream: call.query.flag("stream"),
        detach_keys: call.query.given("detachKeys").map(str::to_owned),
    };
    let attachment = call.engine().attach(&call.name, options).await?;
    let framing = Framing::of(attachment.tty);
    hijack(&call, framing, std::future::ready(Ok(attachment))).await
}

/// The response's head: 101 to those who asked for an upgrade, 200 to the others. What follows it is not HTTP.
fn head(call: &Call, framing: Framing) -> String {
    let mut head = if call.headers().contains_key(http::header::UPGRADE) {
        let content_type = framing.content_type(call.version);
        format!("HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n")
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n", crate::frames::RAW)
    };
    for (name, value) in call.door.headers() {
        if let Ok(value) = value.to_str() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("\r\n");
    head
}

/// Takes the call's connection, and pipes it to a process once there is one. What fails on the way there is told where its
/// output would be, as the head has gone out already.
pub(crate) async fn hijack(
    call: &Call,
    framing: Framing,
    attachment: impl Future<Output = Result<Attachment>> + Send + 'static,
) -> Result<Response> {
    let head = head(call, framing);
    let takeover = move |mut taken: Taken| async move {
        // A client that is gone already does not keep the process from running.
        let _ = taken.write_all(head.as_bytes()).await;
        let attachment = attachment.await;
        taken.has_been_read().await;
        match attachment {
            Ok(attachment) => pipe(taken, framing, attachment).await,
            Err(error) => tell(taken, framing, &error).await,
        }
    };
    call.hijacker.take(Box::new(move |taken| Box::pin(takeover(taken)))).await
}

/// Tells a failure as if the process had: clients show it so.
async fn tell(mut taken: Taken, framing: Framing, error: &ApiError) {
    let line = bytes::Bytes::from(format!("{}\r\n", error.message()));
    let line = framing.frame(crate::frames::StreamId::Stdout, line);
    if taken.write_all(&line).await.is_ok() {
        taken.finish().await;
    }
}

/// Carries bytes both ways until one side ends.
async fn pipe(taken: Taken, framing: Framing, attachment: Attachment) {
    let watch = taken.watch();
    let (reader, mut writer) = taken.split();
    let (mut output, mut reader) = (attachment.output, reader);
    let ended = tokio::select! {
        ended = carry_output(&mut output, framing, &mut writer) => ended,
        ended = carry_input(&mut reader, attachment.input) => ended,
        () = watch.gone() => Ended::Gone,
    };
    if ended != Ended::Gone {
        reader.unsplit(writer).finish().await;
    }
}

/// Writes a process's output until its end.
async fn carry_output(output: &mut OutputReceiver, framing: Framing, writer: &mut (impl AsyncWrite + Unpin)) -> Ended {
    while let Some(chunk) = output.next().await {
        let header = framing.header_of(&chunk);
        let header = header.as_ref().map_or(&[][..], |header| &header[..]);
        let mut piece = Buf::chain(header, chunk.bytes);
        if writer.write_all_buf(&mut piece).await.is_err() {
            return Ended::Gone;
        }
    }
    Ended::Output
}

/// Reads what a client types. A client that only closes its sending side goes on listening, so this ends with a
/// detachment alone, or with the client.
async fn carry_input(reader: &mut (impl AsyncRead + Unpin), input: Option<InputSink>) -> Ended {
    let Some(mut input) = input else { return std::future::pending().await };
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => {
                if let Err(error) = input.close().await {
                    tracing::debug!(%error, "a process's input can't be closed");
                }
                return std::future::pending().await;
            }
            Ok(length) => match input.write(&buffer[..length]).await {
                Ok(true) => {}
                Ok(false) => return Ended::Detached,
                Err(error) => {
                    tracing::debug!(%error, "a process takes no more input");
                    // Its output may still come.
                    return std::future::pending().await;
                }
            },
            Err(_) => return Ended::Gone,
        }
    }
}
