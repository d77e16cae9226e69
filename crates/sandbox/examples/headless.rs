//! A process whose main thread ends while another one lives on, as a program may do by pthread_exit(3). Moves itself
//! into the cgroups whose directories are its arguments, and writes a line when it is there and has no main thread any
//! more.

use std::fs;

fn main() {
    let pid = std::process::id();
    for directory in std::env::args().skip(1) {
        fs::write(format!("{directory}/cgroup.procs"), pid.to_string()).unwrap();
    }
    std::thread::spawn(move || {
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        while !stat().rsplit_once(')').unwrap().1.starts_with(" Z") {
            std::thread::yield_now();
        }
        println!("ready");
        loop {
            std::thread::park();
        }
    });
    // SAFETY: ends this thread and nothing else; nobody refers to what is on its stack.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}
