//! `COPY` and `ADD`.

use super::access::{Mode, Owner};
use super::flags::Flags;
use super::instruction::*;
use super::parse::Reader;
use super::parse_command::{body, markers};
use super::source::{Mistake, Spanned};
use super::words::{between_blanks, heredoc_at, json};

pub(super) fn copy(reader: &mut Reader<'_, '_, '_>, mut flags: Flags<'_>) -> Result<Copy, Mistake> {
    let from = flags.one("from")?.filter(|from| !from.value.is_empty());
    if let Some(from) = &from
        && from.value.contains('$')
    {
        let message = "'--from' doesn't support variable expansion: name a stage with FROM, and that stage here";
        return Err(reader.place.source.mistake(from.span, message));
    }
    let parents = flags.boolean("parents")?.unwrap_or(false);
    Ok(Copy { from, files: files(reader, flags, parents)? })
}

pub(super) fn add(reader: &mut Reader<'_, '_, '_>, mut flags: Flags<'_>) -> Result<Add, Mistake> {
    let checksum = flags.one("checksum")?.map(word);
    if let Some(checksum) = checksum.as_ref().filter(|checksum| !checksum.raw.contains('$'))
        && !is_commit(&checksum.raw)
        && let Err(why) = checksum.raw.parse::<image::Digest>()
    {
        return Err(reader.place.source.mistake(checksum.span, format!("--checksum: {why}")));
    }
    let keep_git_dir = flags.boolean("keep-git-dir")?.unwrap_or(false);
    let unpack = flags.boolean("unpack")?;
    Ok(Add { checksum, keep_git_dir, unpack, files: files(reader, flags, false)? })
}

/// Whether it may be a commit of a git repository, or as much of its name as git takes for one.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 7..=64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn word(flag: Spanned<String>) -> Word {
    Word { raw: flag.value, span: flag.span }
}

fn files(reader: &mut Reader<'_, '_, '_>, mut flags: Flags<'_>, parents: bool) -> Result<Files, Mistake> {
    let source = reader.place.source;
    let known = |word: &Option<Word>| word.clone().filter(|word| !word.raw.contains('$'));
    let chown = flags.one("chown")?.filter(|flag| !flag.value.is_empty()).map(word);
    if let Some(owner) = known(&chown) {
        Owner::parse(&owner.raw).map_err(|why| source.mistake(owner.span, format!("--chown: {why}")))?;
    }
    let chmod = flags.one("chmod")?.filter(|flag| !flag.value.is_empty()).map(word);
    if let Some(mode) = known(&chmod) {
        Mode::parse(&mode.raw).map_err(|why| source.mistake(mode.span, why.to_string()))?;
    }
    let link = flags.boolean("link")?.unwrap_or(false);
    let exclude = flags.many("exclude")?.into_iter().map(word).collect();
    let at = flags.end()?;
    let (sources, destination) = paths(reader, at)?;
    Ok(Files { sources, destination, chown, chmod, link, parents, exclude })
}

/// What is copied and where to.
fn paths(reader: &mut Reader<'_, '_, '_>, at: usize) -> Result<(Vec<FileSource>, Word), Mistake> {
    let range = reader.place.rest(at);
    let span = reader.place.span(range.clone());
    if let Some(mut words) = json(reader.place, range)? {
        let destination = words.pop().map(|raw| Word { raw, span });
        let sources = words.into_iter().map(|raw| FileSource::Path(Word { raw, span })).collect();
        return both(reader, sources, destination);
    }
    let markers = markers(reader.place, at, false)?;
    let mut words = between_blanks(&reader.place.logical.text, at, &markers);
    let last = words.pop();
    if let Some(last) = &last
        && !words.is_empty()
        && heredoc_at(&markers, last.start).is_some()
    {
        let message = format!("{} cannot accept a heredoc as a destination", reader.name);
        return Err(reader.place.mistake(last.clone(), message));
    }
    let destination = last.map(|range| reader.place.word(range));
    let mut sources = Vec::with_capacity(words.len());
    for range in words {
        sources.push(match heredoc_at(&markers, range.start) {
            Some(marker) => FileSource::Heredoc(body(reader, marker)?.0),
            None => FileSource::Path(reader.place.word(range)),
        });
    }
    both(reader, sources, destination)
}

fn both(
    reader: &Reader<'_, '_, '_>,
    sources: Vec<FileSource>,
    destination: Option<Word>,
) -> Result<(Vec<FileSource>, Word), Mistake> {
    match destination {
        Some(destination) if !sources.is_empty() => Ok((sources, destination)),
        Some(_) => Err(reader.mistake(format!(
            "{} requires at least two arguments, but only one was provided. Destination could not be determined",
            reader.name
        ))),
        None => Err(reader.mistake(format!("{} requires at least two arguments: SOURCE... DESTINATION", reader.name))),
    }
}
