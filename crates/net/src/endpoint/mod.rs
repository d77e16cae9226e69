//! A sandbox's place on networks: what is asked for, and what it got.

mod spec;
mod workshop;

pub use spec::{Endpoint, EndpointSpec, LinkStatistics, Sandbox, SandboxSpec};
pub(crate) use workshop::{Bare, HostLinks, Plan, VethPlan, Workshop};
