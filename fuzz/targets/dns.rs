//! `make fuzz TARGET=dns`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dns(data));
