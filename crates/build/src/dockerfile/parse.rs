//! One instruction's text becomes what it is.

use super::flags::{Flags, Place};
use super::instruction::*;
use super::lines::Lines;
use super::source::{Mistake, Spanned};
use super::words::{between_blanks, json, quoted};
use super::{Base, parse_command as command, parse_files as files};
use crate::suggest::nearest;
use std::ops::Range;

/// What an instruction's text is.
pub(super) enum Parsed {
    From(Base),
    Instruction(Instruction),
}

/// An instruction, its keyword as it was written, and the last line that belongs to it.
pub(super) struct Statement {
    pub(super) keyword: Spanned<String>,
    pub(super) parsed: Parsed,
    pub(super) last: u32,
}

/// Reads what stands from a place on, and the lines of its heredocs.
pub(super) fn statement(place: Place<'_>, from: usize, lines: &mut Lines<'_>) -> Result<Statement, Mistake> {
    let range = keyword(&place, from);
    let written = place.logical.text[range.clone()].to_owned();
    let name = written.to_ascii_uppercase();
    let keyword = Spanned { value: written, span: place.span(range.clone()) };
    let mut reader = Reader { place, lines, name: String::new(), keyword: range.clone(), last: place.logical.last };
    let Some(known) = NAMES.into_iter().find(|known| *known == name) else {
        // What is no Dockerfile at all may have no blanks.
        let shown: String = keyword.value.chars().take(40).collect();
        let mistake = place.mistake(range, format!("unknown instruction: {shown}"));
        return Err(mistake.meant(nearest(&name, NAMES)));
    };
    reader.name = name;
    let parsed = match known {
        "FROM" => Parsed::From(reader.from(range.end)?),
        known => Parsed::Instruction(reader.instruction(known, range.end)?),
    };
    Ok(Statement { keyword, parsed, last: reader.last })
}

/// The first word.
fn keyword(place: &Place<'_>, from: usize) -> Range<usize> {
    let rest = place.rest(from);
    let text = &place.logical.text[rest.clone()];
    rest.start..rest.start + text.find(char::is_whitespace).unwrap_or(text.len())
}

/// Reads one instruction.
pub(super) struct Reader<'a, 'l, 's> {
    pub(super) place: Place<'a>,
    pub(super) lines: &'l mut Lines<'s>,
    pub(super) name: String,
    pub(super) keyword: Range<usize>,
    /// The last line that was read.
    pub(super) last: u32,
}

impl Reader<'_, '_, '_> {
    fn instruction(&mut self, name: &str, at: usize) -> Result<Instruction, Mistake> {
        if name == "ONBUILD" {
            return self.on_build(at).map(Instruction::OnBuild);
        }
        let flags = Flags::read(self.place, at);
        Ok(match name {
            "RUN" => Instruction::Run(command::run(self, flags)?),
            "COPY" => Instruction::Copy(files::copy(self, flags)?),
            "ADD" => Instruction::Add(files::add(self, flags)?),
            "HEALTHCHECK" => Instruction::Healthcheck(command::healthcheck(self, flags)?),
            "CMD" => Instruction::Cmd(Cmd { command: command::plain(self, flags.end()?)? }),
            "ENTRYPOINT" => Instruction::Entrypoint(Entrypoint { command: command::plain(self, flags.end()?)? }),
            "SHELL" => Instruction::Shell(command::shell(self, flags.end()?)?),
            "MAINTAINER" => Instruction::Maintainer(Maintainer { author: self.single(flags.end()?)?.raw }),
            "WORKDIR" => Instruction::Workdir(Workdir { path: self.single(flags.end()?)? }),
            "USER" => Instruction::User(User { user: self.single(flags.end()?)? }),
            "STOPSIGNAL" => Instruction::StopSignal(StopSignal { signal: self.single(flags.end()?)? }),
            "EXPOSE" => Instruction::Expose(Expose { ports: self.several(flags.end()?)? }),
            "VOLUME" => Instruction::Volume(self.volume(flags.end()?)?),
            "ARG" => Instruction::Arg(self.arg(flags.end()?)?),
            "ENV" => {
                let (pairs, legacy) = self.pairs(flags.end()?)?;
                Instruction::Env(Env { pairs, legacy })
            }
            "LABEL" => {
                let (pairs, legacy) = self.pairs(flags.end()?)?;
                Instruction::Label(Label { pairs, legacy })
            }
            // All names have their turn above.
            other => return Err(self.mistake(format!("unknown instruction: {other}"))),
        })
    }

    /// A mistake of the instruction as a whole.
    pub(super) fn mistake(&self, message: impl Into<String>) -> Mistake {
        self.place.mistake(self.keyword.clone(), message)
    }

    /// All that follows, as one word.
    fn single(&self, at: usize) -> Result<Word, Mistake> {
        let range = self.place.rest(at);
        if range.is_empty() {
            return Err(self.mistake(format!("{} requires exactly one argument", self.name)));
        }
        Ok(self.place.word(range))
    }

    /// What to say where arguments are missing.
    pub(super) fn none_given(&self) -> Mistake {
        self.mistake(format!("{} requires at least one argument", self.name))
    }

    /// The words that follow.
    fn several(&self, at: usize) -> Result<Vec<Word>, Mistake> {
        let words = between_blanks(&self.place.logical.text, at, &[]);
        if words.is_empty() {
            return Err(self.none_given());
        }
        Ok(words.into_iter().map(|range| self.place.word(range)).collect())
    }

    fn from(&mut self, at: usize) -> Result<Base, Mistake> {
        let mut flags = Flags::read(self.place, at);
        let platform = flags.one("platform")?.map(|flag| Word { raw: flag.value, span: flag.span });
        let words = between_blanks(&self.place.logical.text, flags.end()?, &[]);
        let text = |range: &Range<usize>| &self.place.logical.text[range.clone()];
        match words.as_slice() {
            [image] => Ok(Base { image: self.place.word(image.clone()), platform, name: None, keyword: None }),
            [image, keyword, name] if text(keyword).eq_ignore_ascii_case("as") => {
                let written = text(name);
                if !is_stage_name(written) {
                    let message = format!(
                        "invalid name for build stage: {written:?}, name can't start with a number or contain symbols"
                    );
                    return Err(self.place.mistake(name.clone(), message));
                }
                let spanned = |range: &Range<usize>| Spanned {
                    value: text(range).to_owned(),
                    span: self.place.span(range.clone()),
                };
                Ok(Base {
                    image: self.place.word(image.clone()),
                    platform,
                    name: Some(spanned(name)),
                    keyword: Some(spanned(keyword)),
                })
            }
            [_, keyword, _] => {
                let meant = nearest(text(keyword), ["AS"]);
                let message = "FROM requires either one or three arguments: FROM IMAGE, or FROM IMAGE AS NAME";
                Err(self.place.mistake(keyword.clone(), message).meant(meant))
            }
            words => {
                let message = "FROM requires either one or three arguments: FROM IMAGE, or FROM IMAGE AS NAME";
                let range = words.get(1).cloned().unwrap_or_else(|| self.keyword.clone());
                Err(self.place.mistake(range, message))
            }
        }
    }

    fn volume(&self, at: usize) -> Result<Volume, Mistake> {
        let range = self.place.rest(at);
        let paths = match json(self.place, range.clone())? {
            Some(paths) => {
                let span = self.place.span(range.clone());
                paths.into_iter().map(|path| Word { raw: path.trim().to_owned(), span }).collect()
            }
            None => self.several(at)?,
        };
        if paths.is_empty() {
            return Err(self.none_given());
        }
        if paths.iter().any(|path| path.raw.is_empty()) {
            return Err(self.place.mistake(range, "VOLUME specified can not be an empty string"));
        }
        Ok(Volume { paths })
    }

    fn arg(&self, at: usize) -> Result<Arg, Mistake> {
        let text = &self.place.logical.text;
        let words = quoted(text, at, self.place.escape.char());
        if words.is_empty() {
            return Err(self.none_given());
        }
        let argument = |range: Range<usize>| match self.pair(range.clone())? {
            Some(pair) => Ok(Argument { name: pair.name, default: Some(pair.value) }),
            None => Ok(Argument { name: self.place.word(range), default: None }),
        };
        Ok(Arg { arguments: words.into_iter().map(argument).collect::<Result<_, _>>()? })
    }

    /// Names and values, and whether they are in the form without `=`.
    fn pairs(&self, at: usize) -> Result<(Vec<Pair>, bool), Mistake> {
        let text = &self.place.logical.text;
        let words = quoted(text, at, self.place.escape.char());
        let Some(first) = words.first() else { return Err(self.none_given()) };
        if !text[first.clone()].contains('=') {
            return Ok((vec![self.legacy_pair(at)?], true));
        }
        let mut pairs = Vec::with_capacity(words.len());
        for range in words {
            match self.pair(range.clone())? {
                Some(pair) => pairs.push(pair),
                None => {
                    let word = &text[range.clone()];
                    let message = format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value");
                    return Err(self.place.mistake(range, message));
                }
            }
        }
        Ok((pairs, false))
    }

    /// `NAME VALUE`: all behind the first blank is the value.
    fn legacy_pair(&self, at: usize) -> Result<Pair, Mistake> {
        let range = self.place.rest(at);
        let text = &self.place.logical.text[range.clone()];
        let Some((name, _)) = text.split_once(char::is_whitespace) else {
            return Err(self.place.mistake(range, format!("{} must have two arguments", self.name)));
        };
        let name = range.start..range.start + name.len();
        Ok(Pair { value: self.place.word(self.place.rest(name.end)), name: self.place.word(name) })
    }

    /// `NAME=VALUE`; none without a `=`.
    fn pair(&self, range: Range<usize>) -> Result<Option<Pair>, Mistake> {
        let Some(equals) = self.place.logical.text[range.clone()].find('=') else { return Ok(None) };
        if equals == 0 {
            return Err(self.place.mistake(range, format!("{} names can not be blank", self.name)));
        }
        let middle = range.start + equals;
        let name = self.place.word(range.start..middle);
        Ok(Some(Pair { name, value: self.place.word(middle + 1..range.end) }))
    }

    fn on_build(&mut self, at: usize) -> Result<OnBuild, Mistake> {
        let inner = self.place.rest(at);
        if inner.is_empty() {
            return Err(self.none_given());
        }
        let range = keyword(&self.place, at);
        let trigger = self.place.logical.text[range.clone()].to_ascii_uppercase();
        match trigger.as_str() {
            "ONBUILD" => {
                return Err(self.place.mistake(range, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
            }
            "FROM" | "MAINTAINER" => {
                return Err(self.place.mistake(range, format!("{trigger} isn't allowed as an ONBUILD trigger")));
            }
            _ => {}
        }
        let first = self.lines.number();
        let statement = statement(self.place, at, self.lines)?;
        self.last = statement.last;
        let Parsed::Instruction(instruction) = statement.parsed else {
            return Err(self.place.mistake(range, "FROM isn't allowed as an ONBUILD trigger"));
        };
        let mut text = self.place.logical.text[inner].to_owned();
        for line in first..=self.last {
            text.push('\n');
            text.push_str(self.place.source.line(line));
        }
        Ok(OnBuild { text, instruction: Box::new(instruction) })
    }
}

/// Whether a name, in small letters, is one of a stage.
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
