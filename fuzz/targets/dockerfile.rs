//! `make fuzz TARGET=dockerfile`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dockerfile(data));
