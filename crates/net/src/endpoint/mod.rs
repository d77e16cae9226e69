//! A sandbox's place on networks: what is asked for, and what it got.

mod link;
mod spec;
mod workshop;

pub(crate) use link::{HostLinks, VethPlan};
pub use spec::{Endpoint, EndpointSpec, LinkStatistics, Sandbox, SandboxSpec};
pub(crate) use workshop::{Bare, Plan, Workshop};
