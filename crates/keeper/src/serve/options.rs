//! The keeper's command line.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What a keeper is told when it is started.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Options {
    /// Begin.
    Begin {
        /// Where the socket and the records are.
        run_dir: PathBuf,
        /// Cgroups to move into, one for each hierarchy.
        cgroups: Vec<PathBuf>,
        /// Leave the caller's session, and let the caller go on when the socket listens.
        detach: bool,
    },
    /// Go on with the state in this descriptor, after an exec in place.
    Resume {
        /// The state's descriptor.
        state: RawFd,
    },
    /// Only say whether the state in this descriptor is understood.
    Probe {
        /// The state's descriptor.
        state: RawFd,
    },
}

pub(super) const USAGE: &str = "usage: keeper --run-dir DIR [--cgroup DIR]... [--detach]";

impl Options {
    pub(super) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
        let (mut run_dir, mut cgroups, mut detach) = (None, Vec::new(), false);
        let (mut resume, mut probe) = (None, None);
        while let Some(argument) = arguments.next() {
            let name = argument.to_string_lossy().into_owned();
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(OsString::from(value))),
                _ => (name, None),
            };
            let mut value = || inline.clone().or_else(|| arguments.next()).ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--run-dir" => run_dir = Some(absolute(value()?)?),
                "--cgroup" => cgroups.push(absolute(value()?)?),
                "--detach" => detach = true,
                "--resume" => resume = Some(descriptor(value()?)?),
                "--probe" => probe = Some(descriptor(value()?)?),
                _ => return Err(format!("{name} is unknown; {USAGE}")),
            }
        }
        match (probe, resume, run_dir) {
            (Some(state), _, _) => Ok(Options::Probe { state }),
            (None, Some(state), _) => Ok(Options::Resume { state }),
            (None, None, Some(run_dir)) => Ok(Options::Begin { run_dir, cgroups, detach }),
            (None, None, None) => Err(USAGE.to_owned()),
        }
    }
}

fn descriptor(text: OsString) -> Result<RawFd, String> {
    let fd = text.to_str().and_then(|text| text.parse().ok()).filter(|fd| *fd > 2);
    fd.ok_or(format!("{} is no descriptor", text.display()))
}

/// The keeper changes into the root directory, so relative paths are settled before.
fn absolute(path: OsString) -> Result<PathBuf, String> {
    std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn arguments_are_understood() {
        let begin = Options::Begin { run_dir: "/r".into(), cgroups: vec!["/c".into(), "/d".into()], detach: true };
        assert_eq!(parse(&["--run-dir", "/r", "--cgroup=/c", "--detach", "--cgroup", "/d"]), Ok(begin));
        assert_eq!(parse(&["--resume", "7"]), Ok(Options::Resume { state: 7 }));
        assert!(parse(&["--resume", "1"]).is_err());
        assert!(parse(&["--run-dir"]).is_err());
        assert!(parse(&["--nonsense"]).unwrap_err().contains("unknown"));
        assert_eq!(parse(&[]), Err(USAGE.to_owned()));
    }
}
