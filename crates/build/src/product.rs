//! What a build comes to, and where that goes: among the images that are here, to a registry, into an archive.

use crate::attest;
use crate::cache::{Key, Step};
use crate::dockerfile::Builtin;
use crate::elsewhere::Steps;
use crate::progress::{ExportEvent, Progress};
use crate::request::{Built, Request};
use crate::solve::{Builder, Planned};
use crate::state::State;
use crate::{Error, Result};
use futures_util::future::try_join_all;
use image::archive::{self, ReadOptions};
use image::registry::Auth;
use image::{Attestation, Descriptor, Digest, ImageConfig, ImageId, MountedRootfs, Platform, Reference};
use rustix::fd::AsFd as _;
use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::io::Write;
use std::path::Path;

/// What a build came to: an image that nobody has yet, or one for each of several platforms. Its layers stay while this lives.
pub struct Product {
    images: Vec<Made>,
    /// It goes elsewhere as the images of several platforms do, though it may be one.
    index: bool,
}

/// An image of a product.
struct Made {
    state: State,
    config: ImageConfig,
    /// It is this image, to which nothing was done.
    untouched: Option<ImageId>,
    /// What the build came by.
    steps: Steps,
    /// What is said of it.
    attestations: Vec<Attestation>,
    /// Blobs of caches in directories that are to be written anew.
    damaged: BTreeSet<Digest>,
}

impl Made {
    fn id(&self) -> Result<ImageId> {
        identified(&self.config, self.untouched)
    }
}

fn identified(config: &ImageConfig, untouched: Option<ImageId>) -> Result<ImageId> {
    if let Some(id) = untouched {
        return Ok(id);
    }
    let json = config.to_json().map_err(|e| Error::failed("writing an image's configuration", e))?;
    Ok(ImageId(Digest::of(&json)))
}

impl Product {
    /// What the image is called; of several platforms that for this machine, else the first one.
    ///
    /// # Errors
    /// Where its configuration can't be written.
    pub fn id(&self) -> Result<ImageId> {
        let own = self.images.get(self.own()).ok_or_else(|| Error::Invalid("nothing was built".into()))?;
        own.id()
    }

    /// What the builds came by, for each platform.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Steps> {
        self.images.iter().map(|made| &made.steps)
    }

    /// Blobs of caches in directories that are to be written anew.
    pub(crate) fn damaged(&self) -> BTreeSet<Digest> {
        self.images.iter().flat_map(|made| &made.damaged).copied().collect()
    }

    /// What it is for.
    pub fn platforms(&self) -> Vec<Platform> {
        self.images.iter().map(|made| made.config.platform()).collect()
    }

    /// Which of the images runs on this machine; else the first.
    fn own(&self) -> usize {
        let host = Platform::host();
        self.images.iter().position(|made| host.matches(&made.config.platform())).unwrap_or(0)
    }
}

impl Builder {
    /// Builds, and keeps what came of it under the request's names, with which it may be pushed, too.
    ///
    /// # Errors
    /// As [`Builder::carry_out`] and [`Builder::push`].
    pub async fn build(&self, request: Request, push: bool, progress: Progress) -> Result<Built> {
        let product = self.carry_out(&request, &[], &progress).await?;
        let descriptor = match push {
            true => Some(self.push(&product, &request.names, &request.credentials, (0, &progress)).await?),
            false => self.keep(&product, &request.names).await.map(|_| None)?,
        };
        Ok(Built { id: product.id()?, names: request.names, platforms: product.platforms(), descriptor })
    }

    /// Builds for platforms, side by side; for none named, for the one of the request. Nothing of it is kept but in the cache.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of a build that failed goes on, and what it made of whole steps is found again.
    pub async fn carry_out(&self, request: &Request, platforms: &[Platform], progress: &Progress) -> Result<Product> {
        let _going = self.going();
        let index = Builtin::MultiPlatform.is_yes(&request.given)? || platforms.len() > 1;
        let one = |platform: &Platform| {
            let mut request = request.clone();
            request.given.target_platform = platform.clone();
            let progress = progress.of(platform);
            async move { Box::pin(self.made(&request, &progress)).await }
        };
        let images = match platforms {
            [] => vec![Box::pin(self.made(request, progress)).await?],
            [platform] => {
                let mut request = request.clone();
                request.given.target_platform = platform.clone();
                vec![Box::pin(self.made(&request, progress)).await?]
            }
            several => try_join_all(several.iter().map(one)).await?,
        };
        // What it added may be too much, of which nothing that it needs itself goes.
        let builder = self.clone();
        tokio::spawn(async move { builder.collect().await });
        Ok(Product { images, index })
    }

    async fn made(&self, request: &Request, progress: &Progress) -> Result<Made> {
        let planned = Planned::new(request)?;
        planned.tell(self, request, progress)?;
        let solver = planned.solver(self, request, progress, None);
        let end = solver.carry_out_all(&planned.order).await?;
        let mut state = end.state.clone();
        planned.label(&solver, request, &mut state)?;
        if request.squash {
            state = self.squashed(&state, &end.base, &solver.created(&state)).await?;
        }
        let untouched = state.untouched();
        let mut config = state.config.clone();
        if untouched.is_none() {
            config.created.get_or_insert_with(|| solver.created(&state));
        }
        let steps = solver.trodden(planned.target);
        if untouched.is_none() && request.says_steps() {
            config.build_cache = steps.within(state.diff_ids());
        }
        let image = (identified(&config, untouched)?, &config);
        let attestations = self.attestations((&planned, request), &solver, image, progress).await?;
        let damaged = solver.elsewhere.damaged();
        Ok(Made { state, config, untouched, steps, attestations, damaged })
    }

    /// The same image with one layer in place of all above those of its base.
    async fn squashed(&self, state: &State, base: &State, created: &str) -> Result<State> {
        let own = &state.diff_ids()[base.diff_ids().len()..];
        if own.is_empty() {
            return Ok(state.clone());
        }
        let key = Key::new("squash").each(own, Key::digest).finish();
        let images = self.engine().image_store();
        let merge = async {
            let merged = images.merge_layers(own.to_vec()).await;
            merged.map(Some).map_err(|e| Error::failed("merging layers", e))
        };
        let step = Step { what: "layers merged into one", parent: state.follows, kind: None };
        let merged = self.cache().step(key, step, false, ready(None), merge).await?;
        let comment = match base.chain() {
            Some(_) => format!("merge {} to {}", state.id()?, base.id()?),
            None => format!("create new from {}", state.id()?),
        };
        Ok(base.clone().squashed(state, comment, created, merged.layer))
    }

    /// Keeps a product among the images that are here. Of several platforms, the names are given to what runs on this machine, else to
    /// the first one.
    ///
    /// # Errors
    /// Where it can't be written.
    pub async fn keep(&self, product: &Product, names: &[Reference]) -> Result<Vec<ImageId>> {
        let named = product.own();
        let mut ids = Vec::with_capacity(product.images.len());
        for (index, made) in product.images.iter().enumerate() {
            let names = if index == named { names } else { &[] };
            ids.push(self.keep_one(made, names).await?);
        }
        Ok(ids)
    }

    async fn keep_one(&self, made: &Made, names: &[Reference]) -> Result<ImageId> {
        let id = self.name_one(made, names).await?;
        // What an earlier build said is not of this one, which says what it was asked to. An image that it did nothing to is another's.
        if made.untouched.is_none() || !made.attestations.is_empty() {
            let attested = self.images().attest(&id, &attest::KINDS, made.attestations.clone()).await;
            attested.map_err(|e| Error::failed("keeping what is said of the image", e))?;
        }
        Ok(id)
    }

    async fn name_one(&self, made: &Made, names: &[Reference]) -> Result<ImageId> {
        let Some(id) = made.untouched else {
            let id = self.engine().image_assemble(made.config.clone(), names).await;
            return id.map_err(|e| Error::failed("keeping the image", e));
        };
        for name in names {
            let named = self.engine().image_store().tag(&id, name).await;
            named.map_err(|e| Error::failed("naming the image", e))?;
        }
        Ok(id)
    }

    /// Keeps a product, and brings it to the registries of its names. Of several platforms they stand for an index there. What they stand
    /// for.
    ///
    /// # Errors
    /// What a registry said.
    pub async fn push(
        &self,
        product: &Product,
        names: &[Reference],
        credentials: &BTreeMap<String, Auth>,
        (number, progress): (usize, &Progress),
    ) -> Result<Descriptor> {
        let ids = self.keep(product, names).await?;
        let mut exported = None;
        for name in names {
            let auth = credentials.get(name.domain());
            let progress = progress.clone();
            let layers = image::Progress::new(move |event| progress.export(number, ExportEvent::Layer(event)));
            let pushed = self.engine().image_push_as(&ids, product.index, name, auth, layers).await;
            let pushed = pushed.map_err(|e| {
                Error::Invalid(format!("pushing {}: {e} (the image is made, and one of the daemon's)", name.familiar()))
            })?;
            exported = Some(pushed);
        }
        exported.ok_or_else(|| Error::Invalid("nothing is pushed without a name: give the image one".into()))
    }

    /// Writes a product as an archive: an OCI layout that Docker reads, too. What its names stand for. Blocks as long as whoever takes it does.
    ///
    /// # Errors
    /// Where it can't be read or written.
    pub fn archive(&self, product: &Product, names: &[Reference], output: impl Write) -> Result<Descriptor> {
        let images: Vec<(ImageConfig, Vec<Attestation>)> =
            product.images.iter().map(|made| (made.config.clone(), made.attestations.clone())).collect();
        let saved = self.engine().image_store().save_made(&images, names, product.index, output);
        saved.map_err(|e| Error::failed("exporting the image", e))
    }

    /// The files of a product, to be written as an archive.
    ///
    /// # Errors
    /// Where its layers can't be opened.
    pub async fn files(&self, product: &Product) -> Result<ProductFiles> {
        let mut roots = Vec::new();
        for made in &product.images {
            let name = made.config.platform().to_string().replace('/', "_");
            let mounted = match made.state.diff_ids() {
                [] => None,
                diff_ids => Some(self.engine().image_store().view_layers(diff_ids.to_vec()).await),
            };
            let mounted = mounted.transpose().map_err(|e| Error::failed("opening the image's files", e))?;
            roots.push((name, mounted));
        }
        Ok(ProductFiles {
            roots,
            apart: product.index,
            _layers: product.images.iter().map(|made| made.state.clone()).collect(),
        })
    }
}

/// The files of a product.
pub struct ProductFiles {
    /// By the names of their platforms; one without layers has no files.
    roots: Vec<(String, Option<MountedRootfs>)>,
    /// Each is in a directory of its name.
    apart: bool,
    _layers: Vec<State>,
}

impl ProductFiles {
    /// Writes them as an archive. Those of several platforms are in directories of their own (`linux_arm64`). Blocks as long as whoever
    /// takes it does.
    ///
    /// # Errors
    /// Where they can't be read or written.
    pub fn write(&self, output: impl Write) -> Result<()> {
        let failed = |e: image::Error| Error::failed("exporting the image's files", e);
        match &self.roots[..] {
            [(_, Some(root))] if !self.apart => {
                archive::read_path(root.as_fd(), Path::new("/"), output, &ReadOptions::default()).map_err(failed)
            }
            roots => {
                let there = roots.iter().filter_map(|(name, root)| Some((name.into(), root.as_ref()?.as_fd())));
                archive::read_roots(&there.collect::<Vec<_>>(), output).map_err(failed)
            }
        }
    }
}
