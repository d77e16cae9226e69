//! A document of SPDX 2.3, as JSON.

use super::packages::{Found, Kind, Package};
use image::{Digest, Hasher};
use jiff::Timestamp;
use serde_json::{Value, json};

const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const IMAGE: &str = "SPDXRef-Image";
/// What the standard has for what nobody looked for.
const UNKNOWN: &str = "NOASSERTION";

/// The document of an image.
pub(super) fn document(image: &Digest, created: i64, found: &Found) -> Value {
    let created = Timestamp::from_second(created).unwrap_or_default().to_string();
    let mut creation = json!({
        "created": created,
        "creators": [concat!("Tool: stratus-", env!("CARGO_PKG_VERSION"))],
    });
    if let Some(missing) = found.missing() {
        creation["comment"] = json!(missing);
    }
    let mut packages = vec![json!({
        "name": image.to_string(),
        "SPDXID": IMAGE,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "checksums": [{ "algorithm": "SHA256", "checksumValue": image.hex() }],
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "primaryPackagePurpose": "CONTAINER",
    })];
    let relation = |of: &str, kind: &str, to: &str| json!({ "spdxElementId": of, "relationshipType": kind, "relatedSpdxElement": to });
    let mut relationships = vec![relation(DOCUMENT, "DESCRIBES", IMAGE)];
    for package in &found.packages {
        let id = identifier(package);
        relationships.push(relation(IMAGE, "CONTAINS", &id));
        packages.push(described(package, &id, found));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": image.to_string(),
        "documentNamespace": format!("https://spdx.org/spdxdocs/image-{}", image.hex()),
        "creationInfo": creation,
        "packages": packages,
        "relationships": relationships,
    })
}

fn described(package: &Package, id: &str, found: &Found) -> Value {
    let mut described = json!({
        "name": package.name,
        "SPDXID": id,
        "versionInfo": package.version,
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": locator(package, found),
        }],
    });
    if let Some(source) = &package.source {
        described["sourceInfo"] = json!(format!("built from {source}"));
    }
    described
}

/// An identifier has letters, digits, dots and dashes: what else a name has is told apart by a digest.
fn identifier(package: &Package) -> String {
    let mut hasher = Hasher::new();
    for part in [kind(package.kind), &package.name, &package.version, &package.architecture] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let plain: String =
        package.name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    format!("SPDXRef-Package-{}-{plain}-{}", kind(package.kind), &hasher.finish().hex()[..16])
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Deb => "deb",
        Kind::Apk => "apk",
        Kind::Pacman => "alpm",
        Kind::Rpm => "rpm",
    }
}

/// The package's URL, as all scanners know it (github.com/package-url/purl-spec).
fn locator(package: &Package, found: &Found) -> String {
    let usual = match package.kind {
        Kind::Deb => "debian",
        Kind::Apk => "alpine",
        Kind::Pacman => "arch",
        Kind::Rpm => "redhat",
    };
    let distribution = if found.distribution.is_empty() { usual } else { &*found.distribution };
    // RPM's epoch has a place of its own, and Red Hat another name there.
    let (epoch, version) = match package.version.split_once(':').filter(|_| package.kind == Kind::Rpm) {
        Some((epoch, version)) => (Some(epoch), version),
        None => (None, &*package.version),
    };
    let name = match package.kind {
        // Its names have cases.
        Kind::Rpm => package.name.clone(),
        Kind::Deb | Kind::Apk | Kind::Pacman => package.name.to_lowercase(),
    };
    let vendor = if (package.kind, distribution) == (Kind::Rpm, "rhel") { "redhat" } else { distribution };
    let mut qualifiers = Vec::new();
    if !package.architecture.is_empty() {
        qualifiers.push(format!("arch={}", encoded(&package.architecture)));
    }
    if !found.version.is_empty() {
        qualifiers.push(format!("distro={}", encoded(&format!("{distribution}-{}", found.version))));
    }
    if let Some(epoch) = epoch {
        qualifiers.push(format!("epoch={}", encoded(epoch)));
    }
    let separator = if qualifiers.is_empty() { "" } else { "?" };
    format!(
        "pkg:{}/{}/{}@{}{separator}{}",
        kind(package.kind),
        encoded(vendor),
        encoded(&name),
        encoded(version),
        qualifiers.join("&")
    )
}

pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn package(name: &str, version: &str) -> Package {
        Package {
            kind: Kind::Deb,
            name: name.into(),
            version: version.into(),
            architecture: "amd64".into(),
            source: Some("gcc-12".into()),
        }
    }

    #[test]
    fn a_document_says_what_the_standard_asks_for() {
        let found = Found {
            packages: BTreeSet::from([package("libstdc++6", "12.2.0-14+deb12u1"), package("a", "1:2~rc1")]),
            distribution: "debian".into(),
            version: "12".into(),
            unread: vec!["/var/lib/rpm/Packages: it is damaged".into()],
        };
        let image = Digest::of(b"image");
        let document = document(&image, 315_619_200, &found);
        assert_eq!(document["spdxVersion"], "SPDX-2.3");
        assert_eq!(document["creationInfo"]["created"], "1980-01-02T00:00:00Z");
        assert_eq!(
            document["creationInfo"]["comment"],
            "The list of packages is not whole: /var/lib/rpm/Packages: it is damaged."
        );
        let locators: Vec<_> = (1..3)
            .map(|index| {
                document["packages"][index]["externalRefs"][0]["referenceLocator"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(
            locators,
            [
                "pkg:deb/debian/a@1:2~rc1?arch=amd64&distro=debian-12",
                "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
            ]
        );
        assert_eq!(document["packages"][2]["sourceInfo"], "built from gcc-12");
        let ids: BTreeSet<_> = (0..3).map(|i| document["packages"][i]["SPDXID"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.len(), 3);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        assert!(ids.iter().all(|id| id.chars().all(plain)));
        assert_eq!(document["relationships"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn an_epoch_of_rpm_stands_by_itself() {
        let package = Package { kind: Kind::Rpm, ..package("NetworkManager", "1:1.54.0-2.el9") };
        let found = Found { distribution: "rhel".into(), version: "9.7".into(), ..Found::default() };
        let locator = locator(&package, &found);
        assert_eq!(locator, "pkg:rpm/redhat/NetworkManager@1.54.0-2.el9?arch=amd64&distro=rhel-9.7&epoch=1");
    }

    #[test]
    fn names_that_look_alike_are_told_apart() {
        assert_ne!(identifier(&package("a+b", "1")), identifier(&package("a-b", "1")));
        assert_ne!(identifier(&package("a", "1")), identifier(&package("a", "2")));
    }
}
