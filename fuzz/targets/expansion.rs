//! `make fuzz TARGET=expansion`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::expansion(data));
