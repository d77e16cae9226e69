//! `make fuzz TARGET=virtio_balloon`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::virtio_balloon(data));
