//! Levels of processors: what each of them has, whoever made it.
//!
//! A level is a set that does not depend on the host: what the x86-64 psABI lists (its section 3.1.1), and what kernels use of the processors that had that first, Intel's and
//! AMD's alike. A host that lacks any of it has no such processor. What a guest is offered besides ([`BESIDES`]) is KVM's own, which each host of the same kernel has, and
//! what guests mitigate faults of processors by, where the host's has that: to leave that out would leave them open. That a processor has not some fault
//! (`ARCH_CAPABILITIES`, and bits of AMD's leaves) no level says, as the next host's may have it.

use super::features::{Leaf, bits};
use crate::processor::Processor;
use kvm_bindings::kvm_cpuid_entry2;

/// Registers of a leaf, by their places.
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// A feature, by its place in CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    /// What Linux calls it in `/proc/cpuinfo`.
    pub(crate) name: &'static str,
    pub(super) function: u32,
    pub(super) index: u32,
    pub(super) register: usize,
    pub(super) bit: u32,
}

const fn feature(name: &'static str, (function, index): (u32, u32), register: usize, bit: u32) -> Feature {
    Feature { name, function, index, register, bit }
}

const V2: [Feature; 7] = [
    feature("pni", (1, 0), ECX, 0),
    feature("ssse3", (1, 0), ECX, 9),
    feature("cx16", (1, 0), ECX, 13),
    feature("sse4_1", (1, 0), ECX, 19),
    feature("sse4_2", (1, 0), ECX, 20),
    feature("popcnt", (1, 0), ECX, 23),
    feature("lahf_lm", (0x8000_0001, 0), ECX, 0),
];

const V3: [Feature; 16] = [
    feature("fma", (1, 0), ECX, 12),
    feature("movbe", (1, 0), ECX, 22),
    feature("xsave", (1, 0), ECX, 26),
    feature("avx", (1, 0), ECX, 28),
    feature("f16c", (1, 0), ECX, 29),
    feature("bmi1", (7, 0), EBX, 3),
    feature("avx2", (7, 0), EBX, 5),
    feature("bmi2", (7, 0), EBX, 8),
    feature("abm", (0x8000_0001, 0), ECX, 5),
    // Of Haswell and of the first Zen, as all that follows.
    feature("pclmulqdq", (1, 0), ECX, 1),
    feature("aes", (1, 0), ECX, 25),
    feature("rdrand", (1, 0), ECX, 30),
    feature("fsgsbase", (7, 0), EBX, 0),
    feature("smep", (7, 0), EBX, 7),
    feature("rdtscp", (0x8000_0001, 0), EDX, 27),
    feature("xsaveopt", (0xd, 1), EAX, 0),
];

const V4: [Feature; 15] = [
    feature("avx512f", (7, 0), EBX, 16),
    feature("avx512dq", (7, 0), EBX, 17),
    feature("avx512cd", (7, 0), EBX, 28),
    feature("avx512bw", (7, 0), EBX, 30),
    feature("avx512vl", (7, 0), EBX, 31),
    // Of Skylake's servers and of Zen 4, as all that follows.
    feature("pcid", (1, 0), ECX, 17),
    feature("erms", (7, 0), EBX, 9),
    feature("invpcid", (7, 0), EBX, 10),
    feature("rdseed", (7, 0), EBX, 18),
    feature("adx", (7, 0), EBX, 19),
    feature("smap", (7, 0), EBX, 20),
    feature("clflushopt", (7, 0), EBX, 23),
    feature("xsavec", (0xd, 1), EAX, 1),
    feature("xgetbv1", (0xd, 1), EAX, 2),
    feature("pdpe1gb", (0x8000_0001, 0), EDX, 26),
];

/// What is offered at each level besides what it has, where it is there.
const BESIDES: [Leaf; 9] = [
    // The APIC's newer form and its deadline, and that there is a hypervisor; what each 64-bit processor has.
    (1, 0, [0, 0, bits(&[21, 24, 31]), super::features::BASIC_EDX]),
    // The APIC's timer goes on in whatever sleep.
    (6, 0, [bits(&[2]), 0, 0, 0]),
    // TSC_ADJUST, which is KVM's; MD_CLEAR, IBRS with IBPB, STIBP, L1D_FLUSH, SSBD.
    (7, 0, [0, bits(&[1]), 0, bits(&[10, 26, 27, 28, 31])]),
    // States have a list of their own ([`states`]).
    (0xd, 0, [u32::MAX, 0, 0, 0]),
    (0x4000_0001, 0, [u32::MAX, 0, 0, u32::MAX]),
    // How cores are told apart, and CR8; AMD's repeat of the basic ones, SYSCALL, NX, 64 bits.
    (0x8000_0001, 0, [0, 0, bits(&[1, 4, 22]), super::features::REPEATED_EDX | bits(&[11, 20, 29])]),
    // The time-stamp counter never changes its pace.
    (0x8000_0007, 0, [0, 0, 0, bits(&[8])]),
    // IBPB, IBRS, STIBP, SSBD, the hypervisor's SSBD, PSFD, IBPB that clears returns, too.
    (0x8000_0008, 0, [0, bits(&[12, 14, 15, 24, 25, 28, 30]), 0, 0]),
    // LFENCE that waits, VERW that clears, SBPB, IBPB that clears branches' kinds, too.
    (0x8000_0021, 0, [bits(&[2, 5, 27, 28]), 0, 0, 0]),
];

/// Bits of physical addresses at each level: what [`crate::MemorySize`] takes, and servers have.
pub(super) const ADDRESS_BITS: u32 = 40;
/// Bits of linear addresses without a fifth level of tables.
pub(super) const LINEAR_BITS: u32 = 48;

/// What a host has to have for a processor, beyond what each 64-bit one has.
pub(crate) fn needed(processor: Processor) -> impl Iterator<Item = &'static Feature> {
    let lists: &[&[Feature]] = match processor {
        Processor::Host => &[],
        Processor::V2 => &[&V2],
        Processor::V3 => &[&V2, &V3],
        Processor::V4 => &[&V2, &V3, &V4],
    };
    lists.iter().copied().flatten()
}

/// The states that XSAVE saves for a guest at a level, of which each has to be there: none, where it has no XSAVE.
pub(super) fn states(processor: Processor) -> Option<u32> {
    match processor {
        Processor::Host => None,
        Processor::V2 => Some(0),
        Processor::V3 => Some(bits(&[0, 1, 2])),
        Processor::V4 => Some(bits(&[0, 1, 2, 5, 6, 7])),
    }
}

/// What of a register that lists features may be offered for a processor.
pub(super) fn mask(processor: Processor, entry: &kvm_cpuid_entry2, register: usize) -> u32 {
    if processor == Processor::Host {
        return u32::MAX;
    }
    let leaf = BESIDES.iter().find(|leaf| (leaf.0, leaf.1) == (entry.function, entry.index));
    let besides = leaf.map_or(0, |leaf| leaf.2[register]);
    needed(processor).filter(|feature| feature.is_in(entry, register)).fold(besides, |mask, it| mask | 1 << it.bit)
}

/// What a feature is called, if it is one of a level.
pub(super) fn name(entry: &kvm_cpuid_entry2, register: usize, bit: u32) -> Option<&'static str> {
    needed(Processor::V4).find(|feature| feature.is_in(entry, register) && feature.bit == bit).map(|it| it.name)
}

impl Feature {
    /// Whether its place is in that register of a leaf.
    pub(super) fn is_in(&self, entry: &kvm_cpuid_entry2, register: usize) -> bool {
        (self.function, self.index, self.register) == (entry.function, entry.index, register)
    }
}

#[cfg(test)]
mod tests;
