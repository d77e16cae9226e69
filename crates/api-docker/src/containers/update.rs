//! `POST /containers/{name}/update`

use engine::UpdateRequest;
use serde::{Deserialize, Serialize};

use super::host_config::RestartBody;
use super::resources::{DeviceBody, DeviceRequestBody, ThrottleBody, UlimitBody, WeightBody, with_resources};
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;
use crate::version::ApiVersion;

with_resources! {
    /// What a client sends: limits, and a policy.
    #[derive(Clone, Debug, Default, Deserialize)]
    #[serde(default, rename = "UpdateConfig", rename_all = "PascalCase")]
    pub(crate) struct UpdateBody {
        before {}
        after {
            restart_policy: RestartBody,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UpdatedBody {
    warnings: Option<Vec<String>>,
}

/// `POST /containers/{name}/update`
pub(crate) async fn update(mut call: Call) -> Result<Response> {
    let request = call.json_or_default::<UpdateBody>().await?.into_model(call.version)?;
    let warnings = call.engine().update(&call.name, request).await?;
    body::ok_json(&UpdatedBody { warnings: Some(warnings).filter(|warnings| !warnings.is_empty()) })
}

impl UpdateBody {
    fn into_model(mut self, version: ApiVersion) -> Result<UpdateRequest> {
        let mut resources = self.take_resources()?;
        // Zero and everything below mean "no limit"; before 1.40 the limit could not be changed.
        resources.pids_limit = resources.pids_limit.filter(|_| version.at_least(40)).map(|limit| limit.max(0));
        let restart = self.restart_policy.is_given().then(|| self.restart_policy.into_model()).transpose()?;
        Ok(UpdateRequest { resources, restart })
    }
}

#[cfg(test)]
mod tests {
    use engine::model::RestartPolicy;

    use super::*;

    fn read(text: &str) -> UpdateRequest {
        let body: UpdateBody = crate::decode::document(text.as_bytes()).expect("JSON");
        body.into_model(ApiVersion::new(1, 50)).expect("a request")
    }

    #[test]
    fn what_is_not_given_is_left() {
        let request = read(r#"{"Memory":1048576,"PidsLimit":null,"RestartPolicy":{"Name":"","MaximumRetryCount":0}}"#);
        assert_eq!((request.resources.memory, request.resources.pids_limit, request.restart), (1 << 20, None, None));
    }

    #[test]
    fn a_policy_is_taken_where_it_is_named() {
        let request = read(r#"{"PidsLimit":-1,"RestartPolicy":{"Name":"always"}}"#);
        assert_eq!((request.resources.pids_limit, request.restart), (Some(0), Some(RestartPolicy::Always)));
    }
}
