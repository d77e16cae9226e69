//! Further processes in a container: `/containers/{name}/exec` and `/exec/{id}/…`

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use engine::{DetachKeys, ExecConfig, ExecDetails};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::attach;
use super::config::Words;
use super::host_config::console_size;
use super::life::terminal_size;
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::frames::Framing;
use crate::version::ApiVersion;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename = "ExecOptions", rename_all = "PascalCase")]
struct ExecBody {
    user: String,
    privileged: bool,
    tty: bool,
    console_size: Option<[u32; 2]>,
    attach_stdin: bool,
    attach_stderr: bool,
    attach_stdout: bool,
    detach_keys: String,
    env: Vec<String>,
    working_dir: String,
    cmd: Words,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename = "ExecStartOptions", rename_all = "PascalCase")]
struct StartBody {
    detach: bool,
    tty: bool,
    console_size: Option<[u32; 2]>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IdBody {
    id: String,
}

/// `POST /containers/{name}/exec`
pub(crate) async fn create(mut call: Call) -> Result<Response> {
    let config = call.json_or_default::<ExecBody>().await?.into_model(call.version)?;
    if config.argv.is_empty() {
        return Err(ApiError::bad_request("No exec command specified"));
    }
    let id = call.engine().exec_create(&call.name, config).await?;
    body::json(StatusCode::CREATED, &IdBody { id })
}

impl ExecBody {
    fn into_model(self, version: ApiVersion) -> Result<ExecConfig> {
        Ok(ExecConfig {
            argv: self.cmd.0,
            env: self.env,
            user: self.user,
            working_dir: self.working_dir,
            tty: self.tty,
            privileged: self.privileged,
            stdin: self.attach_stdin,
            stdout: self.attach_stdout,
            stderr: self.attach_stderr,
            detach_keys: Some(self.detach_keys).filter(|keys| !keys.is_empty()),
            console_size: size(self.console_size, self.tty, version)?,
        })
    }
}

/// A terminal's size counts from 1.42 on, and where there is a terminal.
fn size(size: Option<[u32; 2]>, tty: bool, version: ApiVersion) -> Result<Option<(u16, u16)>> {
    console_size(size.filter(|_| tty && version.at_least(42)).unwrap_or_default())
}

/// `POST /exec/{id}/start`
pub(crate) async fn start(mut call: Call) -> Result<Response> {
    let options = call.json_or_default::<StartBody>().await?;
    let console = size(options.console_size, options.tty, call.version)?;
    // One that is not there is told as such; what fails from here on is told where the output would be.
    call.engine().exec_inspect(&call.name)?;
    let (engine, id, detach) = (call.engine().clone(), call.name.clone(), options.detach);
    let start = async move {
        // A client that goes away in the middle must not leave half a start.
        let starting = tokio::spawn(async move { engine.exec_start(&id, detach, console).await });
        match starting.await {
            Ok(started) => started.map_err(ApiError::from),
            Err(error) => Err(ApiError::internal(format!("the start was given up: {error}"))),
        }
    };
    if detach {
        start.await?;
        return Ok(body::empty(StatusCode::OK));
    }
    let attachment =
        async { start.await?.ok_or_else(|| ApiError::internal("the process has no streams to attach to")) };
    attach::hijack(&call, Framing::of(options.tty), attachment).await
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InspectBody {
    #[serde(rename = "ID")]
    id: String,
    running: bool,
    exit_code: Option<i32>,
    process_config: ProcessBody,
    open_stdin: bool,
    open_stderr: bool,
    open_stdout: bool,
    can_remove: bool,
    #[serde(rename = "ContainerID")]
    container_id: String,
    detach_keys: String,
    pid: u32,
}

#[derive(Serialize)]
struct ProcessBody {
    tty: bool,
    entrypoint: String,
    arguments: Vec<String>,
    privileged: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
}

/// `GET /exec/{id}/json`
pub(crate) async fn inspect(call: Call) -> Result<Response> {
    body::ok_json(&InspectBody::from(call.engine().exec_inspect(&call.name)?))
}

impl From<ExecDetails> for InspectBody {
    fn from(details: ExecDetails) -> Self {
        let config = details.config;
        let mut argv = config.argv.into_iter();
        // Keys that are none have been refused at creation.
        let keys = config.detach_keys.and_then(|keys| DetachKeys::parse(Some(&keys)).ok());
        let keys = keys.as_ref().map_or(&[][..], DetachKeys::bytes);
        Self {
            id: details.id,
            running: details.running,
            exit_code: details.exit_code,
            process_config: ProcessBody {
                tty: config.tty,
                entrypoint: argv.next().unwrap_or_default(),
                arguments: argv.collect(),
                privileged: config.privileged,
                user: config.user,
            },
            open_stdin: config.stdin,
            open_stderr: config.stderr,
            open_stdout: config.stdout,
            // It goes with its container, or with the daemon; nobody needs to remove it.
            can_remove: false,
            container_id: details.container.to_string(),
            detach_keys: BASE64_STANDARD.encode(keys),
            pid: details.pid,
        }
    }
}

/// `POST /exec/{id}/resize`
pub(crate) async fn resize(call: Call) -> Result<Response> {
    let (rows, columns) = terminal_size(&call.query)?;
    call.engine().exec_resize(&call.name, rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_docker_client_sends_is_read() {
        let body: ExecBody = crate::decode::document(
            br#"{"User":"","Privileged":false,"Tty":true,"ConsoleSize":[24,80],"AttachStdin":true,"AttachStderr":true,
                 "AttachStdout":true,"DetachKeys":"","Env":null,"WorkingDir":"/tmp","Cmd":["sh","-c","ls"]}"#,
        )
        .expect("JSON");
        let config = body.clone().into_model(ApiVersion::new(1, 42)).expect("a process");
        assert_eq!((config.argv.len(), config.console_size, config.detach_keys), (3, Some((24, 80)), None));
        assert_eq!(body.into_model(ApiVersion::new(1, 41)).expect("a process").console_size, None);
    }
}
