//! What a build comes to, and where that goes: among the images that are here, to a registry, into an archive.

use crate::progress::Progress;
use crate::request::{Built, Request};
use crate::solve::{Builder, Planned};
use crate::state::State;
use crate::{Error, Result};
use futures_util::future::try_join_all;
use image::archive::{self, ReadOptions};
use image::registry::Auth;
use image::{Descriptor, ImageConfig, ImageId, MountedRootfs, Platform, Reference};
use rustix::fd::AsFd as _;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// What a build came to: an image that nobody has yet, or one for each of several platforms. Its layers stay while this lives.
pub struct Product {
    images: Vec<Made>,
}

/// An image of a product.
struct Made {
    state: State,
    config: ImageConfig,
    /// It is this image, to which nothing was done.
    untouched: Option<ImageId>,
}

impl Product {
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

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The names stand for that: a manifest, or an index of several.
    pub descriptor: Descriptor,
}

impl Builder {
    /// Builds, and keeps what came of it under the request's names.
    ///
    /// # Errors
    /// As [`Builder::carry_out`].
    pub async fn build(&self, request: Request, progress: Progress) -> Result<Built> {
        let product = self.carry_out(&request, &[], &progress).await?;
        let ids = self.keep(&product, &request.names).await?;
        let id = ids.first().copied().ok_or_else(|| Error::Invalid("nothing was built".into()))?;
        Ok(Built { id, names: request.names })
    }

    /// Builds for platforms, side by side; for none named, for the one of the request. Nothing of it is kept but in the cache.
    ///
    /// # Errors
    /// See [`Error`]. Nothing of a build that failed goes on, and what it made of whole steps is found again.
    pub async fn carry_out(&self, request: &Request, platforms: &[Platform], progress: &Progress) -> Result<Product> {
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
        Ok(Product { images })
    }

    async fn made(&self, request: &Request, progress: &Progress) -> Result<Made> {
        let planned = Planned::new(request)?;
        planned.tell(self, request, progress)?;
        let solver = planned.solver(self, request, progress, None);
        let end = solver.carry_out_all(&planned.order).await?;
        let state = end.state.clone();
        let untouched = state.untouched().filter(|_| request.labels.is_empty());
        let mut config = state.config.clone();
        if untouched.is_none() {
            config.config.labels.extend(request.labels.clone());
            config.created.get_or_insert_with(|| solver.created(&state));
        }
        Ok(Made { state, config, untouched })
    }

    /// Keeps a product among the images that are here. Of several platforms, the names are given to what runs on this machine, else to
    /// the first.
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
        // The one that is called so comes first.
        ids[..=named].rotate_right(1);
        Ok(ids)
    }

    async fn keep_one(&self, made: &Made, names: &[Reference]) -> Result<ImageId> {
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

    /// Keeps a product, and brings it to the registries of its names. Of several platforms they stand for an index there.
    ///
    /// # Errors
    /// What a registry said.
    pub async fn push(
        &self,
        product: &Product,
        names: &[Reference],
        credentials: &BTreeMap<String, Auth>,
        progress: image::Progress,
    ) -> Result<Exported> {
        let ids = self.keep(product, names).await?;
        let mut exported = None;
        for name in names {
            let auth = credentials.get(name.domain());
            let pushed = self.engine().image_push_as(&ids, name, auth, progress.clone()).await;
            let pushed = pushed.map_err(|e| Error::Invalid(format!("pushing {}: {e}", name.familiar())))?;
            exported = Some(Exported { descriptor: pushed });
        }
        exported.ok_or_else(|| Error::Invalid("nothing is pushed without a name: give the image one".into()))
    }

    /// Writes a product as an archive: an OCI layout that Docker reads, too. Blocks as long as whoever takes it does.
    ///
    /// # Errors
    /// Where it can't be read or written.
    pub fn archive(&self, product: &Product, names: &[Reference], output: impl Write) -> Result<Exported> {
        let configs: Vec<ImageConfig> = product.images.iter().map(|made| made.config.clone()).collect();
        let saved = self.engine().image_store().save_made(&configs, names, output);
        saved.map(|descriptor| Exported { descriptor }).map_err(|e| Error::failed("exporting the image", e))
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
        Ok(ProductFiles { roots, _layers: product.images.iter().map(|made| made.state.clone()).collect() })
    }
}

/// The files of a product.
pub struct ProductFiles {
    /// By the names of their platforms; one without layers has no files.
    roots: Vec<(String, Option<MountedRootfs>)>,
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
            [(_, Some(root))] => {
                archive::read_path(root.as_fd(), Path::new("/"), output, &ReadOptions::default()).map_err(failed)
            }
            roots => {
                let there = roots.iter().filter_map(|(name, root)| Some((name.into(), root.as_ref()?.as_fd())));
                archive::read_roots(&there.collect::<Vec<_>>(), output).map_err(failed)
            }
        }
    }
}
