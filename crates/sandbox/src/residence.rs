//! What a long-running process keeps in memory without need, and gives back.

use std::ffi::{c_int, c_void};

use rustix::mm::Advice;

/// Allocations of all threads come from so many heaps (mallopt(3), `M_ARENA_MAX`), for programs that have many threads
/// of which few do something at a time. glibc's default is eight a core, and each keeps what was once the most that was
/// allocated from it. Before threads are started.
pub fn limit_heaps(heaps: u16) {
    // SAFETY: mallopt(3) takes two numbers. It fails by returning zero, and then everything stays as it was.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, c_int::from(heaps)) };
}

/// Gives back what is freed and still held by the heaps, and the pages of this program's own file that are mapped: the
/// code of a start is not needed again, and the kernel maps sixteen pages around each one that is. They stay in the
/// kernel's cache, so what is needed of them comes back with a minor fault for each sixteen. Of the first thread's stack,
/// where it is the one that calls, what deeper calls have touched goes as well.
///
/// Takes less than a millisecond.
pub fn give_back() {
    give_back_stack();
    // SAFETY: malloc_trim(3) takes a number, locks every heap, and frees only what nobody has.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: the function is called with pointers that are good during its call only, and keeps none of them.
    unsafe { libc::dl_iterate_phdr(Some(give_back_program), std::ptr::null_mut()) };
}

/// How far down from its caller the first thread's stack is given back.
const DEPTH: usize = 1 << 20;
/// What this function and the system call that it makes use themselves of it, with the 128 bytes that the x86-64 ABI lets that use besides (the red zone), at the most:
/// code that is not optimized takes more.
const KEPT: usize = if cfg!(debug_assertions) { 2048 } else { 512 };
/// What the kernel leaves free below that stack's beginning, and what it may grow by, at the least (its mm/util.c, `MIN_GAP`).
const FREE: usize = 128 << 20;

/// Drops the pages of the first thread's stack that lie below its caller's part of it.
#[inline(never)]
fn give_back_stack() {
    let here = 0u8;
    let here = (&raw const here).addr();
    // The kernel has put the program's name where that stack begins (getauxval(3), `AT_EXECFN`); others lie elsewhere.
    let begins = rustix::param::linux_execfn().as_ptr().addr();
    if begins.checked_sub(here).is_none_or(|used| used > FREE - 2 * DEPTH) {
        return;
    }
    let page = rustix::param::page_size();
    let to = (here - KEPT) / page * page;
    // SAFETY: the range is below the part of the first thread's stack that is in use: a stack grows down, and nobody refers to what lies below the
    // frame of a function that runs, but for 128 bytes (the red zone of the x86-64 ABI). What of it is not the stack's is not mapped, as it lies within
    // what the kernel leaves free. Pages that are dropped read as zeros when the stack grows again, and nobody reads what was not written since.
    let dropped = unsafe { rustix::mm::madvise((to - DEPTH) as *mut c_void, DEPTH, Advice::LinuxDontNeed) };
    // A part of it is not mapped (ENOMEM), which is none of our concern, or its pages are locked in memory (EINVAL).
    dropped.unwrap_or(());
}

/// Drops the pages of the first object, which is the program itself (dl_iterate_phdr(3)).
unsafe extern "C" fn give_back_program(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr(3) gives a pointer to a structure that lives as long as the call, in which `dlpi_phdr`
    // points to `dlpi_phnum` program headers; they are part of the program's file and are never written.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr as usize, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    let base = base_of_segments(headers).unwrap_or(base);
    let page = rustix::param::page_size();
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let start = base.wrapping_add(header.p_vaddr as usize);
        // Whole pages only: others begin or end in a segment beside it.
        let (from, to) = (start.next_multiple_of(page), (start + header.p_memsz as usize) / page * page);
        if from >= to {
            continue;
        }
        // SAFETY: the range lies in a segment that the program's file says is never written, so each of its pages is
        // the file's own, and reads the same when it is mapped anew. What the loader relocates is in segments that are
        // written (`PF_W`), also where they are made read-only later (`PT_GNU_RELRO`).
        let dropped = unsafe { rustix::mm::madvise(from as *mut c_void, to - from, Advice::LinuxDontNeed) };
        // The kernel refuses where pages are locked in memory (madvise(2), EINVAL). Then they stay, which is all that is lost,
        // and nobody could do anything about it.
        dropped.unwrap_or(());
    }
    // Ends the iteration.
    1
}

/// What is to be added to the address of a segment that is mapped (elf(5), `PT_LOAD`): by where the headers themselves are, which are in one of them. The C library's word (`dlpi_addr`) is that
/// of a program whose headers agree with each other, which those of one that was put at an address do not: there, addresses of these segments alone are absolute. `None`: nothing says where its headers are.
fn base_of_segments(headers: &[libc::Elf64_Phdr]) -> Option<usize> {
    let table = headers.iter().find(|header| header.p_type == libc::PT_PHDR)?;
    let holds = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && (header.p_offset..header.p_offset + header.p_filesz).contains(&table.p_offset)
    };
    let segment = headers.iter().find(holds)?;
    let stands = segment.p_vaddr + (table.p_offset - segment.p_offset);
    Some(headers.as_ptr().addr().wrapping_sub(stands as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of this test program's own file that are mapped.
    fn mapped() -> u64 {
        let own = std::env::current_exe().unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut sum = 0;
        for line in maps.lines() {
            if line.split_whitespace().next().is_some_and(|first| !first.ends_with(':')) {
                inside = line.contains("r-xp") && line.ends_with(own.to_str().unwrap());
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| inside) {
                sum += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
            }
        }
        sum
    }

    /// In a process of its own: other tests need pages of this program, too.
    #[test]
    fn the_programs_pages_are_given_back_and_come_again() {
        const ALONE: &str = "SANDBOX_TEST_RESIDENCE";
        if std::env::var_os(ALONE).is_none() {
            const NAME: &str = "residence::tests::the_programs_pages_are_given_back_and_come_again";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let output = alone.args(["--exact", NAME, "--test-threads=1"]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            return assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        // A table of functions is in a segment that the loader writes: it stays.
        static TABLE: [fn(&str) -> String; 2] = [str::to_lowercase, str::to_uppercase];
        // All of them: the linker puts the functions of this test anywhere.
        let own = std::env::current_exe().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.contains("r-xp") && line.ends_with(own.to_str().unwrap())).unwrap();
        let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let number = |text| usize::from_str_radix(text, 16).unwrap();
        let (from, to) = (number(from), number(to));
        // SAFETY: reading ahead changes nothing (madvise(2), MADV_POPULATE_READ).
        unsafe { rustix::mm::madvise(from as *mut c_void, to - from, Advice::LinuxPopulateRead).unwrap() };
        let before = mapped();
        assert_eq!(before, ((to - from) / 1024) as u64);
        give_back();
        let after = mapped();
        assert!(after < before / 2, "{after} kB of {before} kB are mapped");
        let named: Vec<_> = std::hint::black_box(&TABLE).iter().map(|change| change("Kept")).collect();
        assert_eq!(named, ["kept", "KEPT"]);
    }

    /// The headers of a program whose first segment begins so far below where they are, and at that address.
    fn headers(address: impl FnOnce(usize) -> usize) -> (Vec<libc::Elf64_Phdr>, usize) {
        const BEFORE: usize = 64;
        let of = |p_type, p_offset: usize, p_filesz| libc::Elf64_Phdr {
            p_type,
            p_flags: libc::PF_R,
            p_offset: p_offset as u64,
            p_vaddr: 0,
            p_paddr: 0,
            p_filesz,
            p_memsz: p_filesz,
            p_align: 4096,
        };
        let mut headers = vec![of(libc::PT_PHDR, BEFORE, 112), of(libc::PT_LOAD, 0, 8192)];
        let begins = headers.as_ptr().addr() - BEFORE;
        headers[1].p_vaddr = address(begins) as u64;
        (headers, begins)
    }

    #[test]
    fn where_a_program_lies_is_told_by_its_headers() {
        // Wherever the kernel likes, and where the file says.
        let (anywhere, begins) = headers(|_| 0);
        assert_eq!(base_of_segments(&anywhere), Some(begins));
        let (placed, _) = headers(|begins| begins);
        assert_eq!(base_of_segments(&placed), Some(0));
        assert_eq!(base_of_segments(&placed[1..]), None);
    }
}
