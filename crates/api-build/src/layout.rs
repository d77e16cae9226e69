//! A directory of the client's as the daemon has it: an OCI layout, where a build cache is or is to be.

use crate::mux::Opener;
use crate::need::{self, Need, Outgoing};
use build::{Layout, LayoutBytes, LayoutFile};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use image::Digest;
use image::manifest::MAX_DOCUMENT;

/// The directory that the client knows by a name.
pub(crate) struct ClientLayout {
    pub(crate) opener: Opener,
    pub(crate) name: String,
}

impl Layout for ClientLayout {
    fn read(&self, file: LayoutFile) -> LayoutBytes {
        let (opener, name) = (self.opener.clone(), self.name.clone());
        let ask = async move { need::ask(&opener, &Need::Layout { name, file }).await };
        stream::once(ask).map_ok(need::pieces).try_flatten().boxed()
    }

    fn has(&self, blob: Digest, size: u64) -> BoxFuture<'static, Result<bool, String>> {
        let (opener, name) = (self.opener.clone(), self.name.clone());
        Box::pin(async move { need::is_there(&opener, &Need::LayoutHas { name, blob, size }).await })
    }

    fn write(&self, file: LayoutFile, mut bytes: LayoutBytes) -> BoxFuture<'static, Result<(), String>> {
        let (opener, name) = (self.opener.clone(), self.name.clone());
        Box::pin(async move {
            let mut outgoing = Outgoing::answer(&opener, &Need::LayoutKeep { name, file }).await?;
            while let Some(piece) = bytes.next().await {
                outgoing.send(&piece?).await?;
            }
            outgoing.finish().await
        })
    }

    fn index(&self) -> BoxFuture<'static, Result<Option<Bytes>, String>> {
        let (opener, name) = (self.opener.clone(), self.name.clone());
        Box::pin(async move {
            let Some(stream) = need::ask_for_any(&opener, &Need::LayoutIndex { name }).await? else { return Ok(None) };
            let most = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
            let index = need::short(stream, most).await.map_err(|why| format!("reading its index.json: {why}"))?;
            Ok(Some(index.into()))
        })
    }

    fn replace_index(&self, former: Option<Digest>, index: Bytes) -> BoxFuture<'static, Result<bool, String>> {
        let (opener, name) = (self.opener.clone(), self.name.clone());
        Box::pin(async move {
            let mut outgoing = Outgoing::answer(&opener, &Need::LayoutReplace { name, former }).await?;
            outgoing.send(&index).await?;
            Ok(outgoing.end().await?.is_some())
        })
    }
}
