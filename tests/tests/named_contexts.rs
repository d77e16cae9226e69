//! Further contexts of a build: what lies at addresses, and what is in place of a stage.

use e2e::{Daemon, Web};

const REPOSITORY: &str = "set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git init -q -b main lib && cd lib && mkdir sub && echo whole > whole && echo part > sub/part && git add . && git commit -qm lib
git tag v1 && cd .. && git clone -q --bare lib served/lib.git && git -C served/lib.git update-server-info";

#[test]
fn what_lies_at_addresses_is_a_context() {
    let host = Daemon::start_with(&["--build-allow-address", "127.0.0.1"]);
    let web = Web::start();
    host.write("tree", &[("in/tree", "of an archive\n")]);
    host.sh("tar -C tree -czf tree.tar.gz . && mkdir served").ok();
    web.put_plain("/tree.tar.gz", std::fs::read(host.work().join("tree.tar.gz")).expect("the archive"));
    web.put_plain("/one.txt", "alone\n");
    host.sh(REPOSITORY).ok();
    web.put_directory("/git", host.work().join("served"));
    host.project(
        "FROM busybox\nCOPY --from=tree /in/tree /tree\nCOPY --from=one . /one/\nCOPY --from=lib part /part\nRUN --mount=from=one,target=/m cat /m/one.txt > /mounted; stat -c %Y /m/one.txt > /time\n",
        &[],
    );
    let build = format!(
        "$STRATUS build -q -t app --provenance --build-context tree={} --build-context one={} --build-context lib={}#v1:sub app",
        web.at("/tree.tar.gz"),
        web.at("/one.txt"),
        web.at("/git/lib.git")
    );
    host.sh(&build).ok();
    host.sh("docker run --rm app sh -c 'cat /tree /one/one.txt /part /mounted /time; stat -c %a /one/one.txt'")
        .says("of an archive\nalone\npart\nalone\n315619200\n600");
    let id = host.sh("docker images -q --no-trunc app").text().to_owned();
    host.sh(&build).says(&id);
    // What was fetched is among what the image was made by.
    let commit = host.sh("git -C lib rev-parse HEAD").text().to_owned();
    host.sh("$STRATUS image attestations --predicate app | jq -r '.buildDefinition.resolvedDependencies[].uri'")
        .mentions(&web.at("/one.txt"))
        .mentions(&web.at("/tree.tar.gz"));
    host.sh("$STRATUS image attestations --predicate app").mentions(&format!("\"gitCommit\":\"{commit}\""));
    host.sh("$STRATUS image attestations --predicate app | jq -r '.buildDefinition.externalParameters.contexts[].uri'")
        .says(&format!("git+{}\n{}\n{}", web.at("/git/lib.git"), web.at("/one.txt"), web.at("/tree.tar.gz")));
    host.sh(&format!("$STRATUS build --build-context tree={} app", web.at("/nothing")))
        .exits_with(1)
        .complains("context tree: ")
        .complains("404");
    host.sh("$STRATUS build --build-context tree=target:other app").exits_with(2).complains("that is bake's");
    host.sh("$STRATUS build --build-context a=oci-layout://x app").exits_with(2).complains("x is no OCI layout");
    // What an administrator does not allow is reached by no name.
    let strict = Daemon::start();
    strict.project("FROM scratch\nCOPY --from=one . /\n", &[]);
    strict
        .sh(&format!("$STRATUS build --build-context one={} app", web.at("/one.txt")))
        .exits_with(1)
        .complains("not to be reached");
}

#[test]
fn a_context_is_in_place_of_a_stage() {
    let host = Daemon::start();
    host.project(
        "FROM busybox AS Made\nRUN echo must not run && exit 3\nFROM made AS base\nCOPY --from=made /kept /copied\nRUN --mount=from=Made,target=/m cat /m/kept > /mounted\n",
        &[],
    );
    host.write("kept", &[("Dockerfile", "FROM busybox\nRUN echo kept > /kept\n")]);
    host.sh("$STRATUS build -q -t kept kept").ok();
    host.sh("$STRATUS build app").exits_with(1).complains("must not run");
    host.sh("$STRATUS build -t app --provenance --build-context made=docker-image://kept app").ok();
    host.sh("$STRATUS image attestations --predicate app | jq -c .buildDefinition.externalParameters.contexts")
        .says(r#"{"made":{"image":"kept"}}"#);
    host.sh("docker run --rm app cat /copied /mounted /kept").says("kept\nkept\nkept");
    // Files are, too.
    host.project("FROM busybox AS made\nRUN exit 3\nFROM busybox\nCOPY --from=made /file /\n", &[]);
    host.write("files", &[("file", "a file\n")]);
    host.sh("$STRATUS build -q -t app --build-context made=files app && docker run --rm app cat /file")
        .mentions("a file");
}

/// An image in a directory of the client's is a base, has files for others, and is mounted; what comes of it is what its digests say.
#[test]
fn an_image_lies_in_a_directory() {
    let host = Daemon::start();
    host.write("base", &[("Dockerfile", "FROM busybox\nRUN echo one > /which\nENV FROM=layout\n"), ("unused", "")]);
    let unpacked = |name: &str| format!("mkdir {name} && tar -xf {name}.tar -C {name}");
    host.sh(&format!("$STRATUS build -q -o type=oci,dest=one.tar -t one:v1 base && {}", unpacked("one"))).ok();
    let use_of = "FROM base\nCOPY --from=base /which /copied\nRUN --mount=type=bind,from=base,target=/m cat /m/which > /mounted && echo $FROM > /said\n";
    host.write("context", &[("Dockerfile", use_of)]);
    let build = |what: &str| {
        host.sh(&format!("$STRATUS build --progress plain -t built --build-context base=oci-layout://{what} context"))
    };
    // Nothing of it is here but what the build takes.
    host.sh("$STRATUS builder prune -af && docker image prune -af").ok();
    build("one").ok();
    host.sh("docker run --rm built cat /which /copied /mounted /said").says("one\none\none\nlayout");
    let id = host.sh("docker images -q --no-trunc built").text().to_owned();
    let digest = host.sh("jq -r '.manifests[0].digest' one/index.json").text().to_owned();
    let tag = host
        .sh("jq -r '.manifests[0].annotations[\"org.opencontainers.image.ref.name\"]' one/index.json")
        .text()
        .to_owned();
    for what in [format!("one:{tag}"), format!("one@{digest}"), format!("one:other@{digest}")] {
        build(&what).ok();
        host.sh("docker images -q --no-trunc built").says(&id);
    }
    build("one:other")
        .exits_with(1)
        .complains("oci-layout://one: nothing in it is called \"other\": add :TAG or @DIGEST");
    build(&format!("one@sha256:{}", "0".repeat(64))).exits_with(1).complains("oci-layout://one: ");
    build("context").exits_with(2).complains("context is no OCI layout");

    // Of several platforms, that which is built for.
    host.write(
        "several",
        &[
            ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n"),
            ("amd64", "amd64\n"),
            ("arm64", "arm64\n"),
        ],
    );
    let platforms = "--platform linux/amd64,linux/arm64";
    host.sh(&format!("$STRATUS build -q {platforms} -o type=oci,dest=two.tar several && {}", unpacked("two"))).ok();
    host.write("context", &[("Dockerfile", "FROM base\n")]);
    for platform in ["amd64", "arm64"] {
        let arguments = format!("--platform linux/{platform} --build-context base=oci-layout://two -o out");
        host.sh(&format!("$STRATUS build -q {arguments} context >id && cat out/arch")).says(platform);
    }
    host.sh("$STRATUS build -q --platform linux/s390x --build-context base=oci-layout://two context")
        .exits_with(1)
        .complains("oci-layout://two: it has nothing for linux/s390x");

    // What is not what its name says is not taken.
    host.sh("docker rmi -f built && $STRATUS builder prune -af && docker image prune -af").ok();
    let manifest = digest.trim_start_matches("sha256:");
    host.sh(&format!(
        "layer=$(jq -r '.layers[0].digest' one/blobs/sha256/{manifest} | cut -d: -f2) && printf x | dd of=one/blobs/sha256/$layer bs=1 seek=100 conv=notrunc status=none"
    ))
    .ok();
    build("one").exits_with(1).complains("oci-layout://one: ");
}
