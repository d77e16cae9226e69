//! `make fuzz TARGET=runtime_spec`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::runtime_spec(data));
