//! `GET /events`

use std::collections::BTreeMap;

use engine::{Event, EventKind, EventQuery, EventStream};
use futures_util::stream;
use serde::Serialize;

use crate::body::{self, Response, json_line};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::filters;
use crate::time::parse_seconds;

#[derive(Serialize)]
struct MessageBody<'e> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'e str>,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: &'e str,
    #[serde(rename = "Actor")]
    actor: ActorBody<'e>,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Serialize)]
struct ActorBody<'e> {
    #[serde(rename = "ID")]
    id: &'e str,
    #[serde(rename = "Attributes")]
    attributes: &'e BTreeMap<String, String>,
}

/// `GET /events`
pub(crate) async fn events(call: Call) -> Result<Response> {
    let query = EventQuery {
        since: parse_seconds(call.query.text("since"))?,
        until: parse_seconds(call.query.text("until"))?,
        filters: filters::from_query(&call.query)?,
    };
    if let (Some(since), Some(until)) = (query.since, query.until)
        && until < since
    {
        let (since, until) = (call.query.text("since"), call.query.text("until"));
        let message = format!("`since` time ({since}) cannot be after `until` time ({until})");
        return Err(ApiError::bad_request(message));
    }
    let stream = call.engine().events().listen(query);
    let lines = stream::unfold(stream, |mut stream: EventStream| async {
        let event = stream.next().await?;
        json_line(&MessageBody::from(&*event)).ok().map(|line| (line, stream))
    });
    Ok(body::stream_until(&call.shutdown, "application/json", lines))
}

impl<'e> From<&'e Event> for MessageBody<'e> {
    fn from(event: &'e Event) -> Self {
        // The fields of old, for what they were made for.
        let old = matches!(event.kind, EventKind::Container | EventKind::Image);
        let from = event.attributes.get("image").filter(|_| event.kind == EventKind::Container);
        Self {
            status: old.then_some(event.action.as_str()),
            id: old.then_some(event.actor.as_str()),
            from: from.map(String::as_str),
            kind: event.kind.name(),
            action: &event.action,
            actor: ActorBody { id: &event.actor, attributes: &event.attributes },
            scope: "local",
            time: event.time.as_second(),
            time_nano: i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: EventKind, action: &str) -> String {
        let attributes =
            BTreeMap::from([("image".to_owned(), "alpine".to_owned()), ("name".to_owned(), "web".to_owned())]);
        let time = "2024-03-01T10:20:30.5Z".parse().expect("a time");
        let event = Event { kind, action: action.to_owned(), actor: "42".to_owned(), attributes, time };
        serde_json::to_string(&MessageBody::from(&event)).expect("JSON")
    }

    #[test]
    fn a_containers_event_has_the_fields_of_old() {
        assert_eq!(
            text(EventKind::Container, "start"),
            r#"{"status":"start","id":"42","from":"alpine","Type":"container","Action":"start","Actor":{"ID":"42","Attributes":{"image":"alpine","name":"web"}},"scope":"local","time":1709288430,"timeNano":1709288430500000000}"#
        );
    }

    #[test]
    fn a_networks_event_has_none_of_them() {
        assert!(text(EventKind::Network, "create").starts_with(r#"{"Type":"network","Action":"create""#));
    }
}
