//! PID 1 of a container with `--init`: reaps, forwards signals, and ends as the program ends.
//!
//! A program of its own, of a few KiB and without a library, that runs in any root file system: the process that set the
//! container up is a copy of its parent, whose memory and privileges are no business of something that lives as long
//! as the container. Built by `build.rs`, executed from memory (`child/pid1.rs`) with the number of the program's
//! process as its only argument, with all signals blocked and as a subreaper.

#![no_std]
#![no_main]

use core::arch::{asm, naked_asm};
use core::ffi::c_char;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const KILL: usize = 62;
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
    pub const CLOSE_RANGE: usize = 436;
    pub const PRCTL: usize = 157;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const KILL: usize = 129;
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
    pub const CLOSE_RANGE: usize = 436;
    pub const PRCTL: usize = 167;
}

const SIGCHLD: isize = 17;
const SIGTTIN: isize = 21;
const SIGTTOU: isize = 22;
const WNOHANG: usize = 1;
const PR_SET_NAME: usize = 15;

/// A system call of up to four arguments.
///
/// # Safety
/// As for the system call.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    let [a, b, c, d] = arguments;
    let result;
    // SAFETY: the kernel's calling convention; it changes nothing but these registers.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            out("rcx") _, out("r11") _, options(nostack));
    }
    result
}

/// A system call of up to four arguments.
///
/// # Safety
/// As for the system call.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    let [a, b, c, d] = arguments;
    let result;
    // SAFETY: the kernel's calling convention; it changes nothing but these registers.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
            options(nostack));
    }
    result
}

/// Where the kernel begins: the stack holds the number of arguments and pointers to them.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("mov rdi, rsp", "and rsp, -16", "call {begin}", "ud2", begin = sym begin)
}

/// Where the kernel begins: the stack holds the number of arguments and pointers to them.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("mov x0, sp", "bl {begin}", "brk 0", begin = sym begin)
}

/// # Safety
/// `stack` is the stack as the kernel has laid it out.
unsafe extern "C" fn begin(stack: *const *const c_char) -> ! {
    // SAFETY: behind the count come the pointers, and a null behind the last: two are always there.
    let (first, second) = unsafe { (*stack.add(1), *stack.add(2)) };
    let argument = if first.is_null() { first } else { second };
    // SAFETY: null, or an argument, which ends in a zero.
    match unsafe { decimal(argument) } {
        Some(program) => look_after(program),
        None => exit(125),
    }
}

/// # Safety
/// `text` is null or leads to bytes that end in a zero.
unsafe fn decimal(mut text: *const c_char) -> Option<isize> {
    let mut number = None;
    while !text.is_null() {
        // SAFETY: not beyond the zero, at which this ends.
        let byte = unsafe { *text } as u8;
        match byte {
            b'0'..=b'9' => number = Some(number.unwrap_or(0isize).checked_mul(10)?.checked_add((byte - b'0').into())?),
            0 => return number,
            _ => return None,
        }
        // SAFETY: behind a byte that is not the last.
        text = unsafe { text.add(1) };
    }
    None
}

fn look_after(program: isize) -> ! {
    let all = u64::MAX;
    // Executed by its descriptor, it would be called by that number.
    // SAFETY: a terminated name.
    unsafe { call(number::PRCTL, [PR_SET_NAME, c"init".as_ptr() as usize, 0, 0]) };
    // The program waits for that.
    // SAFETY: plain numbers; nothing here uses a descriptor.
    unsafe { call(number::CLOSE_RANGE, [3, u32::MAX as usize, 0, 0]) };
    loop {
        // SAFETY: a set of 64 signals, no place for details, no end of the wait.
        let signal = unsafe { call(number::RT_SIGTIMEDWAIT, [&raw const all as usize, 0, 0, size_of::<u64>()]) };
        match signal {
            SIGCHLD => reap(program),
            // The terminal stops and continues the program itself. Below zero: interrupted.
            SIGTTIN | SIGTTOU | ..=0 => {}
            // SAFETY: plain numbers.
            signal => _ = unsafe { call(number::KILL, [program as usize, signal as usize, 0, 0]) },
        }
    }
}

fn reap(program: isize) {
    loop {
        let mut status = 0u32;
        // SAFETY: a place for the status, none for usage.
        let pid = unsafe { call(number::WAIT4, [usize::MAX, &raw mut status as usize, WNOHANG, 0]) };
        if pid <= 0 {
            return;
        }
        if pid == program {
            let signal = status & 0x7f;
            exit(if signal == 0 { status >> 8 & 0xff } else { 128 + signal });
        }
    }
}

fn exit(status: u32) -> ! {
    loop {
        // SAFETY: a plain number; does not return.
        unsafe { call(number::EXIT_GROUP, [status as usize, 0, 0, 0]) };
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(125)
}
