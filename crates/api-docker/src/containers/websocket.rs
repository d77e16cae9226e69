//! `GET /containers/{name}/attach/ws`: attaching over a WebSocket (RFC 6455).

use engine::{AttachOptions, Attachment, InputSink, OutputReceiver};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, UPGRADE};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::body::Response;
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::hijack::Taken;

type Socket = WebSocketStream<Taken>;

/// `GET /containers/{name}/attach/ws`
pub(crate) async fn attach(call: Call) -> Result<Response> {
    call.engine().inspect(&call.name, false).await?;
    let head = handshake(&call)?;
    // Before 1.42 all three streams were attached whatever was asked.
    let stream = |key: &str| call.version.before(42) || call.query.flag_or(key, true);
    let options = AttachOptions {
        stdin: stream("stdin"),
        stdout: stream("stdout"),
        stderr: stream("stderr"),
        logs: call.query.flag("logs"),
        stream: call.query.flag("stream"),
        detach_keys: call.query.given("detachKeys").map(str::to_owned),
    };
    let attachment = call.engine().attach(&call.name, options).await?;
    let binary = call.version.at_least(28);
    let takeover = move |mut taken: Taken| async move {
        if taken.write_all(head.as_bytes()).await.is_ok() {
            pipe(taken, attachment, binary).await;
        }
    };
    call.hijacker.take(Box::new(move |taken| Box::pin(takeover(taken)))).await
}

/// The response's head, if the request asks for a WebSocket.
fn handshake(call: &Call) -> Result<String> {
    let lists = |name, word: &str| {
        let value = call.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    let key = call.header("sec-websocket-key");
    if !lists(UPGRADE, "websocket") || !lists(CONNECTION, "upgrade") || key.is_empty() {
        return Err(ApiError::bad_request("not websocket protocol"));
    }
    if call.header("sec-websocket-version") != "13" {
        return Err(ApiError::bad_request("the WebSocket's version must be 13"));
    }
    let protocol = call.header("sec-websocket-protocol").split(',').next().unwrap_or_default().trim();
    let protocol = if protocol.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {protocol}\r\n") };
    let accept = derive_accept_key(key.as_bytes());
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
    ))
}

/// Carries messages both ways until one side ends.
async fn pipe(taken: Taken, attachment: Attachment, binary: bool) {
    let watch = taken.watch();
    let socket = Socket::from_raw_socket(taken, Role::Server, None).await;
    let (mut sink, mut messages) = socket.split();
    let mut output = attachment.output;
    let open = tokio::select! {
        open = carry_output(&mut output, &mut sink, binary) => open,
        open = carry_input(&mut messages, attachment.input) => open,
        () = watch.gone() => false,
    };
    if open && let Ok(mut socket) = sink.reunite(messages) {
        // The client may be gone in this very moment.
        let _ = socket.close(None).await;
    }
}

/// Sends a process's output until its end; whether the client is still there.
async fn carry_output(output: &mut OutputReceiver, sink: &mut SplitSink<Socket, Message>, binary: bool) -> bool {
    while let Some(chunk) = output.next().await {
        let message = match binary {
            true => Message::Binary(chunk.bytes),
            false => Message::text(String::from_utf8_lossy(&chunk.bytes).into_owned()),
        };
        if sink.send(message).await.is_err() {
            return false;
        }
    }
    true
}

/// Takes what a client sends; whether the client is still there at the end.
async fn carry_input(messages: &mut SplitStream<Socket>, mut input: Option<InputSink>) -> bool {
    while let Some(message) = messages.next().await {
        let bytes = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Text(text)) => bytes::Bytes::from(text),
            Ok(Message::Close(_)) => return true,
            Ok(_) => continue,
            Err(_) => return false,
        };
        if let Some(sink) = &mut input {
            match sink.write(&bytes).await {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => {
                    tracing::debug!(%error, "a process takes no more input");
                    input = None;
                }
            }
        }
    }
    false
}
