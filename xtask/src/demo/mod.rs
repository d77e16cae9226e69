//! `make run` and `make stop`: twenty copies of a small web service from one image, and what each of them costs.

mod copies;
mod image;
mod report;

use crate::instance::{self, Instance};
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Instant;

const DATA_DIR: &str = "/var/lib/stratus-demo";
const RUN_DIR: &str = "/run/stratus-demo";

/// Starts the daemon, where it does not run, makes the image, where it is not there, and starts the copies: those of an
/// earlier run are replaced, so that what is measured is this program.
pub(crate) fn run(root: &Path) -> Result<()> {
    let began = Instant::now();
    let workspace = Workspace::load(root)?;
    let instance = Instance {
        program: instance::release_program(&workspace.target_directory)?,
        data_dir: DATA_DIR.into(),
        run_dir: RUN_DIR.into(),
    };
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
pub(crate) fn stop(root: &Path) -> Result<()> {
    if !instance::is_root() {
        bail!("only root can stop what root started: try again with sudo");
    }
    let was_there = Path::new(RUN_DIR).exists();
    if !was_there && !Path::new(DATA_DIR).exists() {
        println!("There is nothing to stop.");
        return Ok(());
    }
    let workspace = Workspace::load(root)?;
    let instance = Instance {
        program: instance::release_program(&workspace.target_directory)?,
        data_dir: DATA_DIR.into(),
        run_dir: RUN_DIR.into(),
    };
    if instance.daemon().is_some() {
        copies::remove(&mut instance.connect()?)?;
    }
    instance.stop()?;
    instance.clean()?;
    println!(
        "{}. The images are kept in {DATA_DIR}: they go with rm -r {DATA_DIR}.",
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
