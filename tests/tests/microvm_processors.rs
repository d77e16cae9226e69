//! What kind of processors a microVM has: all that the host's offer, or those of a level, which other hosts have as well.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use microvm_kernel::host;

/// What a processor says that it can do.
const FLAGS: &str = "grep -m1 ^flags /proc/cpuinfo | tr ' ' '\\n'";

#[test]
fn a_microvm_has_the_processors_of_a_level_and_keeps_them() {
    let mut host = host();
    host.sh("docker run --runtime microvm --annotation stratus.microvm.processor=486 busybox true")
        .exits_with(125)
        .complains("stratus.microvm.processor=486 is to be one of host, x86-64-v2, x86-64-v3, x86-64-v4");
    let level = "--annotation stratus.microvm.processor=x86-64-v2";
    host.slowly(&format!("docker run -d --name box --runtime microvm {level} busybox sleep 10000")).ok();
    let flags =
        format!("docker exec box sh -c \"{FLAGS}\" | grep -Ex 'sse4_2|popcnt|ssse3|avx|avx2|xsave|smep' | sort");
    host.slowly(&flags).says("popcnt\nsse4_2\nssse3");
    // What all microVMs have by default is another one's matter: it is part of what is saved.
    host.slowly("$STRATUS suspend box").ok();
    host.restart_with(&["--microvm-processor", "x86-64-v3"]);
    host.slowly("$STRATUS resume box").ok();
    host.slowly(&flags).says("popcnt\nsse4_2\nssse3");
    let flags = format!("docker run --rm --runtime microvm busybox sh -c \"{FLAGS}\"");
    host.slowly(&format!("{flags} | grep -Ex 'avx2|bmi2|fma|smep|avx512f|smap' | sort")).says("avx2\nbmi2\nfma\nsmep");
    // One that says it has all of them, whatever the default.
    let all = format!(
        "docker run --rm --runtime microvm --annotation stratus.microvm.processor=host busybox sh -c \"{FLAGS}\""
    );
    host.slowly(&format!("{all} | grep -cx smap")).says("1");
    // No emulation has AVX-512 so far; a host that has runs it.
    let highest = "--annotation stratus.microvm.processor=x86-64-v4";
    let run = host.slowly(&format!("docker run --rm --runtime microvm {highest} busybox sh -c \"{FLAGS}\""));
    match run.code() {
        0 => run.mentions("avx512f"),
        _ => run.complains("no processors of the level x86-64-v4").complains("avx512f"),
    };
    host.sh("docker rm -f box").ok();
}
