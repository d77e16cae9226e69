//! Makes a filter's program small.
//!
//! libseccomp writes at least one comparison for each system call that it allows, and the kernel checks, converts and
//! compiles all of them anew at every start. But most calls that are allowed have numbers one after the other. For given
//! numbers of the architecture and of the system call a program does one of few things: return a value, or look at the
//! arguments, from some step on. Both numbers matter only by how they compare with what the program compares them with;
//! so trying one number between any two of those says what it does with all numbers. From that, tests are made that tell
//! ranges apart; what looks at arguments stays as it is.

use super::program::{ARCHITECTURE, Ask, Graph, Instruction, NUMBER, Place, Step};

/// A program that answers as the given one does, and is shorter; or the given one, where none was found.
pub(super) fn shortened(program: Vec<Instruction>) -> Vec<Instruction> {
    match by_ranges(&program) {
        Some(shorter) if shorter.len() < program.len() => shorter,
        _ => program,
    }
}

fn by_ranges(program: &[Instruction]) -> Option<Vec<Instruction>> {
    let (mut graph, first) = Graph::read(program)?;
    let limits = Limits::of(&graph, first)?;
    let architectures: Vec<(u32, Place)> = limits
        .architectures
        .into_iter()
        .map(|architecture| {
            let numbers = limits.numbers.iter().map(|number| (*number, outcome(&graph, first, architecture, *number)));
            let ranges = joined(numbers.collect());
            let decided = decide(&mut graph, &ranges);
            let place = match ranges.len() {
                1 => decided,
                _ => graph.add(Step::Load { offset: NUMBER, next: decided }),
            };
            (architecture, place)
        })
        .collect();
    let ranges = joined(architectures);
    let decided = decide(&mut graph, &ranges);
    let first = graph.add(Step::Load { offset: ARCHITECTURE, next: decided });
    Some(graph.write(first))
}

/// Where ranges of numbers begin within which the program does the same with all.
struct Limits {
    architectures: Vec<u32>,
    numbers: Vec<u32>,
}

/// What a step may find loaded, as far as a program knows nothing but the two numbers.
#[derive(Clone, Copy, Default)]
struct Held {
    architecture: bool,
    number: bool,
}

impl Limits {
    /// `None`, where the program does more with the two numbers than to compare them.
    fn of(graph: &Graph, first: Place) -> Option<Self> {
        let mut limits = Self { architectures: vec![0], numbers: vec![0] };
        let mut held: Vec<Option<Held>> = vec![None; first + 1];
        // Before anything is loaded, the kernel has a zero there.
        held[first] = Some(Held::default());
        for place in (0..=first).rev() {
            let Some(here) = held[place] else { continue };
            let mut leads = |next: Place, with: Held| {
                let next = held[next].get_or_insert_default();
                next.architecture |= with.architecture;
                next.number |= with.number;
            };
            match graph.step(place) {
                Step::Load { offset: ARCHITECTURE, next } => leads(next, Held { architecture: true, number: false }),
                Step::Load { offset: NUMBER, next } => leads(next, Held { architecture: false, number: true }),
                Step::Return(_) | Step::Load { .. } => {}
                Step::And { .. } | Step::Test { ask: Ask::AnyBit, .. } => return None,
                Step::Test { ask, value, so, not } => {
                    leads(so, here);
                    leads(not, here);
                    let behind = value.checked_add(1);
                    let begin = match ask {
                        Ask::AtLeast => [Some(value), None],
                        Ask::Above => [behind, None],
                        _ => [Some(value), behind],
                    };
                    if here.architecture {
                        limits.architectures.extend(begin.into_iter().flatten());
                    }
                    if here.number {
                        limits.numbers.extend(begin.into_iter().flatten());
                    }
                }
            }
        }
        for list in [&mut limits.architectures, &mut limits.numbers] {
            list.sort_unstable();
            list.dedup();
        }
        Some(limits)
    }
}

/// The step to which these numbers lead: one that returns, or that loads an argument, from which on it does not matter
/// any more what was loaded before.
fn outcome(graph: &Graph, first: Place, architecture: u32, number: u32) -> Place {
    let mut held = 0;
    let mut place = first;
    loop {
        place = match graph.step(place) {
            Step::Load { offset: ARCHITECTURE, next } => {
                held = architecture;
                next
            }
            Step::Load { offset: NUMBER, next } => {
                held = number;
                next
            }
            Step::Return(_) | Step::Load { .. } => return place,
            Step::And { mask, next } => {
                held &= mask;
                next
            }
            Step::Test { ask, value, so, not } => {
                if ask.holds(held, value) {
                    so
                } else {
                    not
                }
            }
        };
    }
}

/// Ranges that lie beside each other and have the same outcome are one.
fn joined(mut ranges: Vec<(u32, Place)>) -> Vec<(u32, Place)> {
    ranges.dedup_by_key(|(_, outcome)| *outcome);
    ranges
}

/// Tests that find the outcome of the range in which the loaded number lies.
fn decide(graph: &mut Graph, ranges: &[(u32, Place)]) -> Place {
    match ranges {
        [(_, only)] => *only,
        [(_, around), (number, inside), (end, again)] if around == again && end - number == 1 => {
            graph.test(Ask::Equal, *number, *inside, *around)
        }
        _ => {
            let (below, from) = ranges.split_at(ranges.len() / 2);
            let not = decide(graph, below);
            let so = decide(graph, from);
            graph.test(Ask::AtLeast, from[0].0, so, not)
        }
    }
}

#[cfg(test)]
mod tests {
    use libseccomp::ScmpSyscall;
    use oci_spec::runtime::LinuxSeccomp;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::PlanError;
    use crate::plan::seccomp::profile::program::{ABOVE, AND, ANY_BIT, AT_LEAST, EQUAL, GO_ON_AT, LOAD, RETURN};

    /// The words of a `struct seccomp_data`.
    type Data = [u32; 16];

    /// Runs a program as the kernel does.
    fn answer(program: &[Instruction], data: &Data) -> u32 {
        let (mut at, mut held) = (0, 0);
        loop {
            let Instruction { code, if_so, if_not, value } = program[at];
            at += 1;
            let test = |so: bool| usize::from(if so { if_so } else { if_not });
            match code {
                RETURN => return value,
                LOAD => held = data[value as usize / 4],
                AND => held &= value,
                GO_ON_AT => at += value as usize,
                EQUAL => at += test(held == value),
                ABOVE => at += test(held > value),
                AT_LEAST => at += test(held >= value),
                ANY_BIT => at += test(held & value != 0),
                other => panic!("an instruction {other:#x}"),
            }
        }
    }

    fn data(number: u32, architecture: u32, arguments: [u32; 12]) -> Data {
        let mut data = [0; 16];
        data[..2].copy_from_slice(&[number, architecture]);
        data[4..].copy_from_slice(&arguments);
        data
    }

    /// Every call of every architecture, with arguments about which rules may have a word.
    fn every_call(also: &[u32]) -> impl Iterator<Item = Data> {
        const ARCHITECTURES: [u32; 6] = [0x4000_0003, 0xc000_003e, 0xc000_00b7, 0x4000_0028, 0, u32::MAX];
        let edges = [0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, u32::MAX];
        let numbers: Vec<u32> = (0..700).chain((0..700).map(|number| number | 0x4000_0000)).chain(edges).collect();
        let mut arguments = vec![[0; 12], [u32::MAX; 12]];
        for value in also {
            // The lower half of each argument, then both.
            arguments.push([*value, 0, *value, 0, *value, 0, *value, 0, *value, 0, *value, 0]);
            arguments.push([*value; 12]);
        }
        ARCHITECTURES.into_iter().flat_map(move |architecture| {
            let arguments = arguments.clone();
            numbers.clone().into_iter().flat_map(move |number| {
                arguments.clone().into_iter().map(move |arguments| data(number, architecture, arguments))
            })
        })
    }

    /// The library refuses profiles whose rules contradict each other.
    fn by_the_library(profile: Value) -> Result<Vec<Instruction>, PlanError> {
        let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
        crate::plan::seccomp::profile::program(&profile)
    }

    /// Makes a program short, and compares what both answer.
    fn compared(long: &[Instruction], also: &[u32]) -> Vec<Instruction> {
        let short = by_ranges(long).unwrap();
        for data in every_call(also) {
            assert_eq!(answer(&short, &data), answer(long, &data), "{data:x?}");
        }
        short
    }

    fn names() -> Vec<String> {
        (0..460).filter_map(|number| ScmpSyscall::from(number).get_name().ok()).collect()
    }

    #[test]
    fn a_usual_profile_becomes_much_shorter() {
        // What most profiles let nobody do, and rules about arguments in between.
        let refused = ["mount", "reboot", "bpf", "setns", "umount2", "kexec_load", "swapon", "userfaultfd", "ptrace"];
        let by_argument = ["clone", "personality", "socket"];
        let mut allowed = names();
        allowed.retain(|name| !refused.contains(&&**name) && !by_argument.contains(&&**name));
        let compare =
            |op: &str, value: u64, other: u64| json!({ "index": 0, "op": op, "value": value, "valueTwo": other });
        let long = by_the_library(json!({
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "syscalls": [
                    { "names": allowed, "action": "SCMP_ACT_ALLOW" },
                    { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [compare("SCMP_CMP_MASKED_EQ", 0x7e02_0000, 0)] },
                    { "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [compare("SCMP_CMP_EQ", 8, 0)] },
                    { "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [compare("SCMP_CMP_NE", 40, 0)] },
                ],
        }))
        .unwrap();
        let short = compared(&long, &[8, 40, 0x2_0000, 0x7e02_0000, 0x1234]);
        assert!(short.len() * 4 < long.len(), "{} of {}", short.len(), long.len());
    }

    #[test]
    fn what_is_not_understood_stays_as_it_is() {
        let plain = Instruction::plain;
        let masked = vec![
            plain(LOAD, NUMBER),
            plain(AND, 0xff),
            Instruction { code: EQUAL, if_so: 0, if_not: 1, value: 7 },
            plain(RETURN, 1),
            plain(RETURN, 2),
        ];
        // By an index register, and without an end.
        let unknown = vec![plain(LOAD, NUMBER), plain(0x07, 0), plain(RETURN, 1)];
        let endless = vec![plain(LOAD, NUMBER)];
        for program in [masked, unknown, endless, Vec::new()] {
            assert_eq!(shortened(program.clone()), program);
        }
    }

    const ACTIONS: [&str; 4] = ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_LOG"];
    const OPERATORS: [&str; 7] = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];

    fn rule() -> impl Strategy<Value = Value> {
        let argument = (0..6usize, prop::sample::select(&OPERATORS[..]), 0..9u64, 0..9u64).prop_map(
            |(index, op, value, other)| json!({ "index": index, "op": op, "value": value, "valueTwo": other }),
        );
        let arguments = prop::option::of(prop::collection::vec(argument, 1..3));
        let listed = prop::collection::vec(prop::sample::select(names()), 1..40);
        (listed, prop::sample::select(&ACTIONS[..]), arguments)
            .prop_map(|(names, action, args)| json!({ "names": names, "action": action, "args": args }))
    }

    fn profile() -> impl Strategy<Value = Value> {
        let others = prop::sample::subsequence(vec!["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"], 0..=3);
        (prop::sample::select(&ACTIONS[..]), others, prop::collection::vec(rule(), 0..6)).prop_map(
            |(default, architectures, rules)| {
                json!({
                    "defaultAction": default, "defaultErrnoRet": 38, "architectures": architectures, "syscalls": rules,
                })
            },
        )
    }

    /// Programs of any instructions: all that they must do is to go on forward, and to end.
    fn any_program(most: usize) -> impl Strategy<Value = Vec<Instruction>> {
        const CODES: [u16; 11] = [LOAD, LOAD, AND, GO_ON_AT, EQUAL, EQUAL, EQUAL, ABOVE, AT_LEAST, ANY_BIT, RETURN];
        let instruction = (prop::sample::select(&CODES[..]), 0..6u32, any::<u8>(), any::<u8>());
        prop::collection::vec(instruction, 1..most).prop_map(|drawn| {
            let count = drawn.len();
            let mut program: Vec<Instruction> = drawn
                .into_iter()
                .enumerate()
                .map(|(index, (code, value, so, not))| {
                    // As far as to the last one, which is put behind them.
                    let left = count - index;
                    let within = |distance: u8| (usize::from(distance) % left) as u8;
                    let value = match code {
                        LOAD => value * 4,
                        GO_ON_AT => value * 100 % left as u32,
                        _ => value,
                    };
                    Instruction { code, if_so: within(so), if_not: within(not), value }
                })
                .collect();
            program.push(Instruction::plain(RETURN, 99));
            program
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_shorter_program_answers_as_the_library_s_does(profile in profile()) {
            let long = by_the_library(profile);
            prop_assume!(long.is_ok());
            compared(&long?, &[1, 3, 5, 8]);
        }
    }

    proptest! {
        #[test]
        fn any_program_answers_as_before(
            program in any_program(1500),
            calls in prop::collection::vec(prop::array::uniform16(0..6u32), 50),
        ) {
            let (graph, first) = Graph::read(&program).unwrap();
            let again = graph.write(first);
            let by_ranges = by_ranges(&program);
            for data in &calls {
                prop_assert_eq!(answer(&again, data), answer(&program, data));
                if let Some(by_ranges) = &by_ranges {
                    prop_assert_eq!(answer(by_ranges, data), answer(&program, data));
                }
            }
        }
    }
}
