//! From a profile of the runtime spec to the program of its filter, by libseccomp.

mod newer;
mod program;
mod ranges;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::PathBuf;

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

use self::program::Instruction;
use super::SeccompPlan;
use crate::plan::PlanError;

fn failed(error: libseccomp::error::SeccompError) -> PlanError {
    PlanError::Seccomp(error.to_string())
}

pub(super) fn build(profile: &LinuxSeccomp) -> Result<SeccompPlan<'static>, PlanError> {
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(PlanError::Seccomp("SCMP_ACT_NOTIFY cannot be used as default action".into()));
    }
    let rules = profile.syscalls().iter().flatten();
    let mut asking = rules.filter(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify).peekable();
    let notify = asking.peek().is_some();
    // The listener is handed over by sendmsg, under the filter: it would wait for itself.
    if asking.flat_map(LinuxSyscall::names).any(|name| name == "sendmsg") {
        return Err(PlanError::Seccomp("SCMP_ACT_NOTIFY cannot be used for the sendmsg syscall".into()));
    }
    let mut flags = flags(profile);
    if notify {
        if profile.listener_path().is_none() {
            return Err(PlanError::Seccomp("SCMP_ACT_NOTIFY needs listenerPath".into()));
        }
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        flags &= !libc::SECCOMP_FILTER_FLAG_TSYNC;
    } else {
        flags &= !WAIT_KILLABLE_RECV;
    }
    let filter = program::to_bytes(&ranges::shortened(program(profile)?));
    Ok(SeccompPlan { filter: filter.into(), flags, notify })
}

/// The profile's program as the library writes it, behind what answers for system calls that are newer.
fn program(profile: &LinuxSeccomp) -> Result<Vec<Instruction>, PlanError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    // no_new_privs is the spec's decision, not the library's.
    context.set_ctl_nnp(false).map_err(failed)?;
    // A binary tree instead of a list, for programs that can't be made shorter. Older libraries have only the list,
    // which is right as well.
    let _ = context.set_ctl_optimize(2);
    for arch in profile.architectures().iter().flatten() {
        if *arch != Arch::ScmpArchNative && !context.is_arch_present(architecture(*arch)).map_err(failed)? {
            context.add_arch(architecture(*arch)).map_err(failed)?;
        }
    }
    for rule in profile.syscalls().iter().flatten() {
        add(&mut context, rule, profile)?;
    }
    Ok([newer::refusal(profile), export(&context)?].concat())
}

const WAIT_KILLABLE_RECV: u64 = 1 << 5;

fn flags(profile: &LinuxSeccomp) -> u64 {
    // Without any, runc's default: allow speculation, as a container's processes pay for the mitigation otherwise.
    let Some(listed) = profile.flags() else {
        return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    };
    listed.iter().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
            }
    })
}

fn export(context: &ScmpFilterContext) -> Result<Vec<Instruction>, PlanError> {
    let io = |source| PlanError::Io { what: "export the filter to", path: PathBuf::from("memfd"), source };
    let memory = rustix::fs::memfd_create(c"seccomp", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| io(e.into()))?;
    context.export_bpf(memory.as_fd()).map_err(failed)?;
    let mut file = File::from(memory);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(io)?;
    let (instructions, rest) = bytes.as_chunks();
    if instructions.is_empty() || !rest.is_empty() || instructions.len() > usize::from(u16::MAX) {
        return Err(PlanError::Seccomp(format!("the library wrote a filter of {} bytes", bytes.len())));
    }
    Ok(instructions.iter().copied().map(Instruction::from_bytes).collect())
}

fn add(context: &mut ScmpFilterContext, rule: &LinuxSyscall, profile: &LinuxSeccomp) -> Result<(), PlanError> {
    let wanted = action(rule.action(), rule.errno_ret())?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    if wanted == default {
        // Says nothing, and the library refuses it.
        return Ok(());
    }
    let arguments = rule.args().as_deref().unwrap_or(&[]);
    let compares = arguments.iter().map(compare).collect::<Result<Vec<_>, _>>()?;
    let mut indices: Vec<usize> = arguments.iter().map(LinuxSeccompArg::index).collect();
    indices.sort_unstable();
    let repeated = indices.windows(2).any(|pair| pair[0] == pair[1]);
    for name in rule.names() {
        // A profile lists system calls of every kernel and architecture; those unknown here can't be made here.
        let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
        if compares.is_empty() {
            context.add_rule(wanted, syscall).map_err(failed)?;
        } else if repeated {
            // One rule compares an argument once; several comparisons of one argument are alternatives.
            for compare in &compares {
                context.add_rule_conditional(wanted, syscall, &[*compare]).map_err(failed)?;
            }
        } else {
            context.add_rule_conditional(wanted, syscall, &compares).map_err(failed)?;
        }
    }
    Ok(())
}

fn compare(argument: &LinuxSeccompArg) -> Result<ScmpArgCompare, PlanError> {
    let index = u32::try_from(argument.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| PlanError::Seccomp(format!("a system call has no argument {}", argument.index())))?;
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, argument.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, argument.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, argument.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, argument.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            // `value` is the mask, `valueTwo` what the masked argument must equal.
            (ScmpCompareOp::MaskedEqual(argument.value()), argument.value_two().unwrap_or(0))
        }
    };
    Ok(ScmpArgCompare::new(index, operator, datum))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, PlanError> {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno as i32),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(
            u16::try_from(errno).map_err(|_| PlanError::Seccomp(format!("errnoRet {errno} is above 65535")))?,
        ),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    })
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}
