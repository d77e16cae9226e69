//! Every reader, fed with its seeds and with what comes of changing them, for a bounded number of inputs.
//!
//! What fails is printed as a byte string, with the seed of the random numbers; `STRATUS_SEED` has the same inputs made again.
//! An input that found a fault becomes a file in `fuzz/seeds/NAME`, and so is tried for ever.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use fuzz::Target;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Inputs for readers in memory, and for those with files.
const PURE: u32 = 4000;
const FILES: u32 = 150;
/// The most bytes of an input.
const LONGEST: usize = 64 << 10;
/// What readers look for: ends of numbers, and what closes or opens something.
const TOKENS: [&[u8]; 24] = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xc0\x0c",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0\0\0\0\0",
    b"\n",
    b" ",
    b"\"",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"/",
    b"..",
    b"@",
    b"=",
    b"-1",
    b"18446744073709551616",
    b"777777777777",
];

#[test]
fn readers_in_memory() {
    fuzz::PURE.into_iter().for_each(|target| run(target, PURE));
}

#[test]
fn readers_of_files() {
    fuzz::FILES.into_iter().for_each(|target| run(target, FILES));
}

fn run((name, read): Target, inputs: u32) {
    let seed = match std::env::var("STRATUS_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("STRATUS_SEED={text}: {error}")),
        Err(_) => rand::rng().random(),
    };
    let mut random = StdRng::seed_from_u64(seed);
    let seeds = seeds(name);
    let failing = Failing { name, seed, input: RefCell::default() };
    let feed = |input: Vec<u8>| {
        failing.input.replace(input);
        read(&failing.input.borrow());
    };
    seeds.iter().cloned().for_each(feed);
    for _ in 0..inputs {
        feed(changed(&seeds, &mut random));
    }
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("list {}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("list the seeds").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", directory.display());
    paths.into_iter().map(|path| fs::read(path).expect("read a seed")).collect()
}

/// One of the seeds with a few changes.
fn changed(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        change(&mut input, seeds, random);
    }
    input.truncate(LONGEST);
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=input.len());
    let to = random.random_range(at..=input.len().min(at + 64));
    match random.random_range(0..7) {
        0 => input.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << random.random_range(0..8)),
        1 => input.get_mut(at).into_iter().for_each(|byte| *byte = random.random()),
        2 => drop(input.splice(at..at, TOKENS[random.random_range(0..TOKENS.len())].iter().copied())),
        3 => drop(input.splice(at..to, TOKENS[random.random_range(0..TOKENS.len())].iter().copied())),
        4 => drop(input.drain(at..to)),
        5 => {
            let again = input[at..to].to_vec();
            drop(input.splice(at..at, again));
        }
        _ => {
            let other = &seeds[random.random_range(0..seeds.len())];
            let from = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend(&other[from..]);
        }
    }
}

/// Tells the input when the reader panics.
struct Failing {
    name: &'static str,
    seed: u64,
    input: RefCell<Vec<u8>>,
}

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let input = self.input.borrow().escape_ascii().to_string();
            eprintln!("--- STRATUS_SEED={}: {} fails with b\"{input}\"", self.seed, self.name);
        }
    }
}
