//! What an architecture has of its own. The others know it as [`current`], by the names of its parts: who adds one fills these.

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64 as current;
