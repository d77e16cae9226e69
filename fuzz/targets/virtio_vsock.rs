//! `make fuzz TARGET=virtio_vsock`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::virtio_vsock(data));
