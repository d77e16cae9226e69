//! Random trees.

use crate::support::Place;
use crate::trees::{attribute, made, node, verified};
use proptest::prelude::*;
use rustix::fs::FileType;
use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;

#[derive(Clone, Debug)]
enum Thing {
    File { size: usize, attributes: Vec<u16> },
    Sparse { size: u64, at: u64 },
    Link(usize),
    Again,
    Device(u64),
    Directory { opaque: bool, things: Vec<Thing> },
}

fn things() -> impl Strategy<Value = Vec<Thing>> {
    let size = prop_oneof![0..64usize, 900..1100usize, 3900..4200usize, 0..40_000usize];
    let leaf = prop_oneof![
        4 => (size, prop::collection::vec(0..1200u16, 0..3)).prop_map(|(size, attributes)| Thing::File { size, attributes }),
        1 => (5000..3_000_000u64, any::<u64>()).prop_map(|(size, at)| Thing::Sparse { size, at: at % size }),
        1 => (1..4096usize).prop_map(Thing::Link),
        1 => Just(Thing::Again),
        1 => (0..70_000u64).prop_map(Thing::Device),
    ];
    let tree = leaf.prop_recursive(4, 120, 40, |inner| {
        (any::<bool>(), prop::collection::vec(inner, 0..40))
            .prop_map(|(opaque, things)| Thing::Directory { opaque, things })
    });
    prop::collection::vec(tree, 1..30)
}

fn fill(directory: &Path, things: &[Thing], last: &mut Option<std::path::PathBuf>) {
    for (n, thing) in things.iter().enumerate() {
        // Names of all lengths, so that blocks of directories end anywhere.
        let path = directory.join(format!("{n}{}", "x".repeat(n * 37 % 250)));
        match thing {
            Thing::File { size, attributes } => {
                fs::write(&path, vec![n as u8; *size]).unwrap();
                for (k, length) in attributes.iter().enumerate() {
                    attribute(&path, &format!("user.{k}"), &vec![1; usize::from(*length)]);
                }
                *last = Some(path);
            }
            Thing::Sparse { size, at } => {
                let file = fs::File::create(&path).unwrap();
                file.set_len(*size).unwrap();
                file.write_all_at(b"something", *at).unwrap();
            }
            Thing::Link(length) => symlink("t".repeat(*length), &path).unwrap(),
            Thing::Again => match last {
                Some(first) => fs::hard_link(first, &path).unwrap(),
                None => fs::write(&path, "").unwrap(),
            },
            Thing::Device(number) => node(&path, FileType::CharacterDevice, *number),
            Thing::Directory { opaque, things } => {
                fs::create_dir(&path).unwrap();
                if *opaque {
                    attribute(&path, "trusted.overlay.opaque", b"y");
                }
                fill(&path, things, last);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_shown_as_it_is(things in things()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let place = Place::new();
            let kept = made(&place.images, |root| fill(root, &things, &mut None)).await;
            verified(&place, &kept.layers[0].diff_id).await;
        });
    }
}
