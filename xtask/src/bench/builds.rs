//! Builds: of six steps, of stages side by side, of a large context, and what keeping a step's changes costs.

mod context;

use super::arena::{Arena, IMAGE};
use super::document::{Figure, Target, Unit};
use super::{Contender, take_turns, time};
use crate::figures::milliseconds;
use crate::http::Payload;
use crate::instance::Instance;
use crate::peers::{Buildah, Dockerd};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const ROUNDS: usize = 9;
const STAGES: usize = 10;
/// The root file system that a step changes one file of.
const LARGE: &str = "bench-large:latest";
/// What the step does.
const CHANGE: &str = "echo changed > /large-file";
const LARGE_FILES: usize = 2000;
const LARGE_FILE: usize = 1 << 20;

/// What people write for a service, in six steps.
const SERVICE: &str = "\
FROM bench
WORKDIR /srv/app
COPY package.json .
RUN cat package.json > installed
COPY src src
CMD [\"cat\", \"src/main\"]
";

pub(super) fn figures(arena: &Arena) -> Result<Vec<Figure>> {
    let ours = arena.instance("builds");
    ours.0.start()?;
    let theirs = Dockerd::new(arena.path("builds-dockerd"))?;
    theirs.start()?;
    arena.import(&mut ours.0.connect()?)?;
    arena.import(&mut theirs.connect()?)?;
    let buildah = Buildah::start(arena.path("builds-buildah"), &arena.path("rootfs"), "bench")?;
    let mut figures = service(arena, &ours.0, &theirs, &buildah)?;
    figures.push(stages(arena, &ours.0, &theirs, &buildah)?);
    figures.extend(context::figures(arena, &ours.0, &theirs, &buildah)?);
    figures.extend(one_file(arena, &ours.0, &theirs, &buildah)?);
    Ok(figures)
}

/// A directory with a Dockerfile.
fn project(arena: &Arena, name: &str, dockerfile: &str) -> Result<PathBuf> {
    let directory = arena.path(name);
    fs::create_dir_all(directory.join("src")).context("cannot make a project")?;
    fs::write(directory.join("Dockerfile"), dockerfile)?;
    fs::write(directory.join("package.json"), "{}")?;
    fs::write(directory.join("src/main"), "main")?;
    Ok(directory)
}

fn build(socket: &Path, directory: &Path, flags: &[&str]) -> Result<Duration> {
    let mut command = Command::new("docker");
    command.env("DOCKER_BUILDKIT", "0").arg("--host").arg(format!("unix://{}", socket.display()));
    time(command.args(["build", "--tag", "built"]).args(flags).arg(directory))
}

/// A build with some flags.
type Build<'b> = Box<dyn Fn(&[&str]) -> Result<Duration> + 'b>;

/// One who builds in turn with others, where `change`, after a change of the source.
fn turn<'b>(
    name: &'static str,
    source: &'b Path,
    change: bool,
    flags: &'static [&'static str],
    run: Build<'b>,
) -> Contender<'b> {
    let mut round = 0;
    let once = move || {
        if change {
            round += 1;
            fs::write(source, format!("{name} {round}"))?;
        }
        run(flags)
    };
    (name, Box::new(once))
}

/// Six steps: all of them, none of them, and what follows a source that was changed.
fn service(arena: &Arena, ours: &Instance, theirs: &Dockerd, buildah: &Buildah) -> Result<Vec<Figure>> {
    let directory = project(arena, "service", SERVICE)?;
    let source = directory.join("src/main");
    let measure = |flags: &'static [&str], change: bool| {
        let docker = |socket: PathBuf| -> Build<'_> {
            let directory = &directory;
            Box::new(move |flags| build(&socket, directory, flags))
        };
        let own: Build<'_> = Box::new(|flags| time(&mut buildah.build("built", &directory, flags)));
        let contenders = vec![
            turn("stratus", &source, change, flags, docker(ours.socket())),
            turn("dockerd", &source, change, flags, docker(theirs.socket())),
            turn("buildah", &source, change, flags, own),
        ];
        take_turns(ROUNDS, contenders)
    };
    let cold = measure(&["--no-cache"], false)?;
    let cached = measure(&[], false)?;
    let changed = measure(&[], true)?;
    Ok(vec![
        Figure::time(
            "`docker build` of six steps, all cached",
            cached,
            30.0,
            "the client: starting it, and one request",
        ),
        Figure::time(
            "the same, one source changed",
            changed,
            120.0,
            "a container's life for the command, and a sync of the disk for each of two layers",
        ),
        Figure::time("the same, nothing cached", cold, 350.0, "as before, with four layers"),
    ])
}

/// Stages that do not need each other, and one that needs them all. buildah builds one after the other unless it is told otherwise: here, as many at a
/// time as there are.
fn stages(arena: &Arena, ours: &Instance, theirs: &Dockerd, buildah: &Buildah) -> Result<Figure> {
    let stage = |n: usize| format!("FROM bench AS s{n}\nRUN sleep 1; cat /bin/true > /out{n}\n");
    let copy = |n: usize| format!("COPY --from=s{n} /out{n} /\n");
    let dockerfile: String =
        (0..STAGES).map(stage).chain(["FROM bench\n".to_owned()]).chain((0..STAGES).map(copy)).collect();
    let directory = project(arena, "stages", &dockerfile)?;
    let run = |socket: &Path| build(socket, &directory, &["--no-cache"]).map(milliseconds);
    let measured: Vec<f64> = (0..3).map(|_| run(&ours.socket())).collect::<Result<_>>()?;
    let at_once = ["--no-cache", "--jobs", "0"];
    let of_buildah = time(&mut buildah.build("built", &directory, &at_once)).map(milliseconds)?;
    Ok(Figure {
        what: "`docker build` of ten stages of `sleep 1` that do not need each other",
        unit: Unit::Milliseconds,
        measured: vec![("stratus", measured), ("dockerd", vec![run(&theirs.socket())?]), ("buildah", vec![of_buildah])],
        target: Target::AtMost(1500.0),
        bound: "the second that they sleep, and ten copies into the last stage, each synced before the next",
    })
}

/// What it takes to keep what a step changed: one file, of a small and of a large root file system, and beside it the same command in a container
/// that nobody keeps anything of. What is told of two of them is the median of their differences, turn by turn, whichever was the longer.
fn one_file(arena: &Arena, ours: &Instance, theirs: &Dockerd, buildah: &Buildah) -> Result<Vec<Figure>> {
    have_large(arena, ours, theirs, buildah)?;
    let step = |base: &str| format!("FROM {base}\nRUN {CHANGE}\n");
    let (small, large) = (project(arena, "small", &step(IMAGE))?, project(arena, "large", &step(LARGE))?);
    let flags = ["--no-cache"];
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for (name, socket) in [("stratus", ours.socket()), ("dockerd", theirs.socket())] {
        for directory in [&small, &large] {
            let socket = socket.clone();
            contenders.push((name, Box::new(move || build(&socket, directory, &flags))));
        }
        contenders.push((name, Box::new(move || run(&socket, LARGE, CHANGE))));
    }
    for directory in [&small, &large] {
        contenders.push(("buildah", Box::new(|| time(&mut buildah.build("built", directory, &flags)))));
    }
    let times = take_turns(ROUNDS, contenders)?;
    let [(_, our_small), (_, our_large), (_, our_run), (_, small), (_, large), (_, run), rest @ ..] = &times[..] else {
        bail!("not everybody took a turn");
    };
    let [(_, buildah_small), (_, buildah_large)] = rest else { bail!("buildah took no turn") };
    let all = |ours: &[f64], theirs: &[f64], buildah: &[f64]| {
        vec![("stratus", ours.to_vec()), ("dockerd", theirs.to_vec()), ("buildah", buildah.to_vec())]
    };
    let raw = |what, measured| Figure { what, unit: Unit::Milliseconds, measured, target: Target::None, bound: "" };
    let of_run = |ours: &[f64], theirs: &[f64]| vec![("stratus", ours.to_vec()), ("dockerd", theirs.to_vec())];
    Ok(vec![
        raw("`docker build` of a step that changes one file of 2 MB", all(our_small, small, buildah_small)),
        raw("the same, one file of 2 GB", all(our_large, large, buildah_large)),
        Figure::time(
            "what the latter takes more",
            all(&beyond(our_large, our_small), &beyond(large, small), &beyond(buildah_large, buildah_small)),
            15.0,
            "nothing that can be seen: a layer is made of what the step wrote, and nobody looks at what lies below",
        ),
        raw("`docker run --rm` of that command, of 2 GB", of_run(our_run, run)),
        Figure::time(
            "what the build takes more than that: the step's layer, and an image of it",
            of_run(&beyond(our_large, our_run), &beyond(large, run)),
            15.0,
            "syncs of the disk: of the layer, and of the records of the step and the image",
        ),
    ])
}

/// How much longer the one took than the other, turn by turn: negative where it took less.
fn beyond(longer: &[f64], shorter: &[f64]) -> Vec<f64> {
    longer.iter().zip(shorter).map(|(longer, shorter)| longer - shorter).collect()
}

/// A container that goes when its command, of a shell, has ended.
fn run(socket: &Path, image: &str, command: &str) -> Result<Duration> {
    let mut docker = Command::new("docker");
    docker.arg("--host").arg(format!("unix://{}", socket.display()));
    time(docker.args(["run", "--rm", image, "/bin/sh", "-c", command]))
}

/// Gives everybody an image of 2 GB.
fn have_large(arena: &Arena, ours: &Instance, theirs: &Dockerd, buildah: &Buildah) -> Result<()> {
    let mut archive = tar::Builder::new(Vec::new());
    let contents = vec![7_u8; LARGE_FILE];
    archive.follow_symlinks(false);
    archive.append_dir_all(".", arena.path("rootfs"))?;
    for n in 0..LARGE_FILES {
        let mut header = tar::Header::new_gnu();
        header.set_size(LARGE_FILE as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("large/{}/{n}", n % 50), &contents[..])?;
    }
    let archive = archive.into_inner()?;
    let path = format!("/images/create?fromSrc=-&repo={}&tag=latest", LARGE.trim_end_matches(":latest"));
    ours.connect()?.ask("POST", &path, Payload::Tar(&archive))?;
    theirs.connect()?.ask("POST", &path, Payload::Tar(&archive))?;
    let directory = project(arena, "large-base", "FROM scratch\nADD large.tar /\n")?;
    fs::write(directory.join("large.tar"), archive).context("cannot write the large image")?;
    time(&mut buildah.build(LARGE, &directory, &[]))?;
    fs::remove_file(directory.join("large.tar")).context("cannot remove the large image's archive")
}
