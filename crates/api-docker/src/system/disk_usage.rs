//! `GET /system/df`

use engine::{ListedContainer, VolumeUsage};
use serde::Serialize;

use crate::body::{self, Response};
use crate::build::cache::{self, CachedBody};
use crate::call::Call;
use crate::containers::list::SummaryBody as ContainerBody;
use crate::error::{ApiError, Result};
use crate::images::list::SummaryBody as ImageBody;
use crate::query::Query;
use crate::volumes::{UsageBody, VolumeBody};

/// What is measured; the rest is shown as `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kinds {
    images: bool,
    containers: bool,
    volumes: bool,
    build_cache: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UsageOfAllBody {
    layers_size: u64,
    images: Option<Vec<ImageBody>>,
    containers: Option<Vec<ContainerBody>>,
    volumes: Option<Vec<VolumeBody>>,
    build_cache: Option<Vec<CachedBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    builder_size: Option<u64>,
}

/// `GET /system/df`
pub(crate) async fn disk_usage(call: Call) -> Result<Response> {
    let kinds = if call.version.at_least(42) { Kinds::asked(&call.query)? } else { Kinds::ALL };
    let engine = call.engine();
    let measured = engine.disk_usage(kinds.containers, kinds.volumes).await?;
    let (mut layers_size, mut images) = (0, None);
    if kinds.images {
        layers_size = engine.image_usage().await?.layers;
        let options = engine::ListImages { shared_size: true, ..engine::ListImages::default() };
        let listed = engine.image_list(&options).await?;
        images = Some(listed.into_iter().map(|image| ImageBody::shown(image, call.version)).collect());
    }
    let now = engine::model::Timestamp::now();
    let container = |(record, size)| {
        let listed = ListedContainer { record, size: Some(size), image_moved: false };
        ContainerBody::shown(&listed, call.version, now)
    };
    let build_cache = if kinds.build_cache { Some(cache::listed(&call).await?) } else { None };
    let builder_size = build_cache.iter().flatten().map(CachedBody::size).sum();
    body::ok_json(&UsageOfAllBody {
        layers_size,
        images,
        containers: kinds.containers.then(|| measured.containers.into_iter().map(container).collect()),
        volumes: kinds.volumes.then(|| measured.volumes.iter().map(volume).collect()),
        builder_size: call.version.before(42).then_some(builder_size),
        build_cache,
    })
}

fn volume(usage: &VolumeUsage) -> VolumeBody {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut body = VolumeBody::from(&usage.volume);
    body.usage_data =
        Some(UsageBody { ref_count: number(usage.references as u64), size: usage.size.map_or(-1, number) });
    body
}

impl Kinds {
    const ALL: Self = Self { images: true, containers: true, volumes: true, build_cache: true };

    /// Those that `type` names, or all.
    fn asked(query: &Query) -> Result<Self> {
        let names = query.all("type");
        if names.is_empty() {
            return Ok(Self::ALL);
        }
        let mut kinds = Self { images: false, containers: false, volumes: false, build_cache: false };
        for name in names {
            match name.as_str() {
                "image" => kinds.images = true,
                "container" => kinds.containers = true,
                "volume" => kinds.volumes = true,
                "build-cache" => kinds.build_cache = true,
                other => return Err(ApiError::bad_request(format!("unknown object type: {other}"))),
            }
        }
        Ok(kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_measured() {
        let asked = |text: &str| Kinds::asked(&Query::parse(text).expect("a query"));
        assert_eq!(asked("").expect("kinds"), Kinds::ALL);
        let some = asked("type=volume&type=image").expect("kinds");
        assert!(some.volumes && some.images && !some.containers && !some.build_cache);
        assert_eq!(asked("type=x").expect_err("refused").message(), "unknown object type: x");
    }
}
