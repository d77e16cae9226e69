//! A sandbox's place on networks: what is asked for, and what it got.

mod guest;
mod link;
mod spec;
mod workshop;

pub use guest::{GuestInterface, GuestRoute};
pub(crate) use link::{HostLinks, VethPlan};
pub use spec::{Endpoint, EndpointSpec, LinkStatistics, Sandbox, SandboxSpec, Tap};
pub(crate) use workshop::{Bare, Plan, Workshop};
