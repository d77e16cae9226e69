//! `--provenance`, `--sbom`, `--attest`: what is to be said of an image.

use api_build::{Attest, Output, Provenance};
use clap::Args;

use super::super::error::{Error, Result};
use super::super::mounts::fields;
use super::super::output;

/// What is said of the image
#[derive(Args, Debug)]
#[command(next_help_heading = "What is said of the image")]
pub(super) struct Attests {
    /// Say by what the image was made (SLSA provenance): true, false, mode=min, or mode=max with the Dockerfile's text and all steps
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Say which packages are in the image (SPDX): true or false
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// The same in other words: type=provenance,mode=max or type=sbom; repeats
    #[arg(long, value_name = "WHAT")]
    attest: Vec<String>,
}

impl Attests {
    /// What is asked for. The flags of their own come before --attest.
    pub(super) fn wanted(&self) -> Result<Attest> {
        let mut wanted = Attest::default();
        for text in &self.attest {
            let refused = |why: String| Error::Usage(format!("--attest {text:?}: {why}"));
            let mut said = fields(text).map_err(&refused)?;
            let place = said.iter().position(|field| field.trim_start().starts_with("type="));
            let kind = place.map(|place| said.remove(place)).unwrap_or_default();
            match kind.trim().trim_start_matches("type=") {
                "provenance" => wanted.provenance = provenance(&said).map_err(&refused)?,
                "sbom" => wanted.sbom = sbom(&said).map_err(&refused)?,
                _ => return Err(refused("it has no type that there is: type=provenance or type=sbom".to_owned())),
            }
        }
        if let Some(text) = &self.provenance {
            let refused = |why: String| Error::Usage(format!("--provenance={text}: {why}"));
            wanted.provenance = provenance(&fields(text).map_err(&refused)?).map_err(&refused)?;
        }
        if let Some(text) = &self.sbom {
            let refused = |why: String| Error::Usage(format!("--sbom={text}: {why}"));
            wanted.sbom = sbom(&fields(text).map_err(&refused)?).map_err(&refused)?;
        }
        Ok(wanted)
    }
}

/// Tells who asks for something that nobody is going to hear.
pub(super) fn unheard(wanted: &Attest, outputs: &[Output]) {
    let files = |output: &Output| matches!(output, Output::Files { .. });
    if !wanted.is_nothing() && !outputs.is_empty() && outputs.iter().all(files) {
        output::warning("what --provenance and --sbom say goes with an image, and only files are asked for");
    }
}

fn provenance(fields: &[String]) -> std::result::Result<Option<Provenance>, String> {
    let (mut wanted, mut disabled) = (Provenance::default(), false);
    for field in fields {
        match field.trim().split_once('=').unwrap_or((field.trim(), "")) {
            ("true", "") | ("mode", "min") | ("version", "v1") | ("reproducible", _) => {}
            ("false", "") => disabled = true,
            ("disabled", value) => disabled = yes(value)?,
            ("mode", "max") => wanted.all = true,
            ("builder-id", id) if id.contains(':') => wanted.builder = Some(id.to_owned()),
            ("builder-id", _) => return Err("a builder is named by an address".to_owned()),
            ("mode", other) => return Err(format!("there is no mode {other:?}: there are min and max")),
            ("version", other) => return Err(format!("stratus writes SLSA provenance v1, and not {other}")),
            (mode @ ("min" | "max"), "") => return Err(format!("{mode} is a mode: mode={mode}")),
            (key, _) => {
                return Err(format!("there is no {key:?}: there are true, false, mode, builder-id and disabled"));
            }
        }
    }
    Ok((!disabled).then_some(wanted))
}

fn sbom(fields: &[String]) -> std::result::Result<bool, String> {
    let mut wanted = true;
    for field in fields {
        match field.trim().split_once('=').unwrap_or((field.trim(), "")) {
            ("true", "") => {}
            ("false", "") => wanted = false,
            ("disabled", value) => wanted = !yes(value)?,
            ("generator", _) => {
                return Err("no program lists the packages: stratus reads the image's databases itself".to_owned());
            }
            (key, _) => return Err(format!("there is no {key:?}: there are true, false and disabled")),
        }
    }
    Ok(wanted)
}

fn yes(text: &str) -> std::result::Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(provenance: Option<&str>, sbom: Option<&str>, attest: &[&str]) -> std::result::Result<Attest, String> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let attest = attest.iter().map(|text| (*text).to_owned()).collect();
        Attests { provenance: own(provenance), sbom: own(sbom), attest }.wanted().map_err(|error| error.to_string())
    }

    #[test]
    fn both_ways_of_asking_are_one() {
        let all = |builder: Option<&str>| Some(Provenance { all: true, builder: builder.map(str::to_owned) });
        assert_eq!(wanted(None, None, &[]), Ok(Attest::default()));
        assert_eq!(wanted(Some("mode=max"), None, &[]), Ok(Attest { provenance: all(None), sbom: false }));
        let attest = wanted(None, None, &["type=provenance,mode=max,builder-id=https://ci.example/1", "type=sbom"]);
        assert_eq!(attest, Ok(Attest { provenance: all(Some("https://ci.example/1")), sbom: true }));
        let off = wanted(Some("false"), Some("false"), &["mode=max,type=provenance", "type=sbom"]);
        assert_eq!(off, Ok(Attest::default()));
        assert_eq!(wanted(None, None, &["type=provenance,disabled=true"]), Ok(Attest::default()));
    }

    #[test]
    fn what_there_is_not_is_told() {
        for (given, word) in [
            (wanted(Some("mode=all"), None, &[]), "min and max"),
            (wanted(Some("max"), None, &[]), "mode=max"),
            (wanted(Some("version=v0.2"), None, &[]), "v1"),
            (wanted(None, Some("generator=x"), &[]), "databases"),
            (wanted(None, Some("yes"), &[]), "true, false"),
            (wanted(None, None, &["mode=max"]), "type=sbom"),
            (wanted(None, None, &["type=provenance,builder-id=me"]), "address"),
        ] {
            assert!(given.expect_err(word).contains(word), "{word}");
        }
    }
}
