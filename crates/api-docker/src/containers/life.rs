//! A container's life: start, stop, kill, pause, wait, rename, remove, and what runs in it.

use engine::{RemoveOptions, WaitCondition, WaitResult};
use futures_util::{FutureExt, stream};
use serde::Serialize;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::filters;
use crate::query::{Query, parse_integer};

/// `POST /containers/{name}/start`
pub(crate) async fn start(mut call: Call) -> Result<Response> {
    if call.query.given("checkpoint").is_some() {
        // With the status of a dockerd without its experimental features.
        return Err(ApiError::bad_request("stratus does not support checkpoints: there are none to start from"));
    }
    // Long ago a body could change the container; clients that still send one must hear that it does nothing.
    if call.bytes().await?.len() > "{}".len() {
        let message =
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24";
        return Err(ApiError::bad_request(message));
    }
    call.engine().start(&call.name).await?;
    Ok(body::no_content())
}

/// `POST /containers/{name}/stop`
pub(crate) async fn stop(call: Call) -> Result<Response> {
    let (signal, timeout) = signal_and_timeout(&call)?;
    call.engine().stop(&call.name, signal, timeout).await?;
    Ok(body::no_content())
}

/// `POST /containers/{name}/restart`
pub(crate) async fn restart(call: Call) -> Result<Response> {
    let (signal, timeout) = signal_and_timeout(&call)?;
    call.engine().restart(&call.name, signal, timeout).await?;
    Ok(body::no_content())
}

/// The signal came with 1.42.
fn signal_and_timeout(call: &Call) -> Result<(Option<&str>, Option<i64>)> {
    let signal = call.query.given("signal").filter(|_| call.version.at_least(42));
    let timeout = call.query.given("t").map(|seconds| parse_integer("Atoi", seconds)).transpose()?;
    Ok((signal, timeout))
}

/// `POST /containers/{name}/kill`
pub(crate) async fn kill(call: Call) -> Result<Response> {
    let killed = call.engine().kill(&call.name, call.query.given("signal")).await;
    killed.map_err(|error| ApiError::from(error).context(format_args!("cannot kill container: {}", call.name)))?;
    Ok(body::no_content())
}

/// `POST /containers/{name}/pause`
pub(crate) async fn pause(call: Call) -> Result<Response> {
    call.engine().pause(&call.name).await?;
    Ok(body::no_content())
}

/// `POST /containers/{name}/unpause`
pub(crate) async fn unpause(call: Call) -> Result<Response> {
    call.engine().unpause(&call.name).await?;
    Ok(body::no_content())
}

/// `POST /containers/{name}/rename`
pub(crate) async fn rename(call: Call) -> Result<Response> {
    call.engine().rename(&call.name, call.query.text("name")).await?;
    Ok(body::no_content())
}

/// `DELETE /containers/{name}`
pub(crate) async fn remove(call: Call) -> Result<Response> {
    let options =
        RemoveOptions { force: call.query.flag("force"), volumes: call.query.flag("v"), link: call.query.flag("link") };
    call.engine().remove(&call.name, options).await?;
    Ok(body::no_content())
}

/// `POST /containers/{name}/resize`
pub(crate) async fn resize(call: Call) -> Result<Response> {
    let (rows, columns) = terminal_size(&call.query)?;
    call.engine().resize(&call.name, rows, columns).await?;
    Ok(body::empty(http::StatusCode::OK))
}

/// Rows and columns of a terminal: `h` and `w`.
pub(crate) fn terminal_size(query: &Query) -> Result<(u16, u16)> {
    let side = |key: &str, what: &str| {
        let text = query.text(key);
        text.parse().map_err(|_| ApiError::bad_request(format!("invalid resize {what} {text:?}: invalid syntax")))
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WaitBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WaitErrorBody>,
    status_code: i32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WaitErrorBody {
    message: String,
}

/// `POST /containers/{name}/wait`: the head of the response tells the client that the wait is on, and so comes at
/// once; `docker run` starts the container only then.
pub(crate) async fn wait(call: Call) -> Result<Response> {
    let condition = match call.query.text("condition") {
        _ if call.version.before(30) => WaitCondition::NotRunning,
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::bad_request(format!("invalid condition: {other:?}"))),
    };
    let end = call.engine().wait(&call.name, condition).await?;
    if call.version.before(30) {
        return body::ok_json(&WaitBody::from(end.await));
    }
    let shutdown = call.shutdown.clone();
    let answer = async move {
        let ended = tokio::select! {
            ended = end => ended,
            // Nothing truthful can be said: the container goes on without this daemon.
            () = shutdown.cancelled() => return Err(std::io::Error::other("the daemon stops")),
        };
        body::json_line(&WaitBody::from(ended)).map_err(std::io::Error::other)
    };
    let body = body::Body::Stream(Box::pin(stream::once(answer.boxed())));
    Ok(body::with_type(http::StatusCode::OK, http::HeaderValue::from_static("application/json"), body))
}

impl From<WaitResult> for WaitBody {
    fn from(result: WaitResult) -> Self {
        let error = result.error.filter(|message| !message.is_empty()).map(|message| WaitErrorBody { message });
        Self { error, status_code: result.code }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneBody {
    containers_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

/// `POST /containers/prune`
pub(crate) async fn prune(call: Call) -> Result<Response> {
    let filters = filters::from_query(&call.query)?;
    let report = call.engine().prune_containers(&filters).await?;
    let deleted = Some(report.deleted).filter(|deleted| !deleted.is_empty());
    body::ok_json(&PruneBody { containers_deleted: deleted, space_reclaimed: report.reclaimed })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TopBody {
    processes: Vec<Vec<String>>,
    titles: Vec<String>,
}

/// `GET /containers/{name}/top`
pub(crate) async fn top(call: Call) -> Result<Response> {
    let table = call.engine().top(&call.name, call.query.given("ps_args").unwrap_or("-ef")).await?;
    body::ok_json(&TopBody { processes: table.rows, titles: table.titles })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(result: WaitResult) -> String {
        serde_json::to_string(&WaitBody::from(result)).expect("JSON")
    }

    #[test]
    fn an_error_is_told_only_where_there_is_one() {
        assert_eq!(json(WaitResult { code: 3, error: None }), r#"{"StatusCode":3}"#);
        assert_eq!(json(WaitResult { code: 0, error: Some(String::new()) }), r#"{"StatusCode":0}"#);
        let error = Some("no such file".to_owned());
        assert_eq!(json(WaitResult { code: 127, error }), r#"{"Error":{"Message":"no such file"},"StatusCode":127}"#);
    }

    #[test]
    fn a_terminal_has_two_sides() {
        let size = |text: &str| terminal_size(&Query::parse(text).expect("a query"));
        assert_eq!(size("h=24&w=80").expect("a size"), (24, 80));
        assert_eq!(size("h=x&w=80").expect_err("no size").message(), "invalid resize height \"x\": invalid syntax");
        assert!(size("w=80").is_err());
    }
}
