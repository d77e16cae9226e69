//! What ran, for how long, with how much: vCPU-seconds, GiB-seconds, bytes.
//!
//! A run (a container from its start to its end, later also a microVM or an invocation) is counted by an
//! [`Accumulator`], which is fed with [`Sample`]s of the kernel's counters. Now and then it is saved, so that it
//! survives the daemon; when the run ends it becomes a [`Record`], which the [`Ledger`] keeps in the store.
//!
//! ```
//! use meter::{Accumulator, Ledger, Query, Run, Sample, Subject, Totals};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = store::Store::in_memory()?;
//! let ledger = Ledger::new(&store);
//! let started = "2026-01-01T00:00:00Z".parse()?;
//! let run = Run::new(Subject::new("container", "c1")?, started);
//! let mut count = Accumulator::new(run, Sample { at: Duration::from_secs(100), ..Sample::default() });
//! let gib = 1 << 30;
//! count.add(&Sample { at: Duration::from_secs(110), cpu_ns: 2_500_000_000, memory_bytes: gib, ..Sample::default() });
//! ledger.close(&count.finish("2026-01-01T00:00:10Z".parse()?))?;
//!
//! let mut totals = Totals::default();
//! ledger.visit(&Query::all(), |record| totals.add(&record.usage))?;
//! assert_eq!(totals.runs, 1);
//! assert_eq!(totals.usage.cpu_seconds(), 2.5);
//! assert_eq!(totals.usage.memory_gib_seconds(), 5.0); // from nothing to 1 GiB over 10 s
//! # Ok(())
//! # }
//! ```
//!
//! Price books and advice come to stand on the same records.
#![forbid(unsafe_code)]

mod accumulator;
mod ledger;
mod units;
mod usage;

pub use accumulator::{Accumulator, Sample, boot_time};
pub use ledger::{Ledger, Query, Record, Retention, Totals};
pub use units::{ByteSize, Seconds};
pub use usage::{InvalidSubject, Run, Subject, Usage};
