//! A further process in a container's machine: a small process on the host stands for it, and is told by a file in the directory of the machine's control socket.

use std::fs;
use std::path::PathBuf;

use guest_protocol::message::Blob;
use microvm::container::{USER, at};
use microvm::{ExecRequest, role};
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags};
use sandbox::{ExecOptions, ExecPlan};

use super::machine::{placement, refused};
use crate::model::ContainerRecord;
use crate::{Engine, Error, Result};

/// What the process is told. It removes the file itself, once it has read it; dropped, this does, for one that never came so far.
pub(super) struct RequestFile(PathBuf);

impl Drop for RequestFile {
    fn drop(&mut self) {
        // Most times it is gone; and the directory is the machine's, who may have put anything there.
        let _ = fs::remove_file(&self.0);
    }
}

impl Engine {
    /// Makes the plan of a process on the host that stands for a further one in a container's machine, and the file that it reads, to be held until it runs. `id` is nobody else's. Blocks.
    pub(super) fn machine_exec(
        &self,
        id: &str,
        record: &ContainerRecord,
        spec: &Spec,
        process: &Process,
    ) -> Result<(Vec<u8>, RequestFile)> {
        let confined = microvm::container::confined(spec.clone()).map_err(refused)?;
        let home = self.inside(record)?;
        self.check_release(&home.owner)?;
        let mut within = process.clone();
        within.set_apparmor_profile(None);
        let options = ExecOptions {
            cgroup: Some(placement(home.number)?),
            seccomp: crate::spec::default_filter(record)?,
            ..ExecOptions::default()
        };
        let plan =
            ExecPlan::compile(&within, &confined, &options).map_err(|error| Error::invalid(error.to_string()))?;
        let plan = Blob(plan.to_bytes().map_err(|error| Error::system(error.to_string()))?);
        let terminal = process.terminal().unwrap_or(false);
        let request = ExecRequest { control: at::SOCKET.into(), container: home.number, plan, terminal, stdin: true };
        let name = id.get(..16).unwrap_or(id);
        let file = self.machine_dir(&home.owner).join("control").join(name);
        let failed = |error: std::io::Error| Error::system(format!("write {}: {error}", file.display()));
        // The directory is the machine's: whatever it has put there is not written to, and nothing is given away by its name.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::open(&file, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| failed(errno.into()))?;
        let written = RequestFile(file.clone());
        let mut made = fs::File::from(made);
        std::io::Write::write_all(&mut made, &request.to_bytes().map_err(refused)?).map_err(failed)?;
        std::os::unix::fs::fchown(&made, Some(USER), Some(USER)).map_err(failed)?;

        let arguments = [at::PROGRAM, role::EXEC, &format!("{}/{name}", at::CONTROL)];
        let outside = microvm::container::further(&arguments, terminal).map_err(refused)?;
        let process = outside.process().as_ref().ok_or_else(|| Error::system("the specification has no process"))?;
        let options = ExecOptions {
            cgroup: Some(self.0.placements.placement(record)?),
            program_reports: true,
            ..ExecOptions::default()
        };
        let plan = ExecPlan::compile(process, &outside, &options).map_err(|error| Error::invalid(error.to_string()))?;
        Ok((plan.to_bytes().map_err(|error| Error::system(error.to_string()))?, written))
    }
}
