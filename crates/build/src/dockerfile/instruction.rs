//! What an instruction is, with every flag of the Dockerfile reference. Words are as they were written: what is in them
//! is expanded when the instruction is carried out, as only then it is known what the variables are.

use super::heredoc::Heredoc;
use super::mount::MountSpec;
use super::source::{Span, Spanned};
use std::time::Duration;

/// A word with its quotes, escapes and variables, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// As it was written.
    pub raw: String,
    /// Where it stands.
    pub span: Span,
}

/// An instruction, but `FROM`, which begins a [`Stage`](super::Stage).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Arg),
    /// `CMD`
    Cmd(Cmd),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(Entrypoint),
    /// `ENV`
    Env(Env),
    /// `EXPOSE`
    Expose(Expose),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Label),
    /// `MAINTAINER`
    Maintainer(Maintainer),
    /// `ONBUILD`
    OnBuild(OnBuild),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Shell),
    /// `STOPSIGNAL`
    StopSignal(StopSignal),
    /// `USER`
    User(User),
    /// `VOLUME`
    Volume(Volume),
    /// `WORKDIR`
    Workdir(Workdir),
}

/// The instructions' names.
pub(super) const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl Instruction {
    /// Whether it may change files, and not only what the image says of itself.
    pub(crate) fn makes_a_layer(&self) -> bool {
        matches!(self, Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_))
    }

    /// Its name in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Instruction::Add(_) => "ADD",
            Instruction::Arg(_) => "ARG",
            Instruction::Cmd(_) => "CMD",
            Instruction::Copy(_) => "COPY",
            Instruction::Entrypoint(_) => "ENTRYPOINT",
            Instruction::Env(_) => "ENV",
            Instruction::Expose(_) => "EXPOSE",
            Instruction::Healthcheck(_) => "HEALTHCHECK",
            Instruction::Label(_) => "LABEL",
            Instruction::Maintainer(_) => "MAINTAINER",
            Instruction::OnBuild(_) => "ONBUILD",
            Instruction::Run(_) => "RUN",
            Instruction::Shell(_) => "SHELL",
            Instruction::StopSignal(_) => "STOPSIGNAL",
            Instruction::User(_) => "USER",
            Instruction::Volume(_) => "VOLUME",
            Instruction::Workdir(_) => "WORKDIR",
        }
    }
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// A program and its arguments: a JSON array.
    Exec(Vec<String>),
    /// A line for the shell, with the heredocs that it reads.
    Shell(String),
    /// One heredoc and nothing else: the shell reads it, unless its first line is `#!` and what does.
    Script(Heredoc),
}

/// `RUN`: executes something in a container, and keeps what it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// `--mount`, in order.
    pub mounts: Vec<MountSpec>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
    /// `--device`, in order.
    pub devices: Vec<Device>,
    /// What is executed.
    pub command: CommandLine,
}

/// `RUN --network`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// The build's.
    #[default]
    Default,
    /// None but loopback.
    None,
    /// The host's.
    Host,
}

/// `RUN --security`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// As any container.
    #[default]
    Sandbox,
    /// With all privileges.
    Insecure,
}

/// `RUN --device`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name, as `vendor.com/class=name`.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Where the flag stands.
    pub span: Span,
}

/// `COPY`: files of the context, of another stage or of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// `--from`: a stage's name or number, a named context, or an image. It takes no variables.
    pub from: Option<Spanned<String>>,
    /// What is copied, and where to.
    pub files: Files,
}

/// `ADD`: files of the context, archives that are unpacked, files at URLs, git repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// `--checksum`: what a URL's contents must be.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`: `.git` is part of what a git repository gives.
    pub keep_git_dir: bool,
    /// `--unpack`: whether archives are unpacked. Unless it says, those of the context are, and those of URLs are not.
    pub unpack: Option<bool>,
    /// What is added, and where to.
    pub files: Files,
}

/// What `COPY` and `ADD` have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// What is copied, in order; at least one.
    pub sources: Vec<FileSource>,
    /// Where to.
    pub destination: Word,
    /// `--chown`: see [`Owner`](super::Owner).
    pub chown: Option<Word>,
    /// `--chmod`: see [`Mode`](super::Mode).
    pub chmod: Option<Word>,
    /// `--link`: the layer does not depend on those below it.
    pub link: bool,
    /// `--parents`: sources keep their directories.
    pub parents: bool,
    /// `--exclude`: patterns of what is left out.
    pub exclude: Vec<Word>,
}

/// Something that is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource {
    /// A path or a pattern of paths; of `ADD` also a URL.
    Path(Word),
    /// A file whose contents stand here.
    Heredoc(Heredoc),
}

/// `WORKDIR`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workdir {
    /// A path, relative to the former one.
    pub path: Word,
}

/// `USER`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `USER[:GROUP]`, as names or numbers.
    pub user: Word,
}

/// `VOLUME`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Paths; at least one.
    pub paths: Vec<Word>,
}

/// `EXPOSE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    /// `PORT[-PORT][/PROTOCOL]`; a variable may hold several.
    pub ports: Vec<Word>,
}

/// `ENTRYPOINT`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrypoint {
    /// What is executed. An empty array takes the base's away.
    pub command: CommandLine,
}

/// `CMD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    /// What is executed, or the entry point's arguments. An empty array takes the base's away.
    pub command: CommandLine,
}

/// `SHELL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// The program and its arguments before the line; at least one.
    pub shell: Vec<String>,
}

/// `STOPSIGNAL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopSignal {
    /// A signal's name or number.
    pub signal: Word,
}

/// `HEALTHCHECK`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// Takes the base's away.
    None,
    /// A command that says whether the container is well.
    Command(HealthCommand),
}

/// `HEALTHCHECK CMD`. What is not given is the daemon's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCommand {
    /// `--interval`
    pub interval: Option<Duration>,
    /// `--timeout`
    pub timeout: Option<Duration>,
    /// `--start-period`
    pub start_period: Option<Duration>,
    /// `--start-interval`
    pub start_interval: Option<Duration>,
    /// `--retries`
    pub retries: Option<u32>,
    /// What is executed.
    pub command: CommandLine,
}

/// `ONBUILD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnBuild {
    /// The trigger's text with its heredocs, as the image's configuration has it; [`trigger`](super::trigger) reads it again.
    pub text: String,
    /// What it is.
    pub instruction: Box<Instruction>,
}

/// `MAINTAINER`, which is deprecated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintainer {
    /// The image's author.
    pub author: String,
}

/// `LABEL`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Names and values, in order; at least one.
    pub pairs: Vec<Pair>,
    /// Whether the form is `NAME VALUE`, which is deprecated.
    pub legacy: bool,
}

/// `ENV`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// Names and values, in order; at least one.
    pub pairs: Vec<Pair>,
    /// Whether the form is `NAME VALUE`, which is deprecated.
    pub legacy: bool,
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The name.
    pub name: Word,
    /// The value.
    pub value: Word,
}

/// `ARG`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// What is declared, in order; at least one.
    pub arguments: Vec<Argument>,
}

/// One of an `ARG`'s arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: Word,
    /// Its default.
    pub default: Option<Word>,
}

impl Instruction {
    /// The words that are expanded when it is carried out, in order. What a mount has is expanded by
    /// [`MountSpec::resolve`].
    pub fn words(&self) -> Vec<&Word> {
        match self {
            Instruction::Add(add) => add.checksum.iter().chain(add.files.words()).collect(),
            Instruction::Copy(copy) => copy.files.words().collect(),
            Instruction::Arg(arg) => {
                arg.arguments.iter().flat_map(|one| std::iter::once(&one.name).chain(&one.default)).collect()
            }
            Instruction::Env(Env { pairs, .. }) | Instruction::Label(Label { pairs, .. }) => {
                pairs.iter().flat_map(|pair| [&pair.name, &pair.value]).collect()
            }
            Instruction::Expose(expose) => expose.ports.iter().collect(),
            Instruction::StopSignal(stop) => vec![&stop.signal],
            Instruction::User(user) => vec![&user.user],
            Instruction::Volume(volume) => volume.paths.iter().collect(),
            Instruction::Workdir(workdir) => vec![&workdir.path],
            // A trigger is expanded where it is carried out.
            Instruction::OnBuild(_) => Vec::new(),
            // The shell does it, or nobody.
            Instruction::Run(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_)
            | Instruction::Healthcheck(_)
            | Instruction::Maintainer(_)
            | Instruction::Shell(_) => Vec::new(),
        }
    }
}

impl Files {
    fn words(&self) -> impl Iterator<Item = &Word> {
        let paths = self.sources.iter().filter_map(|source| match source {
            FileSource::Path(word) => Some(word),
            FileSource::Heredoc(_) => None,
        });
        self.chown.iter().chain(&self.chmod).chain(&self.exclude).chain(paths).chain([&self.destination])
    }

    /// The heredocs among its sources.
    pub fn heredocs(&self) -> impl Iterator<Item = &Heredoc> {
        self.sources.iter().filter_map(|source| match source {
            FileSource::Heredoc(heredoc) => Some(heredoc),
            FileSource::Path(_) => None,
        })
    }
}
