//! Touches much of its stack, on the first thread and on another one, and gives back what it does not need: prints how many kilobytes of the first
//! thread's stack are there before and after, and nothing of the other thread's may be lost.

use std::hint::black_box;

fn main() {
    deep();
    let before = stack();
    sandbox::residence::give_back();
    let after = stack();
    println!("{before} {after}");
    let other = std::thread::spawn(|| {
        deep();
        let kept = black_box([7u8; 4096]);
        sandbox::residence::give_back();
        kept.iter().all(|byte| *byte == 7)
    });
    assert!(other.join().is_ok_and(|kept| kept));
    deep();
}

#[inline(never)]
fn deep() {
    assert!(black_box([1u8; 200 << 10]).iter().all(|byte| *byte == 1));
}

fn stack() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("a process can read its maps");
    let stack = maps.lines().skip_while(|line| !line.ends_with("[stack]"));
    let size = stack.skip(1).find_map(|line| line.strip_prefix("Rss:")).expect("there is a stack");
    size.trim().trim_end_matches(" kB").parse().expect("a number of kilobytes")
}
