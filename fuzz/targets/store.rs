//! `make fuzz TARGET=store`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::store(data));
