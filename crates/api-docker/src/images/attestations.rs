//! `GET /stratus/images/{name}/attestations`: what is said of an image. Docker has nothing like it.

use image::registry::{Auth, Said};
use image::{AttestationRecord, Digest, Platform};
use serde::Serialize;
use serde_json::Value;

use super::reference;
use super::registry::AUTH_HEADER;
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;

/// Something that is said of an image.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttestationBody {
    #[serde(skip_serializing_if = "String::is_empty")]
    predicate_type: String,
    /// Of what is kept with an image, the predicate; of what a registry has, the manifest that refers to the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    /// Bytes of the predicate.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// The manifest that it is said of, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
    /// Why it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicate: Option<Value>,
}

/// `GET /stratus/images/{name}/attestations`; with `registry`, those that its registry has.
pub(crate) async fn attestations(call: Call) -> Result<Response> {
    if call.query.flag("registry") {
        return of_registry(call).await;
    }
    let kept = call.engine().image_attestations(&call.name).await?;
    let shown = kept
        .into_iter()
        .map(|(record, predicate)| AttestationBody { predicate: Some(predicate), ..AttestationBody::from(record) });
    body::ok_json(&shown.collect::<Vec<_>>())
}

/// `DELETE /stratus/images/{name}/attestations`; with `type`, only that of this kind. What was taken off.
pub(crate) async fn remove(call: Call) -> Result<Response> {
    let kind = Some(call.query.text("type")).filter(|kind| !kind.is_empty()).map(str::to_owned);
    let gone = call.engine().image_take_off(&call.name, kind).await?;
    body::ok_json(&gone.into_iter().map(AttestationBody::from).collect::<Vec<_>>())
}

impl From<AttestationRecord> for AttestationBody {
    fn from(record: AttestationRecord) -> AttestationBody {
        AttestationBody {
            predicate_type: record.predicate_type,
            digest: Some(record.predicate),
            size: Some(record.size),
            ..AttestationBody::default()
        }
    }
}

async fn of_registry(call: Call) -> Result<Response> {
    let auth = Auth::from_header(call.header(AUTH_HEADER)).unwrap_or_default();
    let found = call.engine().image_said_of(&reference(&call.name)?, auth.as_ref()).await?;
    let mut shown = Vec::new();
    for of in found {
        for (digest, said) in of.said {
            let place = AttestationBody {
                digest: Some(digest),
                subject: Some(of.subject),
                platform: of.platform.clone(),
                ..AttestationBody::default()
            };
            shown.push(match said {
                Said::Statement(image::Attestation { predicate_type, predicate }) => {
                    AttestationBody { predicate_type, predicate: Some(predicate), ..place }
                }
                Said::Odd(problem) => AttestationBody { problem: Some(problem), ..place },
            });
        }
        if let Some(more) = of.more {
            let (subject, platform) = (Some(of.subject), of.platform);
            shown.push(AttestationBody { subject, platform, problem: Some(more), ..AttestationBody::default() });
        }
    }
    body::ok_json(&shown)
}
