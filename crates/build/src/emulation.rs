//! Whether a machine executes another architecture's programs: by itself, or by an emulator that binfmt_misc(8) knows.

use image::Platform;
use std::path::Path;

/// Where the kernel says which emulators are registered.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Bytes of a program that the kernel looks at.
const LOOKED_AT: usize = 256;

/// Says why commands for a platform can't run here, where they can't.
pub(crate) fn check(platform: &Platform) -> Result<(), String> {
    check_in(platform, &Platform::host(), Path::new(REGISTERED))
}

fn check_in(platform: &Platform, host: &Platform, registered: &Path) -> Result<(), String> {
    // An image that does not say what it is for may be for this machine.
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Ok(());
    }
    if platform.os != host.os {
        return Err(format!("commands for {platform} do not run on {}", host.os));
    }
    if runs_by_itself(&platform.architecture, &host.architecture) {
        return Ok(());
    }
    let missing = |what: String| format!("{what} at {}: install qemu-user-static", registered.display());
    // What nobody can say of what its programs look like may run.
    let Some(program) = first_bytes(&platform.architecture) else { return Ok(()) };
    let listed = std::fs::read_dir(registered);
    let texts = listed.into_iter().flatten().flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let emulators: Vec<String> = texts.filter(|text| takes(text, &program)).collect();
    match emulators.iter().any(|text| is_held(text)) {
        true => Ok(()),
        false if emulators.is_empty() => Err(missing(format!("no emulator for {platform} is registered"))),
        // It would be looked for in the container.
        false => Err(missing(format!("the emulator for {platform} is registered without the flag F"))),
    }
}

fn runs_by_itself(architecture: &str, host: &str) -> bool {
    architecture == host || matches!((architecture, host), ("386", "amd64"))
}

/// How a program of an architecture begins (elf(5)): class, byte order, kind, machine.
fn first_bytes(architecture: &str) -> Option<[u8; LOOKED_AT]> {
    let (class, order, machine): (u8, u8, u16) = match architecture {
        "386" => (1, 1, 3),
        "amd64" => (2, 1, 62),
        "arm" => (1, 1, 40),
        "arm64" => (2, 1, 183),
        "loong64" => (2, 1, 258),
        "mips64le" => (2, 1, 8),
        "ppc64le" => (2, 1, 21),
        "riscv64" => (2, 1, 243),
        "s390x" => (2, 2, 22),
        _ => return None,
    };
    let number = |value: u16| if order == 1 { value.to_le_bytes() } else { value.to_be_bytes() };
    let mut bytes = [0; LOOKED_AT];
    bytes[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, order, 1]);
    bytes[16..18].copy_from_slice(&number(2));
    bytes[18..20].copy_from_slice(&number(machine));
    bytes[20] = 1;
    Some(bytes)
}

/// Whether an entry of binfmt_misc is enabled and takes a program that begins so.
fn takes(entry: &str, program: &[u8; LOOKED_AT]) -> bool {
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let enabled = entry.lines().next() == Some("enabled");
    let offset: usize = field("offset ").and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some(magic) = field("magic ").and_then(bytes) else { return false };
    let mask = field("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let Some(own) = program.get(offset..).and_then(|rest| rest.get(..magic.len())) else { return false };
    enabled && own.iter().zip(&magic).zip(&mask).all(|((own, magic), mask)| own & mask == magic & mask)
}

/// Whether the kernel holds the emulator open: containers do not have it.
fn is_held(entry: &str) -> bool {
    entry.lines().filter_map(|line| line.strip_prefix("flags: ")).any(|flags| flags.contains('F'))
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(flags: &str) -> String {
        format!(
            "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: {flags}\noffset 0\n\
             magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n"
        )
    }

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    #[test]
    fn what_is_missing_is_named() {
        let registered = tempfile::tempdir().expect("a directory");
        let check = |text: &str| check_in(&platform(text), &platform("linux/amd64"), registered.path());
        assert_eq!((check("linux/amd64"), check("linux/386")), (Ok(()), Ok(())));
        assert_eq!(check("windows/amd64"), Err("commands for windows/amd64 do not run on linux".to_owned()));
        let place = registered.path().display();
        let none = format!("no emulator for linux/arm64 is registered at {place}: install qemu-user-static");
        assert_eq!(check("linux/arm64"), Err(none));
        std::fs::write(registered.path().join("qemu-aarch64"), entry("OC")).expect("an entry");
        assert!(check("linux/arm64").expect_err("it is not held").contains("without the flag F"));
        std::fs::write(registered.path().join("qemu-aarch64"), entry("POCF")).expect("an entry");
        assert_eq!(check("linux/arm64"), Ok(()));
        assert!(check("linux/riscv64").is_err());
        std::fs::write(registered.path().join("qemu-aarch64"), entry("F").replace("enabled", "disabled")).expect("it");
        assert!(check("linux/arm64").is_err());
    }
}
