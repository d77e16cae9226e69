//! Things found by a small number, whose number tells when the thing it meant is gone.
//!
//! epoll(7) may report an event for a descriptor that an earlier event of the same batch closed. A [`Key`] carries a
//! generation, so that such an event finds nothing instead of a stranger.

/// The place of a value in an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

/// Bits of an epoll datum that are left for the caller of [`Key::to_u64`].
const TAG_BITS: u32 = 1;

impl Key {
    /// As an epoll datum, with a tag of one bit.
    pub(super) fn to_u64(self, tag: bool) -> u64 {
        (u64::from(self.generation) << 32) | (u64::from(self.index) << TAG_BITS) | u64::from(tag)
    }

    /// Back from an epoll datum.
    pub(super) fn from_u64(datum: u64) -> (Self, bool) {
        let low = datum as u32;
        (Key { index: low >> TAG_BITS, generation: (datum >> 32) as u32 }, low & 1 == 1)
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values by [`Key`]; insertion and removal take constant time.
pub(super) struct Arena<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Arena<T> {
    pub(super) fn new() -> Self {
        Arena { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, value: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Key { index, generation: slot.generation }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_its_value_and_finds_no_other() {
        let mut arena = Arena::new();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
    }

    #[test]
    fn a_key_survives_being_a_datum() {
        let key = Key { index: 0x7fff_fffe, generation: u32::MAX };
        for tag in [false, true] {
            assert_eq!(Key::from_u64(key.to_u64(tag)), (key, tag));
        }
    }
}
