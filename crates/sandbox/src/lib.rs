//! `sandbox` (being written).

