//! `net` (being written).
#![forbid(unsafe_code)]
