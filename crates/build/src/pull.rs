//! Base images that are not here.

use crate::progress::{StepEvent, StepId};
use crate::solve::Solver;
use crate::{Error, Result};
use engine::PullRequest;
use image::{ImageId, Phase, Platform, Progress, ProgressEvent, Reference};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;

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
        self.progress.step(step, StepEvent::Pulling(reference.clone())).await;
        let request = PullRequest {
            auth: self.request.credentials.get(reference.domain()).cloned(),
            all_tags: false,
            platform: Some(platform.to_string()),
            reference: reference.clone(),
        };
        let layers = Arc::new(Layers::default());
        let pulling = self.builder.engine().image_pull(request, layers.progress());
        let pulled = tokio::select! {
            pulled = pulling => pulled,
            never = self.tell_layers(&layers, step) => match never {},
        };
        self.tell_news(&layers, step).await;
        pulled.map_err(|e| {
            let meant = meant.map_or_else(String::new, |meant| format!(" (did you mean the stage {meant}?)"));
            Error::Invalid(format!("{}: {e}{meant}", reference.familiar()))
        })?;
        let resolved = self.images().resolve(&reference.familiar());
        resolved.map_err(|e| Error::failed(format!("opening image {name}"), e))
    }

    /// Tells how far layers are, again and again.
    async fn tell_layers(&self, layers: &Layers, step: StepId) -> std::convert::Infallible {
        loop {
            layers.changed.notified().await;
            self.tell_news(layers, step).await;
        }
    }

    async fn tell_news(&self, layers: &Layers, step: StepId) {
        let news = std::mem::take(&mut *layers.news.lock());
        for (id, phase) in news {
            self.progress.step(step, StepEvent::Layer(ProgressEvent { id, phase })).await;
        }
    }
}

/// How far layers are since it was told last: whoever pulls must not wait for who hears of it.
#[derive(Default)]
struct Layers {
    news: Mutex<BTreeMap<String, Phase>>,
    changed: Notify,
}

impl Layers {
    fn progress(self: &Arc<Layers>) -> Progress {
        let layers = Arc::clone(self);
        Progress::new(move |event| {
            layers.news.lock().insert(event.id, event.phase);
            layers.changed.notify_one();
        })
    }
}
