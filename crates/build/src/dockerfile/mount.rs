//! `RUN --mount`: read twice. Once where it stands, so that mistakes are found before anything runs, and again with the
//! values of variables when the step is carried out.

use super::instruction::Word;
use super::source::{Mistake, Source, Span};
use crate::suggest::nearest;

/// A mount as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    fields: Vec<Field>,
    /// Where the flag stands.
    pub span: Span,
}

/// `KEY=VALUE`, or `KEY` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    key: String,
    value: Option<Word>,
    span: Span,
}

/// What a step sees of something that is not in its root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// Files of the context, a stage or an image.
    Bind {
        /// Where.
        target: String,
        /// Whose files; the context's unless it says.
        from: Option<String>,
        /// Which of them; all unless it says.
        source: Option<String>,
        /// What is written there is seen by the step, and thrown away afterwards.
        writable: bool,
    },
    /// A directory that outlives the build.
    Cache {
        /// Where.
        target: String,
        /// Its name; that of `target` unless it says.
        id: Option<String>,
        /// What is in it when it is made.
        from: Option<String>,
        /// Which part of that.
        source: Option<String>,
        /// Whether the step must not write to it.
        read_only: bool,
        /// What becomes of several that use it at once.
        sharing: Sharing,
        /// Its own mode when it is made.
        mode: u32,
        /// Its owner when it is made.
        uid: u32,
        /// Its group when it is made.
        gid: u32,
    },
    /// Files in memory.
    Tmpfs {
        /// Where.
        target: String,
        /// The most bytes.
        size: Option<u64>,
    },
    /// A secret that the build was given, as a file, in the environment, or both.
    Secret {
        /// Its name.
        id: String,
        /// The file; none where it is in the environment alone.
        target: Option<String>,
        /// The variable.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// The file's mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// A socket of an SSH agent.
    Ssh {
        /// Which of those that the build was given.
        id: String,
        /// Where; chosen by whoever makes it unless it says.
        target: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// The socket's mode.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// What becomes of several steps that use a cache at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All write to it.
    #[default]
    Shared,
    /// Each further one gets a new one.
    Private,
    /// Each waits for the one before it.
    Locked,
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARING: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
];
/// Keys that mean something without a value.
const ALONE: [&str; 5] = ["readonly", "ro", "readwrite", "rw", "required"];

impl MountSpec {
    /// Reads a flag's value. What has no variables in it is checked to the end.
    pub(super) fn parse(value: &str, span: Span, source: &Source) -> Result<MountSpec, Mistake> {
        let mut fields = Vec::new();
        let flag = span;
        let mut behind = flag.start;
        for text in split(value) {
            // The caret is for the option, if it stands there as it is read.
            let span = source.find(&text, Span { start: behind, ..flag }).unwrap_or(flag);
            behind = if span == flag { behind } else { span.end };
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(Word { raw: value.to_owned(), span })),
                None => (text.as_str(), None),
            };
            let key = key.trim().to_lowercase();
            if !KEYS.contains(&key.as_str()) {
                let mistake = source.mistake(span, format!("unexpected key '{key}' in '{text}'"));
                return Err(mistake.meant(nearest(&key, KEYS)));
            }
            if value.is_none() && !ALONE.contains(&key.as_str()) {
                return Err(source.mistake(span, format!("invalid field '{text}' must be a key=value pair")));
            }
            fields.push(Field { key, value, span });
        }
        let spec = MountSpec { fields, span };
        if let Some(from) = spec.word("from")
            && from.raw.contains('$')
        {
            let message = "'from' doesn't support variable expansion: name a stage with FROM, and that stage here";
            return Err(source.mistake(from.span, message));
        }
        if spec.words().all(|word| !word.raw.contains('$')) {
            spec.resolve(source, |word| Ok(word.raw.clone()))?;
        }
        Ok(spec)
    }

    /// Whose files it mounts: a stage's name or number, a named context, or an image.
    pub fn from(&self) -> Option<&str> {
        self.word("from").map(|word| word.raw.as_str()).filter(|from| !from.is_empty())
    }

    /// The values that may have variables.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        self.fields.iter().filter_map(|field| field.value.as_ref())
    }

    /// The last value of a key.
    fn word(&self, key: &str) -> Option<&Word> {
        self.fields.iter().rev().find(|field| field.key == key)?.value.as_ref()
    }

    /// The mount, with values that `expand` makes of its words.
    pub fn resolve(
        &self,
        source: &Source,
        mut expand: impl FnMut(&Word) -> Result<String, Mistake>,
    ) -> Result<Mount, Mistake> {
        let mut options = Options::default();
        for field in &self.fields {
            let value = field.value.as_ref().map(&mut expand).transpose()?;
            options.set(&field.key, value.as_deref()).map_err(|refused| refused.at(field.span, source))?;
        }
        options.finish().map_err(|refused| refused.at(self.span, source))
    }
}

/// Why an option is none.
struct Refused {
    message: String,
    meant: Option<&'static str>,
}

impl Refused {
    fn at(self, span: Span, source: &Source) -> Mistake {
        source.mistake(span, self.message).meant(self.meant)
    }
}

fn refused(message: impl Into<String>) -> Refused {
    Refused { message: message.into(), meant: None }
}

/// The options of all kinds.
#[derive(Default)]
struct Options {
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    env: Option<String>,
    read_only: Option<bool>,
    required: Option<bool>,
    size: Option<u64>,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Options {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), Refused> {
        let text = value.unwrap_or_default();
        let number = || {
            text.parse::<u32>().map(Some).map_err(|_| refused(format!("invalid value {text:?} for {key}: a number")))
        };
        let boolean = || match value {
            None => Ok(true),
            Some(value) => go_bool(value).ok_or_else(|| refused(format!("invalid value for {key}: {value}"))),
        };
        let filled = || Some(text.to_owned()).filter(|text| !text.is_empty());
        match key {
            "type" => {
                let kind = text.to_lowercase();
                if !TYPES.contains(&kind.as_str()) {
                    let message = format!("unsupported mount type {text:?}");
                    return Err(Refused { message, meant: nearest(text, TYPES) });
                }
                self.kind = Some(kind);
            }
            "from" => self.from = filled(),
            "source" | "src" => self.source = filled(),
            "target" | "dst" | "destination" => self.target = filled(),
            "readonly" | "ro" => self.read_only = Some(boolean()?),
            "readwrite" | "rw" => self.read_only = Some(!boolean()?),
            "required" => self.required = Some(boolean()?),
            "size" => {
                let size = bytes(text)
                    .ok_or_else(|| refused(format!("invalid value for size: {text:?}, not as 64m or 1g")))?;
                self.size = Some(size);
            }
            "id" => self.id = filled(),
            "env" => self.env = filled(),
            "sharing" => {
                self.sharing = Some(match text.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let message = format!("unsupported sharing value {text:?}");
                        return Err(Refused { message, meant: nearest(text, SHARING) });
                    }
                });
            }
            "mode" => {
                let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
                self.mode =
                    Some(mode.ok_or_else(|| refused(format!("invalid value {text} for mode: an octal number")))?);
            }
            "uid" => self.uid = number()?,
            "gid" => self.gid = number()?,
            other => return Err(refused(format!("unexpected key '{other}'"))),
        }
        Ok(())
    }

    /// Refuses what a kind doesn't have.
    fn without(&self, kind: &str, unfit: &[(&str, bool)]) -> Result<(), Refused> {
        match unfit.iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(refused(format!("unexpected key '{key}' for mount type '{kind}'"))),
            None => Ok(()),
        }
    }

    fn target(&mut self, kind: &str) -> Result<String, Refused> {
        self.target.take().ok_or_else(|| refused(format!("a {kind} mount needs a target: add target=PATH")))
    }

    fn finish(mut self) -> Result<Mount, Refused> {
        let kind = self.kind.take().unwrap_or_else(|| "bind".to_owned());
        let owned = self.mode.is_some() || self.uid.is_some() || self.gid.is_some();
        let (mode, uid, gid) = (self.mode, self.uid.unwrap_or(0), self.gid.unwrap_or(0));
        let owner = |default| (mode.unwrap_or(default), uid, gid);
        let is = |kinds: &[&str]| kinds.contains(&kind.as_str());
        self.without(
            &kind,
            &[
                ("required", self.required.is_some() && !is(&["secret", "ssh"])),
                ("size", self.size.is_some() && !is(&["tmpfs"])),
                ("sharing", self.sharing.is_some() && !is(&["cache"])),
                ("env", self.env.is_some() && !is(&["secret"])),
                ("from", self.from.is_some() && !is(&["bind", "cache"])),
                ("mode, uid or gid", owned && !is(&["cache", "secret", "ssh"])),
            ],
        )?;
        Ok(match kind.as_str() {
            "cache" => {
                let (mode, uid, gid) = owner(0o755);
                Mount::Cache {
                    target: self.target("cache")?,
                    id: self.id,
                    from: self.from,
                    source: self.source,
                    read_only: self.read_only.unwrap_or(false),
                    sharing: self.sharing.unwrap_or_default(),
                    mode,
                    uid,
                    gid,
                }
            }
            "tmpfs" => Mount::Tmpfs { target: self.target("tmpfs")?, size: self.size },
            "secret" => self.secret(owner(0o400))?,
            "ssh" => {
                let (mode, uid, gid) = owner(0o600);
                Mount::Ssh {
                    id: self.id.or(self.source).unwrap_or_else(|| "default".to_owned()),
                    target: self.target,
                    required: self.required.unwrap_or(false),
                    mode,
                    uid,
                    gid,
                }
            }
            _ => Mount::Bind {
                target: self.target("bind")?,
                from: self.from,
                source: self.source,
                writable: !self.read_only.unwrap_or(true),
            },
        })
    }

    fn secret(self, (mode, uid, gid): (u32, u32, u32)) -> Result<Mount, Refused> {
        if self.source.is_some() && self.id.is_some() {
            return Err(refused("both source and id can't be set: they name the same thing"));
        }
        let named = self.target.as_deref().and_then(last_part);
        let id = self.id.or(self.source).or_else(|| named.map(str::to_owned)).or_else(|| self.env.clone());
        let id = id.ok_or_else(|| refused("invalid secret mount: one of id, source, target and env is required"))?;
        let target = match (self.target, &self.env) {
            (None, Some(_)) => None,
            (Some(target), _) => Some(target),
            // An id may look like a path; a file below this directory is named by its last part alone.
            (None, None) => match last_part(&id) {
                Some(name) => Some(format!("/run/secrets/{name}")),
                None => return Err(refused(format!("the id {id:?} names no file: add target=PATH"))),
            },
        };
        Ok(Mount::Secret { id, target, env: self.env, required: self.required.unwrap_or(false), mode, uid, gid })
    }
}

/// What a path is called in its directory, where it has such a name.
fn last_part(path: &str) -> Option<&str> {
    path.rsplit('/').find(|part| !part.is_empty()).filter(|part| !matches!(*part, "." | ".."))
}

/// The fields between commas, as a line of a CSV file: quotes hold one together, and two of them within are one.
fn split(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

/// What Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A number of bytes, as `512`, `64m`, `1.5GB`, `2GiB`: units are by 1024.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text[digits.len()..].trim();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let bytes = number * 1024f64.powi(power);
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        let source = Source::new("f", text);
        MountSpec::parse(text, Span::line(1), &source)
            .and_then(|spec| spec.resolve(&source, |word| Ok(word.raw.replace("$ID", "7"))))
            .map_err(|mistake| mistake.summary())
    }

    #[test]
    fn kinds_have_their_options_and_defaults() {
        assert_eq!(
            mount("target=/a,from=base,source=b,rw"),
            Ok(Mount::Bind {
                target: "/a".into(),
                from: Some("base".into()),
                source: Some("b".into()),
                writable: true
            })
        );
        assert_eq!(
            mount("type=cache,dst=/c,sharing=locked,uid=$ID,mode=0700"),
            Ok(Mount::Cache {
                target: "/c".into(),
                id: None,
                from: None,
                source: None,
                read_only: false,
                sharing: Sharing::Locked,
                mode: 0o700,
                uid: 7,
                gid: 0
            })
        );
        assert_eq!(
            mount("type=tmpfs,target=/t,size=64m"),
            Ok(Mount::Tmpfs { target: "/t".into(), size: Some(64 << 20) })
        );
        let secret = |id: &str, target: Option<&str>, env: Option<&str>| Mount::Secret {
            id: id.into(),
            target: target.map(Into::into),
            env: env.map(Into::into),
            required: false,
            mode: 0o400,
            uid: 0,
            gid: 0,
        };
        assert_eq!(mount("type=secret,id=a"), Ok(secret("a", Some("/run/secrets/a"), None)));
        assert_eq!(mount("type=secret,id=dir/tok"), Ok(secret("dir/tok", Some("/run/secrets/tok"), None)));
        assert_eq!(mount("type=secret,id=../../etc/xx"), Ok(secret("../../etc/xx", Some("/run/secrets/xx"), None)));
        for nameless in ["..", "a/..", "/", "."] {
            let said = mount(&format!("type=secret,id={nameless}")).expect_err(nameless);
            assert!(said.contains("add target=PATH"), "{said}");
        }
        assert_eq!(mount("type=secret,target=/x/npmrc"), Ok(secret("npmrc", Some("/x/npmrc"), None)));
        assert_eq!(mount("type=secret,id=a,env=TOKEN"), Ok(secret("a", None, Some("TOKEN"))));
        assert_eq!(
            mount("type=ssh,required"),
            Ok(Mount::Ssh { id: "default".into(), target: None, required: true, mode: 0o600, uid: 0, gid: 0 })
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (text, said) in [
            ("type=cahce,target=/a", "unsupported mount type \"cahce\" (did you mean cache?)"),
            ("type=cache,target=/a,sharing=lokced", "unsupported sharing value \"lokced\" (did you mean locked?)"),
            ("type=bind,tagret=/a", "unexpected key 'tagret' in 'tagret=/a' (did you mean target?)"),
            ("type=bind,target", "invalid field 'target' must be a key=value pair"),
            ("type=bind", "a bind mount needs a target: add target=PATH"),
            ("type=bind,target=/a,size=1", "unexpected key 'size' for mount type 'bind'"),
            ("type=tmpfs,target=/a,uid=1", "unexpected key 'mode, uid or gid' for mount type 'tmpfs'"),
            ("type=secret", "invalid secret mount: one of id, source, target and env is required"),
            ("type=secret,id=a,source=b", "both source and id can't be set: they name the same thing"),
            ("type=cache,target=/a,ro=maybe", "invalid value for ro: maybe"),
            ("type=cache,target=/a,mode=9", "invalid value 9 for mode: an octal number"),
            (
                "from=$X,target=/a",
                "'from' doesn't support variable expansion: name a stage with FROM, and that stage here",
            ),
        ] {
            assert_eq!(mount(text), Err(said.to_owned()), "{text}");
        }
    }

    #[test]
    fn fields_are_parted_as_in_csv() {
        assert_eq!(split("a,\"b,c\"\"d\",e=\"f"), ["a", "b,c\"d", "e=\"f"]);
        assert_eq!((bytes("1.5k"), bytes("2GiB"), bytes("x"), bytes("-1")), (Some(1536), Some(2 << 30), None, None));
    }
}
