//! Where layers lie on the one disk that has them all, and who lies upon which: each lies there once, whoever has it. What is worked out here, the machine's driver is told, and the guest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use guest_protocol::message::ContainerId;
use vmm::MIB;

use crate::container::CONTAINER;
use crate::driver::Laid;
use crate::error::{Error, Result};
use crate::plan::LAYERS_SIZE;

/// Each begins at a multiple of so many bytes.
const ALIGN: u64 = MIB;

/// A part of the disk: its offset and its length, in bytes.
pub(super) type Place = (u64, u64);
/// Where a container's layers lie, the upper one first; and those of them that do not lie there yet, with where they are to begin.
type Placed<F> = (Vec<Place>, Vec<(u64, F)>);

/// What lies on the disk.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// By where they begin, in bytes.
    by_place: BTreeMap<u64, Layer>,
}

/// A layer.
#[derive(Debug)]
struct Layer {
    /// The file's device and inode.
    file: (u64, u64),
    /// In bytes.
    length: u64,
    under: BTreeSet<ContainerId>,
}

/// A file that is known by its path as well.
struct Named {
    path: PathBuf,
    file: File,
}

impl AsFd for Named {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Layers {
    /// Of a machine whose first container has these layers, the lowest one first. Says what lies on the disk then, and where that container's layers do, the upper one first.
    ///
    /// # Errors
    /// One is not there, or they have no room.
    pub(super) fn of_first(paths: &[PathBuf]) -> Result<(Self, Vec<Laid>, Vec<Place>)> {
        let open = |path: &PathBuf| match File::open(path) {
            Ok(file) => Ok(Named { path: path.clone(), file }),
            Err(source) => Err(Error::File { what: "a layer", path: path.clone(), source }),
        };
        let files = paths.iter().map(open).collect::<Result<_>>()?;
        let mut layers = Self::default();
        let (places, new) = layers.place(CONTAINER, files)?;
        let laid = new.into_iter().map(|(start, Named { path, file })| Laid { start, path, file });
        Ok((layers, laid.collect(), places))
    }

    /// Finds places for the layers of a container, the lowest one first.
    ///
    /// # Errors
    /// They have no room.
    pub(super) fn place<F: AsFd>(&mut self, container: ContainerId, files: Vec<F>) -> Result<Placed<F>> {
        let (mut places, mut new) = (Vec::new(), Vec::new());
        for file in files {
            let found = rustix::fs::fstat(&file).map_err(Error::system("look at", "a layer"))?;
            let (file_is, length) = ((found.st_dev, found.st_ino), found.st_size.unsigned_abs());
            let lies = self.by_place.iter().find(|(_, layer)| layer.file == file_is).map(|(at, _)| *at);
            let at = match lies {
                Some(at) => at,
                None => {
                    let at = self.gap(length)?;
                    new.push((at, file));
                    at
                }
            };
            let layer = self.by_place.entry(at).or_insert(Layer { file: file_is, length, under: BTreeSet::new() });
            // Where it is there twice, the upper one counts: nothing of the other shows, and overlayfs takes none twice.
            if !layer.under.insert(container) {
                places.retain(|(place, _)| *place != at);
            }
            places.insert(0, (at, layer.length));
        }
        Ok((places, new))
    }

    /// The first place where nothing lies.
    fn gap(&self, length: u64) -> Result<u64> {
        let mut at = 0u64;
        for (start, layer) in &self.by_place {
            if start - at >= length {
                break;
            }
            at = (start + layer.length).next_multiple_of(ALIGN);
        }
        match at.checked_add(length) {
            // Behind the last one is always something, which nobody has to be told of.
            Some(end) if end < LAYERS_SIZE => Ok(at),
            _ => Err(Error::TooLarge { what: "the images' layers", most: LAYERS_SIZE }),
        }
    }

    /// A container lies upon none of them any more. Where those begin that nobody does, which are to be [taken away](Self::take_away).
    pub(super) fn leave(&mut self, container: ContainerId) -> Vec<u64> {
        for layer in self.by_place.values_mut() {
            layer.under.remove(&container);
        }
        self.by_place.iter().filter(|(_, layer)| layer.under.is_empty()).map(|(at, _)| *at).collect()
    }

    /// Nothing lies there any more.
    pub(super) fn take_away(&mut self, places: &[u64]) {
        places.iter().for_each(|at| drop(self.by_place.remove(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        file
    }

    #[test]
    fn layers_lie_once_for_all_who_lie_upon_them_and_go_with_the_last() {
        let mut layers = Layers::default();
        let (base, first, second) = (file(8192), file(1024), file(512));
        let again = |file: &File| file.try_clone().unwrap();
        let [one, two, three] = [1, 2, 3].map(ContainerId);
        let (places, new) = layers.place(one, vec![again(&base), again(&first)]).unwrap();
        let behind = 8192u64.next_multiple_of(ALIGN);
        assert_eq!(places, [(behind, 1024), (0, 8192)]);
        assert_eq!(new.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, behind]);
        let (places, new) = layers.place(two, vec![again(&base), again(&second)]).unwrap();
        assert_eq!((places, new.len()), (vec![(behind + ALIGN, 512), (0, 8192)], 1));
        // What is free is taken first.
        assert_eq!(layers.leave(one), [behind]);
        layers.take_away(&[behind]);
        let (places, _) = layers.place(three, vec![file(ALIGN)]).unwrap();
        assert_eq!(places, [(behind, ALIGN)]);
        assert_eq!(layers.leave(two), [0, behind + ALIGN]);
        // What could not be taken away is tried again with the next.
        assert_eq!(layers.leave(three), [0, behind, behind + ALIGN]);
        layers.take_away(&[0, behind, behind + ALIGN]);
        assert!(layers.by_place.is_empty());
    }

    #[test]
    fn the_first_ones_lie_where_the_driver_is_told_and_once_where_the_upper_one_is() {
        let directory = tempfile::tempdir().unwrap();
        let [base, upper] = [("base", 8192), ("upper", 1024)].map(|(name, length)| {
            let path = directory.path().join(name);
            File::create(&path).unwrap().set_len(length).unwrap();
            path
        });
        let paths = [base.clone(), upper.clone(), base.clone()];
        let (layers, laid, places) = Layers::of_first(&paths).unwrap();
        let told: Vec<_> = laid.iter().map(|layer| (layer.start, &layer.path)).collect();
        assert_eq!(told, [(0, &base), (ALIGN, &upper)]);
        assert_eq!((places, layers.by_place.len()), (vec![(0, 8192), (ALIGN, 1024)], 2));
        let missing = directory.path().join("missing");
        assert!(Layers::of_first(&[missing]).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn what_has_no_room_is_refused() {
        let mut layers = Layers::default();
        assert!(layers.gap(LAYERS_SIZE).is_err());
        layers.place(ContainerId(2), vec![file(512)]).unwrap();
        assert!(layers.gap(LAYERS_SIZE - ALIGN).is_err());
        assert!(layers.gap(u64::MAX).is_err());
        assert!(layers.gap(LAYERS_SIZE / 2).is_ok());
    }
}
