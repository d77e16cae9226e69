//! A disk that is full: a clear error, nothing half-made, and everything works once there is room again.

mod support;

use image::{ListFilters, NewImageOptions, Progress};
use std::fs;
use std::path::PathBuf;
use support::{Place, Remote, base_layer, dir, file, gzip, tar};

/// A file system of four mebibytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> SmallDisk {
        let temp = tempfile::tempdir().unwrap();
        let options = c"size=4m,mode=700";
        rustix::mount::mount("tmpfs", temp.path(), "tmpfs", rustix::mount::MountFlags::empty(), options).unwrap();
        SmallDisk(temp)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("images")
    }

    fn fill(&self) -> PathBuf {
        let ballast = self.0.path().join("ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Two mebibytes that do not compress, in files.
fn large_layer() -> Vec<u8> {
    let mut state = 1u64;
    let noise = |state: &mut u64| {
        (0..64 << 10)
            .map(|_| {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(32 + (*state >> 58) as u8)
            })
            .collect::<String>()
    };
    let files: Vec<_> = (0..32).map(|n| file(&format!("data/{n}"), &noise(&mut state))).collect();
    tar(&[vec![dir("data")], files].concat())
}

#[tokio::test]
async fn a_layer_that_does_not_fit_leaves_nothing_and_the_next_one_works() {
    let disk = SmallDisk::new();
    let place = Place::at(disk.path(), store::Store::in_memory().unwrap());
    let large = Remote::new(&[large_layer()], |_| {});
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();

    let error = large.pull(&place.images, "large").await.unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(error.to_string().starts_with("no space left on device while "), "{error}");
    let error =
        place.images.import(std::io::Cursor::new(large_layer()), NewImageOptions::default(), Progress::none()).await;
    assert!(error.as_ref().is_err_and(|error| error.is_no_space()), "{error:?}");
    place.images.settle();
    assert_eq!((place.names("staging").len(), place.names("ingest").len(), place.names("layers").len()), (0, 0, 1));
    assert!(place.images.list(&ListFilters::default()).is_empty());

    let small = Remote::new(&[base_layer()], |_| {});
    let id = small.pull(&place.images, "small").await.unwrap();
    place.images.create_rootfs("c", Some(&id)).await.unwrap();
    fs::remove_file(ballast).unwrap();
    assert_eq!(place.images.resolve("small").unwrap(), id);
}

#[tokio::test]
async fn on_a_disk_without_any_room_what_exists_is_still_there_and_can_be_removed() {
    let disk = SmallDisk::new();
    let place = Place::at(disk.path(), store::Store::in_memory().unwrap());
    let small = Remote::new(&[base_layer()], |_| {});
    let id = small.pull(&place.images, "small").await.unwrap();
    let ballast = disk.fill();
    let archive = gzip(&base_layer());
    let error = place.images.import(std::io::Cursor::new(archive), NewImageOptions::default(), Progress::none()).await;
    assert!(error.as_ref().is_err_and(|error| error.is_no_space()), "{error:?}");
    assert_eq!(place.images.resolve("small").unwrap(), id);
    place.images.remove("small", Default::default()).await.unwrap();
    assert!(place.images.gc(true).await.unwrap().layers > 0);
    fs::remove_file(ballast).unwrap();
    small.pull(&place.images, "again").await.unwrap();
}
