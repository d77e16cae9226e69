//! Which devices the processes of a cgroup may use: files on v1, a BPF program on v2.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{CgroupError, Result};
use crate::sys;

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

/// `BPF_DEVCG_DEV_*`.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// One rule. The last one that matches counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None` for both types.
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    const fn allow(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Self {
        Self { allow: true, kind: Some(kind), major, minor, access }
    }

    fn is_everything(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    fn v1_line(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        if self.is_everything() {
            return "a".to_owned();
        }
        let kind = match self.kind {
            Some(BLOCK) => 'b',
            Some(_) => 'c',
            None => 'a',
        };
        let access: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, c)| *c)
            .collect();
        format!("{kind} {}:{} {access}", number(self.major), number(self.minor))
    }
}

/// What no container can do without: making any node, and using those of /dev that every container has.
const ALWAYS: &[Rule] = &[
    Rule::allow(CHARACTER, None, None, MKNOD),
    Rule::allow(BLOCK, None, None, MKNOD),
    Rule::allow(CHARACTER, Some(1), Some(3), ALL),
    Rule::allow(CHARACTER, Some(1), Some(5), ALL),
    Rule::allow(CHARACTER, Some(1), Some(7), ALL),
    Rule::allow(CHARACTER, Some(1), Some(8), ALL),
    Rule::allow(CHARACTER, Some(1), Some(9), ALL),
    Rule::allow(CHARACTER, Some(5), Some(0), ALL),
    Rule::allow(CHARACTER, Some(136), None, ALL),
    Rule::allow(CHARACTER, Some(5), Some(2), ALL),
];

/// Whether the rules forbid anything. If not, there is nothing to do for a new cgroup.
pub(super) fn restricts(rules: &[LinuxDeviceCgroup]) -> bool {
    rules.iter().any(|rule| !rule.allow())
}

/// The rules from the last one about everything on, with what is always allowed.
fn rules(listed: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    let parsed: Vec<Rule> = listed.iter().filter_map(rule).collect();
    let start = parsed.iter().rposition(Rule::is_everything).unwrap_or(0);
    let mut rules = parsed[start..].to_vec();
    if !rules.first().is_some_and(|rule| rule.is_everything() && rule.allow) {
        let missing = ALWAYS.iter().filter(|rule| !rules.contains(rule)).copied().collect::<Vec<_>>();
        rules.extend(missing);
    }
    rules
}

/// None for a number that no device can have: such a rule is about nothing, and must not become one about every number.
fn rule(rule: &LinuxDeviceCgroup) -> Option<Rule> {
    let number = |number: Option<i64>| match number {
        // -1 stands for all of them.
        None | Some(..0) => Some(None),
        Some(number) => u32::try_from(number).ok().map(Some),
    };
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        _ => None,
    };
    let access = match rule.access().as_deref() {
        None | Some("") => ALL,
        Some(letters) => letters.chars().fold(0, |access, letter| {
            access
                | match letter {
                    'r' => READ,
                    'w' => WRITE,
                    'm' => MKNOD,
                    _ => 0,
                }
        }),
    };
    // "All devices" has no numbers, whatever stands there.
    let (major, minor, access) = match kind {
        None => (None, None, ALL),
        Some(_) => (number(rule.major())?, number(rule.minor())?, access),
    };
    Some(Rule { allow: rule.allow(), kind, major, minor, access })
}

/// What is written to `devices.allow` (true) and `devices.deny`, in order.
pub(super) fn v1_lines(listed: &[LinuxDeviceCgroup]) -> Vec<(bool, String)> {
    rules(listed).iter().map(|rule| (rule.allow, rule.v1_line())).collect()
}

/// One BPF instruction.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(src << 4 | dst) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The filter: `struct bpf_cgroup_dev_ctx` comes in r1; r0 says 1 for yes.
fn program(listed: &[LinuxDeviceCgroup]) -> Vec<u64> {
    let rules = rules(listed);
    let default = rules.first().is_some_and(|rule| rule.is_everything() && rule.allow) || !restricts(listed);
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev().filter(|rule| !rule.is_everything()) {
        // Each test that fails jumps over the rest of the rule; the distance is known once the rule is written.
        let mut tests: Vec<(u8, u8, u8, i32)> = Vec::new();
        if let Some(kind) = rule.kind {
            tests.push((JUMP_NOT_EQUAL, 2, 0, kind as i32));
        }
        if rule.access != ALL {
            tests.push((MOVE, 1, 3, 0));
            tests.push((AND, 1, 0, rule.access as i32));
            // A permission must cover all that is asked for, a prohibition any of it.
            tests.push(if rule.allow { (JUMP_NOT_EQUAL_REGISTER, 1, 3, 0) } else { (JUMP_EQUAL, 1, 0, 0) });
        }
        if let Some(major) = rule.major {
            tests.push((JUMP_NOT_EQUAL, 4, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            tests.push((JUMP_NOT_EQUAL, 5, 0, minor as i32));
        }
        let length = tests.len() + 2;
        for (at, (op, dst, src, immediate)) in tests.into_iter().enumerate() {
            let jumps = matches!(op, JUMP_NOT_EQUAL | JUMP_EQUAL | JUMP_NOT_EQUAL_REGISTER);
            let offset = if jumps { (length - at - 1) as i16 } else { 0 };
            code.push(instruction(op, dst, src, offset, immediate));
        }
        code.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, i32::from(rule.allow)));
        code.push(instruction(EXIT, 0, 0, 0, 0));
    }
    code.push(instruction(MOVE_IMMEDIATE, 0, 0, 0, i32::from(default)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u64 = 15;
const BPF_CGROUP_DEVICE: u64 = 6;
const BPF_F_ALLOW_MULTI: u64 = 2;

/// Two 32-bit fields as they lie in memory.
fn pair(low: u64, high: u64) -> u64 {
    if cfg!(target_endian = "little") { low | high << 32 } else { low << 32 | high }
}

/// Loads the filter and attaches it; with `replace` the filters attached before are taken off afterwards, so that at
/// no time there is none.
pub(super) fn attach(directory: &Path, rules: &[LinuxDeviceCgroup], replace: bool) -> Result<()> {
    let failed = |what| move |errno| CgroupError::DeviceFilter(what, errno);
    let cgroup = File::open(directory).map_err(CgroupError::io("open", directory))?;
    let target = cgroup.as_raw_fd() as u64;
    let code = program(rules);
    let license = c"Apache-2.0";
    let mut load = [0u64; 8];
    load[0] = pair(BPF_PROG_TYPE_CGROUP_DEVICE, code.len() as u64);
    load[1] = code.as_ptr() as u64;
    load[2] = license.as_ptr() as u64;
    // SAFETY: the instructions and the licence live until the call returns, and no log is asked for.
    let program = unsafe { sys::bpf(BPF_PROG_LOAD, &mut load) }.map_err(failed("load"))?;
    // SAFETY: a successful load returns a new descriptor, which is ours.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    let before = if replace { attached(target)? } else { Vec::new() };
    let mut attach = [pair(target, program.as_raw_fd() as u64), pair(BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI), 0, 0];
    // SAFETY: only numbers.
    unsafe { sys::bpf(BPF_PROG_ATTACH, &mut attach) }.map_err(failed("attach"))?;
    for old in before {
        let mut detach = [pair(target, old.as_raw_fd() as u64), pair(BPF_CGROUP_DEVICE, 0), 0, 0];
        // SAFETY: only numbers.
        unsafe { sys::bpf(BPF_PROG_DETACH, &mut detach) }.map_err(failed("detach"))?;
    }
    Ok(())
}

/// The programs attached to the cgroup itself.
fn attached(target: u64) -> Result<Vec<OwnedFd>> {
    const PROGRAMS_MAX: usize = 64;
    let failed = |what| move |errno| CgroupError::DeviceFilter(what, errno);
    let mut ids = [0u32; PROGRAMS_MAX];
    let mut query = [pair(target, BPF_CGROUP_DEVICE), 0, ids.as_mut_ptr() as u64, PROGRAMS_MAX as u64, 0, 0, 0, 0];
    // SAFETY: the kernel writes at most the number of ids stated.
    unsafe { sys::bpf(BPF_PROG_QUERY, &mut query) }.map_err(failed("query"))?;
    let count = (query[3] & 0xffff_ffff) as usize;
    ids[..count.min(PROGRAMS_MAX)]
        .iter()
        .map(|id| {
            let mut get = [u64::from(*id), 0];
            // SAFETY: only numbers.
            let fd = unsafe { sys::bpf(BPF_PROG_GET_FD_BY_ID, &mut get) }.map_err(failed("open"))?;
            // SAFETY: a new descriptor, which is ours.
            Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn denying_everything_leaves_what_every_container_has() {
        let lines = v1_lines(&listed(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#,
        ));
        assert_eq!(lines[0], (false, "a".to_owned()));
        assert_eq!(lines[1], (true, "c 10:229 rw".to_owned()));
        assert!(lines.contains(&(true, "c 1:3 rwm".to_owned())));
    }

    #[test]
    fn allowing_everything_last_forgets_what_was_before() {
        let lines = v1_lines(&listed(r#"[{"allow":false},{"allow":true,"access":"rwm"}]"#));
        assert_eq!(lines, [(true, "a".to_owned())]);
    }

    #[test]
    fn a_number_that_no_device_has_is_not_every_number() {
        let lines = |major: &str| {
            v1_lines(&listed(&format!(
                r#"[{{"allow":false,"access":"rwm"}},{{"allow":true,"type":"c","major":{major},"minor":7,"access":"r"}}]"#
            )))
        };
        assert!(lines("11").contains(&(true, "c 11:7 r".to_owned())));
        assert!(lines("-1").contains(&(true, "c *:7 r".to_owned())));
        assert_eq!(lines("4294967296").len(), lines("11").len() - 1);
    }

    #[test]
    fn the_kernel_takes_the_program() {
        let code =
            program(&listed(r#"[{"allow":false,"access":"rwm"},{"allow":false,"type":"b","major":8,"access":"w"}]"#));
        let mut load = [0u64; 8];
        load[0] = pair(BPF_PROG_TYPE_CGROUP_DEVICE, code.len() as u64);
        load[1] = code.as_ptr() as u64;
        load[2] = c"Apache-2.0".as_ptr() as u64;
        // SAFETY: the instructions and the licence live until the call returns.
        let fd = unsafe { sys::bpf(BPF_PROG_LOAD, &mut load) }.unwrap();
        // SAFETY: a new descriptor, which is ours.
        drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    }
}
