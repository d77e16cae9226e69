//! `POST /commit`

use engine::CommitRequest;
use http::StatusCode;
use serde::Serialize;

use super::config::ConfigBody;
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::Result;
use crate::images;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IdBody {
    id: String,
}

/// `POST /commit`
pub(crate) async fn commit(mut call: Call) -> Result<Response> {
    let config = call.json::<ConfigBody>().await?.map(ConfigBody::into_model).transpose()?;
    let query = &call.query;
    let text = |key: &str| query.text(key).to_owned();
    let request = CommitRequest {
        container: text("container"),
        reference: images::repository_and_tag(query.text("repo"), query.text("tag"))?,
        author: text("author"),
        message: text("comment"),
        pause: query.flag_or("pause", true),
        changes: query.all("changes"),
        config,
    };
    let id = call.engine().commit(request).await?;
    body::json(StatusCode::CREATED, &IdBody { id })
}
