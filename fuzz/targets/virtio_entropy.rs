//! `make fuzz TARGET=virtio_entropy`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::virtio_entropy(data));
