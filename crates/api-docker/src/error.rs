//! What a request is answered when it fails: a status and `{"message": …}`, as dockerd words it.

use http::StatusCode;

/// A failure as the client gets it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

/// What handlers return.
pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

impl ApiError {
    /// A failure with a status of its own.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400: the request makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404: no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 404: no such endpoint.
    pub(crate) fn page_not_found() -> Self {
        Self::not_found("page not found")
    }

    /// 500: the daemon failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// 501: stratus does not do this.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// Says before the message what failed, as dockerd does for some calls.
    pub(crate) fn context(mut self, failed: impl std::fmt::Display) -> Self {
        self.message = format!("{failed}: {}", self.message);
        self
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The message, for streams that have begun and can no longer change their status.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl From<engine::Error> for ApiError {
    fn from(error: engine::Error) -> Self {
        Self::new(status_of(error.kind()), error.to_string())
    }
}

/// The status that dockerd gives for a kind of failure.
fn status_of(kind: engine::ErrorKind) -> StatusCode {
    use engine::ErrorKind;
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::System => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_failures_get_dockerds_statuses() {
        let error = ApiError::from(engine::Error::no_such_container("web"));
        assert_eq!((error.status().as_u16(), error.message()), (404, "No such container: web"));
        assert_eq!(ApiError::from(engine::Error::conflict("in use")).status(), StatusCode::CONFLICT);
        assert_eq!(ApiError::from(engine::Error::not_modified("")).status(), StatusCode::NOT_MODIFIED);
    }
}
