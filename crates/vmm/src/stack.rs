//! The stacks of a machine's threads: what their start has touched is given back, as most of them wait for a guest that wants nothing of them.

use rustix::mm::{Advice, madvise};

/// How large each is: it has so much of the address space, and of memory what it touches.
pub(crate) const SIZE: usize = 2 << 20;
/// How far down from its caller's part a stack is given back: more than a start takes.
const DEPTH: usize = 256 << 10;
/// What a system call's own function uses below where one that [`give_back`] calls has its variables, with the 128 bytes that the x86-64 ABI lets that use besides (the red zone), at the most: code that is
/// not optimized takes more.
const KEPT: usize = if cfg!(debug_assertions) { 2048 } else { 256 };

/// Is asked for once, by calls that a thread's filter may not have: first where there is none.
pub(crate) fn page_size() -> usize {
    rustix::param::page_size()
}

/// An address in the frame of a function that its caller calls: below the caller's.
#[inline(never)]
fn below() -> usize {
    let here = 0u8;
    std::hint::black_box(&raw const here).addr()
}

/// Drops the pages of the calling thread's stack that lie below what is in use. The thread is one with a stack of [`SIZE`], of which it uses less than half.
#[inline(never)]
pub(crate) fn give_back() {
    let page = page_size();
    let to = (below() - KEPT) / page * page;
    // SAFETY: the range lies within the stack of this thread, of which the half above it is not used up, and below this function's whole frame, as that of one which it called was: a stack grows
    // down, and nobody refers to what lies below. Pages that are dropped read as zeros when it grows again, and nobody reads what was not written since.
    let dropped = unsafe { madvise((to - DEPTH) as *mut std::ffi::c_void, DEPTH, Advice::LinuxDontNeed) };
    // The kernel refuses where pages are locked in memory (EINVAL): then they stay.
    dropped.unwrap_or(());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Touches so many bytes of the stack.
    #[inline(never)]
    fn deep<const N: usize>() -> usize {
        let bytes = std::hint::black_box([1u8; N]);
        bytes.iter().map(|byte| usize::from(*byte)).sum()
    }

    /// Kilobytes in memory of the mapping that has an address (proc_pid_smaps(5)).
    fn resident(address: usize) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let bounds = line.split(' ').next().and_then(|first| first.split_once('-'));
            if let Some((from, to)) = bounds {
                let number = |text| usize::from_str_radix(text, 16).unwrap();
                inside = (number(from)..number(to)).contains(&address);
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| inside) {
                return size.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("{address:#x} is nowhere");
    }

    #[test]
    fn what_was_touched_goes_and_what_is_in_use_stays() {
        let thread = std::thread::Builder::new().stack_size(SIZE).spawn(|| {
            let used = std::hint::black_box([7u8; 100]);
            let address = used.as_ptr().addr();
            assert_eq!(deep::<{ 128 << 10 }>(), 128 << 10);
            let before = resident(address);
            assert!(before >= 128, "{before} kB");
            give_back();
            // What is above a test's own function on its thread's stack, and what the look itself takes.
            let after = resident(address);
            assert!(after < before - 100, "{after} kB of {before} kB");
            assert_eq!(used, [7; 100]);
            assert_eq!(deep::<{ 64 << 10 }>(), 64 << 10);
        });
        thread.unwrap().join().unwrap();
    }
}
