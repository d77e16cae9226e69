//! A blob as one stream of bytes, whatever happens to the connections it comes over.

use bytes::Bytes;
use hyper::StatusCode;

use super::config::RegistryConfig;
use super::error::RegistryError;
use super::http::Answer;
use super::repository::Repository;
use crate::{Descriptor, Phase, Progress};

/// So many bytes between two failures count as progress, and give back all tries.
const PROGRESS_MIN: u64 = 256 * 1024;

/// A download that takes up again where it broke, also from another source.
pub(super) struct Download<'a> {
    config: &'a RegistryConfig,
    /// Where the blob may be, the preferred one first.
    sources: &'a [Repository],
    source: usize,
    descriptor: &'a Descriptor,
    progress: &'a Progress,
    offset: u64,
    answer: Option<Answer>,
    /// Bytes to leave out, where a registry begins at the start again.
    skip: u64,
    failed: u32,
    since_failure: u64,
}

impl<'a> Download<'a> {
    /// A download of the blob from `offset` on.
    pub(super) fn new(
        config: &'a RegistryConfig,
        sources: &'a [Repository],
        descriptor: &'a Descriptor,
        offset: u64,
        progress: &'a Progress,
    ) -> Download<'a> {
        Download {
            config,
            sources,
            source: 0,
            descriptor,
            progress,
            offset,
            answer: None,
            skip: 0,
            failed: 0,
            since_failure: 0,
        }
    }

    /// How many bytes of the blob have come, with those that were there before.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes; `None` once as many came as the descriptor says.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        while self.offset < self.descriptor.size {
            match self.step().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => self.recover(error).await?,
            }
        }
        Ok(None)
    }

    async fn step(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let Some(answer) = &mut self.answer else {
            self.answer = Some(self.open().await?);
            return Ok(None);
        };
        let Some(mut bytes) = answer.chunk().await? else {
            return Err(RegistryError::Transport {
                method: "Get".into(),
                url: answer.url.to_string(),
                cause: super::error::TransportCause::Closed,
            });
        };
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        bytes = bytes.split_off(skipped as usize);
        if bytes.is_empty() {
            return Ok(None);
        }
        let left = self.descriptor.size - self.offset;
        if bytes.len() as u64 > left {
            return Err(RegistryError::TooLarge {
                what: format!("blob {}", self.descriptor.digest),
                limit: self.descriptor.size,
            });
        }
        self.offset += bytes.len() as u64;
        self.since_failure += bytes.len() as u64;
        Ok(Some(bytes))
    }

    async fn open(&mut self) -> Result<Answer, RegistryError> {
        let repository = &self.sources[self.source];
        let answer = match repository.blob(&self.descriptor.digest, self.offset).await {
            // Foreign layers are kept elsewhere; their descriptors say where.
            Err(error) if error.is_not_found() && !self.descriptor.urls.is_empty() => self.open_foreign(error).await?,
            answer => answer?,
        };
        self.skip = if answer.status == StatusCode::OK { self.offset } else { 0 };
        Ok(answer)
    }

    async fn open_foreign(&self, mut failure: RegistryError) -> Result<Answer, RegistryError> {
        for url in &self.descriptor.urls {
            let Ok(url) = url.parse::<hyper::Uri>() else { continue };
            if !matches!(url.scheme_str(), Some("http" | "https")) {
                continue;
            }
            match self.sources[self.source].foreign(url, self.offset).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Waits and lets the download go on, or gives the error back where that won't help.
    async fn recover(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.answer = None;
        if self.since_failure >= PROGRESS_MIN {
            self.failed = 0;
        }
        self.since_failure = 0;
        self.failed += 1;
        let wait =
            error.is_passing().then(|| self.config.wait_before_retry(self.failed, error.retry_after())).flatten();
        if let Some(wait) = wait {
            tracing::debug!(blob = %self.descriptor.digest, offset = self.offset, %error, ?wait, "download goes on later");
            let seconds = wait.as_secs_f64().ceil() as u64;
            self.progress.emit(&self.descriptor.digest.short(), Phase::Retrying { seconds });
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        if self.source + 1 < self.sources.len() {
            tracing::info!(blob = %self.descriptor.digest, %error, "download goes on from the next source");
            self.source += 1;
            self.failed = 0;
            return Ok(());
        }
        Err(error)
    }
}
