//! What a `COPY` or an `ADD` names: files of the context, a stage or an image, and what lies at addresses.

use super::{Place, Stage};
use crate::attest::{Dependency, Fetched};
use crate::dockerfile::{
    Add, AddSource, Copy, FileSource, Files as Operands, GitSource, Instruction, Mistake, Source, Word,
};
use crate::files::{Choice, Files};
use crate::ignore::Ignore;
use crate::progress::StepEvent;
use crate::remote::{Git, Named};
use crate::request::Lender;
use crate::step::piece::{Part, Piece, left_out};
use crate::{Error, Result};
use image::Digest;
use image::registry::file_name;
use std::sync::Arc;

impl Stage<'_, '_> {
    /// What a `COPY` takes.
    pub(super) fn copied(&self, copy: &Copy, files: Arc<Files>, place: &Place<'_>) -> Result<Vec<Piece>> {
        let mut sources = Vec::new();
        for word in paths(&copy.files) {
            sources.push(self.scope.expand(word, place.source)?);
        }
        let choice = self.choice(&copy.files, sources, place)?;
        Ok(choice.map(|choice| Piece::Files { files, choice, unpack: false }).into_iter().collect())
    }

    /// What an `ADD` takes, in the order in which it is named.
    pub(super) async fn added(&self, add: &Add, place: &Place<'_>) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut local = Vec::new();
        for word in paths(&add.files) {
            let text = self.scope.expand(word, place.source)?;
            if let Some(scheme) = refused_scheme(&text) {
                let message = format!("ADD takes addresses of http, https, git and ssh, and not of {scheme}");
                return Err(place.at(word, message).into());
            }
            let source = match AddSource::parse(&text) {
                AddSource::Path(path) => {
                    local.push(path);
                    continue;
                }
                source => source,
            };
            pieces.extend(self.of_context(add, std::mem::take(&mut local), place)?);
            match source {
                AddSource::Url(url) => pieces.extend(self.of_web(add, url, word, place).await?),
                AddSource::Git(source) => pieces.push(self.of_git(add, &source, word, place).await?),
                AddSource::Path(_) => {}
            }
        }
        pieces.extend(self.of_context(add, local, place)?);
        if let Some(checksum) =
            add.checksum.as_ref().filter(|_| pieces.iter().any(|piece| matches!(piece, Piece::Files { .. })))
        {
            let message = "--checksum is for what is fetched from an address, and these are files of the context";
            return Err(place.at(checksum, message).into());
        }
        Ok(pieces)
    }

    /// Whether an `ADD` has something that is neither here nor the client's: a look fetches nothing.
    pub(super) fn adds_from_elsewhere(&self, instruction: &Instruction, place: &Place<'_>) -> Result<bool> {
        let Instruction::Add(add) = instruction else { return Ok(false) };
        for word in paths(&add.files) {
            if !matches!(AddSource::parse(&self.scope.expand(word, place.source)?), AddSource::Path(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn of_context(&self, add: &Add, paths: Vec<String>, place: &Place<'_>) -> Result<Option<Piece>> {
        let files = Arc::clone(&self.solver.request.context);
        let choice = self.choice(&add.files, paths, place)?;
        Ok(choice.map(|choice| Piece::Files { files, choice, unpack: add.unpack.unwrap_or(true) }))
    }

    /// A file at an address. What it holds is known afterwards, and it may not have come.
    async fn of_web(&self, add: &Add, url: String, word: &Word, place: &Place<'_>) -> Result<Option<Piece>> {
        let known = add.checksum.as_ref().map(|checksum| self.checksum(add, checksum, place)).transpose()?;
        let tell = self.solver.progress.of_download(place.step);
        let looked = self.solver.builder.web().look(&url, known, &tell).await;
        let file = looked.map_err(|error| error.asked_at(place.source, word.span))?;
        self.solver.progress.step(place.step, StepEvent::Downloaded);
        self.solver.ledger.needs(Dependency::Fetched(Fetched::file(&file.url, &file.digest)));
        let name = file_name(&url);
        match left_out(&self.exclude(&add.files, place)?, name.as_deref()) {
            true => Ok(None),
            false => Ok(Some(Piece::Web { file, name, unpack: add.unpack.unwrap_or(false) })),
        }
    }

    /// The files of a commit, which have not come.
    async fn of_git(&self, add: &Add, source: &GitSource, word: &Word, place: &Place<'_>) -> Result<Piece> {
        let mut lender = self.solver.request.lender.clone();
        // What the base's author names is named by nobody who gives a secret for all servers.
        if place.is_trigger() {
            lender = lender.map(|lender| Arc::new(Named(lender)) as Arc<dyn Lender>);
        }
        if let Some(agent) = Git::agent(source) {
            let has_it = lender.as_ref().is_some_and(|lender| lender.has_agent(agent));
            self.lends(has_it, &format!("SSH agent {agent}"), place).map_err(|message| place.at(word, message))?;
            self.solver.ledger.agent(agent);
        }
        let looked = self.solver.builder.git().look(source, lender.as_ref()).await;
        let commit = looked.map_err(|error| error.asked_at(place.source, word.span))?;
        if let Some(checksum) = &add.checksum {
            let wanted = self.only_checksum(add, checksum, place)?.to_ascii_lowercase();
            if !commit.id.starts_with(&wanted) {
                let message = format!("the commit should be {wanted}, but is {}", commit.id);
                return Err(place.at(checksum, message).into());
            }
        }
        self.solver.ledger.needs(Dependency::Fetched(Fetched::commit(&commit.remote, &commit.id)));
        let excludes = self.excludes(&add.files, place)?;
        let exclude = self.exclude(&add.files, place)?;
        Ok(Piece::Git(Part { commit, keeps: add.keep_git_dir, exclude, excludes, lender }))
    }

    fn only_checksum(&self, add: &Add, checksum: &Word, place: &Place<'_>) -> Result<String> {
        if add.files.sources.len() > 1 {
            let message = "--checksum says what one source holds, and there are several: write an ADD for each";
            return Err(place.at(checksum, message).into());
        }
        Ok(self.scope.expand(checksum, place.source)?)
    }

    fn checksum(&self, add: &Add, checksum: &Word, place: &Place<'_>) -> Result<Digest> {
        let text = self.only_checksum(add, checksum, place)?;
        text.parse().map_err(|why| Error::from(place.at(checksum, format!("--checksum: {why}"))))
    }

    /// What is chosen of a tree; `None`: nothing.
    fn choice(&self, operands: &Operands, sources: Vec<String>, place: &Place<'_>) -> Result<Option<Choice>> {
        if sources.is_empty() {
            return Ok(None);
        }
        let exclude = self.exclude(operands, place)?;
        Ok(Some(Choice { sources, exclude, parents: operands.parents }))
    }

    fn exclude(&self, operands: &Operands, place: &Place<'_>) -> Result<Ignore> {
        let parsed = Ignore::parse(&Source::new("--exclude", self.excludes(operands, place)?.join("\n")));
        Ok(parsed.map_err(|mistake| {
            let number = (mistake.span.start.line as usize).checked_sub(1);
            let word = number.and_then(|number| operands.exclude.get(number));
            word.map(|word| place.at(word, format!("--exclude: {}", mistake.message))).unwrap_or(mistake)
        })?)
    }

    fn excludes(&self, operands: &Operands, place: &Place<'_>) -> Result<Vec<String>> {
        let patterns = operands.exclude.iter().map(|word| self.scope.expand(word, place.source));
        Ok(patterns.collect::<Result<_, Mistake>>()?)
    }
}

fn paths(operands: &Operands) -> impl Iterator<Item = &Word> {
    operands.sources.iter().filter_map(|source| match source {
        FileSource::Path(word) => Some(word),
        FileSource::Heredoc(_) => None,
    })
}

/// The scheme of an address that nothing is fetched from: what looks like one is no name of a file.
fn refused_scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let known = ["http", "https", "git", "ssh"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    (is_scheme && !known).then_some(scheme)
}
