//! Images come and go: pull, push, load, save, import.

use image::registry::{Auth, DistributionInspect, Fetched, Login, RegistryError, SearchResult};
use image::stream::{BodyReader, BodySender};
use image::{Phase, Progress, Reference};

use super::{error, parse_reference, registry_error};
use crate::container::ByteStream;
use crate::model::Filters;
use crate::{Engine, Error, Result};

/// What is pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// Repository, with a tag or a digest.
    pub reference: Reference,
    /// All tags of the repository.
    pub all_tags: bool,
    /// `os/arch[/variant]`; `None`: this machine's.
    pub platform: Option<String>,
    /// Credentials.
    pub auth: Option<Auth>,
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct PulledImage {
    /// The tag, or the digest that was asked for.
    pub tag: String,
    /// Digest of what the name stands for.
    pub digest: String,
    /// The image.
    pub id: image::ImageId,
    /// Whether anything was new.
    pub updated: bool,
    /// Where the registry has it for another platform only than the one that was asked for: that.
    pub mismatch: Option<String>,
}

/// What is pushed.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// Repository, with or without a tag.
    pub reference: Reference,
    /// All tags of the repository that are here.
    pub all_tags: bool,
    /// Credentials.
    pub auth: Option<Auth>,
}

/// What a push left at the registry.
#[derive(Clone, Debug)]
pub struct PushedImage {
    /// The tag.
    pub tag: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Bytes of its manifest.
    pub size: u64,
}

/// What is imported.
#[derive(Clone, Debug, Default)]
pub struct ImportRequest {
    /// Name for the image.
    pub reference: Option<String>,
    /// What is said about it.
    pub message: String,
    /// Instructions as in a Dockerfile.
    pub changes: Vec<String>,
    /// `os/arch[/variant]`; `None`: this machine's.
    pub platform: Option<String>,
}

impl Engine {
    /// Pulls an image, or all tags of a repository.
    pub async fn image_pull(&self, request: PullRequest, progress: Progress) -> Result<Vec<PulledImage>> {
        let platform = platform(request.platform.as_deref())?;
        let auth = request.auth.as_ref();
        let mut references = vec![request.reference.clone()];
        if request.all_tags {
            let tags = self.0.registries.tags(&request.reference, auth).await.map_err(registry_error)?;
            let tagged = |tag: &String| request.reference.with_tag(tag).map_err(super::invalid_reference);
            references = tags.iter().map(tagged).collect::<Result<_>>()?;
        }
        let mut pulled = Vec::new();
        for reference in references {
            let before = self.0.images.resolve(&reference.clone().with_default_tag().canonical()).ok();
            let got = self
                .0
                .registries
                .pull(&self.0.images, &reference, platform.as_ref(), auth, progress.clone())
                .await
                .map_err(registry_error)?;
            let name = got.reference.familiar();
            self.tell_image("pull", &got.image_id, Some(&name));
            let tag = got.reference.digest().or(got.reference.tag()).unwrap_or_default().to_owned();
            let (digest, id) = (got.digest.to_string(), got.image_id);
            let mismatch = request.platform.as_deref().and_then(|platform| self.image_runs_on(&name, platform).err());
            let mismatch = mismatch.map(|error| error.to_string());
            pulled.push(PulledImage { tag, digest, id, updated: before != Some(id), mismatch });
        }
        Ok(pulled)
    }

    /// Pushes an image, or all tags of a repository.
    pub async fn image_push(&self, request: PushRequest, progress: Progress) -> Result<Vec<PushedImage>> {
        let names: Vec<(Reference, image::ImageId)> = if request.all_tags {
            self.0.images.tags_of(&request.reference)
        } else {
            let name = request.reference.clone().with_default_tag();
            let id = self.0.images.resolve(&name.canonical()).map_err(|_| {
                if self.0.images.tags_of(&name).is_empty() { missing(&name) } else { no_such_tag(&name) }
            })?;
            vec![(name, id)]
        };
        if names.is_empty() {
            return Err(missing(&request.reference));
        }
        let mut pushed = Vec::new();
        for (name, id) in names {
            let got = self
                .0
                .registries
                .push(&self.0.images, &id, &name, request.auth.as_ref(), progress.clone())
                .await
                .map_err(registry_error)?;
            self.tell_image("push", &id, Some(&name.familiar()));
            let tag = got.reference.tag().unwrap_or_default().to_owned();
            pushed.push(PushedImage { tag, digest: got.digest.to_string(), size: got.size });
        }
        Ok(pushed)
    }

    /// Pushes images under a name: one, or one for each of several platforms, with an index of them. What the name stands for then.
    ///
    /// # Errors
    /// What the registry said.
    pub async fn image_push_as(
        &self,
        images: &[image::ImageId],
        index: bool,
        reference: &Reference,
        auth: Option<&Auth>,
        progress: Progress,
    ) -> Result<image::Descriptor> {
        let (registries, store) = (&self.0.registries, &self.0.images);
        let pushed = match images {
            [image] if !index => registries.push(store, image, reference, auth, progress).await,
            images => registries.push_index(store, images, reference, auth, progress).await,
        };
        let pushed = pushed.map_err(registry_error)?;
        for image in images {
            self.tell_image("push", image, Some(&reference.familiar()));
        }
        Ok(image::Descriptor::new(pushed.media_type, pushed.digest, pushed.size))
    }

    /// Takes in the images of an archive, as `save` makes them. Gives their names, or identifiers where they have none.
    /// Of several platforms those for `platform` (`os/arch[/variant]`).
    pub async fn image_load(
        &self,
        body: ByteStream,
        platform_wanted: Option<&str>,
        progress: Progress,
    ) -> Result<Vec<String>> {
        let platform = platform(platform_wanted)?;
        let archive = body.paced(self.0.images.threads().pace()).into_reader();
        let loaded = self.0.images.load(archive, platform, progress).await.map_err(error)?;
        let mut names = Vec::new();
        for image in loaded {
            self.tell_image("load", &image.id, image.names.first().map(Reference::familiar).as_deref());
            match image.names.as_slice() {
                [] => names.push(image.id.to_string()),
                references => names.extend(references.iter().map(Reference::familiar)),
            }
        }
        Ok(names)
    }

    /// An archive of images.
    pub async fn image_save(&self, references: &[String]) -> Result<ByteStream> {
        let thread = self.archive_thread().await?;
        for reference in references {
            let id = self.find_image(reference)?;
            self.tell_image("save", &id, Some(reference));
        }
        let (images, references) = (self.0.images.clone(), references.to_vec());
        Ok(ByteStream::produced(thread, move |writer| images.save(&references, writer).map_err(error)))
    }

    /// Makes an image of a root file system's archive. Gives its identifier.
    pub async fn image_import(&self, request: ImportRequest, body: ByteStream) -> Result<String> {
        self.import(request, body.paced(self.0.images.threads().pace()).into_reader()).await
    }

    async fn import(&self, request: ImportRequest, archive: BodyReader) -> Result<String> {
        let reference =
            request.reference.as_deref().filter(|text| !text.is_empty()).map(parse_reference).transpose()?;
        let options = image::NewImageOptions {
            name: reference.map(Reference::with_default_tag),
            message: request.message,
            changes: request.changes,
            platform: platform(request.platform.as_deref())?,
            ..image::NewImageOptions::default()
        };
        let name = options.name.as_ref().map(Reference::familiar);
        let id = self.0.images.import(archive, options, Progress::none()).await.map_err(error)?;
        self.tell_image("import", &id, name.as_deref());
        Ok(id.to_string())
    }

    /// Makes an image of a root file system's archive that lies somewhere on the web. Gives its identifier.
    pub async fn image_import_from(&self, request: ImportRequest, url: &str, progress: Progress) -> Result<String> {
        let fetched = self.0.registries.fetch(url).await.map_err(registry_error)?;
        let (sender, reader) = image::stream::body();
        // Whoever unpacks learns only that there is no more; why is known here.
        let (fed, imported) = tokio::join!(feed(fetched, sender, progress), self.import(request, reader));
        fed.map_err(registry_error).and(imported)
    }

    /// Repositories whose name or description has `term`.
    pub async fn image_search(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &Filters,
        auth: Option<&Auth>,
    ) -> Result<Vec<SearchResult>> {
        filters.only(&["is-automated", "is-official", "stars"])?;
        let official = filters.flag("is-official")?;
        let stars: Option<i64> = match filters.values("stars").next() {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| filters.invalid("stars"))?),
        };
        let found = self.0.registries.search(term, limit, auth).await.map_err(registry_error)?;
        let wanted = |result: &SearchResult| {
            official.is_none_or(|official| result.is_official == official)
                && stars.is_none_or(|stars| result.star_count >= stars)
        };
        Ok(found.into_iter().filter(wanted).collect())
    }

    /// What a registry has under a name.
    pub async fn distribution_inspect(&self, reference: &str, auth: Option<&Auth>) -> Result<DistributionInspect> {
        let reference = parse_reference(reference)?.with_default_tag();
        self.0.registries.inspect(&reference, auth).await.map_err(registry_error)
    }

    /// Whether a registry accepts credentials.
    pub async fn auth_check(&self, auth: &Auth) -> Result<Login> {
        self.0.registries.login(auth).await.map_err(registry_error)
    }
}

/// Hands on what is fetched, until its end or until nobody wants more.
async fn feed(mut fetched: Fetched, sender: BodySender, progress: Progress) -> Result<(), RegistryError> {
    let (mut current, total) = (0, fetched.size().unwrap_or(0));
    while let Some(piece) = fetched.chunk().await? {
        current += piece.len() as u64;
        progress.emit("", Phase::Importing { current, total });
        if !sender.send(piece).await {
            return Ok(());
        }
    }
    sender.finish().await;
    Ok(())
}

fn platform(text: Option<&str>) -> Result<Option<image::Platform>> {
    let text = text.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error: image::PlatformError| Error::invalid(error.to_string()))).transpose()
}

fn no_such_tag(name: &Reference) -> Error {
    Error::not_found(format!("tag does not exist: {}", name.familiar()))
}

fn missing(name: &Reference) -> Error {
    Error::not_found(format!("An image does not exist locally with the tag: {}", name.familiar_name()))
}
