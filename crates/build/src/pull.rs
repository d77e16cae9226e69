//! Base images that are not here.

use crate::progress::{StepEvent, StepId};
use crate::solve::Solver;
use crate::{Error, Result};
use engine::PullRequest;
use image::{ImageId, Platform, Progress, Reference};

impl Solver<'_> {
    /// Pulls an image. What is said where there is none names the stage that was likely meant.
    pub(crate) async fn pull(
        &self,
        name: &str,
        meant: Option<&str>,
        platform: &Platform,
        step: StepId,
    ) -> Result<ImageId> {
        let reference = Reference::parse(name)
            .map_err(|e| Error::Invalid(format!("failed to parse stage name {name:?}: {e}")))?
            .with_default_tag();
        self.progress.step(step, StepEvent::Pulling(reference.clone()));
        let request = PullRequest {
            auth: self.request.credentials.get(reference.domain()).cloned(),
            all_tags: false,
            platform: Some(platform.to_string()),
            reference: reference.clone(),
        };
        let progress = self.progress.clone();
        let layers = Progress::new(move |event| progress.step(step, StepEvent::Layer(event)));
        let pulled = self.builder.engine().image_pull(request, layers).await;
        let pulled = pulled.map_err(|e| {
            let meant = meant.map_or_else(String::new, |meant| format!(" (did you mean the stage {meant}?)"));
            Error::Invalid(format!("{}: {e}{meant}", reference.familiar()))
        })?;
        // Not what the name stands for by now: others pull it for other platforms.
        let pulled = pulled.first().map(|pulled| pulled.id);
        pulled.ok_or_else(|| Error::Invalid(format!("{}: nothing was pulled", reference.familiar())))
    }
}
