//! What `--chown` and `--chmod` say, once their variables are expanded.

use thiserror::Error;

/// A text that is no owner or mode.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct AccessError(String);

/// `--chown=USER[:GROUP]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: Identity,
    /// The group; that of the same number as the user's, or the named user's own, unless it says.
    pub group: Option<Identity>,
}

/// A user or group by number, or by name in the image's `/etc/passwd` or `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A number.
    Number(u32),
    /// A name.
    Name(String),
}

impl Owner {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Owner, AccessError> {
        let refused = || AccessError(format!("{text:?} is no owner: expected USER, USER:GROUP or numbers of them"));
        let identity = |name: &str| match name.parse() {
            Ok(number) => Ok(Identity::Number(number)),
            Err(_) if name.is_empty() || name.contains(':') => Err(refused()),
            // A number that no user can have is no name either.
            Err(_) if name.bytes().all(|byte| byte.is_ascii_digit()) => Err(refused()),
            Err(_) => Ok(Identity::Name(name.to_owned())),
        };
        match text.split_once(':') {
            Some((user, group)) => Ok(Owner { user: identity(user)?, group: Some(identity(group)?) }),
            None => Ok(Owner { user: identity(text)?, group: None }),
        }
    }
}

/// `--chmod`: an octal number, or changes as `chmod` takes them (`u=rwX,go=rX`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode(Vec<Change>);

/// A change of some bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// All twelve bits.
    Set(u32),
    Symbolic(Symbolic),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Symbolic {
    /// Bits of those whose permissions change: as `0o700`, and their set-id and sticky bits.
    who: u32,
    operator: Operator,
    permissions: Permissions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permissions {
    /// `rwxst`, for everybody; `X` also where it is a directory or anybody may execute it already.
    Bits { always: u32, executable: bool },
    /// Those that the owner (6), the group (3) or others (0) have: how far to the right they stand.
    CopyOf { shift: u32 },
}

impl Mode {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Mode, AccessError> {
        let refused = || {
            AccessError(format!(
                "invalid chmod parameter: {text:?} (it should be an octal number between 0 and 07777, or as u=rwX,go=rX)"
            ))
        };
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(refused)?;
            return Ok(Mode(vec![Change::Set(mode)]));
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            clause_changes(clause, &mut changes).ok_or_else(refused)?;
        }
        Ok(Mode(changes))
    }

    /// The mode (twelve bits) of a file or directory that has another one.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        self.0.iter().fold(mode & 0o7777, |mode, change| match change {
            Change::Set(mode) => *mode,
            Change::Symbolic(change) => change.apply(mode, is_directory),
        })
    }
}

impl Symbolic {
    fn apply(self, mode: u32, is_directory: bool) -> u32 {
        let bits = match self.permissions {
            Permissions::Bits { always, executable } => {
                let executable = executable && (is_directory || mode & 0o111 != 0);
                always | if executable { 0o111 } else { 0 }
            }
            Permissions::CopyOf { shift } => ((mode >> shift) & 7) * 0o111,
        };
        let bits = bits & self.who;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            // A directory keeps its set-id bits unless they are named, as chmod(1) does.
            Operator::Set if is_directory => (mode & !(self.who & 0o1777)) | bits,
            Operator::Set => (mode & !self.who) | bits,
        }
    }
}

/// Reads `ug+rw-x`: for whom, and one operator and its permissions or more.
fn clause_changes(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let operators = clause.find(['+', '-', '='])?;
    let mut who = 0;
    for c in clause[..operators].chars() {
        who |= match c {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    // Nobody's mask is asked: a build is to be the same everywhere.
    let who = if operators == 0 { 0o7777 } else { who };
    let mut rest = &clause[operators..];
    while let Some(c) = rest.chars().next() {
        let operator = match c {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Set,
            _ => return None,
        };
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let permissions = permissions(&rest[..end])?;
        changes.push(Change::Symbolic(Symbolic { who, operator, permissions }));
        rest = &rest[end..];
    }
    Some(())
}

fn permissions(text: &str) -> Option<Permissions> {
    if let Some(shift) = match text {
        "u" => Some(6),
        "g" => Some(3),
        "o" => Some(0),
        _ => None,
    } {
        return Some(Permissions::CopyOf { shift });
    }
    let (mut always, mut executable) = (0, false);
    for c in text.chars() {
        match c {
            'r' => always |= 0o444,
            'w' => always |= 0o222,
            'x' => always |= 0o111,
            'X' => executable = true,
            's' => always |= 0o6000,
            't' => always |= 0o1000,
            _ => return None,
        }
    }
    Some(Permissions::Bits { always, executable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_as_chmod_makes_them() {
        for (text, before, directory, after) in [
            ("755", 0o600, false, 0o755),
            ("04755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o755, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("u+s,g+s,o+t", 0o755, false, 0o7755),
            ("o=", 0o1757, false, 0o750),
            ("ug+rw-x", 0o755, false, 0o665),
            ("=", 0o777, false, 0),
            ("g=rx", 0o2777, true, 0o2757),
        ] {
            let mode = Mode::parse(text).unwrap();
            assert_eq!(mode.apply(before, directory), after, "{text} of {before:o}");
        }
        for text in ["", "8", "17777", "u", "x=r", "u=q", "u=rw,", "-1z", "0x1"] {
            assert!(Mode::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn owners_are_names_or_numbers() {
        let name = |name: &str| Identity::Name(name.into());
        assert_eq!(Owner::parse("node"), Ok(Owner { user: name("node"), group: None }));
        assert_eq!(Owner::parse("1:staff"), Ok(Owner { user: Identity::Number(1), group: Some(name("staff")) }));
        for text in ["", ":", "a:", ":b", "a:b:c", "4294967296"] {
            assert!(Owner::parse(text).is_err(), "{text:?}");
        }
    }
}
