//! A scenario: what somebody types at a terminal, one command after the other.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// A file of commands, `NAME.sh`, that are typed one after the other in an empty directory.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) commands: Vec<Command>,
}

/// A line for the shell. It goes on on the next line where it ends with a backslash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    /// Where it begins, from 1.
    pub(super) line: usize,
    pub(super) text: String,
}

impl Scenario {
    fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, commands: commands(&text) })
    }
}

/// The scenarios of a directory by their names: those that are asked for, or all.
pub(super) fn scenarios(directory: &Path, only: &[String]) -> Result<Vec<Scenario>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sh"));
    paths.sort();
    let mut all = paths.iter().map(|path| Scenario::load(path)).collect::<Result<Vec<_>>>()?;
    if let Some(unknown) = only.iter().find(|name| all.iter().all(|scenario| scenario.name != **name)) {
        bail!("there is no scenario {unknown:?} in {}", directory.display());
    }
    all.retain(|scenario| only.is_empty() || only.contains(&scenario.name));
    Ok(all)
}

/// Everything but comments and empty lines.
fn commands(text: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        match commands.last_mut() {
            Some(command) if goes_on => {
                command.text.push('\n');
                command.text.push_str(line);
            }
            _ if line.trim().is_empty() || line.starts_with('#') => continue,
            _ => commands.push(Command { line: index + 1, text: line.to_owned() }),
        }
        goes_on = line.ends_with('\\');
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_commands() {
        let read =
            commands("# What it is about.\n\ndocker ps\ndocker run \\\n  busybox \\\n# no comment\n\ndocker rm a\n");
        let expected = [(3, "docker ps"), (4, "docker run \\\n  busybox \\\n# no comment"), (8, "docker rm a")];
        assert_eq!(read, expected.map(|(line, text)| Command { line, text: text.to_owned() }));
    }
}
