//! Images of microVMs, and what goes on from them. Docker has nothing like it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use engine::CreateRequest;
use http::StatusCode;
use microvms::{BuildImage, Hook, Hooks, Idle, ImageVersion, Microvm, Policy, Ports, Ready, RunMicrovm};
use serde::{Deserialize, Serialize};

use crate::body::{self, Response};
use crate::call::Call;
use crate::containers::create::CreateBody;
use crate::error::{ApiError, Result};
use crate::time::rfc3339;

/// How long a program may take to listen, where nobody says, in seconds.
const LISTENS_WITHIN: u16 = 300;
/// For how long a token is good, where nobody says, in seconds.
const GOOD_FOR: u64 = 15 * 60;

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
    /// The port at which it was waited for.
    port: Option<u16>,
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
            port: version.port,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename = "RunMicrovm", rename_all = "PascalCase", default, deny_unknown_fields)]
struct RunBody {
    /// What its program is told.
    payload: String,
    /// `null`: it stays as it is, however long nobody asks it anything.
    idle: Option<IdleBody>,
    /// Seconds after which it is ended, in any case.
    maximum_duration: Option<u64>,
}

/// What becomes of one that nobody asks anything through the endpoint. All times are seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename = "Idle", rename_all = "PascalCase", deny_unknown_fields)]
struct IdleBody {
    /// It is suspended then.
    after: u64,
    /// Suspended for so long, it is ended; `null`: never.
    #[serde(default)]
    suspended: Option<u64>,
    /// A request has it go on.
    #[serde(default = "yes")]
    auto_resume: bool,
}

fn yes() -> bool {
    true
}

impl From<IdleBody> for Idle {
    fn from(body: IdleBody) -> Self {
        Self {
            after: Duration::from_secs(body.after),
            suspended: body.suspended.map(Duration::from_secs),
            resumes: body.auto_resume,
        }
    }
}

impl From<Idle> for IdleBody {
    fn from(idle: Idle) -> Self {
        let suspended = idle.suspended.map(|time| time.as_secs());
        Self { after: idle.after.as_secs(), suspended, auto_resume: idle.resumes }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MicrovmBody {
    id: String,
    name: String,
    image: String,
    state: &'static str,
    created: String,
    /// Where it is asked, with a token.
    endpoint: String,
    idle: Option<IdleBody>,
    maximum_duration: Option<u64>,
    /// When somebody asked it something through the endpoint, within a minute.
    last_asked: Option<String>,
    /// Why its policy could not be carried out the last time.
    policy_error: Option<String>,
}

impl MicrovmBody {
    async fn of(call: &Call, microvm: Microvm) -> Result<Self> {
        let policy = microvm.policy();
        Ok(Self {
            state: microvm.state(),
            id: microvm.record.id.to_string(),
            name: microvm.record.name.clone(),
            image: microvm.image().to_owned(),
            created: rfc3339(microvm.record.created),
            endpoint: call.microvms().endpoint().await?.to_owned(),
            idle: policy.idle.map(IdleBody::from),
            maximum_duration: policy.longest.map(|time| time.as_secs()),
            last_asked: call.microvms().asked(&microvm).map(rfc3339),
            policy_error: call.microvms().hindrance(&microvm),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename = "Token", rename_all = "PascalCase", default, deny_unknown_fields)]
struct TokenBody {
    /// `8080`, `8000-8099`, or `all`; none: where its program was waited for, or 8080.
    ports: Vec<String>,
    /// For how long it is good.
    seconds: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TokenAnswer {
    endpoint: String,
    /// What goes into the head of a request, as it is.
    headers: BTreeMap<&'static str, String>,
    ports: String,
    expires: String,
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
    let RunBody { payload, idle, maximum_duration } = call.json_or_default().await?;
    let request = RunMicrovm {
        image: call.query.text("image").to_owned(),
        name: call.query.given("name").map(str::to_owned),
        payload: Bytes::from(payload),
        policy: Policy { idle: idle.map(Idle::from), longest: maximum_duration.map(Duration::from_secs) },
    };
    let microvm = call.microvms().run(request).await?;
    body::json(StatusCode::CREATED, &MicrovmBody::of(&call, microvm).await?)
}

/// `GET /stratus/microvms`, the newest first.
pub(crate) async fn list(call: Call) -> Result<Response> {
    let mut all = Vec::new();
    for microvm in call.microvms().microvms().await? {
        all.push(MicrovmBody::of(&call, microvm).await?);
    }
    body::ok_json(&all)
}

/// `GET /stratus/microvms/{name}`
pub(crate) async fn inspect(call: Call) -> Result<Response> {
    let microvm = call.microvms().microvm(&call.name).await?;
    body::ok_json(&MicrovmBody::of(&call, microvm).await?)
}

/// `POST /stratus/microvms/{name}/token`
pub(crate) async fn token(mut call: Call) -> Result<Response> {
    let TokenBody { ports, seconds } = call.json_or_default().await?;
    let ports = match ports.as_slice() {
        [] => None,
        ports => Some(Ports::new(ports.iter().map(|port| port.parse()).collect::<Result<Vec<_>, _>>()?)?),
    };
    let good_for = Duration::from_secs(seconds.unwrap_or(GOOD_FOR));
    let token = call.microvms().token(&call.name, ports, good_for).await?;
    body::json(
        StatusCode::CREATED,
        &TokenAnswer {
            endpoint: token.endpoint,
            headers: BTreeMap::from([(token.header, token.value)]),
            ports: token.ports.to_string(),
            expires: rfc3339(token.expires),
        },
    )
}

/// `DELETE /stratus/microvms/{name}/token`: no token that there is is good any more.
pub(crate) async fn take_tokens_back(call: Call) -> Result<Response> {
    call.microvms().take_tokens_back(&call.name).await?;
    Ok(body::no_content())
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
