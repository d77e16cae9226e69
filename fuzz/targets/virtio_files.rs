//! `make fuzz TARGET=virtio_files`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::virtio_files(data));
