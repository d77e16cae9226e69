//! A sandbox's place on networks: what is asked for, and what it got.

mod spec;

pub use spec::{Endpoint, EndpointSpec, LinkStatistics, Sandbox, SandboxSpec};
