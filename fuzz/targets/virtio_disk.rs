//! `make fuzz TARGET=virtio_disk`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::virtio_disk(data));
