//! What a process gives back of its first thread's stack: in a process of its own, as tests run on threads of their own.

use std::process::Command;

#[test]
fn the_stack_that_is_not_used_is_given_back() {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/residence");
    assert!(program.exists(), "{} is not there: cargo build -p sandbox --examples", program.display());
    let output = Command::new(program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let (before, after) = said.trim().split_once(' ').unwrap();
    let (before, after): (u64, u64) = (before.parse().unwrap(), after.parse().unwrap());
    assert!(before >= 200 && after <= 40, "{after} kB of {before} kB are there");
}
