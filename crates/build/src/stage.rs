//! A stage: its instructions, one after the other.

mod sources;

use crate::cache::{Found, Key, Step};
use crate::caches::Made;
use crate::dockerfile::{
    Builtin, CommandLine, Copy, FileSource, Files as Operands, Heredoc, Instruction, Kind, Mistake, Mode, Mount,
    Network, Origin, Owner, Run, Scope, Security, Source, Span, Statement, Word, expand, trigger,
};
use crate::elsewhere::Seen;
use crate::emulation;
use crate::entitlement::{self, Entitlement};
use crate::files::Files;
use crate::look::{GraphStep, Known, Outlook};
use crate::progress::{StepEvent, StepId};
use crate::scratch::Directory;
use crate::solve::{Builder, EPOCH, Solver};
use crate::state::State;
use crate::step::configure::{Memory, argv, configure};
use crate::step::copy::{self, Copying};
use crate::step::mounts::{CacheMount, Mounts, Part};
use crate::step::piece::Piece;
use crate::step::run::{self, Ended, Running};
use crate::{Error, Result};
use engine::Access;
use engine::model::{BindOptions, MountKind, MountRequest, NetworkMode};
use image::manifest::MAX_LAYERS;
use image::{Digest, KeptLayers, changes};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The exit code of what was killed (SIGKILL and 128), as shells have it.
const KILLED: i32 = 137;

/// What a stage came to.
pub(crate) struct StageEnd<'b> {
    pub(crate) state: State,
    /// What it builds upon.
    pub(crate) base: State,
    /// What of it is known, where it was only looked at.
    pub(crate) known: Known,
    scope: Scope<'b>,
    files: OnceCell<Arc<Files>>,
}

impl StageEnd<'_> {
    /// Its files, for others to copy.
    pub(crate) async fn files(&self, builder: &Builder) -> Result<Arc<Files>> {
        self.files.get_or_try_init(|| Files::of_state(builder, self.state.clone())).await.cloned()
    }
}

/// What a stage builds upon, and its variables.
struct Base<'b> {
    state: State,
    scope: Scope<'b>,
    known: Known,
}

/// A stage that is being carried out.
struct Stage<'s, 'b> {
    solver: &'s Solver<'b>,
    index: usize,
    state: State,
    base: State,
    /// The base's author is who wrote the file: it is one of its stages.
    owns_base: bool,
    scope: Scope<'b>,
    memory: Memory,
    created: String,
    known: Known,
    /// What there would be to do for the step that is looked at.
    outlook: Outlook,
}

/// What a step's key depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// The root file system that it comes into, among others.
    Below,
    /// Not on that.
    Own,
}

/// A step that makes a layer.
struct Asked {
    key: Key,
    reads: Reads,
    /// What it has in common with copies that are like it.
    kind: Option<Digest>,
    created_by: String,
}

/// An instruction where it stands.
struct Place<'p> {
    step: StepId,
    statement: &'p Statement<Instruction>,
    source: &'p Source,
}

impl Place<'_> {
    /// Whether it is the base's, and not the file's: all of those are done with `FROM`.
    fn is_trigger(&self) -> bool {
        self.step.index == 0
    }

    fn mistake(&self, message: impl Into<String>) -> Error {
        self.source.mistake(self.statement.span, message).into()
    }

    fn at(&self, word: &Word, message: impl Into<String>) -> Mistake {
        self.source.mistake(word.span, message)
    }
}

impl<'b> Solver<'b> {
    /// Carries out a stage.
    pub(crate) async fn carry_out(&self, index: usize) -> Result<StageEnd<'b>> {
        let first = StepId { stage: index, index: 0 };
        let mut stage = self.told(first, self.begun(index, first)).await?;
        self.done(first, &stage.state, 0)?;
        for (number, statement) in self.file.stages[index].steps.iter().enumerate() {
            let step = StepId { stage: index, index: number + 1 };
            self.wait_for(index, &statement.node).await;
            self.progress.step(step, StepEvent::Began);
            let before = stage.state.diff_ids().len();
            let place = Place { step, statement, source: &self.file.source };
            // On the heap: what a step awaits is deep.
            self.told(step, Box::pin(stage.step_or_look(&place))).await?;
            self.done(step, &stage.state, before)?;
        }
        let Stage { state, scope, known, base, .. } = stage;
        Ok(StageEnd { state, base, scope, known, files: OnceCell::new() })
    }

    /// Waits for the stages that an instruction takes files from: that is no part of its own time. How they end, the instruction tells.
    async fn wait_for(&self, index: usize, instruction: &Instruction) {
        for origin in self.needed(index, instruction).unwrap_or_default() {
            if let Origin::Stage(other) = origin {
                drop(self.stage(other).await);
            }
        }
    }

    /// A stage whose first step is done, and what its base asks of whoever builds upon it.
    async fn begun<'s>(&'s self, index: usize, step: StepId) -> Result<Stage<'s, 'b>> {
        let Base { mut state, scope, known } = self.begin(index, step).await?;
        if let Some(looks) = self.looks {
            let outlook = if known == Known::Nothing { Outlook::Pulled } else { Outlook::Here };
            let needs = vec![self.plan.stages[index].base.clone()];
            looks.note(step, GraphStep { text: self.file.stages[index].from.text.clone(), needs, outlook });
        }
        let base = state.clone();
        let triggers = std::mem::take(&mut state.config.config.on_build);
        let created = self.created(&state);
        let (memory, outlook) = (Memory::default(), Outlook::Configures);
        let owns_base = matches!(self.plan.stages[index].base, Origin::Stage(_));
        let mut stage = Stage { solver: self, index, state, base, owns_base, scope, memory, created, known, outlook };
        stage.triggers(triggers, step).await?;
        Ok(stage)
    }

    /// What a step comes to; where it fails, that is told.
    async fn told<T>(&self, step: StepId, work: impl Future<Output = Result<T>>) -> Result<T> {
        let outcome = work.await;
        if let Err(error) = &outcome {
            self.progress.step(step, StepEvent::Failed(error.summary()));
        }
        outcome
    }

    /// Tells the end of a step, before which the image had so many layers.
    pub(crate) fn done(&self, step: StepId, state: &State, before: usize) -> Result<()> {
        if self.looks.is_none() {
            self.builder.steps().note(state);
        }
        let size = state.size_above(before);
        self.progress.step(step, StepEvent::Done { image: state.id()?, size });
        Ok(())
    }

    /// What a stage begins with.
    async fn begin(&self, index: usize, step: StepId) -> Result<Base<'b>> {
        let needs = &self.plan.stages[index];
        let platform = needs.platform.as_ref().unwrap_or(&self.request.given.target_platform);
        if let Origin::Stage(other) = &needs.base {
            let end = self.stage(*other).await?;
            self.progress.step(step, StepEvent::Began);
            return Ok(Base { state: end.state.clone(), scope: end.scope.clone(), known: end.known });
        }
        self.progress.step(step, StepEvent::Began);
        let mut known = Known::All;
        let state = match &needs.base {
            Origin::Named { name, .. }
                if self.looks.is_some() && self.given(&needs.base).is_none() && self.here(name, platform).is_none() =>
            {
                known = Known::Nothing;
                State::scratch(platform)
            }
            Origin::Named { name, meant } => {
                let image = self.named(name, meant.as_deref(), platform, step).await;
                let span = self.file.stages[index].from.node.image.span;
                image.map_err(|error| error.asked_at(&self.file.source, span))?
            }
            _ => State::scratch(platform),
        };
        let scope = Scope::new(self.globals, state.environment());
        Ok(Base { state, scope, known })
    }
}

impl Stage<'_, '_> {
    /// Carries out what the base asks of whoever builds upon it.
    async fn triggers(&mut self, texts: Vec<String>, step: StepId) -> Result<()> {
        if texts.is_empty() {
            return Ok(());
        }
        self.solver.progress.step(step, StepEvent::Triggers(texts.clone()));
        let from = &self.solver.file.stages[self.index].from.node.image;
        let base = format!("{} ({}:{})", from.raw, self.solver.file.source.name(), from.span.start.line);
        for text in texts {
            let source = Source::new(format!("ONBUILD trigger of {base}"), &text);
            let statement = trigger(&source)?;
            Box::pin(self.step_or_look(&Place { step, statement: &statement, source: &source })).await?;
        }
        Ok(())
    }

    async fn step_or_look(&mut self, place: &Place<'_>) -> Result<()> {
        let Some(looks) = self.solver.looks else { return self.step(place).await };
        let instruction = &place.statement.node;
        let needs = self.solver.needed(self.index, instruction)?;
        let mut known = self.known != Known::Nothing && !self.adds_from_elsewhere(instruction, place)?;
        for origin in &needs {
            known = known && self.solver.is_known(origin).await?;
        }
        self.outlook = Outlook::Configures;
        if known {
            self.step(place).await?;
        } else if instruction.makes_a_layer() {
            self.outlook = if self.anew() { Outlook::Built } else { Outlook::Unknown };
        }
        if matches!(self.outlook, Outlook::Built | Outlook::Unknown) {
            self.known = self.known.min(Known::Configuration);
        }
        looks.note(place.step, GraphStep { text: place.statement.text.clone(), needs, outlook: self.outlook.clone() });
        Ok(())
    }

    /// Whether nothing of it is taken from the cache.
    fn anew(&self) -> bool {
        self.solver.anew.contains(&self.index)
    }

    async fn step(&mut self, place: &Place<'_>) -> Result<()> {
        match &place.statement.node {
            Instruction::Run(run) => self.run(run, place).await,
            Instruction::Copy(copy) => {
                let files = self.copied_from(copy, place).await?;
                let pieces = self.copied(copy, files, place)?;
                let copying = self.copying(&copy.files, pieces, place)?;
                self.copy(copying, place).await
            }
            Instruction::Add(add) => {
                let pieces = self.added(add, place).await?;
                let copying = self.copying(&add.files, pieces, place)?;
                self.copy(copying, place).await
            }
            Instruction::Workdir(workdir) => {
                let path = self.scope.expand(&workdir.path, place.source)?;
                if path.is_empty() {
                    return Err(place.at(&workdir.path, "WORKDIR cannot be an empty path").into());
                }
                self.workdir(&path, place).await
            }
            _ => {
                configure(place.statement, &mut self.state, &mut self.scope, &mut self.memory, place.source)?;
                self.state.add(place.statement.text.clone(), &self.created, None);
                Ok(())
            }
        }
    }

    /// Carries out what makes a layer, or finds what it came to.
    async fn layer(
        &mut self,
        asked: Asked,
        place: &Place<'_>,
        work: impl Future<Output = Result<Option<KeptLayers>>>,
    ) -> Result<()> {
        if self.state.diff_ids().len() >= MAX_LAYERS {
            let message = format!("an image has at most {MAX_LAYERS} layers: put several commands into one RUN");
            return Err(place.mistake(message));
        }
        let (anew, Asked { key, reads, kind, created_by }) = (self.anew(), asked);
        if self.solver.looks.is_some() {
            let known = reads == Reads::Own || self.known >= Known::Layers;
            return self.look_up(key.finish(), known, anew, created_by, place).await;
        }
        let key = key.finish();
        let step = Step { what: &place.statement.text, parent: self.state.follows, kind };
        let elsewhere = Box::pin(self.solver.elsewhere.find(&key, place.step, self.solver.progress));
        let outcome = self.solver.builder.cache().step(key, step, anew, elsewhere, work).await?;
        self.solver.passed(self.index, key, step, outcome.layer.as_ref());
        self.state.follows = Some(key);
        match outcome.found {
            Found::Nowhere => {}
            Found::Here => self.solver.progress.step(place.step, StepEvent::Cached),
            Found::Elsewhere(from) => self.solver.progress.step(place.step, StepEvent::CachedFrom(from)),
        }
        let made = outcome.layer.iter().flat_map(|kept| &kept.layers).map(|layer| layer.diff_id).collect();
        self.solver.ledger.layer(place.step, &place.statement.text, key, made);
        self.state.add(created_by, &self.created, outcome.layer);
        Ok(())
    }

    /// Looks what a step comes to that makes a layer.
    async fn look_up(
        &mut self,
        key: Digest,
        known: bool,
        anew: bool,
        created_by: String,
        place: &Place<'_>,
    ) -> Result<()> {
        let found = match known && !anew {
            true => self.solver.builder.cache().look(&key).await?,
            false => None,
        };
        if let Some(layer) = found {
            let size = layer.iter().flat_map(|kept| &kept.layers).map(|layer| layer.size).sum();
            self.outlook = Outlook::Cached { size };
            self.state.add(created_by, &self.created, layer);
            return Ok(());
        }
        let seen = match known && !anew {
            true => self.solver.elsewhere.look(&key, place.step, self.solver.progress).await,
            false => None,
        };
        if let Some(Seen { layer, size, from }) = seen {
            self.outlook = Outlook::CachedFrom { size, from };
            self.state.add_elsewhere(created_by, &self.created, layer);
            // Its files are not here.
            self.known = self.known.min(Known::Layers);
            return Ok(());
        }
        self.outlook = if known || anew { Outlook::Built } else { Outlook::Unknown };
        self.state.add(created_by, &self.created, None);
        Ok(())
    }

    async fn workdir(&mut self, path: &str, place: &Place<'_>) -> Result<()> {
        let path = changes::directory(&self.state.config.config.working_dir, path);
        self.state.config.config.working_dir.clone_from(&path);
        let (solver, state, time) = (self.solver, self.state.clone(), self.solver.time());
        let key = copy::directory_key(&state, &path, time);
        let make = async {
            copy::directory(solver.images(), &state, &path, time).await.map_err(|message| place.mistake(message))
        };
        let asked = Asked { key, reads: Reads::Below, kind: None, created_by: format!("WORKDIR {path}") };
        self.layer(asked, place, make).await
    }

    /// What an instruction's `from` stands for. What a base's trigger names is in no plan: it is to come before this stage
    /// with all that it needs, as it would wait for this one otherwise, and this one for it.
    fn origin(&self, from: &str, span: Span, place: &Place<'_>) -> Result<Origin> {
        let origin = self.solver.file.origin(self.index, from, span)?;
        let planned = std::ptr::eq(place.source, &raw const self.solver.file.source);
        if let Origin::Stage(index) = origin
            && !planned
            && self.solver.plan.order(index).iter().any(|needed| *needed >= self.index)
        {
            let message = format!("circular dependency detected on stage: {from}");
            return Err(place.source.mistake(span, message).into());
        }
        Ok(origin)
    }

    async fn copied_from(&self, copy: &Copy, place: &Place<'_>) -> Result<Arc<Files>> {
        let Some(from) = &copy.from else { return Ok(Arc::clone(&self.solver.request.context)) };
        let origin = self.origin(&from.value, from.span, place)?;
        let files = self.solver.files(&origin, place.step).await;
        files.map_err(|error| error.asked_at(place.source, from.span))
    }

    /// What a `COPY` or an `ADD` asks for.
    fn copying(&self, operands: &Operands, pieces: Vec<Piece>, place: &Place<'_>) -> Result<Copying> {
        let expand = |word: &Word| self.scope.expand(word, place.source);
        let mut written = Vec::new();
        for source in &operands.sources {
            if let FileSource::Heredoc(heredoc) = source {
                written.push((heredoc.name.clone(), self.heredoc(heredoc, place)?));
            }
        }
        let text = expand(&operands.destination)?;
        let destination = changes::directory(&self.state.config.config.working_dir, &text);
        let slash = text.ends_with('/') || text.ends_with("/.") || text == ".";
        let owner = operands.chown.as_ref().map(|word| {
            let text = expand(word)?;
            Owner::parse(&text).map_err(|e| place.at(word, e.to_string()))
        });
        let mode_text = operands.chmod.as_ref().map(expand).transpose()?;
        let mode = mode_text.as_deref().map(Mode::parse).transpose().map_err(|e| place.mistake(e.to_string()))?;
        Ok(Copying {
            pieces,
            parents: operands.parents,
            written,
            destination: if slash && destination != "/" { format!("{destination}/") } else { destination },
            owner: owner.transpose()?,
            mode,
            mode_text,
            link: operands.link,
            time: self.solver.time(),
            time_is_asked: self.solver.asks_time(),
        })
    }

    /// A heredoc's text.
    fn heredoc(&self, heredoc: &Heredoc, place: &Place<'_>) -> Result<String> {
        if !heredoc.expand {
            return Ok(heredoc.body.clone());
        }
        let expansion = expand(&heredoc.body, Kind::Heredoc, self.scope.escape(), &self.scope);
        let failed = |e: crate::dockerfile::ExpandError| place.source.mistake(heredoc.span, e.to_string());
        Ok(expansion.map_err(failed)?.text)
    }

    async fn copy(&mut self, copying: Copying, place: &Place<'_>) -> Result<()> {
        let name = place.statement.node.name();
        let failed = |message: String| place.mistake(format!("{name} failed: {message}"));
        let reads = if copying.link { Reads::Own } else { Reads::Below };
        let looked = tokio::task::spawn_blocking(move || copying.look());
        let looked = looked.await.map_err(|e| Error::failed("looking up files", e))?.map_err(failed)?;
        let (solver, state) = (self.solver, self.state.clone());
        let key = looked.key(&state);
        let (step, anew) = (place.step, self.anew());
        let created_by = place.statement.text.clone();
        let kind = looked.kind(&state, &created_by);
        let make = async {
            let tell = solver.progress.of_download(step);
            // Whoever wants it anew does not trust what is there.
            let like = if anew { None } else { solver.builder.cache().latest(&kind).await? };
            looked.make(solver.builder, &state, like, &tell).await.map_err(failed)
        };
        self.layer(Asked { key, reads, kind: Some(kind), created_by }, place, make).await
    }

    async fn run(&mut self, run: &Run, place: &Place<'_>) -> Result<()> {
        let mounts = self.mounts(run, place).await?;
        let prepared = self.prepare(run, place)?;
        let arguments: Vec<String> = self.scope.arguments().map(|(name, value)| format!("{name}={value}")).collect();
        let config = &self.state.config.config;
        let what = if prepared.running.host.privileged { "run with all privileges" } else { "run" };
        let key = Key::new(what)
            .option(self.state.chain().as_ref(), Key::digest)
            .each(&prepared.running.argv, |key, word| key.text(word))
            .option(prepared.script.as_ref(), |key, (_, text)| key.text(text))
            .each(&prepared.known, |key, variable| key.text(variable))
            .text(&config.user)
            .text(&config.working_dir)
            .text(&prepared.running.host.network_mode.to_string())
            .each(&prepared.running.host.extra_hosts, |key, host| key.text(host))
            .number(prepared.running.host.shm_size)
            .text(&self.solver.request.given.target_platform.to_string())
            .number(self.solver.time().cast_unsigned());
        let mut key = mounts.add_to(key);
        if let Some(hostname) = &prepared.running.hostname {
            key = key.text("hostname").text(hostname);
        }
        let with =
            if arguments.is_empty() { String::new() } else { format!("|{} {} ", arguments.len(), arguments.join(" ")) };
        let line = prepared.running.argv.join(" ");
        let (solver, state) = (self.solver, self.state.clone());
        let Prepared { running, script, .. } = prepared;
        let failed = |how: String, code| {
            let message = format!("The command '{line}' {how}");
            Error::Command { at: Arc::new(place.source.mistake(place.statement.span, message)), code }
        };
        let runs_for = self.state.config.platform();
        let make = Box::pin(async {
            emulation::check(&runs_for).map_err(|message| place.mistake(message))?;
            let ended = run::run(solver.builder, &state, running, mounts, solver.progress, place.step).await;
            let ended = ended.map_err(|error| match error {
                // What could not be begun stands somewhere.
                Error::Failed { .. } | Error::Invalid(_) => place.mistake(error.to_string()),
                other => other,
            })?;
            drop(script);
            match ended {
                Ended::Well(layer) => Ok(layer),
                Ended::Badly(code) => Err(failed(format!("returned a non-zero code: {code}"), code)),
                Ended::OutOfMemory(code) => {
                    let memory = "it needed more memory than it may have (--memory)";
                    Err(failed(format!("returned a non-zero code: {code}, as {memory}"), code))
                }
                Ended::TooLong(at_most) => {
                    let time =
                        format!("was killed, as it took longer than {}s (--step-timeout)", at_most.as_secs_f64());
                    Err(failed(time, KILLED))
                }
            }
        });
        let asked = Asked { key, reads: Reads::Below, kind: None, created_by: format!("RUN {with}{line}") };
        self.layer(asked, place, make).await
    }

    /// What is mounted into a `RUN`.
    async fn mounts(&self, run: &Run, place: &Place<'_>) -> Result<Mounts> {
        let mut mounts = Mounts::default();
        for spec in &run.mounts {
            let at = |message: String| Error::from(place.source.mistake(spec.span, message));
            let mount = spec.resolve(place.source, |word| self.scope.expand(word, place.source))?;
            let absolute = |target: &str| changes::directory(&self.state.config.config.working_dir, target);
            match mount {
                Mount::Tmpfs { target, size } => mounts.memory(&absolute(&target), size),
                Mount::Cache { target, id, from, source, read_only, sharing, mode, uid, gid } => {
                    let target = absolute(&target);
                    let from = match from {
                        Some(from) => self.part(&from, source, spec.span, place).await?,
                        None => None,
                    };
                    let mut id = id.unwrap_or_else(|| target.clone());
                    if let Some(namespace) = Builtin::CacheMountNamespace.text(&self.solver.request.given) {
                        id = format!("{}/{}", namespace.trim_end_matches('/'), id.trim_start_matches('/'));
                    }
                    mounts.cache(CacheMount { target, id, sharing, made: Made { mode, uid, gid }, read_only, from });
                }
                Mount::Bind { target, from: None, source, writable } => {
                    let context = Arc::clone(&self.solver.request.context);
                    let source = source.unwrap_or_else(|| "/".to_owned());
                    let target = absolute(&target);
                    if context.is_nothing(&source) {
                        mounts.memory(&target, None);
                        continue;
                    }
                    let mounting = tokio::task::spawn_blocking(move || {
                        let mounted = mounts.context(target, &source, context, writable);
                        mounted.map(|()| mounts)
                    });
                    mounts = mounting.await.map_err(|e| Error::failed("looking up files", e))?.map_err(at)?;
                }
                Mount::Bind { target, from: Some(from), source, writable } => {
                    let origin = self.origin(&from, spec.span, place)?;
                    if let Some(files) = self.solver.given(&origin).cloned() {
                        let (source, target) = (source.unwrap_or_else(|| "/".to_owned()), absolute(&target));
                        let mounting = tokio::task::spawn_blocking(move || {
                            let mounted = mounts.context(target, &source, files, writable);
                            mounted.map(|()| mounts)
                        });
                        mounts = mounting.await.map_err(|e| Error::failed("looking up files", e))?.map_err(at)?;
                        continue;
                    }
                    match self.part(&from, source, spec.span, place).await? {
                        Some(part) if writable => mounts.copy_of_stage(absolute(&target), part),
                        Some(Part { state, source }) => mounts.stage(&absolute(&target), &source, state)?,
                        None => mounts.memory(&absolute(&target), None),
                    }
                }
                Mount::Secret { id, target, env, required, mode, uid, gid } => {
                    let lender = self.solver.request.lender.as_ref();
                    let has_it = lender.filter(|lender| lender.has_secret(&id));
                    if required && has_it.is_none() {
                        let how =
                            lender.map_or("the classic builder is given none", |_| "stratus build --secret gives it");
                        return Err(at(format!("secret {id}: not found: {how}")));
                    }
                    self.lends(has_it.is_some(), &format!("secret {id}"), place).map_err(at)?;
                    has_it.iter().for_each(|_| self.solver.ledger.secret(&id));
                    // It is there if it was given, and else it is not.
                    let target = target.as_deref().map(absolute);
                    mounts.secret(id, target, env, Access { mode, uid, gid }, has_it.cloned());
                }
                Mount::Ssh { id, target, required, mode, uid, gid } => {
                    let lender = self.solver.request.lender.as_ref();
                    let has_it = lender.filter(|lender| lender.has_agent(&id));
                    if required && has_it.is_none() {
                        let how =
                            lender.map_or("the classic builder is given none", |_| "stratus build --ssh gives it");
                        return Err(at(format!("SSH agent {id}: not found: {how}")));
                    }
                    self.lends(has_it.is_some(), &format!("SSH agent {id}"), place).map_err(at)?;
                    has_it.iter().for_each(|_| self.solver.ledger.agent(&id));
                    let target = target.as_deref().map(absolute);
                    mounts.agent(id, target, Access { mode, uid, gid }, has_it.cloned());
                }
            }
        }
        Ok(mounts)
    }

    /// Refuses what whoever builds has, where a base's author asks for it who is somebody else. An error is one line for people.
    fn lends(&self, has_it: bool, what: &str, place: &Place<'_>) -> Result<(), String> {
        let allows = self.owns_base || self.solver.request.allowed.contains(&Entitlement::OnBuild);
        if !has_it || !place.is_trigger() || allows {
            return Ok(());
        }
        let base = &self.solver.file.stages[self.index].from.node.image.raw;
        Err(format!(
            "{what} is withheld: it is an ONBUILD of the base image {base} that asks for it, and not your Dockerfile; stratus build --allow {} gives it",
            Entitlement::OnBuild
        ))
    }

    /// Files of a stage or an image; `None`: there are none.
    async fn part(&self, from: &str, source: Option<String>, span: Span, place: &Place<'_>) -> Result<Option<Part>> {
        let origin = self.origin(from, span, place)?;
        let state = self.solver.state(&origin, place.step).await;
        let state = state.map_err(|error| error.asked_at(place.source, span))?;
        Ok(state.map(|state| Part { state, source: source.unwrap_or_else(|| "/".to_owned()) }))
    }

    /// A script as a file of the container's: in `/dev`, where it leaves nothing in the image.
    fn script(&self, script: &Heredoc) -> Result<(MountRequest, Directory)> {
        let write = || {
            let directory = self.solver.builder.directory()?;
            let file = directory.path().join("script");
            std::fs::write(&file, &script.body)?;
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            std::io::Result::Ok((file, directory))
        };
        let (file, directory) = write().map_err(|e| Error::failed("writing a script", e))?;
        let mount = MountRequest {
            kind: MountKind::Bind { source: file.display().to_string(), options: BindOptions::default() },
            target: format!("/dev/pipes/{}", script.name),
            read_only: true,
            consistency: String::new(),
        };
        Ok((mount, directory))
    }

    /// What a `RUN` executes, and how.
    fn prepare(&self, run: &Run, place: &Place<'_>) -> Result<Prepared> {
        if let Some(device) = run.devices.first() {
            return Err(place.source.mistake(device.span, "stratus has no devices for a RUN").into());
        }
        let (request, builder) = (self.solver.request, self.solver.builder);
        entitlement::check(run, request, builder.entitlements()).map_err(|message| place.mistake(message))?;
        let mut host = request.host.clone();
        host.privileged = run.security == Security::Insecure;
        match run.network {
            Network::Default => {}
            Network::None => host.network_mode = NetworkMode::None,
            Network::Host => host.network_mode = NetworkMode::Host,
        }
        "none".clone_into(&mut host.log.driver);
        host.log.options.clear();
        let variable = |(name, value): (&str, &str)| format!("{name}={value}");
        let own = self.scope.environment().iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut known: Vec<String> = own.chain(self.scope.arguments()).map(variable).collect();
        if !self.scope.declares(EPOCH) {
            // Tools that write times into what they make write this one.
            known.push(format!("{EPOCH}={}", self.solver.time()));
        }
        let env = known.iter().cloned().chain(self.scope.undeclared().map(variable)).collect();
        let (argv, script) = match &run.command {
            CommandLine::Script(script) if script.body.starts_with("#!") => {
                let (mount, directory) = self.script(script)?;
                let argv = vec![mount.target.clone()];
                host.mounts.push(mount);
                (argv, Some((directory, script.body.clone())))
            }
            command => (argv(command, &self.state.config.config.shell), None),
        };
        Ok(Prepared {
            running: Running {
                argv,
                env,
                host,
                time: self.solver.time(),
                at_most: request.step_timeout,
                hostname: Builtin::SandboxHostname.text(&request.given).map(str::to_owned),
                leaves: request.leaves,
            },
            known,
            script,
        })
    }
}

/// A command that is ready to run.
struct Prepared {
    running: Running,
    /// The environment that the step depends on.
    known: Vec<String>,
    /// A script that says by what it is executed: where it is, and its text.
    script: Option<(Directory, String)>,
}
