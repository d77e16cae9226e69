//! What kind of processor a machine has.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of processor a machine has: all that the host's offers, or what all processors of a level have, so that what is saved of it goes on on other hosts whose
/// processors are of that level, of the same vendor, and with the same means against faults.
///
/// The levels are those of the x86-64 psABI, by which compilers and distributions know them (`-march=x86-64-v3`), and what kernels use of the processors that had them
/// first. Of what the host's has besides, a guest at a level is told what it mitigates faults of processors by, and of no fault that the host's has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Processor {
    /// All that the host's KVM offers, of what this knows.
    #[default]
    #[serde(rename = "host")]
    Host,
    /// Up to SSE4.2.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// Up to AVX2, with AES, RDRAND, FSGSBASE and SMEP.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// With AVX-512, as servers have it, and SMAP, PCID and RDSEED.
    #[serde(rename = "x86-64-v4")]
    V4,
}

impl Processor {
    /// All there are, the host's first.
    pub const ALL: [Processor; 4] = [Processor::Host, Processor::V2, Processor::V3, Processor::V4];

    /// The one of a name, as it is displayed.
    pub fn parse(name: &str) -> Option<Processor> {
        Processor::ALL.into_iter().find(|processor| processor.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Processor::Host => "host",
            Processor::V2 => "x86-64-v2",
            Processor::V3 => "x86-64-v3",
            Processor::V4 => "x86-64-v4",
        }
    }

    /// The features that a host has to have for it, beyond what each 64-bit processor has, as Linux calls them in `/proc/cpuinfo`. Of the host's own there are none.
    pub fn features(self) -> impl Iterator<Item = &'static str> {
        crate::arch::current::levels::needed(self).map(|feature| feature.name)
    }
}

impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_known_by_its_name() {
        for processor in Processor::ALL {
            assert_eq!(Processor::parse(processor.name()), Some(processor));
            assert_eq!(postcard::to_stdvec(&processor).unwrap(), [processor as u8]);
        }
        assert_eq!(Processor::parse("x86-64-v5"), None);
    }

    #[test]
    fn a_level_has_all_of_those_below() {
        for (lower, higher) in Processor::ALL.into_iter().zip(&Processor::ALL[1..]) {
            let higher: Vec<_> = higher.features().collect();
            assert!(lower.features().all(|feature| higher.contains(&feature)), "{lower}");
            assert!(lower.features().count() < higher.len(), "{lower}");
        }
    }
}
