//! Things with numbers that are never mistaken: a number is used again, but not with the same generation.

/// A place, and which of its tenants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

/// Generations are 24 bits long, so that a key and a role fit into the 64 bits that epoll carries.
const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Key {
    pub(super) fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_bits(bits: u64) -> Key {
        Key { index: bits as u32, generation: (bits >> 32) as u32 & GENERATION_MASK }
    }
}

#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Slots<T> {
        Slots { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push((0, None));
                (self.slots.len() - 1) as u32
            }
        };
        let (generation, slot) = &mut self.slots[index as usize];
        *slot = Some(value);
        Key { index, generation: *generation }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        match self.slots.get(key.index as usize) {
            Some((generation, slot)) if *generation == key.generation => slot.as_ref(),
            _ => None,
        }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.index as usize) {
            Some((generation, slot)) if *generation == key.generation => slot.as_mut(),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let (generation, slot) = self.slots.get_mut(key.index as usize)?;
        if *generation != key.generation {
            return None;
        }
        let value = slot.take()?;
        *generation = (*generation + 1) & GENERATION_MASK;
        self.free.push(key.index);
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        let occupied = |(index, (generation, slot)): (usize, &'_ (u32, Option<T>))| {
            slot.is_some().then_some(Key { index: index as u32, generation: *generation })
        };
        self.slots.iter().enumerate().filter_map(move |slot| {
            let key = occupied(slot)?;
            Some((key, slot.1.1.as_ref()?))
        })
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// The slots as they are, for [`Slots::from_slots`].
    pub(super) fn slots(&self) -> impl Iterator<Item = (u32, Option<&T>)> {
        self.slots.iter().map(|(generation, slot)| (*generation, slot.as_ref()))
    }

    /// Slots with the keys that they had.
    pub(super) fn from_slots(slots: Vec<(u32, Option<T>)>) -> Slots<T> {
        let free = slots.iter().enumerate().filter(|(_, slot)| slot.1.is_none()).map(|(at, _)| at as u32).collect();
        Slots { slots, free }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_things_key_does_not_lead_to_its_successor() {
        let mut slots = Slots::new();
        let a = slots.insert('a');
        assert_eq!(slots.remove(a), Some('a'));
        let b = slots.insert('b');
        assert_eq!(slots.get(a), None);
        assert_eq!(slots.get(Key::from_bits(b.to_bits())), Some(&'b'));
        assert_eq!(slots.len(), 1);
    }
}
