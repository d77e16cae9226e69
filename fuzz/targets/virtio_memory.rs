//! `make fuzz TARGET=virtio_memory`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::virtio_memory(data));
