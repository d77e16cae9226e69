//! Hosts of all kinds: whatever they offer, a level is the same.

use super::*;
use crate::arch::current::cpuid::Template;
use crate::arch::current::features::LEAVES;
use crate::config::VcpuCount;
use kvm_bindings::CpuId;
use proptest::prelude::*;

/// Processors in such a machine.
const COUNT: u8 = 3;

fn entry((function, index): (u32, u32), [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
}

fn register(entry: &mut kvm_cpuid_entry2, register: usize) -> &mut u32 {
    [&mut entry.eax, &mut entry.ebx, &mut entry.ecx, &mut entry.edx].into_iter().nth(register).unwrap()
}

fn leaf(cpuid: &CpuId, place: (u32, u32)) -> [u32; 4] {
    let found = cpuid.as_slice().iter().find(|entry| (entry.function, entry.index) == place);
    found.map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
}

/// A host of any kind, of one maker's, whose states of XSAVE lie as on any of its.
fn host() -> impl Strategy<Value = Vec<kvm_cpuid_entry2>> {
    // And leaves that nobody is offered: monitors, counters, traces, keys of this processor alone, tiles.
    let places: Vec<_> =
        LEAVES.iter().map(|leaf| (leaf.0, leaf.1)).chain([(5, 0), (0xa, 0), (0x14, 0), (0x19, 0), (0x1d, 1)]).collect();
    (proptest::collection::vec(any::<[u32; 4]>(), places.len()), 36..=52u32, any::<bool>()).prop_map(
        move |(words, bits, tiles)| {
            let entries = places.iter().zip(words).map(|(place, words)| match place {
                (0, 0) => entry(*place, [0x1f, 1, 2, 3]),
                (0xd, 0) => entry(*place, [words[0] | u32::from(tiles) << 18, words[1], words[2], 0]),
                (0xd, state @ 2..) => entry(*place, [64 * state, 512 + 64 * state * state, 0, 0]),
                (0x8000_0008, 0) => entry(*place, [57 << 8 | bits, words[1], words[2], words[3]]),
                _ => entry(*place, words),
            });
            entries.collect()
        },
    )
}

/// The same one, with all that a level has.
fn with(mut host: Vec<kvm_cpuid_entry2>, processor: Processor) -> Vec<kvm_cpuid_entry2> {
    for entry in &mut host {
        for feature in needed(processor) {
            if feature.is_in(entry, feature.register) {
                *register(entry, feature.register) |= 1 << feature.bit;
            }
        }
        if (entry.function, entry.index) == (0xd, 0) {
            entry.eax |= states(processor).unwrap();
        }
    }
    host
}

fn level() -> impl Strategy<Value = Processor> {
    proptest::sample::select(Processor::ALL[1..].to_vec())
}

fn says(host: &[kvm_cpuid_entry2], processor: Processor) -> CpuId {
    let count = VcpuCount::new(COUNT).unwrap();
    Template::of(host.to_vec(), processor).of_vcpu(1, count).unwrap()
}

/// Registers of the leaves with features, without what hosts of a level differ in ([`BESIDES`]).
fn features(cpuid: &CpuId) -> Vec<((u32, u32), usize, u32)> {
    let mut all = Vec::new();
    for (function, index, masks) in LEAVES.iter().filter(|leaf| leaf.0 != 0xd) {
        let besides = BESIDES.iter().find(|leaf| (leaf.0, leaf.1) == (*function, *index)).map_or([0; 4], |leaf| leaf.2);
        for at in (0..4).filter(|at| masks[*at] != u32::MAX) {
            // Threads, and what differs between processors of one machine.
            let word =
                leaf(cpuid, (*function, *index))[at] & !besides[at] & !u32::from(*function == 1 && at == EDX) << 28;
            all.push(((*function, *index), at, word));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_level_is_the_same_on_any_host((one, other, level) in (host(), host(), level())) {
        let (one, other) = (says(&with(one, level), level), says(&with(other, level), level));
        prop_assert_eq!(features(&one), features(&other));
        for index in 0..10 {
            prop_assert_eq!(&leaf(&one, (0xd, index))[2..], &leaf(&other, (0xd, index))[2..], "index {}", index);
            prop_assert_eq!(leaf(&one, (0xd, index))[0], leaf(&other, (0xd, index))[0], "index {}", index);
        }
        for feature in needed(level) {
            let word = leaf(&one, (feature.function, feature.index))[feature.register];
            prop_assert!(word & 1 << feature.bit != 0, "{}", feature.name);
        }
    }

    #[test]
    fn nothing_is_offered_that_a_host_has_not((host, level) in (host(), level())) {
        let host = with(host, level);
        let (all, some) = (says(&host, Processor::Host), says(&host, level));
        for ((place, at, some), (_, _, all)) in features(&some).into_iter().zip(features(&all)) {
            prop_assert_eq!(some & !all, 0, "{:x?} register {}", place, at);
        }
        // No leaf is of the host alone, and none says that there is no fault.
        for place in [(5, 0), (0xa, 0), (0x14, 0), (0x19, 0), (0x1d, 1), (7, 1), (7, 2)] {
            prop_assert_eq!(leaf(&some, place), [0; 4], "{:x?}", place);
        }
        prop_assert_eq!(leaf(&some, (7, 0))[EAX], 0);
        prop_assert_eq!(leaf(&some, (7, 0))[EDX] & 1 << 29, 0);
        prop_assert_eq!(leaf(&some, (0x8000_0008, 0))[EBX] & bits(&[26, 29]), 0);
        prop_assert_eq!(leaf(&some, (0x8000_0021, 0))[EAX] & bits(&[6, 29]), 0);
        prop_assert_eq!(leaf(&some, (0x8000_0021, 0))[ECX], 0);
    }

    #[test]
    fn what_is_saved_at_a_level_goes_on_on_any_host_of_it((one, other, level) in (host(), host(), level())) {
        let (one, mut other) = (with(one, level), with(other, level));
        // What guests mitigate faults by, and KVM's own, is there as well; addresses are as long.
        for (entry, mine) in other.iter_mut().zip(&one) {
            for leaf in BESIDES.iter().filter(|leaf| (leaf.0, leaf.1) == (mine.function, mine.index)) {
                for (at, besides) in leaf.2.into_iter().enumerate() {
                    *register(entry, at) |= *register(&mut mine.clone(), at) & besides;
                }
            }
            if entry.function == 0x8000_0008 {
                entry.eax = entry.eax.max(mine.eax);
            }
        }
        let count = VcpuCount::new(COUNT).unwrap();
        let saved = says(&one, level);
        Template::of(other.clone(), level).has_all_of(&saved, 1, count).unwrap();
        // And on its own host, whatever that had.
        Template::of(one.clone(), Processor::Host).has_all_of(&says(&one, Processor::Host), 1, count).unwrap();
        // Not where its maker is another, or a state of XSAVE lies elsewhere.
        let mut another = other.clone();
        another[0].ecx = 9;
        let told = Template::of(another, level).has_all_of(&saved, 1, count).unwrap_err().to_string();
        prop_assert!(told.contains("and not of"), "{}", told);
        if level >= Processor::V3 {
            other.iter_mut().filter(|entry| (entry.function, entry.index) == (0xd, 2)).for_each(|entry| entry.ebx += 64);
            let told = Template::of(other, level).has_all_of(&saved, 1, count).unwrap_err().to_string();
            prop_assert!(told.contains("the state 2 of XSAVE is elsewhere"), "{}", told);
        }
    }

    #[test]
    fn a_host_that_lacks_a_feature_of_a_level_is_refused_by_its_name((host, level, lacks) in (host(), level(), any::<proptest::sample::Index>())) {
        let needed: Vec<_> = needed(level).collect();
        let lacks = needed[lacks.index(needed.len())];
        let mut host = with(host, level);
        let saved = says(&host, level);
        for entry in host.iter_mut().filter(|entry| lacks.is_in(entry, lacks.register)) {
            *register(entry, lacks.register) &= !(1 << lacks.bit);
        }
        let (count, name) = (VcpuCount::new(COUNT).unwrap(), lacks.name);
        let template = Template::of(host, level);
        let told = template.of_vcpu(0, count).unwrap_err().to_string();
        prop_assert_eq!(told, format!("this host's KVM has no processors of the level {level}: they lack {name}; choose a lower level, or host"));
        // And so is what was saved where it was there.
        let told = template.has_all_of(&saved, 1, count).unwrap_err().to_string();
        prop_assert!(told.contains(&format!("they lack {name}): its are those of {level}")), "{}", told);
    }

    #[test]
    fn states_of_xsave_have_the_room_that_they_take((host, processor) in (host(), proptest::sample::select(Processor::ALL.to_vec()))) {
        let host = if processor == Processor::Host { host } else { with(host, processor) };
        let cpuid = says(&host, processor);
        let [states, now, size, upper] = leaf(&cpuid, (0xd, 0));
        let there: Vec<_> = cpuid.as_slice().iter().filter(|entry| entry.function == 0xd && entry.index >= 2).collect();
        prop_assert!(there.iter().all(|entry| states & 1 << entry.index != 0));
        let end = there.iter().map(|entry| entry.eax + entry.ebx).max().unwrap_or(576);
        if states != 0 {
            prop_assert_eq!((size, upper), (end, 0));
            prop_assert!(now <= size);
        } else {
            prop_assert_eq!((leaf(&cpuid, (0xd, 0)), leaf(&cpuid, (0xd, 1))), ([0; 4], [0; 4]));
        }
        prop_assert_eq!(states & bits(&[3, 4, 8, 17, 18]), 0);
    }
}

#[test]
fn a_level_needs_the_states_that_its_registers_are_saved_in() {
    let mut host: Vec<_> = LEAVES.iter().map(|leaf| entry((leaf.0, leaf.1), [u32::MAX; 4])).collect();
    host.iter_mut().filter(|entry| (entry.function, entry.index) == (0xd, 0)).for_each(|entry| entry.eax = 3);
    let told = Template::of(host, Processor::V3).of_vcpu(0, VcpuCount::new(1).unwrap()).unwrap_err().to_string();
    assert!(told.contains("they lack the state 2 of XSAVE; choose"), "{told}");
}

#[test]
fn the_levels_are_those_of_the_abi() {
    // Its table 3.1, by Linux's names; OSXSAVE is the kernel's word that it uses XSAVE, and LZCNT is ABM there.
    let names = |processor: Processor| -> Vec<_> { processor.features().collect() };
    for (processor, listed) in [
        (Processor::V2, &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"][..]),
        (Processor::V3, &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
        (Processor::V4, &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
    ] {
        assert!(listed.iter().all(|name| names(processor).contains(name)), "{processor}");
    }
    assert_eq!(names(Processor::V2).len(), 7);
    assert!(names(Processor::Host).is_empty());
}
