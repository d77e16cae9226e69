//! Where what a build came to goes: among the daemon's images, to registries, to the client.

use crate::ask::{self, CachePlace, Output, references};
use crate::layout::ClientLayout;
use crate::mux::Opener;
use crate::need::Outgoing;
use build::{Builder, Built, CacheMode, CacheTo, Error, ExportEvent, Product, Progress, Request};
use image::{Descriptor, Platform, Reference};
use std::io::{self, Write};
use std::sync::Arc;
use tokio::runtime::Handle;

/// All that is asked for of a build, and for which platforms.
pub(crate) struct Exports {
    pub(crate) platforms: Vec<Platform>,
    all: Vec<Export>,
    caches: Vec<Cache>,
}

/// A cache that is kept for others.
struct Cache {
    to: CacheTo,
    mode: CacheMode,
    ignore_error: bool,
}

enum Export {
    Image { names: Vec<Reference>, push: bool },
    Archive { names: Vec<Reference>, to: String },
    Files { to: String },
}

impl Exports {
    /// Reads them. `names` are those of the build. An error is one line for people.
    pub(crate) fn new(outputs: &[Output], names: &[Reference], platforms: &[Platform]) -> Result<Exports, String> {
        let named = |own: &[String]| if own.is_empty() { Ok(names.to_vec()) } else { references(own) };
        let export = |output: &Output| {
            Ok(match output {
                Output::Image { names, push } => Export::Image { names: named(names)?, push: *push },
                Output::Archive { names, export } => Export::Archive { names: named(names)?, to: export.clone() },
                Output::Files { export } => Export::Files { to: export.clone() },
            })
        };
        let mut all = outputs.iter().map(export).collect::<Result<Vec<Export>, String>>()?;
        if all.is_empty() {
            all.push(Export::Image { names: names.to_vec(), push: false });
        }
        if all.iter().any(|export| matches!(export, Export::Image { names, push: true } if names.is_empty())) {
            return Err("nothing is pushed without a name: give the image one with --tag".to_owned());
        }
        if platforms.len() > 1 && all.iter().any(|export| matches!(export, Export::Image { push: false, .. })) {
            let outputs = "--output type=oci,dest=FILE, or type=image,push=true";
            return Err(format!("one of the daemon's images is for one platform; several go elsewhere: {outputs}"));
        }
        Ok(Exports { platforms: platforms.to_vec(), all, caches: Vec::new() })
    }

    /// With caches. An error is one line for people.
    pub(crate) fn with_caches(self, asked: &[ask::CacheTo], opener: &Opener) -> Result<Exports, String> {
        let cache = |asked: &ask::CacheTo| {
            let to = match &asked.place {
                CachePlace::Registry(name) => CacheTo::Registry(references(std::slice::from_ref(name))?.remove(0)),
                CachePlace::Layout { layout, path, tag } => CacheTo::Layout {
                    name: path.clone(),
                    layout: Arc::new(ClientLayout { opener: opener.clone(), name: layout.clone() }),
                    tag: tag.clone(),
                },
            };
            let mode = if asked.all { CacheMode::All } else { CacheMode::Result };
            Ok(Cache { to, mode, ignore_error: asked.ignore_error })
        };
        Ok(Exports { caches: asked.iter().map(cache).collect::<Result<_, String>>()?, ..self })
    }

    /// Brings a product there.
    pub(crate) async fn carry_out(
        &self,
        builder: &Builder,
        request: &Request,
        product: Product,
        opener: &Opener,
        progress: &Progress,
    ) -> Result<Built, Error> {
        let product = Arc::new(product);
        let mut built =
            Built { id: product.id()?, names: Vec::new(), platforms: product.platforms(), descriptor: None };
        for (number, export) in self.all.iter().enumerate() {
            progress.export(number, ExportEvent::Began(export.title()));
            let exported = Box::pin(export.carry_out(builder, request, &product, opener, (number, progress))).await;
            if let Err(error) = &exported {
                progress.export(number, ExportEvent::Failed(error.summary()));
            }
            built.descriptor = exported?.or(built.descriptor);
            if let Export::Image { names, .. } = export {
                built.names.extend(names.iter().cloned());
            }
            progress.export(number, ExportEvent::Done);
        }
        for (index, cache) in self.caches.iter().enumerate() {
            let number = self.all.len() + index;
            progress.export(number, ExportEvent::Began(format!("keeping the cache in {}", cache.to)));
            let exported =
                builder.export_cache(&product, cache.mode, &cache.to, &request.credentials, (number, progress)).await;
            if let Err(error) = exported {
                let message = format!("the cache was not kept in {}: {}", cache.to, error.summary());
                if !cache.ignore_error {
                    progress.export(number, ExportEvent::Failed(message.clone()));
                    // Whoever reads this alone is not to take the build for one that failed.
                    return Err(Error::Invalid(format!("{message} (what was built is where it was to go)")));
                }
                progress.export(number, ExportEvent::Warning(message));
            }
            progress.export(number, ExportEvent::Done);
        }
        Ok(built)
    }
}

impl Export {
    fn title(&self) -> String {
        let list = |names: &[Reference]| names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", ");
        match self {
            Export::Image { names, push: true } => format!("pushing {}", list(names)),
            Export::Image { names, .. } if names.is_empty() => "keeping the image".to_owned(),
            Export::Image { names, .. } => format!("keeping the image as {}", list(names)),
            Export::Archive { .. } => "exporting the image".to_owned(),
            Export::Files { .. } => "exporting its files".to_owned(),
        }
    }

    async fn carry_out(
        &self,
        builder: &Builder,
        request: &Request,
        product: &Arc<Product>,
        opener: &Opener,
        (number, progress): (usize, &Progress),
    ) -> Result<Option<Descriptor>, Error> {
        match self {
            Export::Image { names, push: false } => builder.keep(product, names).await.map(|_| None),
            Export::Image { names, push: true } => {
                let pushing = builder.push(product, names, &request.credentials, (number, progress));
                pushing.await.map(Some)
            }
            Export::Archive { names, to } => {
                let (builder, product, names) = (builder.clone(), Arc::clone(product), names.clone());
                let written = send(opener, to, move |output| builder.archive(&product, &names, output)).await;
                written.map(Some)
            }
            Export::Files { to } => {
                let files = builder.files(product).await?;
                send(opener, to, move |output| files.write(output)).await.map(|()| None)
            }
        }
    }
}

/// Sends what a thread writes to the client, as fast as that takes it.
async fn send<T: Send + 'static>(
    opener: &Opener,
    name: &str,
    write: impl FnOnce(&mut Sending) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let outgoing = Outgoing::begin(opener, name).await.map_err(Error::Invalid)?;
    let mut sending = Sending { outgoing, runtime: Handle::current() };
    let written = tokio::task::spawn_blocking(move || write(&mut sending).map(|written| (written, sending))).await;
    let failed = |e| Error::Failed { doing: "exporting".to_owned(), reason: format!("{e}") };
    let (written, sending) = written.map_err(failed)??;
    sending.outgoing.finish().await.map_err(Error::Invalid)?;
    Ok(written)
}

/// An export that a thread writes.
struct Sending {
    outgoing: Outgoing,
    runtime: Handle,
}

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(self.outgoing.send(bytes)).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
