//! `make fuzz TARGET=configuration`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::configuration(data));
