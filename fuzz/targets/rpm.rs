//! `make fuzz TARGET=rpm`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::rpm(data));
