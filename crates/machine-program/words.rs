//! How a prepared image comes to lie at an address.

/// Adds the address to the words of eight bytes, little-endian, at those offsets. All of them lie in the image, as the build has found them there.
pub(crate) fn add(image: &mut [u8], words: impl IntoIterator<Item = u32>, address: u64) {
    for at in words {
        if let Some(word) = image.get_mut(at as usize..).and_then(|rest| rest.first_chunk_mut()) {
            *word = u64::from_le_bytes(*word).wrapping_add(address).to_le_bytes();
        }
    }
}
