//! What happened: a short memory of past events, and a stream of those to come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use image::LabelFilter;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::model::{Filters, Timestamp};

/// How many past events are remembered, as in dockerd.
const REMEMBERED: usize = 256;
/// How far a slow reader may fall behind before it misses events.
const BACKLOG: usize = 4096;

/// Bytes of an event's action that are kept: those of an exec are a whole command line.
const MOST_ACTION: usize = 4 << 10;
/// Bytes of an event's attributes that are kept: labels are among them.
const MOST_ATTRIBUTES: usize = 16 << 10;

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
        let (mut action, mut attributes) = (action.into(), attributes);
        bound(&mut action, &mut attributes);
        let event = Event { kind, action, actor: actor.to_owned(), attributes, time: Timestamp::now() };
        let event = Arc::new(event);
        let mut past = self.past.lock();
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Sent under the lock, so that a new listener sees each event exactly once. Nobody listening is no failure.
        let _ = self.live.send(event);
    }

    /// How many hear of events now.
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
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

/// Cuts what strangers can make as long as they like: events are kept for listeners who come, or who are slow.
fn bound(action: &mut String, attributes: &mut BTreeMap<String, String>) {
    if action.len() > MOST_ACTION {
        let whole = (0..=MOST_ACTION).rev().find(|at| action.is_char_boundary(*at));
        action.truncate(whole.unwrap_or_default());
        action.push('…');
    }
    let mut bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
    // The longest go first: what an event says of itself is short.
    while bytes > MOST_ATTRIBUTES {
        let longest = attributes.iter().max_by_key(|(name, value)| name.len() + value.len());
        let Some((name, value)) = longest.map(|(name, value)| (name.clone(), value.len())) else { return };
        bytes -= name.len() + value;
        attributes.remove(&name);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_of_an_event_is_bounded() {
        let events = Events::default();
        let mut listener = events.listen(EventQuery::default());
        assert_eq!(events.listeners(), 1);
        let short = BTreeMap::from([("name".to_owned(), "box".to_owned()), ("label".to_owned(), "short".to_owned())]);
        let mut long = short.clone();
        long.insert("huge".to_owned(), "x".repeat(8 << 20));
        events.tell(EventKind::Container, format!("exec_create: {}", "é".repeat(4 << 20)), "id", long);
        let event = listener.next().await.expect("an event");
        assert!(event.action.starts_with("exec_create: é") && event.action.ends_with('…'));
        assert!(event.action.len() <= MOST_ACTION + '…'.len_utf8());
        assert_eq!(event.attributes, short);
        drop(listener);
        assert_eq!(events.listeners(), 0);
    }
}
