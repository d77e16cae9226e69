//! A look at a build: which steps it has, what each needs, and what is in the cache of it. Nothing is run, pulled or made.
//!
//! The walk is that of a build itself ([`crate::stage`]): a step's key is computed where a build computes it, so that the two can't differ.
//! A step after one that is not in the cache reads what that one would make, and nothing can be said of it.

use crate::dockerfile::{Origin, needs};
use crate::progress::{Progress, StepId};
use crate::request::Request;
use crate::solve::{Builder, Planned};
use crate::{Error, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a build would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// The stages that are needed, in the order of the file.
    pub stages: Vec<GraphStage>,
}

/// A stage that is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphStage {
    /// Its index in the file.
    pub stage: usize,
    /// Its name.
    pub name: Option<String>,
    /// Its steps, and the triggers of its base behind the first of them.
    pub steps: Vec<GraphStep>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphStep {
    /// The instruction.
    pub text: String,
    /// What it needs beside the step before it: what it builds upon, copies from or mounts.
    pub needs: Vec<Origin>,
    /// What there would be to do.
    pub outlook: Outlook,
}

/// What there would be to do for a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outlook {
    /// No files: it only says something of the image.
    Configures,
    /// What it builds upon is here.
    Here,
    /// What it builds upon is not here, and is pulled.
    Pulled,
    /// It is in the cache.
    Cached {
        /// Bytes in the files of its layer.
        size: u64,
    },
    /// It is in a cache of elsewhere.
    CachedFrom {
        /// Bytes in the files of its layer.
        size: u64,
        /// In which.
        from: String,
    },
    /// It is not in the cache, and is carried out.
    Built,
    /// It reads what another step makes that is not in the cache: nobody knows before that one is built.
    Unknown,
}

/// What is known of a stage that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    /// Nothing: its base is not here.
    Nothing,
    /// What the image says of itself, but not its files.
    Configuration,
    /// Which layers it has, but not what is in them.
    Layers,
    /// All.
    All,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<BTreeMap<StepId, Vec<GraphStep>>>);

impl Looks {
    /// Notes a step, or a trigger that comes with one.
    pub(crate) fn note(&self, id: StepId, step: GraphStep) {
        self.0.lock().entry(id).or_default().push(step);
    }
}

impl Builder {
    /// Looks what a build would do.
    ///
    /// # Errors
    /// What is wrong with the file or the request, as far as it is seen without doing anything.
    pub async fn look(&self, request: &Request) -> Result<Graph> {
        let (progress, looks) = (Progress::none(), Looks::default());
        let planned = Planned::new(request)?;
        let solver = planned.solver(self, request, &progress, Some(&looks));
        solver.carry_out_all(&planned.order).await?;
        drop(solver);
        let mut stages: BTreeMap<usize, GraphStage> = BTreeMap::new();
        for (id, steps) in looks.0.into_inner() {
            let name = || planned.file.stages[id.stage].name().map(str::to_owned);
            let empty = || GraphStage { stage: id.stage, name: name(), steps: Vec::new() };
            stages.entry(id.stage).or_insert_with(empty).steps.extend(steps);
        }
        Ok(Graph { stages: stages.into_values().collect() })
    }
}

impl crate::solve::Solver<'_> {
    /// What an instruction of a stage copies from or mounts.
    pub(crate) fn needed(&self, stage: usize, instruction: &crate::dockerfile::Instruction) -> Result<Vec<Origin>> {
        let mut found = Vec::new();
        needs(self.file, stage, instruction, &mut found)?;
        let mut origins: Vec<Origin> = Vec::new();
        for need in found {
            if !origins.contains(&need.origin) {
                origins.push(need.origin);
            }
        }
        Ok(origins)
    }

    /// Whether the files that a name stands for are known without doing anything.
    pub(crate) async fn is_known(&self, origin: &Origin) -> Result<bool, Error> {
        Ok(match origin {
            Origin::Scratch => true,
            Origin::Stage(index) => self.stage(*index).await?.known == Known::All,
            Origin::Named { name, .. } => self.here(name, &self.request.given.target_platform).is_some(),
        })
    }
}
