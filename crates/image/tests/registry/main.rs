//! Registries: a real one (`docker-registry` on loopback) for what works, one that misbehaves for what doesn't.

mod auth;
mod faults;
mod fixture;
mod inspect;
mod misbehaving;
mod pull;
mod push;
mod referrers;
mod server;
mod tls;
mod tokens;
