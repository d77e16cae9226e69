//! What the user of the client knows of hosts' keys.

use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

/// The most bytes of a file of them.
const MOST: u64 = 8 << 20;

/// Lines that may be of a host: those that name it, and those that don't show whom they name, as patterns and hashes do. Whoever has them looks
/// closer; what else the user knows is nobody's business. An error is one line for people. Blocks.
pub(super) fn of(host: &str, files: &[PathBuf]) -> Result<Vec<u8>, String> {
    let mut lines = Vec::new();
    for path in files {
        let mut text = Vec::new();
        match std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
            Err(error) => return Err(format!("reading {}: {error}", path.display())),
        }
        for line in text.split(|byte| *byte == b'\n').filter(|line| may_be_of(host, line)) {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        }
    }
    Ok(lines)
}

fn may_be_of(host: &str, line: &[u8]) -> bool {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    // A mark may stand in front: of an authority's key, or of one that is not to be trusted any more.
    let hosts = words.next().filter(|word| !word.starts_with(b"@")).or_else(|| words.next());
    let Some(hosts) = hosts.filter(|word| !word.starts_with(b"#")) else { return false };
    hosts.split(|byte| *byte == b',').any(|name| {
        let is_unclear = name.starts_with(b"|") || name.iter().any(|byte| b"*?".contains(byte));
        is_unclear || name.eq_ignore_ascii_case(host.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_of_the_host_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("known_hosts");
        let own = "A.example,10.0.0.1 ssh-ed25519 K1\n|1|salt|hash ssh-ed25519 K2\n*.corp,!x.corp ssh-rsa K3\n\
                   @revoked a.example ssh-rsa K4\n";
        let others =
            "# a.example is\n[a.example]:2222 ssh-rsa K5\nbank.example ssh-rsa K6\n@cert-authority b ssh-rsa K7\n\n";
        std::fs::write(&file, format!("{others}{own}")).expect("a file");
        let files = [directory.path().join("none"), file];
        assert_eq!(String::from_utf8(of("a.example", &files).expect("lines")).expect("text"), own);
        let other = String::from_utf8(of("[a.example]:2222", &files).expect("lines")).expect("text");
        assert!(other.contains("K5") && !other.contains("K1") && !other.contains("K4"), "{other}");
        assert!(of("a.example", &[directory.path().to_owned()]).is_err());
    }
}
