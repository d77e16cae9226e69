//! What is said of an image that was built: by what it was made, and what is in it.

use e2e::{Daemon, Registry, Web};
use serde_json::{Value, json};

const SECRET: &str = "open-sesame-41c7ae";
/// What is in arguments that are called as secrets are. Steps that nobody pushes have them.
const OTHER_SECRET: &str = "sesame-too-93b1";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";

const STATUS: &str =
    "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9+deb12u4\n";

const APP: &str = "\
FROM busybox AS made
ARG VERSION
ARG API_TOKEN
RUN --mount=type=secret,id=key test -s /run/secrets/key && echo $VERSION > /version
FROM busybox
COPY status /var/lib/dpkg/status
COPY --from=made /version /version
";

/// A build of which everything is said.
const BUILD: &str = "$STRATUS build -q --provenance=mode=max --sbom --secret id=key,src=key --build-arg VERSION=7 \
    --build-arg API_TOKEN=sesame-too-93b1 --build-arg HTTP_PROXY=http://ann:sesame-too-93b1@127.0.0.1:1";

fn daemon() -> Daemon {
    let host = Daemon::start();
    host.project(APP, &[("status", STATUS)]);
    std::fs::write(host.work().join("key"), SECRET).expect("a secret");
    host
}

/// The predicates that are kept with an image, in the order of their kinds.
fn kept(host: &Daemon, image: &str) -> Value {
    host.sh(&format!("$STRATUS image attestations --output json {image}")).json()
}

/// A document of a registry.
fn fetched(host: &Daemon, registry: &Registry, path: &str) -> Value {
    host.sh(&format!(
        "curl -sf -H 'Accept: application/vnd.oci.image.index.v1+json' -H 'Accept: application/vnd.oci.image.manifest.v1+json' http://{}/v2/{path}",
        registry.name()
    ))
    .json()
}

#[test]
fn it_is_kept_with_the_image_and_is_the_same_each_time() {
    let host = daemon();
    host.sh(&format!("{BUILD} -t app app")).ok();
    let all = kept(&host, "app");
    let kinds: Vec<&str> =
        all.as_array().expect("a list").iter().filter_map(|one| one["predicateType"].as_str()).collect();
    assert_eq!(kinds, [PROVENANCE, SPDX]);
    let made = &all[0]["predicate"];
    let definition = &made["buildDefinition"];
    let parameters = &definition["externalParameters"];
    assert_eq!(parameters["arguments"], json!({ "VERSION": "7" }));
    assert_eq!(parameters["withheldArguments"], json!(["API_TOKEN", "HTTP_PROXY"]));
    assert_eq!(parameters["secrets"], json!(["key"]));
    assert_eq!(parameters["dockerfile"]["name"], "Dockerfile");
    let sum = host.sh("sha256sum < app/Dockerfile | cut -d' ' -f1").text().to_owned();
    assert_eq!(parameters["dockerfile"]["digest"]["sha256"], sum);
    let base = host.sh("docker images -q --no-trunc busybox").text().trim_start_matches("sha256:").to_owned();
    let needs = &definition["resolvedDependencies"];
    assert_eq!(needs[0]["digest"]["sha256"], base);
    assert!(needs[0]["uri"].as_str().expect("an address").starts_with("pkg:docker/library/busybox@latest?platform="));
    assert_eq!(needs.as_array().map(Vec::len), Some(1));
    assert_eq!(definition["internalParameters"]["dockerfile"], APP);
    let steps = definition["internalParameters"]["steps"].as_array().expect("steps");
    assert_eq!(steps.len(), 7);
    assert!(steps[3]["key"].as_str().is_some_and(|key| key.starts_with("sha256:")), "{}", steps[3]);
    let layers = host.sh("docker image inspect -f '{{json .RootFS.Layers}}' app").json();
    assert_eq!(steps[6]["layers"][0], layers[2]);
    assert_eq!(all[1]["predicate"], host.sh("$STRATUS image packages --output json app").json());
    // Everything anew, it is the same; and so is the image of which nothing is said.
    let id = host.sh("docker images -q --no-trunc app").text().to_owned();
    host.sh(&format!("{BUILD} --no-cache -t app app")).says(&id);
    assert_eq!(kept(&host, "app"), all);
    host.sh("$STRATUS build -q --secret id=key,src=key --build-arg VERSION=7 -t plain app").says(&id);
    assert_eq!(kept(&host, "plain"), json!([]), "nobody asked for it, though the image is the same");
    // A build that does nothing to an image says nothing of how that was made, and takes nothing back.
    host.sh(&format!("{BUILD} -t app app && echo FROM app | $STRATUS build -q -t same -")).mentions(&id);
    assert_eq!(kept(&host, "same"), all);
    // Nobody reads a secret out of it.
    assert!(!all.to_string().contains(OTHER_SECRET), "{all}");
    let data = host.data();
    host.sh(&format!("grep -rlaF -D skip -e {SECRET} {}; true", data.display())).says("");
    // Less is said on wish, in place of what was said before.
    host.sh("$STRATUS build -q --secret id=key,src=key --build-arg VERSION=7 --attest type=provenance,builder-id=https://ci.example/7 -t app app").says(&id);
    let less = &kept(&host, "app")[0]["predicate"];
    assert_eq!(less["runDetails"]["builder"]["id"], "https://ci.example/7");
    assert_eq!(less["buildDefinition"].get("internalParameters"), None);
    host.sh("$STRATUS image attestations app | tr -s ' ' | cut -d' ' -f1").says(&format!("PREDICATE\n{PROVENANCE}"));
    // One is taken off by hand, and so is all of it.
    host.sh(&format!("{BUILD} -t app app")).ok();
    host.sh("$STRATUS image attestations --type sbom --predicate app | jq -r .spdxVersion").says("SPDX-2.3");
    host.sh("$STRATUS image attestations rm --type provenance app").mentions(PROVENANCE).omits(SPDX);
    host.sh("$STRATUS image attestations app").mentions(SPDX).omits(PROVENANCE);
    host.sh("$STRATUS image attestations rm nothing").fails_with("No such image: nothing");
    host.sh("$STRATUS image attestations rm app").mentions(SPDX);
    host.sh("$STRATUS image attestations app").omits(SPDX);
    host.sh("$STRATUS build -q --secret id=key,src=key --build-arg VERSION=7 --attest type=provenance -t app app").ok();
    host.sh("$STRATUS image attestations nothing").fails_with("No such image: nothing");
    // It goes with the image.
    let digest = all[0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let other = kept(&host, "app")[0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let blobs = |hex: &str| host.sh(&format!("find {} -name '*{hex}*' | wc -l", data.display()));
    blobs(&other).says("1");
    host.sh("docker rmi -f app plain same && docker image prune -f").ok();
    blobs(&other).says("0");
    blobs(&digest).says("0");
}

#[test]
fn it_goes_to_a_registry_with_the_image() {
    let host = daemon();
    let registry = Registry::start(&host);
    let name = registry.name();
    host.sh(&format!("$STRATUS build -q --secret id=key,src=key --build-arg VERSION=7 -t {name}/app:plain --push app"))
        .ok();
    host.sh(&format!("{BUILD} -t {name}/app:1 --push app")).ok();
    let digest = |tag: &str| {
        host.sh(&format!("skopeo inspect --tls-verify=false --format '{{{{.Digest}}}}' docker://{name}/app:{tag}"))
            .text()
            .to_owned()
    };
    let image = digest("1");
    assert_eq!(image, digest("plain"), "what is said of an image is not in it");
    let list = format!("app/manifests/{}", image.replace(':', "-"));
    let referrers = fetched(&host, &registry, &list);
    assert_eq!(referrers["mediaType"], "application/vnd.oci.image.index.v1+json");
    let referrers = referrers["manifests"].as_array().expect("a list").clone();
    assert_eq!(referrers.len(), 2);
    for (referrer, kind) in referrers.iter().zip([PROVENANCE, SPDX]) {
        assert_eq!(referrer["artifactType"], "application/vnd.in-toto+json");
        assert_eq!(referrer["annotations"]["in-toto.io/predicate-type"], kind);
        let manifest = referrer["digest"].as_str().expect("a digest");
        let document = fetched(&host, &registry, &format!("app/manifests/{manifest}"));
        assert_eq!(document["subject"]["digest"], image);
        assert_eq!(document["annotations"]["in-toto.io/predicate-type"], kind);
        let layer = document["layers"][0]["digest"].as_str().expect("a digest");
        let statement = fetched(&host, &registry, &format!("app/blobs/{layer}"));
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], image.trim_start_matches("sha256:"));
        assert_eq!(statement["predicateType"], kind);
        // Another program finds the bytes to be what they are called.
        host.sh(&format!("skopeo inspect --raw --tls-verify=false docker://{name}/app@{manifest} | sha256sum"))
            .mentions(manifest.trim_start_matches("sha256:"));
    }
    host.sh(&format!("grep -rlaF -e {SECRET} -e {OTHER_SECRET} registry; true")).says("");
    // Docker's own client sends it on, under another name; the daemon shows what a registry has.
    host.sh(&format!("docker tag {name}/app:1 {name}/other:2 && docker push -q {name}/other:2")).ok();
    let theirs = host.sh(&format!("$STRATUS image attestations --registry --output json {name}/other:2")).json();
    assert_eq!(theirs[0]["predicate"], kept(&host, &format!("{name}/app:1"))[0]["predicate"]);
    assert_eq!((&theirs[0]["subject"], theirs.as_array().map(Vec::len)), (&json!(image), Some(2)));
    // Again is no more; and a pull brings the image, of which a registry can still be asked.
    host.sh(&format!("{BUILD} -t {name}/app:1 --push app && docker rmi {name}/app:1 {name}/other:2 {name}/app:plain && docker pull -q {name}/app:1")).ok();
    assert_eq!(fetched(&host, &registry, &list)["manifests"].as_array().map(Vec::len), Some(2));
    assert_eq!(kept(&host, &format!("{name}/app:1")), json!([]));
    host.sh(&format!("$STRATUS image attestations --registry {name}/app:1")).mentions(PROVENANCE).mentions(SPDX);
    host.sh(&format!("$STRATUS image attestations --registry {name}/app:none")).fails_with("not found");
}

#[test]
fn each_of_several_platforms_has_its_own() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    let name = format!("{}/app:1", registry.name());
    host.project("FROM scratch\nARG TARGETARCH\nCOPY main /$TARGETARCH\n", &[("main", "x")]);
    let build = "$STRATUS build --provenance --sbom=true --platform linux/amd64,linux/arm64";
    host.sh(&format!("{build} -t {name} --push app")).ok();
    let all = host.sh(&format!("$STRATUS image attestations --registry --output json {name}")).json();
    let all = all.as_array().expect("a list");
    assert_eq!(all.len(), 4);
    for one in all.iter().filter(|one| one["predicateType"] == PROVENANCE) {
        let platform = format!(
            "{}/{}",
            one["platform"]["os"].as_str().unwrap_or_default(),
            one["platform"]["architecture"].as_str().unwrap_or_default()
        );
        assert_eq!(one["predicate"]["buildDefinition"]["externalParameters"]["platform"], platform);
    }
    // In an archive they are behind the images, which others find as before.
    host.sh(&format!("{build} -t app:1 -o type=oci,dest=app.tar app && mkdir app.oci && tar -xf app.tar -C app.oci"))
        .ok();
    host.sh("jq -r '.manifests[].mediaType' app.oci/index.json").says("application/vnd.oci.image.index.v1+json");
    host.sh("cd app.oci && jq -r '.manifests[] | .artifactType // .platform.architecture' blobs/sha256/$(jq -r '.manifests[0].digest' index.json | cut -d : -f 2)")
        .says(&format!("amd64\narm64{}", "\napplication/vnd.in-toto+json".repeat(4)));
    host.sh("cd app.oci/blobs/sha256 && sha256sum * | while read sum name; do test $sum = $name || echo $name; done")
        .says("");
    host.sh("skopeo inspect oci:app.oci:1 --override-arch arm64 --override-os linux --format '{{.Architecture}}'")
        .says("arm64");
    host.sh("docker load -q -i app.tar && docker image inspect -f '{{.Architecture}}' app:1").ok();
    host.sh(&format!("{build} -t app:1 -o type=oci app > again.tar && cmp app.tar again.tar")).ok();
}

#[test]
fn an_archive_says_it_too() {
    let (host, other) = (Daemon::start(), Daemon::start());
    host.project("FROM busybox\nCOPY main /\n", &[("main", "x")]);
    host.sh("$STRATUS build --provenance --sbom=true -t app:1 -o type=oci,dest=app.tar -o type=image app").ok();
    host.sh("docker save -o saved.tar app:1 busybox").ok();
    // Who knows nothing of it finds the one image that there is.
    host.sh("skopeo inspect oci-archive:app.tar --format '{{.Os}}'").says("linux");
    host.sh(
        "skopeo copy -q oci-archive:app.tar oci:copied:1 && skopeo copy -q docker-archive:saved.tar:app:1 oci:copied:2",
    )
    .ok();
    let id = host.sh("docker image inspect -f '{{.Id}}' app:1").ok().text().to_owned();
    let said = kept(&host, "app:1");
    assert_eq!(said.as_array().map(Vec::len), Some(2));
    for archive in ["app.tar", "saved.tar"] {
        other.sh(&format!("docker load -q -i {}/{archive}", host.work().display())).ok();
        other.sh("docker image inspect -f '{{.Id}}' app:1").says(&id);
        assert_eq!(kept(&other, "app:1"), said, "{archive}");
        other.sh("docker rmi app:1").ok();
    }
    assert_eq!(kept(&other, "busybox"), json!([]));
    // A statement about something else is none about this.
    host.sh("mkdir odd && tar -xf app.tar -C odd && cd odd && rm manifest.json && for blob in blobs/sha256/*; do \
             if jq -e .predicateType $blob >/dev/null 2>&1; then jq -c '.subject[0].digest.sha256 |= \"00\"' $blob > changed && old=$(basename $blob) && \
             new=$(sha256sum changed | cut -d ' ' -f 1) && mv changed blobs/sha256/$new && sed -i s/$old/$new/ blobs/sha256/* && rm $blob; fi; done; \
             for round in 1 2 3; do for blob in blobs/sha256/*; do old=$(basename $blob); new=$(sha256sum $blob | cut -d ' ' -f 1); \
             test $old = $new || { mv $blob blobs/sha256/$new; sed -i s/$old/$new/ index.json blobs/sha256/*; }; done; done; tar -cf ../odd.tar .").ok();
    // What it says of one is no reason to refuse an image.
    host.sh("docker rmi app:1 && docker load -q -i odd.tar").ok();
    assert_eq!(kept(&host, "app:1"), json!([]));
    assert!(host.log().contains("it is a statement about something else"), "{}", host.log());
}

#[test]
fn what_is_fetched_is_said_without_what_nobody_else_is_to_know() {
    let host = Daemon::start_with(&["--build-allow-address", "127.0.0.1"]);
    let web = Web::start();
    let address = web.at("/lib.txt");
    web.put_plain("/lib.txt", "a library\n");
    web.put_plain(&format!("/lib.txt?key={SECRET}"), "a library\n");
    let secret = address.replace("://", &format!("://ann:{SECRET}@")) + &format!("?key={SECRET}");
    host.project(&format!("FROM scratch\nARG FROM_WHERE\nADD $FROM_WHERE /lib.txt\nADD {address} /plain.txt\n"), &[]);
    host.sh(&format!("$STRATUS build -q --provenance=mode=max --build-arg FROM_WHERE='{secret}' -t app app")).ok();
    let all = kept(&host, "app");
    let sum = host.sh("printf 'a library\n' | sha256sum | cut -d' ' -f1").text().to_owned();
    let definition = &all[0]["predicate"]["buildDefinition"];
    assert_eq!(definition["resolvedDependencies"], json!([{ "uri": address, "digest": { "sha256": sum } }]));
    assert_eq!(definition["externalParameters"]["withheldArguments"], json!(["FROM_WHERE"]));
    assert!(!all.to_string().contains(SECRET), "{all}");
}

#[test]
fn what_cannot_be_said_is_told() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN mkdir -p /var/lib/rpm && touch /var/lib/rpm/rpmdb.sqlite\n", &[]);
    host.sh("$STRATUS build -t app --sbom app")
        .ok()
        .complains("--sbom: The list of packages is not whole: /var/lib/rpm/rpmdb.sqlite: this is no database of RPM");
    let all = kept(&host, "app");
    assert_eq!(
        all[0]["predicate"]["creationInfo"]["comment"],
        "The list of packages is not whole: /var/lib/rpm/rpmdb.sqlite: this is no database of RPM that is known here."
    );
    host.sh("$STRATUS build --sbom -o out app").ok().complains("only files are asked for");
    host.sh("$STRATUS build --provenance=mode=all app").exits_with(2).complains("there are min and max");
    host.sh("$STRATUS build --attest type=x app").exits_with(2).complains("type=provenance or type=sbom");
}
