//! Builds that their client gave a name, by which anybody can end them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// The builds that go on and have a name. A name that two have ends both.
#[derive(Clone, Default)]
pub(crate) struct NamedBuilds(Arc<Mutex<HashMap<String, Going>>>);

struct Going {
    /// How many builds have the name.
    count: usize,
    end: CancellationToken,
}

impl NamedBuilds {
    /// A build with that name begins.
    pub(crate) fn begin(&self, name: &str) -> NamedBuild {
        let mut builds = self.0.lock();
        let going = builds.entry(name.to_owned()).or_insert_with(|| Going { count: 0, end: CancellationToken::new() });
        going.count += 1;
        NamedBuild { builds: self.clone(), name: name.to_owned(), end: going.end.clone() }
    }

    /// Ends the builds of that name, if there are any.
    pub(crate) fn end(&self, name: &str) {
        if let Some(going) = self.0.lock().remove(name) {
            going.end.cancel();
        }
    }
}

/// A build's name, for as long as it goes on.
pub struct NamedBuild {
    builds: NamedBuilds,
    name: String,
    end: CancellationToken,
}

impl NamedBuild {
    /// What `build` comes to, unless it is ended by its name meanwhile: then it is dropped.
    ///
    /// # Errors
    /// Those of the build, or that it was ended.
    pub async fn unless_ended<T>(&self, build: impl Future<Output = Result<T>>) -> Result<T> {
        match self.end.run_until_cancelled(build).await {
            Some(built) => built,
            None => Err(Error::Invalid(format!("the build {} was cancelled", self.name))),
        }
    }
}

impl Drop for NamedBuild {
    fn drop(&mut self) {
        if self.end.is_cancelled() {
            // It was taken away then; who has the name now is another.
            return;
        }
        let mut builds = self.builds.0.lock();
        if let Some(going) = builds.get_mut(&self.name) {
            going.count -= 1;
            if going.count == 0 {
                builds.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_ends_its_builds_and_no_later_ones() {
        let builds = NamedBuilds::default();
        let (one, two, other) = (builds.begin("name"), builds.begin("name"), builds.begin("other"));
        builds.end("name");
        builds.end("nobody's");
        let later = builds.begin("name");
        for build in [&one, &two] {
            let ended = build.unless_ended(std::future::pending::<Result<()>>()).await;
            assert_eq!(ended.unwrap_err().to_string(), "the build name was cancelled");
        }
        drop((one, two));
        for build in [&other, &later] {
            assert_eq!(build.unless_ended(async { Ok(7) }).await.unwrap(), 7);
        }
        drop((other, later));
        assert!(builds.0.lock().is_empty());
    }
}
