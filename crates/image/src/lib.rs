//! `image` (being written).
#![forbid(unsafe_code)]
