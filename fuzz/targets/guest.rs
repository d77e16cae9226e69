//! `make fuzz TARGET=guest`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::guest(data));
