//! Chooses from an index what fits a platform best, as containerd does: a newer processor runs what older ones run.

use crate::{Descriptor, Index, Platform};

/// What marks a manifest of an index as saying something about another one, rather than being an image.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// The entry of an index that fits the platform best; the first of several that fit alike.
/// Entries that don't name a platform come last.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let runnable = runnable_on(&wanted.normalized());
    let rank = |entry: &Descriptor| match &entry.platform {
        None => Some(runnable.len()),
        Some(offered) => {
            let offered = offered.normalized();
            let same = |(architecture, variant): &(String, Option<String>)| {
                *architecture == offered.architecture && *variant == offered.variant
            };
            (offered.os == wanted.normalized().os).then(|| runnable.iter().position(same))?
        }
    };
    let images = index.manifests.iter().filter(|entry| !entry.annotations.contains_key(ATTESTATION));
    images.filter_map(|entry| Some((rank(entry)?, entry))).min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
}

/// Architectures and variants that run on a platform, the best first, in normal form.
fn runnable_on(platform: &Platform) -> Vec<(String, Option<String>)> {
    let of = |architecture: &str, variants: Vec<Option<String>>| {
        variants.into_iter().map(move |variant| (architecture.to_owned(), variant)).collect::<Vec<_>>()
    };
    let variant = platform.variant.as_deref();
    match &*platform.architecture {
        // `v1` and no variant are the same, and written as none.
        "amd64" => {
            [of("amd64", older(variant.unwrap_or("v1"), 2)), of("amd64", vec![None]), of("386", vec![None])].concat()
        }
        // `v8` likewise. Its 32-bit form is what `arm/v8` and below run on.
        "arm64" => [of("arm64", older(variant.unwrap_or("v8"), 9)), of("arm64", vec![None]), of("arm", older("v8", 5))]
            .concat(),
        "arm" => of("arm", older(variant.unwrap_or("v7"), 5)),
        other => of(other, vec![platform.variant.clone()]),
    }
}

/// `v4`, `v3`, … down to the oldest. A variant that isn't of this form stands for itself.
fn older(newest: &str, oldest: u32) -> Vec<Option<String>> {
    let Some(digits) = newest.strip_prefix('v') else { return vec![Some(newest.to_owned())] };
    let (major, minor) = digits.split_once('.').map_or((digits, None), |(major, minor)| (major, Some(minor)));
    let Ok(major @ 0..=99) = major.parse::<u32>() else { return vec![Some(newest.to_owned())] };
    let exact = minor.is_some().then(|| Some(newest.to_owned()));
    exact.into_iter().chain((oldest..=major).rev().map(|number| Some(format!("v{number}")))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn index(platforms: &[&str]) -> Index {
        let entry = |text: &&str| {
            let mut entry = Descriptor::new(crate::media_type::OCI_MANIFEST, Digest::of(text.as_bytes()), 1);
            let mut parts = text.split('/');
            entry.platform = parts.next().filter(|os| !os.is_empty()).map(|os| Platform {
                os: os.into(),
                architecture: parts.next().unwrap_or_default().into(),
                variant: parts.next().map(str::to_owned),
                os_version: None,
                os_features: Vec::new(),
            });
            entry
        };
        Index {
            schema_version: 2,
            media_type: None,
            manifests: platforms.iter().map(entry).collect(),
            annotations: Default::default(),
        }
    }

    #[track_caller]
    fn chooses(wanted: &str, offered: &[&str], best: Option<&str>) {
        let index = index(offered);
        let chosen = choose(&index, &wanted.parse().unwrap()).map(|entry| entry.digest);
        assert_eq!(chosen, best.map(|text| Digest::of(text.as_bytes())), "{wanted} of {offered:?}");
    }

    #[test]
    fn the_closest_variant_wins() {
        chooses("linux/amd64", &["linux/386", "linux/amd64", "linux/amd64/v2"], Some("linux/amd64"));
        chooses("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], Some("linux/amd64/v2"));
        chooses("linux/amd64", &["linux/arm64", "linux/386"], Some("linux/386"));
        chooses("linux/amd64", &["linux/x86_64/v1"], Some("linux/x86_64/v1"));
        chooses("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], Some("linux/arm/v6"));
        chooses("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Some("linux/arm64/v8"));
        chooses("linux/arm64", &["linux/arm/v6", "linux/arm/v7"], Some("linux/arm/v7"));
        chooses("linux/arm64", &["linux/arm64/v9"], None);
        chooses("linux/s390x", &["linux/amd64", "windows/s390x"], None);
        chooses("linux/amd64", &["unknown/unknown", ""], Some(""));
        chooses("linux/amd64", &[], None);
    }

    #[test]
    fn attestations_are_no_images() {
        let mut index = index(&["linux/amd64"]);
        index.manifests[0].annotations.insert(ATTESTATION.into(), "attestation-manifest".into());
        assert!(choose(&index, &"linux/amd64".parse().unwrap()).is_none());
    }
}
