//! `make run` and `make stop`: twenty copies of a small web service from one image, and what each of them costs.

mod copies;
mod image;
mod report;

use crate::instance::{self, Instance};
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Which demo: `make`'s DEMO and PROFILE, by which the tests have one of their own, of the program that they built.
pub(crate) struct Demo {
    data_dir: PathBuf,
    run_dir: PathBuf,
    profile: String,
}

impl Demo {
    /// As the environment has it. What is not there is as a person who types `make run` gets it.
    pub(crate) fn of_environment() -> Result<Demo> {
        let variable = |name: &str, default: &str| {
            std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        let (name, profile) = (variable("DEMO", "stratus-demo"), variable("PROFILE", "release"));
        if name.contains('/') || name.starts_with('.') {
            bail!("DEMO={name}: it is to be the name of a directory in /var/lib and in /run");
        }
        Ok(Demo { data_dir: Path::new("/var/lib").join(&name), run_dir: Path::new("/run").join(&name), profile })
    }

    fn instance(&self, workspace: &Workspace) -> Result<Instance> {
        Ok(Instance {
            program: instance::built_program(&workspace.target_directory, &self.profile)?,
            data_dir: self.data_dir.clone(),
            run_dir: self.run_dir.clone(),
        })
    }
}

/// Starts the daemon, where it does not run, makes the image, where it is not there, and starts the copies: those of an
/// earlier run are replaced, so that what is measured is this program.
pub(crate) fn run(root: &Path, demo: &Demo) -> Result<()> {
    let began = Instant::now();
    let workspace = Workspace::load(root)?;
    let instance = demo.instance(&workspace)?;
    if !instance::is_root() {
        bail!("containers need root: try again with sudo");
    }
    show(root, &workspace, &instance, began).inspect_err(|_| {
        if instance.daemon().is_some() {
            eprintln!(
                "The daemon goes on ({}, its log is {}), with what it runs. To take it down:\n    make stop",
                instance.run_dir.display(),
                instance.log().display()
            );
        }
    })
}

fn show(root: &Path, workspace: &Workspace, instance: &Instance, began: Instant) -> Result<()> {
    start_daemon(instance)?;
    let mut api = instance.connect()?;
    copies::remove(&mut api)?;
    let base = image::base(instance, &mut api)?;
    let image = image::web_service(root, &workspace.target_directory, &mut api, &base)?;
    let copies = copies::start(instance, &mut api, &image)?;
    report::print(instance, &mut api, &image, &copies)?;
    println!("All of this took {:.1} s.", began.elapsed().as_secs_f64());
    report::print_what_next(root, instance, &copies);
    Ok(())
}

/// Takes everything down: the copies, the daemon, and what it put into the kernel. The data directory stays.
pub(crate) fn stop(root: &Path, demo: &Demo) -> Result<()> {
    if !instance::is_root() {
        bail!("only root can stop what root started: try again with sudo");
    }
    let was_there = demo.run_dir.exists();
    if !was_there && !demo.data_dir.exists() {
        println!("There is nothing to stop.");
        return Ok(());
    }
    let workspace = Workspace::load(root)?;
    let instance = demo.instance(&workspace)?;
    if instance.daemon().is_some() {
        copies::remove(&mut instance.connect()?)?;
    }
    instance.stop()?;
    instance.clean()?;
    let data_dir = demo.data_dir.display();
    println!(
        "{}. The images are kept in {data_dir}: they go with rm -r {data_dir}.",
        if was_there {
            "Stopped; nothing of it is left in the kernel but net.ipv4.ip_forward, which stays as it is now"
        } else {
            "Nothing was running"
        }
    );
    Ok(())
}

/// A daemon of a program that was built before makes place for this one; what it runs does not notice.
fn start_daemon(instance: &Instance) -> Result<()> {
    if let Some(daemon) = instance.daemon() {
        if instance.is_current(daemon) {
            return Ok(());
        }
        println!("The daemon that runs was built before: it is replaced.");
        instance.stop()?;
    }
    let began = Instant::now();
    instance.start()?;
    println!("The daemon is ready after {:.1} ms.", began.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
