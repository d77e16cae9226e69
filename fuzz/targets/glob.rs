//! `make fuzz TARGET=glob`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::glob(data));
