use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::body::Body;

fn event(id: &str, phase: Phase) -> ProgressEvent {
    ProgressEvent { id: id.to_owned(), phase }
}

fn line(event: ProgressEvent) -> String {
    serde_json::to_string(&Message::from(event)).expect("JSON")
}

async fn text(response: Response) -> String {
    let Body::Stream(stream) = response.into_body() else { panic!("a stream") };
    let pieces: Vec<Bytes> = stream.map(|piece| piece.expect("a piece")).collect().await;
    String::from_utf8(pieces.concat()).expect("text")
}

fn words(first: Vec<Message>, before_events: Vec<Message>) -> Words<&'static str> {
    Words { first, before_events, events: true, last: |result| vec![Message::status(result)] }
}

#[test]
fn events_have_dockerds_words() {
    assert_eq!(
        line(event("a1", Phase::PullingFsLayer)),
        r#"{"status":"Pulling fs layer","progressDetail":{},"id":"a1"}"#
    );
    assert_eq!(
        line(event("a1", Phase::Downloading { current: 500, total: 1000 })),
        format!(
            r#"{{"status":"Downloading","progressDetail":{{"current":500,"total":1000}},"progress":"[{}>{}]     500B/1kB","id":"a1"}}"#,
            "=".repeat(25),
            " ".repeat(25)
        )
    );
    assert!(
        line(event("a1", Phase::Mounted { from: "library/base".to_owned() })).contains("Mounted from library/base")
    );
    assert!(line(event("a1", Phase::Retrying { seconds: 1 })).contains("Retrying in 1 second\""));
}

#[test]
fn results_and_failures_have_their_own_form() {
    let json = |message: &Message| serde_json::to_string(message).expect("JSON");
    assert_eq!(
        json(&Message::status_of("latest", "Pulling from library/x")),
        r#"{"status":"Pulling from library/x","id":"latest"}"#
    );
    assert_eq!(json(&Message::failure(&ApiError::internal("no"))), r#"{"errorDetail":{"message":"no"},"error":"no"}"#);
    assert_eq!(json(&Message::aux(serde_json::json!({"Tag": "1"}))), r#"{"progressDetail":{},"aux":{"Tag":"1"}}"#);
}

#[test]
fn a_newer_count_takes_the_older_ones_place() {
    let queue = Queue::default();
    queue.push(event("a", Phase::PullingFsLayer));
    for current in 0..10_000 {
        queue.push(event("a", Phase::Downloading { current, total: 10_000 }));
        queue.push(event("b", Phase::Downloading { current, total: 10_000 }));
    }
    queue.push(event("a", Phase::DownloadComplete));
    let waiting = queue.take();
    assert_eq!(waiting.len(), 4);
    assert_eq!(waiting[1], event("a", Phase::Downloading { current: 9_999, total: 10_000 }));
    assert_eq!(waiting[3], event("a", Phase::DownloadComplete));
}

#[tokio::test]
async fn events_come_before_the_result() {
    let shutdown = CancellationToken::new();
    let words = words(Vec::new(), vec![Message::status_of("latest", "Pulling from library/x")]);
    let response = respond(&shutdown, words, |progress| async move {
        progress.emit("a", Phase::PullingFsLayer);
        tokio::task::yield_now().await;
        progress.emit("a", Phase::PullComplete);
        Ok("done")
    });
    let text = text(response.await.expect("a response")).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].contains("Pulling from") && lines[1].contains("Pulling fs layer"));
    assert!(lines[2].contains("Pull complete") && lines[3] == r#"{"status":"done"}"#);
}

#[tokio::test]
async fn a_failure_before_everything_is_a_response() {
    let shutdown = CancellationToken::new();
    let response = respond(&shutdown, words(Vec::new(), Vec::new()), |_| async {
        Err(engine::Error::not_found("manifest unknown"))
    });
    let error = response.await.map(|_| ()).expect_err("no response");
    assert_eq!((error.status().as_u16(), error.message()), (404, "manifest unknown"));
}

#[tokio::test]
async fn a_later_failure_is_told_in_the_stream() {
    let shutdown = CancellationToken::new();
    let words = words(vec![Message::status("The push refers to repository [x]")], Vec::new());
    let response = respond(&shutdown, words, |progress| async move {
        progress.emit("a", Phase::Preparing);
        Err(engine::Error::unauthorized("denied"))
    });
    let text = text(response.await.expect("a response")).await;
    assert!(text.starts_with(r#"{"status":"The push refers"#) && text.contains("Preparing"), "{text}");
    assert!(text.ends_with("{\"errorDetail\":{\"message\":\"denied\"},\"error\":\"denied\"}\r\n"), "{text}");
}

#[tokio::test]
async fn work_ends_with_its_client() {
    let shutdown = CancellationToken::new();
    let (started, ended) = (Arc::new(Notify::new()), CancellationToken::new());
    let (tell, guard) = (started.clone(), ended.clone().drop_guard());
    let words = words(vec![Message::status("begun")], Vec::new());
    let response = respond(&shutdown, words, |_| async move {
        let _guard = guard;
        tell.notify_one();
        std::future::pending().await
    });
    let response = response.await.expect("a response");
    started.notified().await;
    drop(response);
    ended.cancelled().await;
}
