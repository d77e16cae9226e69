//! Which process a number stands for: the kernel gives it to another one as soon as its process has been reaped.

use std::fs;

/// When a process started, in the kernel's ticks; `None` if there is none. What remains of one counts, until it is
/// reaped.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    Stat::read(pid)?.started()
}

/// When a process started, in the kernel's ticks; `None` if there is none, or only its remains.
#[cfg(any(feature = "runtime-cli", test))]
pub(crate) fn start_time_of_living(pid: i32) -> Option<u64> {
    Stat::read(pid).filter(|stat| !stat.has_ended())?.started()
}

/// Whether it is a thread of the kernel's own: no signal or freezer reaches it.
pub(crate) fn is_of_kernel(pid: i32) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.is_of_kernel())
}

/// What proc_pid_stat(5) tells after the program's name: the third field and all that follow.
struct Stat(String);

impl Stat {
    fn read(pid: i32) -> Option<Stat> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may contain blanks and parentheses; the last one ends it.
        Some(Stat(stat.rsplit_once(')')?.1.to_owned()))
    }

    /// A field by its number in the manual.
    fn field(&self, number: usize) -> Option<&str> {
        self.0.split_whitespace().nth(number - 3)
    }

    /// `PF_KTHREAD` of its flags (linux/sched.h).
    fn is_of_kernel(&self) -> bool {
        const KERNEL_THREAD: u32 = 0x0020_0000;
        self.field(9).and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & KERNEL_THREAD != 0)
    }

    fn started(&self) -> Option<u64> {
        self.field(22)?.parse().ok()
    }

    /// The state is the main thread's, which may have ended long before the others.
    #[cfg(any(feature = "runtime-cli", test))]
    fn has_ended(&self) -> bool {
        matches!(self.field(3), Some("Z" | "X")) && matches!(self.field(20), Some("0" | "1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_threads_of_its_own() {
        // Number 2 is the one that makes the others, where the tests see those.
        let of_kernel = fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd");
        assert_eq!(is_of_kernel(2), of_kernel);
        assert!(!is_of_kernel(std::process::id().cast_signed()));
    }

    #[test]
    fn the_remains_of_a_process_have_a_start_and_no_life() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        let started = start_time_of_living(pid);
        assert!(started.is_some());
        child.kill().unwrap();
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(rustix::process::Pid::from_child(&child)), ended).unwrap();
        assert_eq!((start_time(pid), start_time_of_living(pid)), (started, None));
        child.wait().unwrap();
        assert_eq!(start_time(pid), None);
    }
}
