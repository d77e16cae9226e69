//! The daemon itself: `/_ping`, `/version`, `/info`, `/system/df`, `/auth`.

mod disk_usage;
mod info;

use http::{HeaderName, HeaderValue, StatusCode, header};
use image::registry::{AuthDocument, AuthError};
use serde::Serialize;

use crate::body::{self, Body, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::version::{DOCKER_VERSION, MAX_API_VERSION, MIN_API_VERSION};

pub(crate) use disk_usage::disk_usage;
pub(crate) use info::info;

/// `GET` and `HEAD /_ping`
pub(crate) async fn ping(call: Call) -> Result<Response> {
    let body = if call.parts.method == http::Method::HEAD { Body::Empty } else { Body::Full("OK".into()) };
    let mut response = body::with_type(StatusCode::OK, HeaderValue::from_static("text/plain; charset=utf-8"), body);
    let headers = [
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
        // 1: the classic builder; 2 would mean BuildKit.
        (HeaderName::from_static("builder-version"), "1"),
        (HeaderName::from_static("swarm"), "inactive"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionBody {
    platform: PlatformBody,
    components: [ComponentBody; 2],
    version: &'static str,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    git_commit: String,
    go_version: &'static str,
    os: &'static str,
    arch: String,
    kernel_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    build_time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PlatformBody {
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ComponentBody {
    name: &'static str,
    version: String,
    details: DetailsBody,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DetailsBody {
    api_version: String,
    arch: String,
    build_time: String,
    experimental: &'static str,
    git_commit: String,
    go_version: &'static str,
    kernel_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    os: &'static str,
}

/// `GET /version`
pub(crate) async fn version(call: Call) -> Result<Response> {
    let info = &call.door.info;
    let arch = image::Platform::host().architecture;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let (api_version, min_api_version) = (MAX_API_VERSION.to_string(), MIN_API_VERSION.to_string());
    let details = DetailsBody {
        api_version: api_version.clone(),
        arch: arch.clone(),
        build_time: info.build_time.clone(),
        experimental: "false",
        git_commit: info.commit.clone(),
        go_version: "",
        kernel_version: kernel.clone(),
        min_api_version: min_api_version.clone(),
        os: "linux",
    };
    body::ok_json(&VersionBody {
        platform: PlatformBody { name: format!("stratus {}", info.version) },
        components: [
            // Clients look for the engine by this name.
            ComponentBody { name: "Engine", version: DOCKER_VERSION.to_owned(), details: details.clone() },
            ComponentBody { name: "stratus", version: info.version.clone(), details },
        ],
        version: DOCKER_VERSION,
        api_version,
        min_api_version,
        git_commit: info.commit.clone(),
        // Clients print it; there is none.
        go_version: "",
        os: "linux",
        arch,
        kernel_version: kernel,
        build_time: info.build_time.clone(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LoginBody {
    identity_token: String,
    status: &'static str,
}

/// `POST /auth`
pub(crate) async fn auth(mut call: Call) -> Result<Response> {
    let body = call.bytes().await?;
    let document: Option<AuthDocument> = crate::decode::body(call.headers(), &body)?;
    let invalid = |error: AuthError| ApiError::bad_request(error.to_string());
    let auth = document.unwrap_or_default().auth().map_err(invalid)?;
    let auth = auth.ok_or_else(|| ApiError::bad_request("no credentials: give a username and a password"))?;
    let login = call.engine().auth_check(&auth).await?;
    let identity_token = login.identity_token.unwrap_or_default();
    body::ok_json(&LoginBody { identity_token, status: "Login Succeeded" })
}
