//! `api-docker` (being written).
#![forbid(unsafe_code)]
