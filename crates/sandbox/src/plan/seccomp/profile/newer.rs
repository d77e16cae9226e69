//! System calls that are newer than a profile.
//!
//! A library that tries a new system call takes ENOSYS for "not there", and does without; of EPERM, which profiles
//! commonly give for what they do not list, it makes an error. So what has a higher number than anything that the profile
//! knows is answered by ENOSYS, as runc does it (its libcontainer/seccomp/patchbpf), by a few instructions before the
//! library's.

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use super::architecture;
use super::program::{ABOVE, ARCHITECTURE, AT_LEAST, EQUAL, Instruction, LOAD, NUMBER, RETURN};

/// What system calls of the x32 interface have in their numbers; their architecture is x86-64's.
const X32: u32 = 0x4000_0000;
const X86_64: u32 = 0xc000_003e;
const RETURN_ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// `AUDIT_ARCH_*` of linux/audit.h, for those whose numbers are one list.
fn audit(arch: ScmpArch) -> Option<u32> {
    Some(match arch {
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::X8664 => X86_64,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Riscv64 => 0xc000_00f3,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390X => 0x8000_0016,
        _ => return None,
    })
}

/// The instructions, to be put before the profile's own; none where the profile does not refuse what it does not list.
pub(super) fn refusal(profile: &LinuxSeccomp) -> Vec<Instruction> {
    let errno = profile.default_errno_ret().unwrap_or(libc::EPERM as u32);
    if profile.default_action() != LinuxSeccompAction::ScmpActErrno || errno == libc::ENOSYS as u32 {
        return Vec::new();
    }
    let listed = profile.architectures().iter().flatten().map(|arch| architecture(*arch));
    let mut architectures: Vec<ScmpArch> = [ScmpArch::native()].into_iter().chain(listed).collect();
    architectures.sort_unstable_by_key(|arch| *arch as u32);
    architectures.dedup();
    let x32 = architectures.contains(&ScmpArch::X32).then(|| highest(profile, ScmpArch::X32)).flatten();
    let mut program = vec![load(ARCHITECTURE)];
    for arch in architectures {
        let (Some(audit), Some(highest)) = (audit(arch), highest(profile, arch)) else { continue };
        // Without x32 in the profile, the library refuses all of it by itself.
        let x32 = if audit == X86_64 { x32.map_or(u32::MAX, |number| number | X32) } else { u32::MAX };
        program.extend([
            jump(EQUAL, audit, 0, 6),
            load(NUMBER),
            jump(AT_LEAST, X32, 1, 0),
            jump(ABOVE, highest, 1, 2),
            jump(ABOVE, x32, 0, 1),
            Instruction::plain(RETURN, RETURN_ENOSYS),
            load(ARCHITECTURE),
        ]);
    }
    program
}

/// The highest number that the profile has a word about. Names that the library does not know have negative ones.
fn highest(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok());
    numbers.filter_map(|syscall| u32::try_from(i32::from(syscall)).ok()).max()
}

fn load(offset: u32) -> Instruction {
    Instruction::plain(LOAD, offset)
}

fn jump(code: u16, value: u32, if_so: u8, if_not: u8) -> Instruction {
    Instruction { code, if_so, if_not, value }
}
