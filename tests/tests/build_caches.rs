//! Build caches of elsewhere: what one machine built, another finds in a registry, in a directory, or in an image.

use e2e::{Daemon, Registry};

/// What builds with the classic builder's endpoint.
const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";

/// Each of its commands comes to something else each time that it runs.
const PROJECT: &str = "\
FROM busybox AS tool
RUN cat /proc/sys/kernel/random/uuid > /tool
FROM busybox
WORKDIR /app
COPY a /app/a
RUN cat /proc/sys/kernel/random/uuid > /app/moment
RUN true
COPY --from=tool /tool /app/tool
CMD [\"cat\", \"/app/moment\", \"/app/tool\"]
";

/// A daemon, another one that has the same base image and nothing else, and a registry that both reach.
fn two_machines() -> (Daemon, Daemon, Registry) {
    let (host, other) = (Daemon::start(), Daemon::start());
    let registry = Registry::start(&host);
    host.sh("docker save busybox -o base.tar").ok();
    other.sh(&format!("docker rmi busybox && docker load -i {}/base.tar", host.work().display())).ok();
    for machine in [&host, &other] {
        machine.project(PROJECT, &[("a", "a")]);
    }
    (host, other, registry)
}

#[test]
fn what_one_machine_built_another_finds_in_a_registry() {
    let (host, other, registry) = two_machines();
    let cache = format!("{}/team/cache:main", registry.name());
    let first = host.sh(&format!("$STRATUS build -q -t app --cache-to type=registry,ref={cache},mode=max app"));
    let first = first.ok().text().to_owned();

    // Looking fetches no layer: what is copied from a stage whose files are not here is not known, and all else is.
    let looked = other.sh(&format!("$STRATUS build --print --cache-from {cache} app"));
    assert_eq!(looked.ok().stdout().matches(&format!("cached in {cache}, ")).count(), 5);
    looked.prints("unknown until built  from tool");
    other.sh("docker system df -v --format '{{json .}}' | jq '[.BuildCache[] | select(.CacheType == \"regular\")] | length'").says("0");

    let built = other.sh(&format!("$STRATUS build --progress plain -t app --iidfile id --cache-from {cache} app"));
    built.ok().complains(&format!("CACHED [from {cache}] 37B"));
    other.sh("cat id").says(&first);
    let says = host.sh("docker run --rm app").ok().text().to_owned();
    other.sh("docker run --rm app").says(&says);
    // What was found elsewhere is found here from then on.
    let again = other.sh("$STRATUS build --progress plain --iidfile id app 2>&1 && cat id");
    again.ok().mentions("CACHED").mentions(&first).omits("[from");
}

#[test]
fn the_least_that_is_kept_is_what_the_result_has() {
    let (host, other, registry) = two_machines();
    let cache = format!("{}/cache", registry.name());
    host.sh(&format!("$STRATUS build -t app --cache-to {cache} app")).ok();
    let shown = other.sh(&format!("$STRATUS build --progress plain -t app --cache-from {cache} app 2>&1"));
    shown.ok().mentions(&format!("CACHED [from {cache}]"));
    // The command of the stage that is copied from runs again, those of the image itself do not.
    let kept =
        |machine: &Daemon, file: &str| machine.sh(&format!("docker run --rm app cat /app/{file}")).text().to_owned();
    assert_eq!(kept(&host, "moment"), kept(&other, "moment"));
    assert_ne!(kept(&host, "tool"), kept(&other, "tool"));
}

#[test]
fn a_cache_in_a_directory_is_the_clients() {
    let (host, other, _registry) = two_machines();
    let directory = host.work().join("caches/app");
    let directory = directory.display();
    let to = format!("--cache-to type=local,dest={directory},mode=max");
    let first = host.sh(&format!("$STRATUS build -q -t app {to} app")).ok().text().to_owned();
    let blobs = || host.sh(&format!("cd {directory} && ls -i blobs/sha256")).ok().stdout().to_owned();
    let kept = blobs();
    // What is there stays as it is, and so do other names.
    host.sh(&format!("$STRATUS build -q -t app {to} app && $STRATUS build -q -t app {to},tag=other app")).ok();
    assert_eq!(blobs(), kept);
    host.sh(&format!("jq -r '.manifests | length' {directory}/index.json")).says("2");
    let manifest =
        format!("cd {directory} && jq . blobs/sha256/$(jq -r .manifests[0].digest index.json | cut -d: -f2)");
    host.sh(&manifest).ok().mentions("\"artifactType\": \"application/vnd.stratus.build-cache.v1+json\"");

    let shown = other.sh(&format!("$STRATUS build --progress plain --iidfile id --cache-from type=local,src={directory},tag=other app 2>&1 && cat id"));
    shown.ok().mentions(&format!("CACHED [from {directory}]")).mentions(&first);
}

#[test]
fn what_is_wrong_with_a_cache_is_a_warning() {
    let (host, other, registry) = two_machines();
    let directory = host.work().join("cache");
    let directory = directory.display();
    host.sh(&format!("$STRATUS build -q -t app --cache-to type=local,dest={directory},mode=max app")).ok();
    // The document says of each layer that it is another, and has the name of what it says.
    host.sh(&format!("cp -r {directory} lies")).ok();
    let lie = "cd lies && put() { sum=$(sha256sum new | cut -d' ' -f1); size=$(stat -c %s new); mv new blobs/sha256/$sum; } \
        && manifest=$(jq -r .manifests[0].digest index.json | cut -d: -f2) \
        && config=$(jq -r .config.digest blobs/sha256/$manifest | cut -d: -f2) \
        && jq -c '.layers |= map(\"sha256:\" + (.[7:] | explode | reverse | implode))' blobs/sha256/$config > new && put \
        && jq -c \".config.digest = \\\"sha256:$sum\\\" | .config.size = $size\" blobs/sha256/$manifest > new && put \
        && jq -c \".manifests[0].digest = \\\"sha256:$sum\\\" | .manifests[0].size = $size\" index.json > new && mv new index.json";
    host.sh(lie).ok();
    // Each layer's blob has other bytes than its name says.
    host.sh(&format!("cp -r {directory} damaged && cd damaged && for blob in $(jq -r .layers[].digest blobs/sha256/$(jq -r .manifests[0].digest index.json | cut -d: -f2) | cut -d: -f2); do head -c $(stat -c %s blobs/sha256/$blob) /dev/urandom > blobs/sha256/$blob; done")).ok();
    // In this order: bytes that came and were what their digest says are not fetched again.
    for (cache, why) in [("damaged", "was not taken: "), ("lies", "was not taken: layer")] {
        let source = host.work().join(cache);
        let shown = other.sh(&format!(
            "$STRATUS builder prune -f --all > /dev/null; $STRATUS build --progress plain -t {cache} --cache-from type=local,src={} app 2>&1",
            source.display()
        ));
        shown.ok().mentions(why);
        // Each command ran again.
        let said =
            |machine: &Daemon, image: &str| machine.sh(&format!("docker run --rm {image}")).ok().stdout().to_owned();
        let (anew, before) = (said(&other, cache), said(&host, "app"));
        assert!(anew.lines().zip(before.lines()).all(|(anew, before)| anew != before), "{anew}");
    }
    // What is nowhere, and what is no cache.
    let none = format!("{}/none", registry.name());
    other.sh(&format!("docker tag busybox {none}:image && docker push -q {none}:image")).ok();
    let nowhere = other.work().join("nowhere");
    let all =
        format!("--cache-from {none} --cache-from {none}:image --cache-from type=local,src={}", nowhere.display());
    other.sh("echo b > app/a").ok();
    let shown = other.sh(&format!("$STRATUS build --progress plain {all} app 2>&1"));
    shown
        .ok()
        .mentions(&format!("nothing is taken of the cache {none}: manifest"))
        .mentions("does not say what made its layers");
    shown.mentions(&format!("nothing is taken of the cache {}: ", nowhere.display()));

    // A cache that can't be kept fails the build, unless that is no matter.
    let to = "--cache-to type=registry,ref=localhost:1/cache";
    other
        .sh(&format!("$STRATUS build {to} -t kept app"))
        .exits_with(1)
        .complains("error: the cache was not kept in localhost:1/cache:latest: pushing localhost:1/cache")
        .complains("(what was built is where it was to go)");
    other.sh("docker image inspect kept").ok();
    // Why, is what the client says, whatever of it the daemon still sends.
    other
        .sh("$STRATUS build --cache-to type=local,dest=/proc/x app")
        .exits_with(1)
        .complains("the cache was not kept in /proc/x: writing /proc/x/blobs/sha256/")
        .complains("No such file or directory");
    other
        .sh("mkdir -p odd/index.json && $STRATUS build --cache-to type=local,dest=odd app")
        .exits_with(1)
        .complains("the cache was not kept in odd: odd/index.json is no file");
    other
        .sh(&format!("$STRATUS build --progress plain {to},ignore-error=true app"))
        .ok()
        .complains("WARNING: the cache was not kept in localhost:1/cache");
}

#[test]
fn an_image_says_what_made_its_layers_if_it_is_asked_to() {
    let (host, other, registry) = two_machines();
    let image = format!("{}/app", registry.name());
    let plain = "FROM busybox\nWORKDIR /app\nCOPY a a\nRUN cat /proc/sys/kernel/random/uuid > moment\nCMD [\"cat\", \"/app/moment\"]\n";
    for machine in [&host, &other] {
        machine.project(plain, &[("a", "a")]);
    }
    let without = host.sh("$STRATUS build -q app").ok().text().to_owned();
    let with =
        host.sh(&format!("$STRATUS build -q --cache-to type=inline -t {image} --push app")).ok().text().to_owned();
    assert_ne!(with, without);
    host.sh("$STRATUS build -q app").says(&without);
    let says = host.sh(&format!("docker run --rm {image}")).ok().text().to_owned();

    // The classic builder's endpoint looks into images that are here.
    other.sh(&format!("{BUILD} -q --cache-from {image} -t early app")).ok();
    other.sh("docker rmi early && docker builder prune -af").ok();
    other.sh(&format!("docker pull -q {image}")).ok();
    let built = other.sh(&format!("{BUILD} --cache-from {image} -t again app"));
    built.ok();
    assert_eq!(built.stdout().matches("Using cache").count(), 3);
    other.sh("docker run --rm again").says(&says);
    other.sh("docker images -q --no-trunc again").says(&without);

    // A registry's need not be pulled; the classic client asks for it by an argument.
    let classic = format!("{image}:classic");
    let asked =
        host.sh(&format!("{BUILD} --build-arg BUILDKIT_INLINE_CACHE=1 -t {classic} app && docker push -q {classic}"));
    asked.ok().omits("not consumed");
    other.sh(&format!("docker rmi again {image} && docker builder prune -af")).ok();
    let shown = other.sh(&format!("$STRATUS build --progress plain -t again --cache-from {classic} app 2>&1"));
    shown.ok().mentions(&format!("CACHED [from {classic}]"));
    other.sh("docker run --rm again").says(&says);
    // Whoever builds upon the image does not say the same of what comes of it.
    host.project(&format!("FROM {image}\nRUN true\n"), &[]);
    host.sh("$STRATUS build -q -t upon app > id && docker save upon -o upon.tar && tar -xOf upon.tar | grep -ac vnd.stratus.build-cache || true").says("0");
}

#[test]
fn a_directory_is_written_by_several_at_once_and_loses_nothing() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN echo made > /made\n", &[]);
    host.sh("$STRATUS build -q app").ok();
    let tags: Vec<String> = (0..6).map(|number| format!("tag{number}")).collect();
    std::thread::scope(|scope| {
        for tag in &tags {
            let host = &host;
            scope.spawn(move || {
                host.sh(&format!("$STRATUS build -q --cache-to type=local,dest=cache,tag={tag} app")).ok().code()
            });
        }
    });
    let names = "jq -r '.manifests[].annotations[\"org.opencontainers.image.ref.name\"]' cache/index.json | sort";
    host.sh(names).says(&tags.join("\n"));
    host.sh("ls -A cache cache/blobs/sha256 | grep part; true").says("");
}

#[test]
fn what_a_power_cut_left_of_a_cache_is_written_anew() {
    let (host, other, _registry) = two_machines();
    let directory = host.work().join("cache");
    let directory = directory.display();
    let cache = format!("--cache-from type=local,src={directory} --cache-to type=local,dest={directory},mode=max");
    let to = format!("--cache-to type=local,dest={directory},mode=max");
    host.sh(&format!("$STRATUS build -q -t app {to} app")).ok();
    // As many bytes as there were, and all of them zeros.
    let blank = "for blob in $(jq -r .layers[].digest blobs/sha256/$(jq -r .manifests[0].digest index.json | cut -d: -f2) | cut -d: -f2); do dd if=/dev/zero of=blobs/sha256/$blob bs=$(stat -c %s blobs/sha256/$blob) count=1 2> /dev/null; done";
    host.sh(&format!("cd {directory} && {blank}")).ok();
    other.sh(&format!("$STRATUS build --progress plain -t app {cache} app 2>&1")).ok().mentions("was not taken: ");
    // What this machine made in place of those is there, and so are those that it made alike.
    let first =
        "jq -r .layers[].digest blobs/sha256/$(jq -r .manifests[0].digest index.json | cut -d: -f2) | cut -d: -f2";
    other
        .sh(&format!("cd {directory} && for blob in $({first}); do echo \"$blob  blobs/sha256/$blob\"; done | sha256sum -c --quiet"))
        .ok();
}
