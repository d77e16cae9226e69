//! Classic BPF, as far as seccomp filters use it (linux/bpf_common.h, linux/seccomp.h): instructions, and a program as a
//! graph of what it does, in which nothing is there twice.

use std::collections::HashMap;

/// Offsets into `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;

// Codes.
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const GO_ON_AT: u16 = 0x05;
pub(super) const EQUAL: u16 = 0x15;
pub(super) const ABOVE: u16 = 0x25;
pub(super) const AT_LEAST: u16 = 0x35;
pub(super) const ANY_BIT: u16 = 0x45;
pub(super) const RETURN: u16 = 0x06;

/// How far a test leads: its distances have 8 bits, less one for an instruction that may come in between.
const FAR: usize = u8::MAX as usize - 1;

/// A `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    /// How many instructions a test that is true skips.
    pub(super) if_so: u8,
    pub(super) if_not: u8,
    pub(super) value: u32,
}

impl Instruction {
    pub(super) fn plain(code: u16, value: u32) -> Self {
        Self { code, if_so: 0, if_not: 0, value }
    }

    pub(super) fn from_bytes(bytes: [u8; 8]) -> Self {
        let [c0, c1, if_so, if_not, value @ ..] = bytes;
        Self { code: u16::from_ne_bytes([c0, c1]), if_so, if_not, value: u32::from_ne_bytes(value) }
    }

    pub(super) fn to_bytes(self) -> [u8; 8] {
        let ([c0, c1], [v0, v1, v2, v3]) = (self.code.to_ne_bytes(), self.value.to_ne_bytes());
        [c0, c1, self.if_so, self.if_not, v0, v1, v2, v3]
    }
}

/// A program's bytes as the kernel takes them.
pub(super) fn to_bytes(program: &[Instruction]) -> Vec<u8> {
    program.iter().flat_map(|instruction| instruction.to_bytes()).collect()
}

/// What a test asks of the value at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Ask {
    Equal,
    Above,
    AtLeast,
    AnyBit,
}

impl Ask {
    fn of(code: u16) -> Option<Self> {
        Some(match code {
            EQUAL => Self::Equal,
            ABOVE => Self::Above,
            AT_LEAST => Self::AtLeast,
            ANY_BIT => Self::AnyBit,
            _ => return None,
        })
    }

    fn code(self) -> u16 {
        match self {
            Self::Equal => EQUAL,
            Self::Above => ABOVE,
            Self::AtLeast => AT_LEAST,
            Self::AnyBit => ANY_BIT,
        }
    }

    pub(super) fn holds(self, held: u32, value: u32) -> bool {
        match self {
            Self::Equal => held == value,
            Self::Above => held > value,
            Self::AtLeast => held >= value,
            Self::AnyBit => held & value != 0,
        }
    }
}

/// A node of a graph, by its place.
pub(super) type Place = usize;

/// A step, and which one follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Return(u32),
    Load { offset: u32, next: Place },
    And { mask: u32, next: Place },
    Test { ask: Ask, value: u32, so: Place, not: Place },
}

/// Steps of a program. What follows a step stands before it, so that there is no way round in a circle.
#[derive(Debug, Default)]
pub(super) struct Graph {
    steps: Vec<Step>,
    known: HashMap<Step, Place>,
}

impl Graph {
    /// Reads a program, and says where it begins. `None`, where it has instructions that are not known here.
    pub(super) fn read(program: &[Instruction]) -> Option<(Self, Place)> {
        let mut graph = Self::default();
        // Where the steps of the instructions from the last on are: jumps lead forward only.
        let mut places = vec![None; program.len()];
        for (index, instruction) in program.iter().enumerate().rev() {
            let Instruction { code, value, .. } = *instruction;
            let after = |skipped: u32| *places.get(index.checked_add(1)?.checked_add(skipped as usize)?)?;
            places[index] = Some(match code {
                RETURN => graph.add(Step::Return(value)),
                LOAD => graph.add(Step::Load { offset: value, next: after(0)? }),
                AND => graph.add(Step::And { mask: value, next: after(0)? }),
                GO_ON_AT => after(value)?,
                test => {
                    let (so, not) = (after(instruction.if_so.into())?, after(instruction.if_not.into())?);
                    graph.test(Ask::of(test)?, value, so, not)
                }
            });
        }
        let first = places.first().copied().flatten()?;
        Some((graph, first))
    }

    pub(super) fn step(&self, place: Place) -> Step {
        self.steps[place]
    }

    /// A step is there once, however often it is added.
    pub(super) fn add(&mut self, step: Step) -> Place {
        *self.known.entry(step).or_insert_with(|| {
            self.steps.push(step);
            self.steps.len() - 1
        })
    }

    /// A test, where its answer matters.
    pub(super) fn test(&mut self, ask: Ask, value: u32, so: Place, not: Place) -> Place {
        if so == not { so } else { self.add(Step::Test { ask, value, so, not }) }
    }

    /// The program that begins with a step.
    pub(super) fn write(&self, first: Place) -> Vec<Instruction> {
        let mut used = vec![false; first + 1];
        used[first] = true;
        for place in (0..=first).rev() {
            match self.steps[place] {
                _ if !used[place] => {}
                Step::Return(_) => {}
                Step::Load { next, .. } | Step::And { next, .. } => used[next] = true,
                Step::Test { so, not, .. } => (used[so], used[not]) = (true, true),
            }
        }
        let mut writer = Writer { graph: self, backwards: Vec::new(), at: vec![0; first + 1] };
        for place in (0..=first).filter(|place| used[*place]) {
            writer.write(place);
        }
        writer.backwards.reverse();
        writer.backwards
    }
}

/// Writes a program from its end, so that it is known where every jump leads.
struct Writer<'g> {
    graph: &'g Graph,
    backwards: Vec<Instruction>,
    /// Where the steps are that have been written.
    at: Vec<usize>,
}

impl Writer<'_> {
    fn write(&mut self, place: Place) {
        let instruction = match self.graph.step(place) {
            Step::Return(value) => Instruction::plain(RETURN, value),
            Step::Load { offset, next } => {
                self.bring(next, 0);
                Instruction::plain(LOAD, offset)
            }
            Step::And { mask, next } => {
                self.bring(next, 0);
                Instruction::plain(AND, mask)
            }
            Step::Test { ask, value, so, not } => {
                self.bring(so, FAR);
                self.bring(not, FAR);
                let (if_so, if_not) = (self.distance(so) as u8, self.distance(not) as u8);
                Instruction { code: ask.code(), if_so, if_not, value }
            }
        };
        self.at[place] = self.backwards.len();
        self.backwards.push(instruction);
    }

    /// How many instructions lie between the next one and that of a step.
    fn distance(&self, place: Place) -> usize {
        self.backwards.len() - self.at[place] - 1
    }

    /// Sees to it that a step is no farther than that away: what is, gets a second beginning.
    fn bring(&mut self, place: Place, most: usize) {
        let distance = self.distance(place);
        if distance > most {
            let here = match self.graph.step(place) {
                Step::Return(value) => Instruction::plain(RETURN, value),
                _ => Instruction::plain(GO_ON_AT, distance as u32),
            };
            self.at[place] = self.backwards.len();
            self.backwards.push(here);
        }
    }
}
