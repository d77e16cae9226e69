//! `make fuzz TARGET=documents`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::documents(data));
