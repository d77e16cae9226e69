//! What of a host's processor a guest is offered: what stands here, and nothing else.
//!
//! A list of what is offered, and not of what is not: what a later processor or a later KVM can do besides is offered once somebody has looked at it. Left out on
//! purpose: virtualization within the guest (VMX, SVM: the largest part of KVM, for who is not trusted), counters of performance, traces of branches, transactional memory,
//! enclaves (SGX), encrypted memory (SEV, TME), tiles (AMX: more state than a snapshot has), shadow stacks, what lets a guest keep a processor (MONITOR, UMONITOR), and what
//! tells or sets the host's power, temperature and caches.
//!
//! Bits are named in Intel's SDM volume 2A (CPUID), AMD's APM volume 3 appendix E, and the kernel's Documentation/virt/kvm/x86/cpuid.rst.

use super::levels;
use crate::processor::Processor;
use kvm_bindings::kvm_cpuid_entry2;

/// A leaf: its number, its index, and what of `eax`, `ebx`, `ecx` and `edx` is offered.
pub(super) type Leaf = (u32, u32, [u32; 4]);

/// All of a register that says how something is, and not what can be done.
const ALL: u32 = u32::MAX;

/// Some bits.
pub(super) const fn bits(numbers: &[u32]) -> u32 {
    let (mut all, mut next) = (0, 0);
    while next < numbers.len() {
        all |= 1 << numbers[next];
        next += 1;
    }
    all
}

/// From SSE3 to RDRAND, with the APIC's newer form and its deadline, and the hypervisor's own bit.
const BASIC_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]);
/// From the floating point unit to SSE2, and several threads.
pub(super) const BASIC_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27, 28]);
/// FSGSBASE, TSC_ADJUST, BMI, AVX2, SMEP, ERMS, INVPCID, AVX-512, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
const STRUCTURED_EBX: u32 =
    bits(&[0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 26, 27, 28, 29, 30, 31]);
/// AVX-512's further parts, UMIP, PKU, GFNI, VAES, VPCLMULQDQ, LA57, RDPID, CLDEMOTE, MOVDIRI, MOVDIR64B.
const STRUCTURED_ECX: u32 = bits(&[0, 1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 14, 16, 22, 25, 27, 28]);
/// Short moves, MD_CLEAR, SERIALIZE, FP16, and what guests mitigate speculation by.
const STRUCTURED_EDX: u32 = bits(&[4, 8, 10, 14, 23, 26, 27, 28, 29, 31]);
/// States that XSAVE saves: x87, SSE, AVX, AVX-512, PKRU.
const STATES: u32 = bits(&[0, 1, 2, 5, 6, 7, 9]);
/// AMD's: LAHF, more than one core, CR8, ABM, SSE4A, misaligned SSE, prefetches, OSVW, XOP, FMA4, TBM, topology.
const EXTENDED_ECX: u32 = bits(&[0, 1, 4, 5, 6, 7, 8, 9, 11, 16, 21, 22]);
/// What AMD's repeat of the basic ones, SYSCALL, NX, pages of a GiB, RDTSCP, 64 bits.
const EXTENDED_EDX: u32 = !bits(&[10, 18, 19, 21, 28]);
/// What AMD repeats of the basic ones there.
pub(super) const REPEATED_EDX: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 23, 24]);
/// CLZERO, XSAVEERPTR, WBNOINVD, and what guests mitigate speculation by.
const SIZES_EBX: u32 = bits(&[0, 2, 9, 12, 14, 15, 17, 24, 25, 26, 28, 29, 30]);
/// KVM's clocks, page faults that do not wait, stolen time, interrupts and wake-ups without exits.
const KVM_EAX: u32 = bits(&[0, 1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 24]);

pub(super) const LEAVES: [Leaf; 31] = [
    (0, 0, [ALL; 4]),
    (1, 0, [ALL, ALL, BASIC_ECX, BASIC_EDX]),
    (2, 0, [ALL; 4]),
    // The APIC's timer goes on in whatever sleep.
    (6, 0, [bits(&[2]), 0, 0, 0]),
    (7, 0, [ALL, STRUCTURED_EBX, STRUCTURED_ECX, STRUCTURED_EDX]),
    // AVX-VNNI, BF16, fast short moves, AVX-IFMA; further parts of AVX, prefetches of code.
    (7, 1, [bits(&[4, 5, 10, 11, 12, 23]), 0, 0, bits(&[4, 5, 14])]),
    // Mitigations.
    (7, 2, [0, 0, 0, bits(&[0, 1, 2, 3, 4, 5])]),
    (0xd, 0, [STATES, ALL, ALL, 0]),
    // XSAVEOPT, XSAVEC, XGETBV of 1, XSAVES; no states of the supervisor's.
    (0xd, 1, [bits(&[0, 1, 2, 3]), ALL, 0, 0]),
    (0xd, 2, [ALL; 4]),
    (0xd, 5, [ALL; 4]),
    (0xd, 6, [ALL; 4]),
    (0xd, 7, [ALL; 4]),
    (0xd, 9, [ALL; 4]),
    // How fast it is.
    (0x15, 0, [ALL; 4]),
    (0x16, 0, [ALL; 4]),
    (0x4000_0000, 0, [ALL; 4]),
    (0x4000_0001, 0, [KVM_EAX, 0, 0, bits(&[0])]),
    (0x8000_0000, 0, [ALL; 4]),
    (0x8000_0001, 0, [ALL, ALL, EXTENDED_ECX, EXTENDED_EDX]),
    (0x8000_0002, 0, [ALL; 4]),
    (0x8000_0003, 0, [ALL; 4]),
    (0x8000_0004, 0, [ALL; 4]),
    (0x8000_0005, 0, [ALL; 4]),
    (0x8000_0006, 0, [ALL; 4]),
    // The time-stamp counter never changes its pace.
    (0x8000_0007, 0, [0, 0, 0, bits(&[8])]),
    (0x8000_0008, 0, [ALL, SIZES_EBX, ALL, 0]),
    (0x8000_0019, 0, [ALL; 4]),
    (0x8000_001a, 0, [ALL; 4]),
    (0x8000_001e, 0, [ALL; 4]),
    // LFENCE that waits, selectors that are cleared, automatic IBRS, and what is not vulnerable.
    (0x8000_0021, 0, [bits(&[0, 2, 5, 6, 8, 27, 28, 29]), 0, bits(&[1, 2]), 0]),
];

/// Bits that change while a guest runs, and say nothing of the host: OSXSAVE, OSPKE, the APIC's.
const CHANGING: [Leaf; 2] = [(1, 0, [0, 0, bits(&[27]), bits(&[9])]), (7, 0, [0, 0, bits(&[4]), 0])];

fn find(leaves: &[Leaf], entry: &kvm_cpuid_entry2) -> Option<[u32; 4]> {
    // Caches have as many indexes as there are; of the rest each is listed.
    let caches = matches!(entry.function, 4 | 0x8000_001d).then_some([ALL; 4]);
    let is_it = |leaf: &&Leaf| (leaf.0, leaf.1) == (entry.function, entry.index);
    leaves.iter().find(is_it).map(|leaf| leaf.2).or(caches)
}

fn registers(entry: &kvm_cpuid_entry2) -> [u32; 4] {
    [entry.eax, entry.ebx, entry.ecx, entry.edx]
}

/// What of a leaf is offered to a guest with such a processor, if it is.
pub(super) fn offered(entry: &kvm_cpuid_entry2, processor: Processor) -> Option<kvm_cpuid_entry2> {
    let mask = find(&LEAVES, entry)?;
    let is_level = processor != Processor::Host;
    if is_level && entry.function == 7 && entry.index > 0 {
        return None;
    }
    let kept = |register: usize| match mask[register] {
        ALL => ALL,
        offered => offered & levels::mask(processor, entry, register),
    };
    let [mut eax, ebx, ecx, edx] = [0, 1, 2, 3].map(|register| registers(entry)[register] & kept(register));
    if is_level && entry.function == 7 {
        // There are no further indexes.
        eax = 0;
    }
    Some(kvm_cpuid_entry2 { eax, ebx, ecx, edx, ..*entry })
}

/// What of XSAVE's leaves belongs to the states that are offered, with the room that those take (Intel's SDM volume 1, 13.2).
pub(super) fn fit_states(entries: &mut Vec<kvm_cpuid_entry2>, processor: Processor) {
    const XSAVE: u32 = 0xd;
    /// Bytes of the area's legacy region and header, and what has the area be compacted.
    const LEGACY: u32 = 576;
    const COMPACTED: u32 = bits(&[1, 3]);
    let of = |entry: &kvm_cpuid_entry2, index: u32| (entry.function, entry.index) == (XSAVE, index);
    let there = entries.iter().find(|entry| of(entry, 0)).map_or(0, |entry| entry.eax);
    let states = there & levels::states(processor).unwrap_or(STATES);
    entries.retain(|entry| {
        entry.function != XSAVE || states != 0 && (entry.index < 2 || states & 1u32.unbounded_shl(entry.index) != 0)
    });
    let ends = entries.iter().filter(|entry| entry.function == XSAVE && entry.index >= 2);
    let size = ends.map(|entry| entry.ebx.saturating_add(entry.eax)).fold(LEGACY, u32::max);
    for entry in entries.iter_mut() {
        if of(entry, 0) {
            // What the states take that are on now: KVM keeps that up to date.
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (states, entry.ebx.min(size), size, 0);
        } else if of(entry, 1) && entry.eax & COMPACTED == 0 {
            entry.ebx = 0;
        }
    }
}

/// What a host that offers `here` lacks for a level, by the names that Linux has for it.
pub(super) fn lacking(here: &[kvm_cpuid_entry2], processor: Processor) -> Vec<String> {
    let has = |feature: &&levels::Feature| {
        let mut leaf = here.iter().filter(|entry| feature.is_in(entry, feature.register));
        leaf.any(|entry| registers(entry)[feature.register] & 1 << feature.bit != 0)
    };
    let features = levels::needed(processor).filter(|feature| !has(feature)).map(|feature| feature.name.to_owned());
    let mut lacking: Vec<_> = features.collect();
    let states = here.iter().find(|entry| (entry.function, entry.index) == (0xd, 0)).map_or(0, |entry| entry.eax);
    let absent = levels::states(processor).unwrap_or(0) & !states;
    lacking.extend((0..32).filter(|state| absent & 1 << state != 0).map(|state| format!("the state {state} of XSAVE")));
    lacking
}

/// The features that a guest was offered by `saved` and that `here` lacks: by the names that Linux has for them, or by their place.
pub(super) fn missing(saved: &[kvm_cpuid_entry2], here: &[kvm_cpuid_entry2]) -> Vec<String> {
    let mut all = Vec::new();
    for entry in saved {
        let Some(mask) = LEAVES.iter().find(|leaf| (leaf.0, leaf.1) == (entry.function, entry.index)) else { continue };
        let same = here.iter().find(|other| (other.function, other.index) == (entry.function, entry.index));
        let here = same.map_or([0; 4], registers);
        let changing = find(&CHANGING, entry).unwrap_or_default();
        for (at, register) in ["eax", "ebx", "ecx", "edx"].into_iter().enumerate() {
            // What is not a list of features may differ.
            if mask.2[at] != ALL {
                let lacking = registers(entry)[at] & !here[at] & !changing[at];
                all.extend(named(entry, at, register, lacking));
            }
        }
    }
    all
}

/// Bits of a register: those that have a name, and the place of the rest.
fn named(entry: &kvm_cpuid_entry2, at: usize, register: &str, bits: u32) -> Vec<String> {
    let (mut rest, mut all) = (bits, Vec::new());
    for bit in (0..32).filter(|bit| bits & 1 << bit != 0) {
        if let Some(name) = levels::name(entry, at, bit) {
            all.push(name.to_owned());
            rest &= !(1 << bit);
        }
    }
    if rest != 0 {
        all.push(format!("CPUID leaf {:#x}, index {}, {register}: bits {rest:#x}", entry.function, entry.index));
    }
    all
}

/// A state of XSAVE's that a guest saves by `saved` and that lies elsewhere here, or is of another size.
pub(super) fn moved_state(saved: &[kvm_cpuid_entry2], here: &[kvm_cpuid_entry2]) -> Option<u32> {
    let states = saved.iter().filter(|entry| entry.function == 0xd && entry.index >= 2);
    let place = |entry: &kvm_cpuid_entry2| (entry.eax, entry.ebx);
    let differs = |state: &&kvm_cpuid_entry2| {
        let same = here.iter().find(|other| (other.function, other.index) == (state.function, state.index));
        same.is_none_or(|other| place(other) != place(state))
    };
    states.filter(|state| state.eax != 0).find(differs).map(|state| state.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    #[test]
    fn no_leaf_is_listed_twice() {
        for (number, leaf) in LEAVES.iter().enumerate() {
            assert!(!LEAVES[..number].iter().any(|other| (other.0, other.1) == (leaf.0, leaf.1)), "{leaf:x?}");
        }
    }

    #[test]
    fn what_is_not_listed_is_not_offered() {
        for (function, index) in
            [(3, 0), (0xa, 0), (0x12, 0), (0x14, 0), (7, 3), (0xd, 17), (0x8000_000a, 0), (0x8000_001f, 0)]
        {
            assert!(offered(&leaf(function, index, [ALL; 4]), Processor::Host).is_none(), "{function:#x} {index}");
        }
        let basic = offered(&leaf(1, 0, [ALL; 4]), Processor::Host).unwrap();
        // MONITOR, VMX, SMX, the counters' capabilities; where branches are stored, thermal control.
        assert_eq!(basic.ecx & bits(&[3, 5, 6, 15]), 0);
        assert_eq!(basic.edx & bits(&[21, 22]), 0);
        let structured = offered(&leaf(7, 0, [ALL; 4]), Processor::Host).unwrap();
        // SGX, transactional memory, PT; shadow stacks, AMX.
        assert_eq!(structured.ebx & bits(&[2, 4, 11, 25]), 0);
        assert_eq!((structured.ecx & bits(&[7]), structured.edx & bits(&[22, 24, 25])), (0, 0));
        // SVM and AMD's counters.
        assert_eq!(offered(&leaf(0x8000_0001, 0, [ALL; 4]), Processor::Host).unwrap().ecx & bits(&[2, 23, 24, 28]), 0);
    }

    #[test]
    fn a_host_that_lacks_what_a_guest_knows_is_told_from_one_that_differs() {
        let saved = [leaf(1, 0, [1, 2, 1 << 27 | 1 << 19, 0]), leaf(0x16, 0, [2000; 4]), leaf(0x4000_0100, 0, [1; 4])];
        // Another model, another speed, no OSXSAVE yet, and more than the guest knows.
        let newer = [leaf(1, 0, [9, 9, 1 << 19 | 1 << 28, 1]), leaf(0x16, 0, [3000; 4])];
        assert!(missing(&saved, &newer).is_empty());
        let older = [leaf(1, 0, [1, 2, 1 << 20, 0])];
        assert_eq!(missing(&saved, &older), ["sse4_1"]);
        let nameless = [leaf(1, 0, [1, 2, 1 << 19 | 1 << 21, 0])];
        assert_eq!(missing(&nameless, &older), ["sse4_1", "CPUID leaf 0x1, index 0, ecx: bits 0x200000"]);
    }
}
