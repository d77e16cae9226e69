//! Processors of a level, as QEMU makes them: what any 64-bit one has, with the level's features by name.
//!
//! QEMU leaves out what it can't have, and begins all the same: it is asked what that was.

use qapi::qmp::qom_get;
use vmm::Processor;

use super::monitor::Monitor;
use crate::error::{Error, Result};

/// The first processor: all are alike.
const FIRST: &str = "/machine/unattached/device[0]";

/// QEMU's name of a processor.
pub(super) fn model(processor: Processor) -> String {
    match processor {
        Processor::Host => "max".to_owned(),
        // Its features are those of all that have 64 bits, and AMD's virtualization.
        level => level.features().fold("qemu64,svm=off".to_owned(), |model, feature| format!("{model},{feature}=on")),
    }
}

/// Whether QEMU has a processor of that kind.
///
/// # Errors
/// It lacks some features, which are named.
pub(super) fn check(monitor: &mut Monitor, processor: Processor) -> Result<()> {
    if processor == Processor::Host {
        return Ok(());
    }
    let asked = qom_get { path: FIRST.to_owned(), property: "unavailable-features".to_owned() };
    let told = monitor.execute("look what its processors lack", &asked)?;
    let features = told.as_array().into_iter().flatten().filter_map(|feature| feature.as_str());
    match features.collect::<Vec<_>>().join(", ") {
        lacking if lacking.is_empty() => Ok(()),
        lacking => Err(Error::ProcessorLacks { processor, lacking }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_the_features_of_its_level() {
        assert_eq!(model(Processor::Host), "max");
        let two = "qemu64,svm=off,pni=on,ssse3=on,cx16=on,sse4_1=on,sse4_2=on,popcnt=on,lahf_lm=on";
        assert_eq!(model(Processor::V2), two);
        assert!(model(Processor::V3).starts_with(&format!("{two},fma=on,")));
    }
}
