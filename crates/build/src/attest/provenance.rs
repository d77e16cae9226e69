//! By what an image was made, as SLSA has it (slsa.dev/spec/v1.0/provenance). The words of our kind of build are in docs/attestations.md.

use super::Provenance;
use super::ledger::{Layer, Taken};
use crate::check::looks_secret;
use crate::dockerfile::{Dockerfile, PREDEFINED};
use crate::request::{NamedContext, Request};
use crate::solve::Planned;
use engine::model::NetworkMode;
use image::Digest;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The kind of build: what the parameters mean.
const BUILD_TYPE: &str = "urn:stratus:build:dockerfile:v1";
/// Who answers for it, where nobody is named.
const BUILDER: &str = "urn:stratus:builder";

/// The predicate of a build.
pub(super) fn predicate(wanted: &Provenance, planned: &Planned, request: &Request, taken: &Taken) -> Value {
    let dependencies: Vec<Value> = taken.dependencies.iter().map(super::Dependency::document).collect();
    let mut definition = json!({
        "buildType": BUILD_TYPE,
        "externalParameters": parameters(request, taken),
        "resolvedDependencies": dependencies,
    });
    if wanted.all {
        definition["internalParameters"] = json!({
            "dockerfile": request.file.text(),
            "steps": steps(&planned.file, &planned.order, taken),
        });
    }
    json!({
        "buildDefinition": definition,
        "runDetails": {
            "builder": {
                "id": wanted.builder.as_deref().unwrap_or(BUILDER),
                "version": { "stratus": env!("CARGO_PKG_VERSION") },
            },
        },
    })
}

/// What whoever asked for the build decided.
fn parameters(request: &Request, taken: &Taken) -> Value {
    let file = &request.file;
    // Where it lies is a matter of whoever has it.
    let name = Path::new(file.name()).file_name().unwrap_or_default().to_string_lossy();
    let (mut arguments, mut withheld) = (Map::new(), Vec::new());
    for (name, value) in &request.given.arguments {
        let has_password = value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
        // A proxy is this machine's way, and is in no image.
        match looks_secret(name) || has_password || PREDEFINED.contains(&name.as_str()) {
            true => withheld.push(name.clone()),
            false => drop(arguments.insert(name.clone(), json!(value))),
        }
    }
    let mut parameters = json!({
        "dockerfile": { "name": name, "digest": { "sha256": Digest::of(file.text().as_bytes()).hex() } },
        "platform": request.given.target_platform.to_string(),
    });
    let mut add = |name: &str, value: Value, is_said: bool| {
        if is_said {
            parameters[name] = value;
        }
    };
    add("context", json!(request.origin.as_ref().map(super::Fetched::uri)), request.origin.is_some());
    let contexts: BTreeMap<&str, Value> =
        request.contexts.iter().map(|(name, context)| (name.as_str(), named(context))).collect();
    add("contexts", json!(contexts), !contexts.is_empty());
    add("target", json!(request.given.target), request.given.target.is_some());
    add("arguments", Value::Object(arguments), !request.given.arguments.is_empty());
    add("withheldArguments", json!(withheld), !withheld.is_empty());
    add("labels", json!(request.labels), !request.labels.is_empty());
    add("secrets", json!(taken.secrets), !taken.secrets.is_empty());
    add("agents", json!(taken.agents), !taken.agents.is_empty());
    add("entitlements", json!(request.allowed), !request.allowed.is_empty());
    add("squash", json!(true), request.squash);
    let network = &request.host.network_mode;
    add("network", json!(network.to_string()), *network != NetworkMode::default());
    add("extraHosts", json!(request.host.extra_hosts), !request.host.extra_hosts.is_empty());
    parameters
}

/// What a further context is. A directory of the client's is nothing that others could look up.
fn named(context: &NamedContext) -> Value {
    match context {
        NamedContext::Image(name) => json!({ "image": name }),
        NamedContext::Files { origin: Some(origin), .. } => json!({ "uri": origin.uri() }),
        NamedContext::Files { origin: None, .. } | NamedContext::Layout(_) => json!({}),
    }
}

/// All that was done, stage by stage.
fn steps(file: &Dockerfile, order: &[usize], taken: &Taken) -> Vec<Value> {
    let mut all = Vec::new();
    for index in order {
        let stage = &file.stages[*index];
        let texts = std::iter::once(&stage.from.text).chain(stage.steps.iter().map(|step| &step.text));
        for (number, text) in texts.enumerate() {
            let layers = taken.layers.get(&(*index, number)).map_or(&[][..], Vec::as_slice);
            let mut step = json!({ "stage": index, "instruction": text });
            if let Some(name) = stage.name() {
                step["stageName"] = json!(name);
            }
            if let Some(own) = layers.iter().find(|layer| layer.text == *text) {
                came_to(&mut step, own);
            }
            all.push(step);
            // What the base asked for.
            for trigger in layers.iter().filter(|layer| layer.text != *text) {
                let mut step = json!({ "stage": index, "trigger": trigger.text });
                came_to(&mut step, trigger);
                all.push(step);
            }
        }
    }
    all
}

fn came_to(step: &mut Value, layer: &Layer) {
    step["key"] = json!(layer.key);
    if !layer.diff_ids.is_empty() {
        step["layers"] = json!(layer.diff_ids);
    }
}
