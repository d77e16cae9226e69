//! What is said of an image that was built: by what it was made (provenance), and what is in it (a list of its packages).
//!
//! Nothing of it is of this moment or of this machine: the same build says the same again.

mod ledger;
mod provenance;

use crate::progress::{Progress, StepEvent};
use crate::request::Request;
use crate::solve::{Builder, Planned, Solver};
use crate::{Error, Result};
use image::{Attestation, ImageConfig, ImageId};

pub use ledger::Fetched;
pub(crate) use ledger::{Dependency, Ledger};

/// The kind of a provenance.
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// The kind of a list of packages.
const SPDX: &str = "https://spdx.dev/Document";
/// All that a build may say.
pub(crate) const KINDS: [&str; 2] = [PROVENANCE, SPDX];

/// What is to be said of an image that is built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attest {
    /// By what it was made.
    pub provenance: Option<Provenance>,
    /// What packages are in it.
    pub sbom: bool,
}

/// How much is said of how an image was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// With the Dockerfile's text, and all steps.
    pub all: bool,
    /// Whom a build is answered for by, as an address; none named: any stratus.
    pub builder: Option<String>,
}

impl Builder {
    /// All that is asked to be said of an image that was built.
    pub(crate) async fn attestations(
        &self,
        (planned, request): (&Planned, &Request),
        solver: &Solver<'_>,
        (id, config): (ImageId, &ImageConfig),
        progress: &Progress,
    ) -> Result<Vec<Attestation>> {
        let mut all = Vec::new();
        if let Some(wanted) = &request.attest.provenance {
            let predicate = provenance::predicate(wanted, planned, request, &solver.ledger.taken());
            all.push(Attestation { predicate_type: PROVENANCE.to_owned(), predicate });
        }
        if request.attest.sbom {
            let failed = |e: Error| Error::Invalid(format!("listing the image's packages (--sbom): {e}"));
            let listed = self.packages_in(id, config).await.map_err(failed)?;
            if let Some(missing) = listed.missing {
                progress.step(planned.last(), StepEvent::Warning(format!("--sbom: {missing}")));
            }
            all.push(Attestation { predicate_type: SPDX.to_owned(), predicate: listed.document });
        }
        Ok(all)
    }
}
