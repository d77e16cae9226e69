//! What a processor says that it is.
//!
//! Intel's SDM volume 2A (CPUID), AMD's APM volume 3 appendix E, and the kernel's Documentation/virt/kvm/x86/cpuid.rst.

use super::{features, levels};
use crate::config::VcpuCount;
use crate::error::{Error, Result};
use crate::processor::Processor;
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

/// Where the leaves of a second hypervisor interface begin: KVM's own are the first, which guests look for.
const OURS: u32 = 0x4000_0100;
/// What stands there, so that a guest's software can tell who runs it.
const SIGNATURE: [u8; 12] = *b"StratusVMM\0\0";

/// What all processors of a machine say under KVM, made once a machine.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// What KVM can have a processor say here.
    entries: Vec<kvm_cpuid_entry2>,
    processor: Processor,
    /// Whether the local APIC's timer takes a deadline, and so needs no calibration: KVM has that, and does not say so among the rest.
    deadline: bool,
}

impl Template {
    /// Asks KVM what there is.
    pub(crate) fn new(kvm: &Kvm, processor: Processor) -> Result<Template> {
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::kvm("what processors it has (KVM_GET_SUPPORTED_CPUID)"))?;
        Ok(Template {
            entries: cpuid.as_slice().to_vec(),
            processor,
            deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        })
    }

    /// What the processor `index` of `count` says.
    ///
    /// # Errors
    /// The host's lack something that the machine's are to have.
    pub(crate) fn of_vcpu(&self, index: u8, count: VcpuCount) -> Result<CpuId> {
        match features::lacking(&self.entries, self.processor) {
            lacking if lacking.is_empty() => self.says(self.processor, index, count),
            lacking => Err(Error::ProcessorLacks { processor: self.processor, lacking: lacking.join(", ") }),
        }
    }

    /// Of a host that offers that.
    #[cfg(test)]
    pub(super) fn of(entries: Vec<kvm_cpuid_entry2>, processor: Processor) -> Template {
        Template { entries, processor, deadline: true }
    }

    fn says(&self, processor: Processor, index: u8, count: VcpuCount) -> Result<CpuId> {
        let offered = |entry| features::offered(entry, processor);
        let mut entries: Vec<_> = self.entries.iter().filter_map(offered).collect();
        features::fit_states(&mut entries, processor);
        for entry in &mut entries {
            adapt(entry, index, count);
            if entry.function == 1 && self.deadline {
                entry.ecx |= 1 << 24;
            }
            if entry.function == SIZES && processor != Processor::Host {
                // Of the guest's own addresses nothing is said: they are as many bits.
                entry.eax = self.address_bits(processor) | levels::LINEAR_BITS << 8;
            }
        }
        let extended = self.entries.iter().map(|entry| entry.function).filter(|function| is_topology(*function));
        let mut seen = Vec::new();
        for function in extended {
            if !seen.contains(&function) {
                seen.push(function);
                entries.extend(topology(function, index, count));
            }
        }
        entries.push(hypervisor());
        CpuId::from_entries(&entries).map_err(|_| Error::KvmLacks("room for what a processor says (CPUID)"))
    }

    /// Bits of physical addresses.
    fn address_bits(&self, processor: Processor) -> u32 {
        let host = address_bits(&self.entries);
        if processor == Processor::Host { host } else { host.min(levels::ADDRESS_BITS) }
    }

    /// Whether all addresses below `end` are ones that a guest can have memory at.
    ///
    /// # Errors
    /// They are not: the machine would have memory that its processors can't reach.
    pub(crate) fn reaches(&self, end: u64) -> Result<()> {
        let bits = self.address_bits(self.processor);
        if 1u64.checked_shl(bits).is_none_or(|most| end <= most) {
            return Ok(());
        }
        Err(Error::Size(format!(
            "memory up to the address {end:#x} is more than this machine's processors reach, which have addresses of {bits} bits: give the machine less"
        )))
    }

    /// Whether a guest that knows a processor, `index` of `count`, which says `saved`, finds all of it here.
    ///
    /// # Errors
    /// It does not: what is missing, or is otherwise, is told.
    pub(crate) fn has_all_of(&self, saved: &CpuId, index: u8, count: VcpuCount) -> Result<()> {
        let here = self.says(Processor::Host, index, count)?;
        let (saved, here) = (saved.as_slice(), here.as_slice());
        let missing = features::missing(saved, here);
        let (bits, most) = (address_bits(saved), address_bits(&self.entries));
        let refuse = |why: String| {
            let processor = match self.processor {
                Processor::Host => {
                    "all that its host's offer: save it with a processor of a level, to have it go on elsewhere"
                        .to_owned()
                }
                level => format!("those of {level}"),
            };
            Err(Error::Snapshot(format!(
                "this host's processors are not such as the guest of a snapshot knows that it has ({why}): its are {processor}"
            )))
        };
        if let (Some(then), Some(now)) = (vendor(saved), vendor(here))
            && then != now
        {
            return refuse(format!("they are of {}, and not of {}", words(now), words(then)));
        }
        if !missing.is_empty() {
            return refuse(format!("they lack {}", missing.join(", ")));
        }
        if bits > most {
            return refuse(format!("they have addresses of {most} bits, and not of {bits}"));
        }
        match features::moved_state(saved, here) {
            Some(state) => refuse(format!("the state {state} of XSAVE is elsewhere")),
            None => Ok(()),
        }
    }
}

/// What one processor was told to say, for as long as it lives: without what KVM's form has of room for more.
#[derive(Debug)]
pub(crate) struct Told(Box<[[u32; 7]]>);

impl From<&[kvm_cpuid_entry2]> for Told {
    fn from(entries: &[kvm_cpuid_entry2]) -> Told {
        let numbers = |entry: &kvm_cpuid_entry2| {
            let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, .. } = *entry;
            [function, index, flags, eax, ebx, ecx, edx]
        };
        Told(entries.iter().map(numbers).collect())
    }
}

impl Told {
    /// It, in KVM's form.
    pub(crate) fn entries(&self) -> Vec<kvm_cpuid_entry2> {
        let entry = |[function, index, flags, eax, ebx, ecx, edx]: [u32; 7]| kvm_cpuid_entry2 {
            function,
            index,
            flags,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        self.0.iter().copied().map(entry).collect()
    }
}

/// The leaf with the sizes of addresses.
const SIZES: u32 = 0x8000_0008;

/// Bits of physical addresses. Without that leaf it is 36 (Intel's SDM volume 3A, 4.1.4).
fn address_bits(entries: &[kvm_cpuid_entry2]) -> u32 {
    entries.iter().find(|entry| entry.function == SIZES).map_or(36, |entry| entry.eax & 0xff)
}

/// Who made the processors, in the order of the registers.
fn vendor(entries: &[kvm_cpuid_entry2]) -> Option<[u32; 3]> {
    entries.iter().find(|entry| entry.function == 0).map(|entry| [entry.ebx, entry.edx, entry.ecx])
}

fn words(vendor: [u32; 3]) -> String {
    String::from_utf8_lossy(&vendor.map(u32::to_le_bytes).concat()).into_owned()
}

/// The leaves that list levels of processors within processors.
fn is_topology(function: u32) -> bool {
    matches!(function, 0xb | 0x1f)
}

/// Changes what is of one processor, or of the host's and not the guest's.
fn adapt(entry: &mut kvm_cpuid_entry2, index: u8, count: VcpuCount) {
    let cores = u32::from(count.get());
    match entry.function {
        1 => {
            entry.ebx = (entry.ebx & 0xffff) | cores.next_power_of_two() << 16 | u32::from(index) << 24;
            // There is a hypervisor.
            entry.ecx |= 1 << 31;
            // More than one processor in the package.
            entry.edx = if cores > 1 { entry.edx | 1 << 28 } else { entry.edx & !(1 << 28) };
        }
        // Caches: the first two levels are a core's own, what is above is everybody's.
        4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level < 3 { 0 } else { cores.next_power_of_two() - 1 };
            entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (cores.next_power_of_two() - 1) << 26;
        }
        SIZES => entry.ecx = (entry.ecx & !0xf0ff) | (cores - 1) | cores.next_power_of_two().trailing_zeros() << 12,
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            let sharing = if level < 3 { 0 } else { cores - 1 };
            entry.eax = (entry.eax & 0x3fff) | sharing << 14;
        }
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index.into(), index.into(), 0),
        _ => {}
    }
}

/// Two levels, threads and cores: each core has one thread.
fn topology(function: u32, index: u8, count: VcpuCount) -> [kvm_cpuid_entry2; 3] {
    let cores = u32::from(count.get());
    let level = |index_of_level: u32, bits: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index: index_of_level,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: processors,
        ecx: index_of_level | kind << 8,
        edx: index.into(),
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, cores.next_power_of_two().trailing_zeros(), cores, 2), level(2, 0, 0, 0)]
}

fn hypervisor() -> kvm_cpuid_entry2 {
    let word = |at: usize| u32::from_le_bytes([SIGNATURE[at], SIGNATURE[at + 1], SIGNATURE[at + 2], SIGNATURE[at + 3]]);
    kvm_cpuid_entry2 { function: OURS, eax: OURS, ebx: word(0), ecx: word(4), edx: word(8), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(functions: &[(u32, u32)]) -> Template {
        let entries = functions.iter().map(|&(function, index)| kvm_cpuid_entry2 {
            function,
            index,
            eax: 0x123,
            ebx: 0xffff_ffff,
            ..Default::default()
        });
        Template { entries: entries.collect(), processor: Processor::Host, deadline: true }
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = cpuid.as_slice().iter().filter(|entry| (entry.function, entry.index) == (function, index));
        let leaf = *found.next().unwrap_or_else(|| panic!("no leaf {function:#x} {index}"));
        assert!(found.next().is_none(), "two leaves {function:#x} {index}");
        leaf
    }

    #[test]
    fn each_processor_has_its_number_everywhere() {
        let count = VcpuCount::new(6).unwrap();
        let template = template(&[(1, 0), (0xb, 0), (0xb, 1), (0x8000_001e, 0)]);
        for index in 0..6 {
            let cpuid = template.of_vcpu(index, count).unwrap();
            assert_eq!(leaf(&cpuid, 1, 0).ebx >> 24, u32::from(index));
            assert_eq!(leaf(&cpuid, 1, 0).ebx >> 16 & 0xff, 8);
            assert_eq!(leaf(&cpuid, 0xb, 0).edx, u32::from(index));
            assert_eq!((leaf(&cpuid, 0xb, 1).eax, leaf(&cpuid, 0xb, 1).ebx), (3, 6));
            assert_eq!(leaf(&cpuid, 0x8000_001e, 0).eax, u32::from(index));
            assert_eq!(leaf(&cpuid, OURS, 0).ebx.to_le_bytes(), *b"Stra");
        }
    }

    #[test]
    fn a_lone_processor_says_that_it_is_alone() {
        let cpuid = template(&[(1, 0), (0xa, 0)]).of_vcpu(0, VcpuCount::new(1).unwrap()).unwrap();
        assert_eq!(leaf(&cpuid, 1, 0).edx & 1 << 28, 0);
        assert_eq!(leaf(&cpuid, 1, 0).ecx, 1 << 31 | 1 << 24);
    }

    #[test]
    fn nobody_is_offered_virtualization_or_counters() {
        let mut host = template(&[(1, 0), (0xa, 0), (0x12, 0), (0x8000_0001, 0), (0x8000_000a, 0), (0x8000_0022, 0)]);
        host.entries.iter_mut().for_each(|entry| entry.ecx = u32::MAX);
        let cpuid = host.of_vcpu(0, VcpuCount::new(2).unwrap()).unwrap();
        assert_eq!(leaf(&cpuid, 1, 0).ecx & (1 << 5 | 1 << 15), 0);
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).ecx & (1 << 2 | 1 << 23 | 1 << 24 | 1 << 28), 0);
        let others = cpuid.as_slice().iter().filter(|entry| ![1, 0x8000_0001, OURS].contains(&entry.function));
        assert_eq!(others.count(), 0);
    }

    #[test]
    fn memory_that_no_processor_reaches_is_refused() {
        let mut host = template(&[(0x8000_0008, 0)]);
        host.entries[0].eax = 0x3028;
        host.reaches(1 << 40).unwrap();
        assert!(host.reaches((1 << 40) + 1).unwrap_err().to_string().contains("addresses of 40 bits"));
        host.entries[0].eax = 64;
        host.reaches(u64::MAX).unwrap();
        assert!(template(&[]).reaches(1 << 37).is_err());
    }

    #[test]
    fn a_host_has_all_that_it_offers() {
        let (host, count) = (template(&[(1, 0), (7, 0), (0x8000_0001, 0)]), VcpuCount::new(2).unwrap());
        let saved = host.of_vcpu(1, count).unwrap();
        host.has_all_of(&saved, 1, count).unwrap();
        let told = template(&[(1, 0)]).has_all_of(&saved, 1, count).unwrap_err().to_string();
        assert!(told.contains("they lack fsgsbase, bmi1, avx2,"), "{told}");
    }
}
