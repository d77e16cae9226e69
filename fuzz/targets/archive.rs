//! `make fuzz TARGET=archive`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::archive(data));
