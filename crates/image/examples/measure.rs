//! Times what an archive of a layer costs: `measure pull LAYER.tar.gz`, `measure import ROOT.tar`,
//! `measure push ROOT.tar`, `measure create`. For profiles and counts of system calls.

use bytes::Bytes;
use image::{
    Descriptor, Digest, FinishImage, ImageConfig, Images, ImagesConfig, Manifest, NewImageOptions, Platform, Progress,
    UnpackLimits, media_type,
};
use std::io::Read as _;
use std::time::Instant;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = tempfile::tempdir_in(std::env::var("MEASURE_DIR").unwrap_or_else(|_| "/var/tmp".into()))?;
    let store = store::Store::open(dir.path().join("store"))?;
    let config = ImagesConfig {
        root: dir.path().join("images"),
        rootfs: dir.path().join("containers"),
        store,
        platform: Platform::host(),
        limits: UnpackLimits::default(),
    };
    let images = Images::open(config)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["pull", path] => pull(&images, path).await,
        ["import", path] => import(&images, path).await.map(drop),
        ["push", path] => {
            let id = import(&images, path).await?;
            let begun = Instant::now();
            let push = images.manifest_for_push(&id).await?;
            let bytes: u64 = push.layers.iter().map(|layer| layer.descriptor.size).sum();
            println!("compressed for a push in {:?} to {bytes} bytes", begun.elapsed());
            Ok(())
        }
        ["create"] => create(&images).await,
        _ => Err("usage: measure pull|import|push FILE, or measure create".into()),
    }
}

async fn pull(images: &Images, path: &str) -> Result<(), Failure> {
    let blob = std::fs::read(path)?;
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut tar)?;
    let diff_id = Digest::of(&tar);
    println!("{} bytes, {} unpacked", blob.len(), tar.len());
    drop(tar);
    let mut config = ImageConfig::default();
    config.rootfs.diff_ids.push(diff_id);
    let config = config.to_json()?;
    let descriptor = Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(&blob), blob.len() as u64);
    let manifest = serde_json::to_vec(&Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64),
        layers: vec![descriptor.clone()],
        annotations: Default::default(),
    })?;
    let begun = Instant::now();
    let ingest = images.begin_image();
    let mut sink = ingest.unpack_layer(&descriptor, &diff_id, Progress::none()).await?;
    let mut blob = Bytes::from(blob);
    while !blob.is_empty() {
        sink.write(blob.split_to(blob.len().min(64 << 10))).await?;
    }
    sink.finish().await?;
    let unpacked = begun.elapsed();
    let image = FinishImage {
        manifest: manifest.into(),
        manifest_media_type: media_type::OCI_MANIFEST.into(),
        config: config.into(),
        tag: None,
        repo_digest: None,
    };
    ingest.finish(image).await?;
    println!("layer in {unpacked:?}, image in {:?}", begun.elapsed());
    Ok(())
}

async fn import(images: &Images, path: &str) -> Result<image::ImageId, Failure> {
    let archive = std::fs::File::open(path)?;
    let begun = Instant::now();
    let id = images.import(archive, NewImageOptions::default(), Progress::none()).await?;
    println!("imported in {:?}", begun.elapsed());
    Ok(id)
}

async fn create(images: &Images) -> Result<(), Failure> {
    let begun = Instant::now();
    for n in 0..1000 {
        images.create_rootfs(&format!("c{n}"), None).await?;
    }
    println!("a root file system in {:?}", begun.elapsed() / 1000);
    Ok(())
}
