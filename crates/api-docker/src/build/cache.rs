//! The build cache: `POST /build/prune`, and what `GET /system/df` says of it.

use ::build::{Cached, CachedKind, Meant, PruneOptions};
use engine::model::Filters;
use serde::Serialize;

use super::refused;
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::filters;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PrunedBody {
    caches_deleted: Option<Vec<String>>,
    space_reclaimed: u64,
}

/// A step, as `docker system df -v` shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CachedBody {
    #[serde(rename = "ID")]
    id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parents: Vec<String>,
    r#type: &'static str,
    description: String,
    in_use: bool,
    shared: bool,
    size: u64,
    created_at: String,
    last_used_at: String,
    usage_count: u64,
}

/// What Docker calls it.
fn kind(kind: CachedKind) -> &'static str {
    match kind {
        CachedKind::Step => "regular",
        CachedKind::Mount => "exec.cachemount",
        CachedKind::Context => "source.local",
        CachedKind::Web => "source.http",
    }
}

impl From<Cached> for CachedBody {
    fn from(cached: Cached) -> CachedBody {
        CachedBody {
            id: cached.id,
            parents: cached.parents,
            r#type: kind(cached.kind),
            description: cached.what,
            in_use: cached.in_use,
            shared: cached.shared,
            size: cached.size,
            created_at: cached.made.to_string(),
            last_used_at: cached.used.to_string(),
            usage_count: cached.uses,
        }
    }
}

impl CachedBody {
    /// Bytes that it takes by itself.
    pub(crate) fn size(&self) -> u64 {
        if self.shared { 0 } else { self.size }
    }
}

/// All that builds keep.
pub(crate) async fn listed(call: &Call) -> Result<Vec<CachedBody>> {
    let builder = call.door.builder.clone();
    let listed = tokio::task::spawn_blocking(move || builder.cached()).await;
    let listed = listed.map_err(|e| ApiError::internal(e.to_string()))?.map_err(refused)?;
    Ok(listed.into_iter().map(CachedBody::from).collect())
}

/// Filters beside those of time and of labels.
const FILTERS: [&str; 7] = ["id", "parent", "type", "description", "inuse", "shared", "private"];

/// What one of them lets through, given what it may be.
fn fits(cached: &Cached, name: &str, wanted: &str) -> bool {
    match name {
        "id" => cached.id.starts_with(wanted),
        "parent" => cached.parents.iter().any(|parent| parent.starts_with(wanted)),
        "type" => kind(cached.kind) == wanted,
        "description" => cached.what == wanted,
        // Without a value they are asked for as such.
        "inuse" => cached.in_use != is_no(wanted),
        "shared" => cached.shared != is_no(wanted),
        "private" => cached.shared == is_no(wanted),
        _ => true,
    }
}

fn is_yes(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

fn is_no(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "False" | "FALSE")
}

/// Refuses a value that one of them can't have: nothing would ever fit it.
fn understood(filters: &Filters) -> Result<()> {
    let kinds = [CachedKind::Step, CachedKind::Mount, CachedKind::Context, CachedKind::Web].map(kind);
    let flag = |value: &str| value.is_empty() || is_no(value) || is_yes(value);
    for (name, value) in FILTERS.iter().flat_map(|name| filters.values(name).map(move |value| (*name, value))) {
        let may_be = match name {
            "type" if !kinds.contains(&value) => kinds.join(", "),
            "inuse" | "shared" | "private" if !flag(value) => "true, false".to_owned(),
            _ => continue,
        };
        return Err(ApiError::bad_request(format!("invalid filter '{name}={value}': there are {may_be}")));
    }
    Ok(())
}

/// What fits each filter, by one of its values.
fn fitting(filters: &Filters) -> Meant {
    let wanted: Vec<(&str, Vec<String>)> = FILTERS
        .iter()
        .filter(|name| filters.has(name))
        .map(|name| (*name, filters.values(name).map(str::to_owned).collect()))
        .collect();
    Box::new(move |cached| wanted.iter().all(|(name, values)| values.iter().any(|value| fits(cached, name, value))))
}

/// `POST /build/prune`
pub(crate) async fn prune(call: Call) -> Result<Response> {
    let query = &call.query;
    let filters = filters::from_query(query)?;
    let mut options = PruneOptions { all: query.flag("all"), ..PruneOptions::default() };
    let bytes = |name: &str| {
        let given = query.given(name).map(|text| crate::query::parse_integer("ParseInt", text)).transpose()?;
        let bytes =
            |number| u64::try_from(number).map_err(|_| ApiError::bad_request(format!("{name} is negative: {number}")));
        given.map(bytes).transpose()
    };
    // What it was called until 1.48, and from then on.
    options.keep = bytes("reserved-space")?.or(bytes("keep-storage")?).unwrap_or(0);
    options.most = bytes("max-used-space")?;
    options.free = bytes("min-free-space")?.unwrap_or(0);
    filters.only(&[&["until", "label", "label!"][..], &FILTERS].concat())?;
    understood(&filters)?;
    options.unused_since = engine::until(&filters)?;
    options.only = Some(fitting(&filters));
    if filters.has("label") {
        // "docker system prune" says it to everybody. No step has a label.
        return body::ok_json(&PrunedBody { caches_deleted: None, space_reclaimed: 0 });
    }
    let pruned = call.door.builder.prune(options).await.map_err(refused)?;
    body::ok_json(&PrunedBody {
        caches_deleted: Some(pruned.ids).filter(|ids| !ids.is_empty()),
        space_reclaimed: pruned.reclaimed,
    })
}
