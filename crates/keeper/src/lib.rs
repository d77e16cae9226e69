//! `keeper` (being written).

