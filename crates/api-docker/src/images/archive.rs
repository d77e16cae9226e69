//! Images as archives: `save` and `load`.

use super::{check_platform, platform};
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::progress::{self, Message, Words};

const TAR: &str = "application/x-tar";

/// `GET /images/{name}/get`
pub(crate) async fn save_one(call: Call) -> Result<Response> {
    check_platform(&call, &call.name, 48)?;
    Ok(body::archive(TAR, call.engine().image_save(std::slice::from_ref(&call.name)).await?))
}

/// `GET /images/get`
pub(crate) async fn save_many(call: Call) -> Result<Response> {
    let names = call.query.all("names");
    if names.is_empty() {
        return Err(ApiError::bad_request("no image is named: give each as a parameter \"names\""));
    }
    names.iter().try_for_each(|name| check_platform(&call, name, 48))?;
    Ok(body::archive(TAR, call.engine().image_save(&names).await?))
}

/// `POST /images/load`
pub(crate) async fn load(call: Call) -> Result<Response> {
    let words = Words {
        first: Vec::new(),
        before_events: Vec::new(),
        events: !call.query.flag_or("quiet", true),
        last: |names: Vec<String>| names.iter().map(|name| loaded(name)).collect(),
    };
    let platform = platform(&call, 48)?;
    let (engine, shutdown) = (call.engine().clone(), call.shutdown.clone());
    let body = call.into_stream();
    let load = |progress| async move { engine.image_load(body, platform.as_deref(), progress).await };
    progress::respond(&shutdown, words, load).await
}

/// What is said of an image that was loaded.
fn loaded(name: &str) -> Message {
    let what = if name.starts_with("sha256:") { "Loaded image ID" } else { "Loaded image" };
    Message::stream(format!("{what}: {name}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_name_is_told_by_its_id() {
        assert_eq!(loaded("app:1"), Message::stream("Loaded image: app:1\n"));
        assert_eq!(loaded("sha256:12"), Message::stream("Loaded image ID: sha256:12\n"));
    }
}
