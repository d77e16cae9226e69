//! What happened: a short memory of past events, and a stream of those to come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::model::{Filters, LabelFilter, Timestamp};

/// How many past events are remembered, as in dockerd.
const REMEMBERED: usize = 256;
/// How far a slow reader may fall behind before it misses events.
const BACKLOG: usize = 4096;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// The daemon.
    Daemon,
    /// The build cache.
    Builder,
}

impl EventKind {
    /// The kind as clients read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Daemon => "daemon",
            Self::Builder => "builder",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// What it is about.
    pub kind: EventKind,
    /// `start`, `die`, `exec_create: sh`, …
    pub action: String,
    /// Identifier (or name) of what it is about.
    pub actor: String,
    /// Name, image, labels, exit code, …
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

/// Where events are told and heard.
#[derive(Clone)]
pub struct Events {
    past: Arc<Mutex<VecDeque<Arc<Event>>>>,
    live: broadcast::Sender<Arc<Event>>,
}

/// Which events a listener wants.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Remembered events from then on.
    pub since: Option<Timestamp>,
    /// The stream ends then. Without either of the two there are only the events to come.
    pub until: Option<Timestamp>,
    /// `type`, `event`, `container`, `image`, `network`, `volume`, `label`, …
    pub filters: Filters,
}

/// A stream of events.
pub struct EventStream {
    past: VecDeque<Arc<Event>>,
    live: broadcast::Receiver<Arc<Event>>,
    query: EventQuery,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Arc::default(), live: broadcast::channel(BACKLOG).0 }
    }
}

impl Events {
    /// Tells an event that happened now.
    pub fn tell(&self, kind: EventKind, action: impl Into<String>, actor: &str, attributes: BTreeMap<String, String>) {
        let event = Event { kind, action: action.into(), actor: actor.to_owned(), attributes, time: Timestamp::now() };
        let event = Arc::new(event);
        let mut past = self.past.lock();
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Sent under the lock, so that a new listener sees each event exactly once. Nobody listening is no failure.
        let _ = self.live.send(event);
    }

    /// Events as `query` asks, past ones first.
    pub fn listen(&self, query: EventQuery) -> EventStream {
        let past = self.past.lock();
        let live = self.live.subscribe();
        let wanted = |event: &&Arc<Event>| match query.since {
            Some(since) => event.time >= since,
            None => query.until.is_some(),
        };
        EventStream { past: past.iter().filter(wanted).cloned().collect(), live, query }
    }
}

impl EventStream {
    /// The next event; `None` at the end that the query sets.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => self.next_live().await?,
            };
            if self.query.until.is_some_and(|until| event.time > until) {
                return None;
            }
            if matches(&event, &self.query.filters) {
                return Some(event);
            }
        }
    }

    async fn next_live(&mut self) -> Option<Arc<Event>> {
        let remaining = match self.query.until {
            None => return receive(&mut self.live).await,
            Some(until) => std::time::Duration::try_from(until - Timestamp::now()).unwrap_or_default(),
        };
        tokio::time::timeout(remaining, receive(&mut self.live)).await.ok().flatten()
    }
}

async fn receive(live: &mut broadcast::Receiver<Arc<Event>>) -> Option<Arc<Event>> {
    loop {
        match live.recv().await {
            Ok(event) => return Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "a listener of events is too slow: it misses some");
            }
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

fn matches(event: &Event, filters: &Filters) -> bool {
    let label = |filter: &str| LabelFilter::parse(filter).matches(&event.attributes);
    filters.any("type", |kind| kind == event.kind.name())
        && filters.any("event", |action| matches_action(&event.action, action))
        && filters.any("scope", |scope| scope == "local")
        && filters.values("label").all(label)
        && actor_matches(event, filters, EventKind::Container, "container")
        && actor_matches(event, filters, EventKind::Network, "network")
        && actor_matches(event, filters, EventKind::Volume, "volume")
        && actor_matches(event, filters, EventKind::Daemon, "daemon")
        && image_matches(event, filters)
}

/// `exec_create: sh -c true` answers to `exec_create`, `health_status: healthy` to `health_status`.
fn matches_action(action: &str, wanted: &str) -> bool {
    action == wanted || action.split_once(':').is_some_and(|(head, _)| head == wanted)
}

fn actor_matches(event: &Event, filters: &Filters, kind: EventKind, key: &str) -> bool {
    if !filters.has(key) {
        return true;
    }
    let name = event.attributes.get("name");
    event.kind == kind
        && filters.any(key, |wanted| event.actor.starts_with(wanted) || name.is_some_and(|name| name == wanted))
}

fn image_matches(event: &Event, filters: &Filters) -> bool {
    let of_image = |wanted: &str| {
        let names = match event.kind {
            EventKind::Image => [Some(&event.actor), event.attributes.get("name")],
            _ => [None, event.attributes.get("image")],
        };
        names.into_iter().flatten().any(|name| name == wanted || untagged(name) == wanted)
    };
    filters.any("image", of_image)
}

/// `alpine` for `alpine:3.20`; a port in a registry's name is no tag.
fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((head, tag)) if !tag.contains('/') => head,
        _ => name,
    }
}
