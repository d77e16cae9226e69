//! `make fuzz TARGET=keeper`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::keeper(data));
