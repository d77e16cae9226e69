//! Images of microVMs, and what goes on from them. Docker has nothing like it.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::CreateRequest;
use http::StatusCode;
use microvms::{BuildImage, Hook, Hooks, ImageVersion, Microvm, Ready, RunMicrovm};
use serde::{Deserialize, Serialize};

use crate::body::{self, Response};
use crate::call::Call;
use crate::containers::create::CreateBody;
use crate::error::{ApiError, Result};
use crate::time::rfc3339;

/// How long a program may take to listen, where nobody says, in seconds.
const LISTENS_WITHIN: u16 = 300;

#[derive(Deserialize)]
#[serde(rename = "MicrovmImage", rename_all = "PascalCase", deny_unknown_fields)]
struct ImageBody {
    /// As for `POST /containers/create`.
    container: CreateBody,
    #[serde(default)]
    ready: Option<ReadyBody>,
    #[serde(default)]
    hooks: Option<HooksBody>,
}

#[derive(Deserialize)]
#[serde(rename = "Ready", rename_all = "PascalCase", deny_unknown_fields)]
struct ReadyBody {
    port: u16,
    #[serde(default)]
    seconds: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename = "Hooks", rename_all = "PascalCase", deny_unknown_fields)]
struct HooksBody {
    port: u16,
    /// How long each may take, in seconds; `null`: as long as is usual.
    seconds: BTreeMap<Hook, Option<u16>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionBody {
    name: String,
    version: u32,
    created: String,
    /// The container image.
    image: String,
    /// Bytes of its snapshot.
    size: u64,
    /// The hooks that its program has.
    hooks: Vec<&'static str>,
}

impl From<ImageVersion> for VersionBody {
    fn from(version: ImageVersion) -> Self {
        let has = |hook: &Hook| version.hooks.as_ref().is_some_and(|hooks| hooks.has(*hook));
        Self {
            hooks: Hook::ALL.into_iter().filter(has).map(Hook::name).collect(),
            name: version.name,
            version: version.version,
            created: rfc3339(version.created),
            image: version.image,
            size: version.size,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename = "RunMicrovm", rename_all = "PascalCase", default, deny_unknown_fields)]
struct RunBody {
    /// What its program is told.
    payload: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MicrovmBody {
    id: String,
    name: String,
    image: String,
    state: &'static str,
    created: String,
}

impl From<Microvm> for MicrovmBody {
    fn from(microvm: Microvm) -> Self {
        Self {
            state: microvm.state(),
            id: microvm.record.id.to_string(),
            name: microvm.record.name.clone(),
            image: microvm.image,
            created: rfc3339(microvm.record.created),
        }
    }
}

/// `POST /stratus/microvms/images?name=`
pub(crate) async fn build(mut call: Call) -> Result<Response> {
    let Some(ImageBody { container, ready, hooks }) = call.json().await? else {
        return Err(ApiError::bad_request("invalid JSON: got EOF while reading request body"));
    };
    let (config, host, endpoints) = container.into_parts()?;
    let hooks = hooks.map(|hooks| Hooks::new(hooks.port, hooks.seconds)).transpose()?;
    let ready = ready.map_or(Ready::Running, |ready| Ready::Listening {
        port: ready.port,
        seconds: ready.seconds.unwrap_or(LISTENS_WITHIN),
    });
    let container = CreateRequest { config, host, endpoints, ..CreateRequest::default() };
    let request = BuildImage { name: call.query.text("name").to_owned(), container, ready, hooks };
    let made = call.microvms().build(request).await?;
    body::json(StatusCode::CREATED, &VersionBody::from(made))
}

/// `GET /stratus/microvms/images`, by name and version.
pub(crate) async fn images(call: Call) -> Result<Response> {
    let all = call.microvms().versions()?;
    body::ok_json(&all.into_iter().map(VersionBody::from).collect::<Vec<_>>())
}

/// `DELETE /stratus/microvms/images/{name}`; `NAME:VERSION`, or `NAME` for all of its versions. Tells which they were.
pub(crate) async fn remove_image(call: Call) -> Result<Response> {
    let removed = call.microvms().remove_image(&call.name).await?;
    body::ok_json(&removed.into_iter().map(VersionBody::from).collect::<Vec<_>>())
}

/// `POST /stratus/microvms?image=`; with `name`, under that.
pub(crate) async fn run(mut call: Call) -> Result<Response> {
    let RunBody { payload } = call.json_or_default().await?;
    let request = RunMicrovm {
        image: call.query.text("image").to_owned(),
        name: call.query.given("name").map(str::to_owned),
        payload: Bytes::from(payload),
    };
    let microvm = call.microvms().run(request).await?;
    body::json(StatusCode::CREATED, &MicrovmBody::from(microvm))
}

/// `GET /stratus/microvms`, the newest first.
pub(crate) async fn list(call: Call) -> Result<Response> {
    let all = call.microvms().microvms().await?;
    body::ok_json(&all.into_iter().map(MicrovmBody::from).collect::<Vec<_>>())
}

/// `GET /stratus/microvms/{name}`
pub(crate) async fn inspect(call: Call) -> Result<Response> {
    body::ok_json(&MicrovmBody::from(call.microvms().microvm(&call.name).await?))
}

/// `POST /stratus/microvms/{name}/suspend`
pub(crate) async fn suspend(call: Call) -> Result<Response> {
    call.microvms().suspend(&call.name).await?;
    Ok(body::no_content())
}

/// `POST /stratus/microvms/{name}/resume`
pub(crate) async fn resume(call: Call) -> Result<Response> {
    call.microvms().resume(&call.name).await?;
    Ok(body::no_content())
}

/// `DELETE /stratus/microvms/{name}`
pub(crate) async fn terminate(call: Call) -> Result<Response> {
    call.microvms().terminate(&call.name).await?;
    Ok(body::no_content())
}
