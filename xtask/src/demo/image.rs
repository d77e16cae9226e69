//! The image: a base system from the distribution's own packages, and the web service on top of it.

use crate::http::{Connection, Payload, escape};
use crate::instance::Instance;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

const NAME: &str = "hello-web";
/// Says of which build of the program an image was made.
const BUILD_LABEL: &str = "stratus.demo.build";

/// An image, and what it takes.
pub(super) struct Image {
    pub(super) name: String,
    pub(super) base: String,
    /// Bytes of all its layers.
    pub(super) size: u64,
}

/// What examples/hello-web/Dockerfile says.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    /// The file in the context, and where it goes.
    copy: (String, String),
    /// All other instructions, as a commit takes them.
    changes: Vec<String>,
}

/// The base image's name. It is made of the packages of the host's own distribution where it is not there yet.
pub(super) fn base(instance: &Instance, api: &mut Connection<UnixStream>) -> Result<String> {
    let name = distribution(&fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?);
    if api.call("GET", &format!("/images/{name}/json"), Payload::Nothing)?.status == 200 {
        return Ok(name);
    }
    println!("Making the image {name} of the distribution's packages: the first time only.");
    let status = instance.client().args(["image", "bootstrap", &name]).status();
    let status = status.with_context(|| format!("cannot run {}", instance.program.display()))?;
    if !status.success() {
        bail!("the base image could not be made: stratus image bootstrap {name} failed ({status})");
    }
    Ok(name)
}

/// `debian:bookworm`, by os-release(5). What is neither Debian nor Ubuntu gets Debian stable.
fn distribution(os_release: &str) -> String {
    let value = |name: &str| {
        os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    match (value("ID"), value("VERSION_CODENAME")) {
        (Some(id @ ("debian" | "ubuntu")), Some(codename)) => format!("{id}:{codename}"),
        _ => "debian:bookworm".to_owned(),
    }
}

/// The web service on top of the base, made anew when the program was built anew.
pub(super) fn web_service(root: &Path, target: &Path, api: &mut Connection<UnixStream>, base: &str) -> Result<Image> {
    let source = root.join("examples/hello-web");
    let program = build(&source, &target.join(NAME))?;
    let recipe = Recipe::parse(&fs::read_to_string(source.join("Dockerfile")).context("cannot read the Dockerfile")?)?;
    let base_id = api.get(&format!("/images/{base}/json"))?["Id"].as_str().unwrap_or_default().to_owned();
    let meta = fs::metadata(&program)?;
    let build = format!("{}-{}.{:09} on {base_id}", meta.len(), meta.mtime(), meta.mtime_nsec());
    let present = api.call("GET", &format!("/images/{NAME}:latest/json"), Payload::Nothing)?.json()?;
    if present["Config"]["Labels"][BUILD_LABEL] != json!(build) {
        commit(api, base, &recipe, &fs::read(&program)?, &build)?;
        if let Some(replaced) = present["Id"].as_str() {
            // Somebody may have made a container of it, or given it a name: then it stays.
            api.call("DELETE", &format!("/images/{replaced}"), Payload::Nothing)?;
        }
    }
    let size = api.get(&format!("/images/{NAME}:latest/json"))?["Size"].as_u64().unwrap_or_default();
    Ok(Image { name: NAME.to_owned(), base: base.to_owned(), size })
}

/// Builds the example apart from the workspace: it is linked statically, as its own configuration says.
fn build(source: &Path, target: &Path) -> Result<std::path::PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--locked", "--target-dir"]).arg(target).current_dir(source);
    if !command.status().context("cannot run cargo")?.success() {
        bail!("{} could not be built", source.display());
    }
    Ok(target.join("release").join(NAME))
}

/// A container of the base that never runs gets the program, and becomes the image: one layer more.
fn commit(api: &mut Connection<UnixStream>, base: &str, recipe: &Recipe, program: &[u8], build: &str) -> Result<()> {
    let container = api.post("/containers/create", &json!({ "Image": base, "Cmd": ["true"] }))?;
    let id = container["Id"].as_str().context("the daemon gave no id")?.to_owned();
    let made = add_and_commit(api, &id, recipe, program, build);
    api.ask("DELETE", &format!("/containers/{id}?force=true"), Payload::Nothing)?;
    made
}

fn add_and_commit(
    api: &mut Connection<UnixStream>,
    id: &str,
    recipe: &Recipe,
    program: &[u8],
    build: &str,
) -> Result<()> {
    let archive = archive(&recipe.copy.1, program)?;
    api.ask("PUT", &format!("/containers/{id}/archive?path=%2F"), Payload::Tar(&archive))?;
    let label = format!("LABEL {BUILD_LABEL}={}", Value::String(build.to_owned()));
    let changes: String =
        recipe.changes.iter().chain([&label]).map(|change| format!("&changes={}", escape(change))).collect();
    api.post(&format!("/commit?container={id}&repo={NAME}&tag=latest{changes}"), &json!({}))?;
    Ok(())
}

/// A tar archive of the one program.
fn archive(path: &str, program: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, path.trim_start_matches('/'), program)?;
    Ok(archive.into_inner()?)
}

impl Recipe {
    /// Reads the example's Dockerfile, so that there is one place that says how it is run.
    fn parse(dockerfile: &str) -> Result<Recipe> {
        let (mut copy, mut changes) = (None, Vec::new());
        for line in dockerfile.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(' ') {
                Some(("ARG" | "FROM", _)) => {}
                Some(("COPY", paths)) => {
                    copy = paths.split_once(' ').map(|(from, to)| (from.to_owned(), to.to_owned()))
                }
                _ => changes.push(line.to_owned()),
            }
        }
        Ok(Recipe { copy: copy.context("the Dockerfile copies nothing")?, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_distribution() {
        assert_eq!(distribution("NAME=\"Debian\"\nVERSION_CODENAME=bookworm\nID=debian\n"), "debian:bookworm");
        assert_eq!(distribution("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n"), "ubuntu:noble");
        assert_eq!(distribution("ID=fedora\n"), "debian:bookworm");
    }

    #[test]
    fn a_recipe_is_read() {
        let recipe =
            Recipe::parse("# Note\nARG BASE=scratch\nFROM ${BASE}\nCOPY a/b /c\nENV X=1\nENTRYPOINT [\"/c\"]\n");
        let changes = vec!["ENV X=1".to_owned(), "ENTRYPOINT [\"/c\"]".to_owned()];
        assert_eq!(recipe.unwrap(), Recipe { copy: ("a/b".to_owned(), "/c".to_owned()), changes });
        assert!(Recipe::parse("FROM scratch\n").is_err());
    }
}
