//! `GET /images/json`

use std::collections::BTreeMap;

use engine::model::Filters;
use engine::{ImageSummary, ListImages};
use serde::Serialize;

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;
use crate::filters;
use crate::version::ApiVersion;

use super::manifests::ManifestBody;

/// An image in a list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SummaryBody {
    containers: i64,
    created: i64,
    id: String,
    labels: Option<BTreeMap<String, String>>,
    parent_id: String,
    repo_digests: Vec<String>,
    repo_tags: Vec<String>,
    shared_size: i64,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<image::Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<ManifestBody>,
}

/// `GET /images/json`
pub(crate) async fn list(call: Call) -> Result<Response> {
    let mut filters = filters::parse_map(call.query.text("filters"))?;
    if let Some(pattern) = call.query.given("filter").filter(|_| call.version.before(41)) {
        filters.entry("reference".to_owned()).or_default().insert(pattern.to_owned());
    }
    let options = ListImages {
        all: call.query.flag("all"),
        filters: Filters::new(filters),
        shared_size: call.version.at_least(42) && call.query.flag("shared-size"),
        manifests: call.version.at_least(47) && call.query.flag("manifests"),
    };
    let images = call.engine().image_list(&options).await?;
    let bodies: Vec<SummaryBody> = images.into_iter().map(|image| SummaryBody::shown(image, call.version)).collect();
    body::ok_json(&bodies)
}

impl SummaryBody {
    /// An image as `version` shows it.
    pub(crate) fn shown(image: ImageSummary, version: ApiVersion) -> Self {
        // Before 1.43 an image without a name was shown with one that says so.
        let named = |names: Vec<String>, none: &str| match names.is_empty() && version.before(43) {
            true => vec![none.to_owned()],
            false => names,
        };
        let or_unknown = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok()).unwrap_or(-1);
        let dangling = image.repo_tags.is_empty() && image.repo_digests.is_empty();
        Self {
            containers: or_unknown(image.containers),
            created: image.created.as_second(),
            id: image.id,
            labels: Some(image.labels).filter(|labels| !labels.is_empty()),
            parent_id: image.parent,
            repo_digests: if dangling { named(image.repo_digests, "<none>@<none>") } else { image.repo_digests },
            repo_tags: named(image.repo_tags, "<none>:<none>"),
            shared_size: or_unknown(image.shared_size),
            size: image.size,
            virtual_size: version.before(44).then_some(image.size),
            descriptor: image.descriptor.filter(|_| version.at_least(48)),
            manifests: image.manifests.into_iter().map(ManifestBody::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::model::Timestamp;

    use super::*;

    fn shown(minor: u16) -> serde_json::Value {
        let image = ImageSummary {
            id: "sha256:1".to_owned(),
            parent: String::new(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            created: Timestamp::UNIX_EPOCH,
            size: 7,
            shared_size: None,
            containers: None,
            labels: BTreeMap::new(),
            descriptor: None,
            manifests: Vec::new(),
        };
        serde_json::to_value(SummaryBody::shown(image, ApiVersion::new(1, minor))).expect("JSON")
    }

    #[test]
    fn what_is_not_known_is_minus_one() {
        let body = shown(50);
        assert_eq!((body["SharedSize"].as_i64(), body["Containers"].as_i64()), (Some(-1), Some(-1)));
        assert_eq!((&body["RepoTags"], body.get("VirtualSize")), (&serde_json::json!([]), None));
    }

    #[test]
    fn older_clients_see_that_it_has_no_name() {
        let body = shown(42);
        assert_eq!(body["RepoTags"], serde_json::json!(["<none>:<none>"]));
        assert_eq!((&body["RepoDigests"][0], &body["VirtualSize"]), (&"<none>@<none>".into(), &7.into()));
    }
}
