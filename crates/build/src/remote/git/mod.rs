//! Git repositories: what a name stands for there is a commit, and the files of a commit never change.

mod process;
mod program;
mod shown;
mod ssh;

use crate::dockerfile::GitSource;
use crate::request::Lender;
use crate::scratch::{Directory, Scratch};
use crate::{Error, Result};
use image::archive;
use image::registry::{Reach, Registries};
use program::Program;
use rustix::fd::AsFd as _;
pub(crate) use shown::Named;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

/// A commit of a repository, and which part of it is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) remote: String,
    pub(crate) id: String,
    /// What it was found by, if that is a branch or a tag.
    reference: Option<String>,
    pub(crate) directory: Option<String>,
}

/// The files of a commit, in a directory of their own.
pub(crate) struct Checkout {
    pub(crate) files: Directory,
    /// When the commit was made, seconds since 1970.
    pub(crate) time: i64,
}

/// What fetches repositories.
pub(crate) struct Git {
    registries: Registries,
    reach: Reach,
    /// Where they are while they are needed.
    scratch: Arc<Scratch>,
}

impl Git {
    pub(crate) fn new(registries: Registries, reach: Reach, scratch: Arc<Scratch>) -> Git {
        Git { registries, reach, scratch }
    }

    fn temporary(&self) -> Result<Directory> {
        self.scratch.directory().map_err(|e| Error::failed("making a directory for a repository", e))
    }

    async fn program(&self, remote: &str, lender: Option<&Arc<dyn Lender>>) -> Result<Program> {
        Program::new(&self.registries, &self.reach, remote, self.temporary()?, lender).await
    }

    /// Which agent is asked for a repository's sake; `None`: none.
    pub(crate) fn agent(source: &GitSource) -> Option<&'static str> {
        ssh::Address::parse(&source.remote).map(|_| ssh::AGENT)
    }

    /// Which commit is meant. One that is written in full is nobody asked for.
    pub(crate) async fn look(&self, source: &GitSource, lender: Option<&Arc<dyn Lender>>) -> Result<Commit> {
        check(source)?;
        let commit = |id: &str, reference: Option<&str>| Commit {
            remote: source.remote.clone(),
            id: id.to_owned(),
            reference: reference.map(str::to_owned),
            directory: source.directory.clone(),
        };
        let name = source.reference.as_deref().unwrap_or("HEAD");
        if is_full(name) {
            return Ok(commit(&name.to_ascii_lowercase(), None));
        }
        let program = self.program(&source.remote, lender).await?;
        let peeled = format!("{name}^{{}}");
        let home = self.temporary()?;
        let listed = program.run(home.path(), &["ls-remote", "--", &program.remote, name, &peeled]).await?;
        let (id, reference) = chosen(&listed, name).ok_or_else(|| {
            let remote = image::registry::without_password(&source.remote);
            Error::Invalid(format!("{remote} has no branch and no tag {name}; a commit is written in full"))
        })?;
        Ok(commit(&id, Some(&reference)))
    }

    /// Fetches a commit's files, and `.git` where it is kept.
    pub(crate) async fn fetch(
        &self,
        commit: &Commit,
        keep: bool,
        lender: Option<&Arc<dyn Lender>>,
    ) -> Result<Checkout> {
        let program = self.program(&commit.remote, lender).await?;
        let tree = self.temporary()?;
        let at = tree.path();
        let format = if commit.id.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        program.run(at, &["init", "--quiet", format, "."]).await?;
        program.run(at, &["remote", "add", "origin", "--", &program.remote]).await?;
        get(&program, at, commit).await?;
        program.run(at, &["checkout", "--quiet", "--force", "--detach", &commit.id]).await?;
        if at.join(".gitmodules").symlink_metadata().is_ok() {
            let update = ["submodule", "--quiet", "update", "--init", "--recursive", "--force"];
            let shallow = [&update[..], &["--depth=1"]].concat();
            // Not every server hands out a part of a history.
            if program.run(at, &shallow).await.is_err() {
                program.run(at, &update).await?;
            }
        }
        program.check(at).await?;
        let time = program.run(at, &["show", "--no-patch", "--format=%ct", &commit.id]).await?;
        let time =
            time.trim().parse().map_err(|e| Error::failed(format!("reading the time of commit {}", commit.id), e))?;
        if keep {
            program.run(at, &["remote", "set-url", "origin", &open(&commit.remote)]).await?;
            // It says when files were written here, and where.
            let forgotten = ["index", "FETCH_HEAD", "logs", "ORIG_HEAD", "hooks"];
            forgotten.iter().try_for_each(|name| remove(&at.join(".git").join(name)))?;
            program.run(at, &["read-tree", &commit.id]).await?;
        }
        let directory = commit.directory.clone();
        let chosen = tokio::task::spawn_blocking(move || chosen_files(tree, directory.as_deref(), keep)).await;
        let files = chosen.map_err(|e| Error::failed("opening a repository", e))??;
        Ok(Checkout { files, time })
    }
}

/// Fetches a commit, as little with it as its server makes possible.
async fn get(program: &Program, at: &Path, commit: &Commit) -> Result<()> {
    let shallow = ["fetch", "--quiet", "--no-tags", "--depth=1", "origin"];
    let of_name = commit.reference.as_deref().map(|name| [&shallow[..], &[name]].concat());
    let of_commit = [&shallow[..], &[&*commit.id]].concat();
    let all = vec!["fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"];
    let mut failure = None;
    for arguments in of_name.into_iter().chain([of_commit, all]) {
        if let Err(error) = program.run(at, &arguments).await {
            failure.get_or_insert(error);
            continue;
        }
        let object = format!("{}^{{commit}}", commit.id);
        if program.run(at, &["cat-file", "-e", &object]).await.is_ok() {
            return Ok(());
        }
    }
    let remote = image::registry::without_password(&commit.remote);
    Err(failure.unwrap_or_else(|| Error::Invalid(format!("{remote} has no commit {}", commit.id))))
}

/// An address without what is nobody's to know. Of one of SSH a name is none of that.
fn open(remote: &str) -> String {
    match ssh::Address::parse(remote) {
        Some(_) => remote.to_owned(),
        None => image::registry::without_password(remote),
    }
}

/// What is refused before anybody is asked.
fn check(source: &GitSource) -> Result<()> {
    let scheme = source.remote.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https" | "git")) && ssh::Address::parse(&source.remote).is_none() {
        let shown = image::registry::without_password(&source.remote);
        return Err(Error::Invalid(format!("{shown}: git is spoken by https, http, SSH and git://")));
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    let name = source.reference.as_deref().unwrap_or_default();
    if name.starts_with('-') || name.contains("..") || name.contains(odd) {
        return Err(Error::Invalid(format!("{name:?} is no name of a branch, a tag or a commit")));
    }
    Ok(())
}

/// Whether it is the whole name of a commit.
fn is_full(name: &str) -> bool {
    matches!(name.len(), 40 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The commit and the full name of what was listed: a tag before a branch, as git itself has it.
fn chosen(listed: &str, name: &str) -> Option<(String, String)> {
    let refs: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    let id = |full: &str| refs.iter().find(|(_, found)| *found == full).map(|(id, _)| (*id).to_owned());
    let tries = [name.to_owned(), format!("refs/{name}"), format!("refs/tags/{name}"), format!("refs/heads/{name}")];
    tries.into_iter().find_map(|full| {
        let found = id(&format!("{full}^{{}}")).or_else(|| id(&full))?;
        is_full(&found).then_some((found, full))
    })
}

/// The files that are meant, in a directory of their own. Blocks.
fn chosen_files(tree: Directory, directory: Option<&str>, keep: bool) -> Result<Directory> {
    let failed = |e: &dyn std::fmt::Display| Error::failed("opening a repository", e);
    if !keep {
        forget(tree.path())?;
    }
    let Some(directory) = directory else { return Ok(tree) };
    let root = File::open(tree.path()).map_err(|e| failed(&e))?;
    // Links in it lead nowhere else.
    let found = archive::target(root.as_fd(), Path::new(directory)).map_err(|e| Error::Invalid(e.to_string()))?;
    let found = tree.path().join(found.strip_prefix("/").unwrap_or(&found));
    if !found.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Error::Invalid(format!("the repository has no directory {directory}")));
    }
    let parent = tree.path().parent().ok_or_else(|| failed(&"it lies nowhere"))?;
    let part = Directory::within(parent).map_err(|e| failed(&e))?;
    fs::rename(found, part.path()).map_err(|e| failed(&e))?;
    Ok(part)
}

/// Removes what says that a directory is a work tree, wherever a submodule is. No commit has anything of that name, as git takes none.
fn forget(tree: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::failed("opening a repository", e);
    let mut left = vec![tree.to_owned()];
    while let Some(directory) = left.pop() {
        remove(&directory.join(".git"))?;
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("removing {}", path.display()), e);
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => image::remove_tree(path).map_err(|e| failed(&e)),
        Ok(_) => fs::remove_file(path).map_err(|e| failed(&e)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_before_a_branch_and_stands_for_its_commit() {
        let id = |c: char| c.to_string().repeat(40);
        let listed = format!(
            "{}\trefs/heads/v1\n{}\trefs/heads/x/v1\n{}\trefs/tags/v1\n{}\trefs/tags/v1^{{}}\n",
            id('a'),
            id('b'),
            id('c'),
            id('d')
        );
        assert_eq!(chosen(&listed, "v1"), Some((id('d'), "refs/tags/v1".into())));
        assert_eq!(chosen(&listed, "x/v1"), Some((id('b'), "refs/heads/x/v1".into())));
        assert_eq!(chosen(&listed, "refs/heads/v1"), Some((id('a'), "refs/heads/v1".into())));
        assert_eq!(chosen(&listed, "heads/v1"), Some((id('a'), "refs/heads/v1".into())));
        assert_eq!(chosen(&listed, "v2"), None);
        assert_eq!(chosen("nonsense\tHEAD\n", "HEAD"), None);
    }

    #[test]
    fn what_is_no_name_never_becomes_an_argument() {
        let source = |remote: &str, reference: &str| GitSource {
            remote: remote.into(),
            reference: Some(reference.into()),
            directory: None,
        };
        assert!(check(&source("https://x/a.git", "feature/new")).is_ok());
        for odd in ["--upload-pack=x", "-x", "a..b", "a b", "a:b", "a^{}", "*"] {
            assert!(check(&source("https://x/a.git", odd)).is_err(), "{odd}");
        }
        for remote in ["file:///x.git", "ext::sh -c true", "/x.git"] {
            assert!(check(&source(remote, "main")).is_err(), "{remote}");
        }
    }

    #[test]
    fn a_submodule_is_no_work_tree_any_more_and_nothing_outside_is_touched() {
        let tree = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join(".git"), "x").unwrap();
        let at = |path: &str| tree.path().join(path);
        fs::create_dir_all(at("lib/deep")).unwrap();
        for path in [".git", "lib/.git", "lib/deep/.git"] {
            fs::write(at(path), "x").unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), at("out")).unwrap();
        forget(tree.path()).unwrap();
        assert!(!at(".git").exists() && !at("lib/.git").exists() && !at("lib/deep/.git").exists());
        assert!(outside.path().join(".git").exists());
    }
}
