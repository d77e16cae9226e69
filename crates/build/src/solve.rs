//! A build: which stages are needed, one after the other where they need each other, and side by side where they do not.

use crate::attest::{Dependency, Fetched, Ledger};
use crate::cache::{Cache, CacheLimits, Keeps, Step};
use crate::caches::Caches;
use crate::check::{self, BaseImage};
use crate::contexts::Kept;
use crate::dockerfile::{self, Builtin, Dockerfile, Globals, Instruction, Origin, PREDEFINED, Plan};
use crate::elsewhere::{Elsewhere, Passed, Steps as Trodden, Trail};
use crate::entitlement::{self, Entitlement};
use crate::files::{Choice, Choices, Files};
use crate::intermediate::{self, Steps};
use crate::look::Looks;
use crate::named::{NamedBuild, NamedBuilds};
use crate::progress::{Event, Found, PlannedStage, Progress, StepEvent, StepId};
use crate::remote::{Git, WebFiles};
use crate::request::{NamedContext, Request, Settings};
use crate::scratch::{Directory, Scratch};
use crate::stage::StageEnd;
use crate::state::{FIXED_TIME, State};
use crate::step::copy::Copying;
use crate::step::piece::Piece;
use crate::{Error, Result};
use engine::Engine;
use futures_util::future::{BoxFuture, try_join_all};
use image::{Digest, ImageId, Images, KeptLayers, Platform, Reference};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The build argument that says which time everything is of (reproducible-builds.org, "SOURCE_DATE_EPOCH").
pub(crate) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// How long it takes until something is found to be too old, at most.
const BETWEEN_LOOKS: Duration = Duration::from_secs(3600);

/// How long builds that are given up with the daemon may take to end their steps.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// Builds images. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Builder(Arc<Inner>);

struct Inner {
    engine: Engine,
    cache: Cache,
    caches: Caches,
    choices: Arc<Choices>,
    web: WebFiles,
    /// What steps came to.
    steps: Steps,
    git: Git,
    scratch: Arc<Scratch>,
    /// Contexts that stay for the next build.
    kept: Kept,
    data_dir: PathBuf,
    limits: CacheLimits,
    entitlements: BTreeSet<Entitlement>,
    /// Held by who takes out what is too old or too much.
    collecting: tokio::sync::Mutex<()>,
    /// Builds that go on, and steps that are to be ended yet.
    going: TaskTracker,
    named: NamedBuilds,
}

impl Builder {
    /// Builds in a data directory. What builds of a former daemon left there is removed by [`tidy`](Self::tidy).
    ///
    /// # Errors
    /// Where the directory can't be made.
    pub fn open(engine: Engine, data_dir: &Path, settings: Settings) -> Result<Builder> {
        let scratch = Arc::new(Scratch::open(&data_dir.join("build"))?);
        let cache = Cache::new(engine.image_store().clone(), engine.store());
        let caches = Caches::new(data_dir.join("build/caches"), Arc::clone(&scratch), engine.store());
        let web = WebFiles::open(
            engine.registries().clone(),
            settings.reach.clone(),
            engine.store(),
            data_dir.join("build/downloads"),
        );
        let web = web.map_err(|e| Error::failed("making a directory for downloads", e))?;
        let git = Git::new(engine.registries().clone(), settings.reach, Arc::clone(&scratch));
        let kept = Kept::open(data_dir.join("build/kept"));
        let kept = kept.map_err(|e| Error::failed("making a directory for contexts", e))?;
        let steps = Steps::new(engine.image_store(), engine.store());
        engine.look_for_images_in(Box::new(steps.clone()));
        Ok(Builder(Arc::new(Inner {
            engine,
            cache,
            caches,
            choices: Arc::default(),
            web,
            steps,
            git,
            scratch,
            kept,
            data_dir: data_dir.to_owned(),
            limits: settings.cache,
            entitlements: settings.entitlements,
            collecting: tokio::sync::Mutex::default(),
            going: TaskTracker::new(),
            named: NamedBuilds::default(),
        })))
    }

    /// A build begins that has a name: [`cancel`](Self::cancel) ends it by that.
    pub fn named(&self, name: &str) -> NamedBuild {
        self.0.named.begin(name)
    }

    /// Ends builds by their name, if some of that name go on.
    pub fn cancel(&self, name: &str) {
        self.0.named.end(name);
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.0.cache
    }

    pub(crate) fn caches(&self) -> &Caches {
        &self.0.caches
    }

    /// What was chosen of layers before.
    pub(crate) fn choices(&self) -> &Arc<Choices> {
        &self.0.choices
    }

    /// Contexts that stay for the next build.
    pub(crate) fn kept(&self) -> &Kept {
        &self.0.kept
    }

    /// What keeps something for the next build, beside steps.
    pub(crate) fn parts(&self) -> [&dyn Keeps; 3] {
        [&self.0.caches, &self.0.kept, &self.0.web]
    }

    /// Images that builds were on their way to.
    pub(crate) fn steps(&self) -> &Steps {
        &self.0.steps
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.0.data_dir
    }

    pub(crate) fn limits(&self) -> CacheLimits {
        self.0.limits
    }

    /// What the administrator allows steps.
    pub(crate) fn entitlements(&self) -> &BTreeSet<Entitlement> {
        &self.0.entitlements
    }

    pub(crate) fn collecting(&self) -> &tokio::sync::Mutex<()> {
        &self.0.collecting
    }

    /// Files at addresses.
    pub(crate) fn web(&self) -> &WebFiles {
        &self.0.web
    }

    /// Git repositories.
    pub(crate) fn git(&self) -> &Git {
        &self.0.git
    }

    pub(crate) fn images(&self) -> &Images {
        self.0.engine.image_store()
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Ends the steps that builds of a former daemon left, and removes their files.
    pub async fn tidy(&self) {
        for id in self.0.engine.steps() {
            if let Err(error) = crate::step::run::remove(&self.0.engine, &id).await {
                tracing::warn!(container = %id.short(), %error, "could not remove a step of a build that was given up");
            }
        }
        let builder = self.clone();
        let remove = move || {
            let swept = builder.kept().sweep().map_err(|e| Error::failed("looking through contexts that are kept", e));
            builder.0.scratch.remove_former().and(swept).and(builder.steps().bound(intermediate::MOST))
        };
        let removed = tokio::task::spawn_blocking(remove).await;
        if let Err(error) = removed.map_err(|e| Error::failed("removing files of former builds", e)).flatten() {
            tracing::warn!(%error, "what former builds left stays until the next start");
        }
    }

    /// Keeps what builds keep within its limits, for as long as it is awaited. Beside that, each build that ends has it looked at.
    pub async fn keep_limits(&self) -> std::convert::Infallible {
        loop {
            self.collect().await;
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    /// Waits until builds that were given up, as all are before a daemon ends, have ended their steps. What takes too long ends with the
    /// daemon all the same.
    pub async fn ended(&self) {
        self.0.going.close();
        if tokio::time::timeout(GIVEN_UP, self.0.going.wait()).await.is_err() {
            tracing::warn!("a build takes long to be given up: what is left of it goes when the next daemon starts");
        }
    }

    /// Whoever has it is waited for before the daemon ends.
    pub(crate) fn going(&self) -> TaskTrackerToken {
        self.0.going.token()
    }

    /// A directory for a context, or for what a step needs, which goes with what it becomes.
    pub(crate) fn directory(&self) -> std::io::Result<Directory> {
        self.0.scratch.directory()
    }
}

/// What a request comes to, before anything is done.
pub(crate) struct Planned {
    pub(crate) file: Dockerfile,
    globals: Globals,
    pub(crate) plan: Plan,
    pub(crate) target: usize,
    /// The stages that are needed, each behind those that it needs itself.
    pub(crate) order: Vec<usize>,
    epoch: Option<i64>,
    /// Stages of which nothing is taken from the cache.
    anew: Vec<usize>,
}

impl Planned {
    pub(crate) fn new(request: &Request) -> Result<Planned> {
        let mut file = dockerfile::parse(request.file.clone())?;
        file.contexts = request.contexts.keys().cloned().collect();
        let globals = Globals::new(&file, &request.given)?;
        let plan = Plan::new(&file, &globals)?;
        let target = file.target(request.given.target.as_deref()).map_err(Error::Invalid)?;
        let epoch = epoch(request)?;
        for asked in [Builtin::ContextKeepGitDir, Builtin::InlineCache, Builtin::MultiPlatform] {
            asked.is_yes(&request.given)?;
        }
        let order = plan.order(target);
        let stage =
            |name: &String| file.target(Some(name)).map_err(|e| Error::Invalid(format!("no-cache-filter: {e}")));
        let anew = match request.no_cache {
            true => (0..file.stages.len()).collect(),
            false => request.no_cache_filter.iter().map(stage).collect::<Result<_>>()?,
        };
        Ok(Planned { file, globals, plan, target, order, epoch, anew })
    }

    /// Carries it out, or looks only.
    pub(crate) fn solver<'b>(
        &'b self,
        builder: &'b Builder,
        request: &'b Request,
        progress: &'b Progress,
        looks: Option<&'b Looks>,
    ) -> Solver<'b> {
        Solver {
            builder,
            request,
            file: &self.file,
            globals: &self.globals,
            plan: &self.plan,
            progress,
            looks,
            elsewhere: Elsewhere::new(builder, request),
            trail: Trail::default(),
            epoch: self.epoch,
            anew: &self.anew,
            ends: self.file.stages.iter().map(|_| OnceCell::new()).collect(),
            ledger: Ledger::default(),
        }
    }

    /// Tells what is going to be done, and what of the request and the file is likely not meant.
    pub(crate) fn tell(&self, builder: &Builder, request: &Request, progress: &Progress) -> Result<()> {
        progress.tell(self.event(request));
        builder.check(&self.file, request, progress)?;
        self.permit(builder, request)?;
        let last = self.last();
        for name in request.context.changed() {
            let message = format!(
                "{name} was changed while it was sent: what is built may have some of it as it was, and some as it is"
            );
            progress.step(last, StepEvent::Warning(message));
        }
        if let Some(frontend) = frontend(&self.file, request) {
            let message = format!(
                "the frontend {frontend} is not used: stratus reads the file itself, as docker/dockerfile does"
            );
            progress.step(last, StepEvent::Warning(message));
        }
        for name in unused(&self.file, request) {
            let message = format!("One or more build-args [{name}] were not consumed: no ARG declares it");
            progress.step(last, StepEvent::Warning(message));
        }
        for name in self.unnamed(request) {
            let message =
                format!("the further context {name} is not used: no FROM, COPY, ADD or RUN of the Dockerfile names it");
            progress.step(last, StepEvent::Warning(message));
        }
        Ok(())
    }

    /// Further contexts that no stage names.
    fn unnamed<'r>(&self, request: &'r Request) -> impl Iterator<Item = &'r String> {
        let stages = self.plan.stages.iter();
        let origins =
            stages.flat_map(|stage| std::iter::once(&stage.base).chain(stage.from.iter().map(|need| &need.origin)));
        let named: BTreeSet<&str> = origins
            .filter_map(|origin| match origin {
                Origin::Named { name, .. } => Some(name.as_str()),
                Origin::Scratch | Origin::Stage(_) => None,
            })
            .collect();
        request.contexts.keys().filter(move |name| !named.contains(name.as_str()))
    }

    /// Refuses a step that asks for more than it may have, before anything is done.
    fn permit(&self, builder: &Builder, request: &Request) -> Result<()> {
        for stage in &self.order {
            for step in &self.file.stages[*stage].steps {
                if let Instruction::Run(run) = &step.node {
                    let checked = entitlement::check(run, request, builder.entitlements());
                    checked.map_err(|message| self.file.source.mistake(step.span, message))?;
                }
            }
        }
        Ok(())
    }

    /// The last step.
    pub(crate) fn last(&self) -> StepId {
        StepId { stage: self.target, index: self.file.stages[self.target].steps.len() }
    }

    /// The labels that the image has beside those of the file: a step for each, behind all of the file's, as dockerd's classic builder has them.
    pub(crate) fn label(&self, solver: &Solver<'_>, request: &Request, state: &mut State) -> Result<()> {
        let created = solver.created(state);
        for (number, (name, value)) in request.labels.iter().enumerate() {
            let step = StepId { stage: self.target, index: self.last().index + 1 + number };
            solver.progress.step(step, StepEvent::Began);
            state.config.config.labels.insert(name.clone(), value.clone());
            state.add(label(name, value), &created, None);
            solver.done(step, state, state.diff_ids().len())?;
        }
        Ok(())
    }

    fn event(&self, request: &Request) -> Event {
        let mut stages = self.order.clone();
        stages.sort_unstable();
        let stage = |index: &usize| {
            let stage = &self.file.stages[*index];
            let steps = std::iter::once(&stage.from.text).chain(stage.steps.iter().map(|step| &step.text));
            let labels = request.labels.iter().filter(|_| *index == self.target);
            let steps = steps.cloned().chain(labels.map(|(name, value)| label(name, value))).collect();
            PlannedStage { stage: *index, name: stage.name().map(str::to_owned), steps }
        };
        let arguments = self.file.arguments.iter().map(|arg| arg.text.clone()).collect();
        Event::Planned { arguments, stages: stages.iter().map(stage).collect() }
    }
}

impl Builder {
    /// What is likely not meant in the file, by what is known of images that are here.
    fn report(&self, file: &Dockerfile, request: &Request) -> check::Report {
        let images = self.engine().image_store();
        let base = |name: &str| {
            let config = images.config(&images.resolve(name).ok()?).ok()?;
            let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            Some(BaseImage {
                environment: config.config.env.iter().filter_map(pair).collect(),
                has_shell: !config.config.shell.is_empty(),
                platform: config.platform(),
            })
        };
        let inputs = check::Inputs { given: &request.given, ignore: request.context.ignore(), base: &base };
        check::check(file, &inputs)
    }

    /// Tells what is likely not meant in the file, which ends the build where the file or its request wants that.
    fn check(&self, file: &Dockerfile, request: &Request, progress: &Progress) -> Result<()> {
        let report = self.report(file, request);
        let violation = report.violation();
        let source = &file.source;
        let found = |warning: check::Warning| {
            let lines = warning.span.start.line..=warning.span.end.line;
            let lines = lines.map(|line| source.line(line).to_owned()).collect();
            Found { warning, file: source.name().to_owned(), lines }
        };
        if !report.warnings.is_empty() {
            progress.tell(Event::Checked(report.warnings.into_iter().map(found).collect()));
        }
        violation.map_or(Ok(()), |(span, message)| Err(source.mistake(span, message).into()))
    }
}

/// A label that no file has, as an instruction.
fn label(name: &str, value: &str) -> String {
    format!("LABEL {name}={value}")
}

/// Arguments that the build was given, and that no `ARG` of the file takes.
fn unused(file: &Dockerfile, request: &Request) -> Vec<String> {
    let in_stages = file.stages.iter().flat_map(|stage| &stage.steps).filter_map(|step| match &step.node {
        Instruction::Arg(arg) => Some(arg),
        _ => None,
    });
    let all = file.arguments.iter().map(|arg| &arg.node).chain(in_stages);
    let declared: Vec<&str> = all.flat_map(|arg| &arg.arguments).map(|argument| argument.name.raw.as_str()).collect();
    let takes = |name: &str| {
        // A name that is made of others may be any.
        declared.iter().any(|own| *own == name || own.contains('$'))
            || PREDEFINED.contains(&name)
            || name == EPOCH
            || Builtin::ALL.iter().any(|builtin| builtin.name() == name)
    };
    let automatic = |name: &str| ["BUILD", "TARGET"].iter().any(|prefix| name.starts_with(prefix));
    request.given.arguments.keys().filter(|name| !takes(name) && !automatic(name)).cloned().collect()
}

/// An image that would parse the file, and is none of those that parse what this does, wherever they are taken from.
fn frontend<'r>(file: &'r Dockerfile, request: &'r Request) -> Option<&'r str> {
    let written = file.directives.syntax.as_ref().map(|syntax| syntax.value.as_str());
    // What stands behind the name were words for it.
    let name = Builtin::Syntax.text(&request.given).or(written)?.split_whitespace().next()?;
    let is_dockers = |name: Reference| {
        ["docker/dockerfile", "docker/dockerfile-upstream"]
            .iter()
            .any(|own| name.path().strip_suffix(own).is_some_and(|before| before.is_empty() || before.ends_with('/')))
    };
    (!Reference::parse(name).is_ok_and(is_dockers)).then_some(name)
}

fn epoch(request: &Request) -> Result<Option<i64>> {
    let Some(text) = request.given.arguments.get(EPOCH).filter(|text| !text.is_empty()) else { return Ok(None) };
    let seconds = text.parse().ok().filter(|seconds| Timestamp::from_second(*seconds).is_ok());
    seconds
        .map(Some)
        .ok_or_else(|| Error::Invalid(format!("{EPOCH}={text}: it is to be seconds since 1970, as date +%s says")))
}

/// A build that goes on.
pub(crate) struct Solver<'b> {
    pub(crate) builder: &'b Builder,
    pub(crate) request: &'b Request,
    pub(crate) file: &'b Dockerfile,
    pub(crate) globals: &'b Globals,
    pub(crate) plan: &'b Plan,
    pub(crate) progress: &'b Progress,
    /// Nothing is done, and what there would be to do is put there.
    pub(crate) looks: Option<&'b Looks>,
    /// What others' builds came to.
    pub(crate) elsewhere: Elsewhere<'b>,
    /// What this one came by.
    trail: Trail,
    /// The time that was asked for.
    epoch: Option<i64>,
    /// Stages of which nothing is taken from the cache.
    pub(crate) anew: &'b [usize],
    /// What is taken from elsewhere.
    pub(crate) ledger: Ledger,
    /// How stages ended, each once.
    ends: Vec<OnceCell<Result<Arc<StageEnd<'b>>>>>,
}

impl<'b> Solver<'b> {
    /// Carries out all stages, side by side where they do not need each other. How the last of them ends.
    pub(crate) async fn carry_out_all(&self, order: &[usize]) -> Result<Arc<StageEnd<'b>>> {
        let mut ends = try_join_all(order.iter().map(|stage| self.stage(*stage))).await?;
        ends.pop().ok_or_else(|| Error::Invalid("dockerfile contains no stages to build".into()))
    }

    /// How a stage ends. It is carried out once, whoever asks.
    pub(crate) fn stage<'s>(&'s self, index: usize) -> BoxFuture<'s, Result<Arc<StageEnd<'b>>>> {
        Box::pin(async move {
            let end = self.ends[index].get_or_init(|| async { self.carry_out(index).await.map(Arc::new) });
            end.await.clone()
        })
    }

    pub(crate) fn images(&self) -> &Images {
        self.builder.images()
    }

    /// Notes a step that was carried out or found, for who keeps it elsewhere.
    pub(crate) fn passed(&self, stage: usize, key: Digest, step: Step<'_>, layer: Option<&KeptLayers>) {
        let diff_ids = layer.iter().flat_map(|kept| &kept.layers).map(|layer| layer.diff_id).collect::<Vec<_>>();
        // Whoever has the layer keeps it meanwhile.
        let layer = layer.and_then(|_| self.images().keep_layers(&diff_ids));
        self.trail.note(Passed { stage, key, parent: step.parent, what: step.what.to_owned(), layer });
    }

    /// All steps that were noted, of a build of this stage.
    pub(crate) fn trodden(&self, target: usize) -> Trodden {
        let mut result = vec![target];
        while let Some(Origin::Stage(below)) = result.last().map(|stage| &self.plan.stages[*stage].base) {
            result.push(*below);
        }
        self.trail.end(result)
    }

    /// The time of what has none of its own.
    pub(crate) fn time(&self) -> i64 {
        self.epoch.unwrap_or(FIXED_TIME)
    }

    /// Whether that was asked for.
    pub(crate) fn asks_time(&self) -> bool {
        self.epoch.is_some()
    }

    /// When an image was made: at the time that was asked for, else when its context's commit was, else when its base was, so that it is
    /// the same on another day.
    pub(crate) fn created(&self, state: &State) -> String {
        let at = match self.epoch.or(self.request.commit_time) {
            Some(seconds) => Timestamp::from_second(seconds).ok(),
            None => state.config.created_at(),
        };
        at.unwrap_or_else(|| Timestamp::from_second(FIXED_TIME).unwrap_or_default()).to_string()
    }

    /// The files that a name stands for, where an instruction of a stage says `from`.
    pub(crate) async fn files(&self, origin: &Origin, step: StepId) -> Result<Arc<Files>> {
        if let Origin::Stage(index) = origin {
            return self.stage(*index).await?.files(self.builder).await;
        }
        if let Some(files) = self.given(origin) {
            return Ok(Arc::clone(files));
        }
        match self.state(origin, step).await? {
            Some(state) => Files::of_state(self.builder, state).await,
            None => Ok(Arc::new(Files::nothing())),
        }
    }

    /// The image in the making that a name stands for; `None`: none at all.
    pub(crate) async fn state(&self, origin: &Origin, step: StepId) -> Result<Option<State>> {
        match origin {
            Origin::Scratch => Ok(None),
            Origin::Stage(index) => Ok(Some(self.stage(*index).await?.state.clone())),
            Origin::Named { name, meant } => {
                self.named(name, meant.as_deref(), &self.request.given.target_platform, step).await.map(Some)
            }
        }
    }

    /// The files of a named context that has any.
    pub(crate) fn given(&self, origin: &Origin) -> Option<&Arc<Files>> {
        let Origin::Named { name, .. } = origin else { return None };
        match self.request.contexts.get(name) {
            Some(NamedContext::Files { files, origin }) => {
                self.takes(origin.as_ref());
                Some(files)
            }
            _ => None,
        }
    }

    /// Notes where files were fetched from that are needed.
    fn takes(&self, origin: Option<&Fetched>) {
        origin.into_iter().for_each(|origin| self.ledger.needs(Dependency::Fetched(origin.clone())));
    }

    /// What a name stands for that is no stage's: a named context, or an image.
    pub(crate) async fn named(
        &self,
        name: &str,
        meant: Option<&str>,
        platform: &Platform,
        step: StepId,
    ) -> Result<State> {
        match self.request.contexts.get(name) {
            Some(NamedContext::Files { files, origin }) => {
                self.takes(origin.as_ref());
                self.root_of(name, files, platform, step).await
            }
            Some(NamedContext::Image(image)) => self.image(image, None, platform, step).await,
            Some(NamedContext::Layout(image)) => {
                let id = self.of_layout(image, platform, step).await?;
                self.opened(&id.to_string(), id)
            }
            None => self.image(name, meant, platform, step).await,
        }
    }

    /// Files as a root file system: one layer that has them all.
    async fn root_of(&self, name: &str, files: &Arc<Files>, platform: &Platform, step: StepId) -> Result<State> {
        let mut state = State::scratch(platform);
        let choice = Choice { sources: vec!["/".to_owned()], ..Choice::default() };
        let piece = Piece::Files { files: Arc::clone(files), choice, unpack: false };
        let copying = Copying::all(vec![piece], (self.time(), self.asks_time()));
        let failed = |e: String| Error::Invalid(format!("context {name}: {e}"));
        let looked = tokio::task::spawn_blocking(move || copying.look()).await;
        let looked = looked.map_err(|e| Error::failed("looking up files", e))?.map_err(failed)?;
        let text = format!("context {name}");
        let (key, kind) = (looked.key(&state).finish(), looked.kind(&state, &text));
        let tell = self.progress.of_download(step);
        let below = state.clone();
        let make = async {
            looked.make(self.builder, &below, self.builder.cache().latest(&kind).await?, &tell).await.map_err(failed)
        };
        // Whoever wants everything anew gets the same files.
        let (step, here) = (Step { what: &text, parent: None, kind: Some(kind) }, ready(None));
        let made = self.builder.cache().step(key, step, false, here, make).await?;
        state.follows = Some(key);
        let created = self.created(&state);
        state.add(text, &created, made.layer);
        Ok(state)
    }

    /// The image of a name that is here and need not be pulled.
    pub(crate) fn here(&self, name: &str, platform: &Platform) -> Option<ImageId> {
        let fits = |id: &ImageId| self.images().config(id).is_ok_and(|config| platform.matches(&config.platform()));
        self.images().resolve(name).ok().filter(|id| !self.request.pull && fits(id))
    }

    /// An image by its name, pulled where it is not here.
    pub(crate) async fn image(
        &self,
        name: &str,
        meant: Option<&str>,
        platform: &Platform,
        step: StepId,
    ) -> Result<State> {
        let id = match self.here(name, platform) {
            Some(id) => id,
            None => self.pull(name, meant, platform, step).await?,
        };
        self.opened(name, id)
    }

    /// An image that is here, as what it is called.
    fn opened(&self, name: &str, id: ImageId) -> Result<State> {
        let failed = |e: image::Error| Error::failed(format!("opening image {name}"), e);
        let config = self.images().config(&id).map_err(failed)?;
        let kept: Option<KeptLayers> = self.images().keep_layers(&config.rootfs.diff_ids);
        let kept = kept.ok_or_else(|| Error::Invalid(format!("image {name} was removed while it was looked at")))?;
        let record = self.images().get(&id);
        self.ledger.needs(Dependency::image(
            name,
            id,
            (record.as_deref(), &self.images().references(&id)),
            &config.platform(),
        ));
        Ok(State::of_image(id, (*config).clone(), kept))
    }
}
