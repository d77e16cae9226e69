//! Dockerfiles as a person at a terminal has them built and checked.

use std::fs;

use e2e::Daemon;

/// Files in a directory.
fn project(host: &Daemon, directory: &str, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = host.work().join(directory).join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory for it");
        fs::write(path, text).expect("the file");
    }
}

const APP: &str = "\
FROM busybox AS base
ARG GREETING=hello
ARG WHO
RUN echo $GREETING $WHO > /greeting && echo heard >&2
FROM base
COPY . /app/
CMD [\"cat\", \"/greeting\"]
";

#[test]
fn a_directory_becomes_an_image() {
    let host = Daemon::start();
    project(
        &host,
        "app",
        &[("Dockerfile", APP), ("src/main", "one"), ("secret", "s"), (".dockerignore", "secret\nDockerfile\n")],
    );
    let first = host.sh("$STRATUS build -t app:1 -t other app");
    first.ok().mentions("Step 1/7 : FROM busybox AS base\n").mentions("\nheard\n").omits("Using cache").omits("\u{1b}");
    first.mentions("\nSuccessfully built ").mentions("\nSuccessfully tagged app:1\nSuccessfully tagged other:latest");
    host.sh("docker run --rm other; docker run --rm app:1 find /app -type f | sort")
        .says("hello\n/app/.dockerignore\n/app/src/main");
    // The same, and the same as what docker's own client sends.
    let id = host.sh("docker images -q --no-trunc app:1").text().to_owned();
    host.sh("$STRATUS build app").omits("Running in").mentions(" ---> Using cache\n");
    host.sh("cd app && $STRATUS build -q .").says(&id);
    host.sh("DOCKER_BUILDKIT=0 docker build -q app").says(&id);
    host.sh("WHO=you $STRATUS build -q -t app:2 --build-arg GREETING=bye --build-arg WHO --build-arg NOBODY app").ok();
    host.sh("docker run --rm app:2").says("bye you");
    host.sh("$STRATUS build -q --target base --label of=base --label empty -t base app").ok();
    host.sh("docker image inspect base -f '{{json .Config.Labels}}'").says(r#"{"empty":"","of":"base"}"#);
    host.sh("docker run --rm base ls /app").fails_with("/app");
    host.sh("$STRATUS build --no-cache app").omits("Using cache");
    // Another file is built of the same directory.
    project(
        &host,
        "app",
        &[
            ("docker/Dockerfile.dev", "FROM busybox\nCOPY . /app\n"),
            ("docker/Dockerfile.dev.dockerignore", "*\n!src\n"),
        ],
    );
    host.sh("$STRATUS build -q -t dev -f app/docker/Dockerfile.dev app").ok();
    host.sh("docker run --rm dev find /app -type f").says("/app/src/main");
}

#[test]
fn a_dockerfile_is_checked() {
    let host = Daemon::start();
    let write = |name: &str, text: &str| fs::write(host.work().join(name), text).expect("write a file");
    write("Dockerfile", "FROM busybox AS base\nCOPY a /a\nCMD [\"cat\", \"/a\"]\n");
    host.sh("$STRATUS build --check .").says("Check complete, no warnings found.");

    // A person's usual mistakes, all at once.
    write("Broken", "FORM busybox\nRUN --mout=type=cache true\nCOPY --from=x a\n");
    host.sh("$STRATUS build --check -f Broken .")
        .exits_with(1)
        .complains("Broken:1:1: unknown instruction: FORM (did you mean FROM?)")
        .complains("   1 | FORM busybox\n     | ^^^^")
        .complains("Broken:2:5: unknown flag: --mout (did you mean --mount?)")
        .complains("Broken:3:1: COPY requires at least two arguments");
    host.sh("$STRATUS build --check --output json -f Broken . | jq -r '.errors[0].suggestion, (.warnings | length)'")
        .says("FROM\n0");

    write("Dockerfile", "FROM busybox AS Base\nCOPY secret /\nFROM Base\nENTRYPOINT sleep 1\n");
    write(".dockerignore", "secret\n");
    host.sh("$STRATUS build --check .")
        .exits_with(1)
        .prints("Check complete, 3 warnings have been found!")
        .prints("WARNING: CopyIgnoredFile - https://docs.docker.com/go/dockerfile/rule/copy-ignored-file/")
        .prints("   4 | >>> ENTRYPOINT sleep 1");
    let rules = "jq -r '[.warnings[].ruleName] | join(\" \")'";
    host.sh(&format!("$STRATUS build --check --target base --output json . | {rules}"))
        .says("StageNameCasing CopyIgnoredFile");
    // Rules of the Dockerfile's own are before those of the context.
    write("Dockerfile.dockerignore", "other\n");
    host.sh(&format!("$STRATUS build --check --output json . | {rules}")).says("StageNameCasing JSONArgsRecommended");
    host.sh("$STRATUS build --check --build-arg BUILDKIT_DOCKERFILE_CHECK=skip=all .")
        .says("Check complete, no warnings found.");
    host.sh("$STRATUS build --check --build-arg 'BUILDKIT_DOCKERFILE_CHECK=skip=StageNameCasing;error=true' .")
        .exits_with(1)
        .complains("lint violation found for rules: JSONArgsRecommended");
    host.sh("$STRATUS build --check --target baes .").exits_with(2).complains("did you mean Base?");
}

#[test]
fn a_check_knows_what_images_of_the_daemon_set() {
    let host = Daemon::start();
    host.sh("docker create --name box busybox && docker commit -c 'ENV JAVA_HOME=/java' box java:1").ok();
    let check = "printf 'FROM java:1\\nCOPY $JAVA_HOME $OTHER /\\n' | $STRATUS build --check --output json -";
    host.sh(&format!("{check} | jq -r '.warnings[].detail'")).says("Usage of undefined variable '$OTHER'");
    host.sh("printf 'FROM scratch AS build\\nFROM scratch\\nCOPY --from=biuld a /\\n' | $STRATUS build --check -")
        .says("Check complete, no warnings found.")
        .complains("no stage is called \"biuld\": an image of that name will be looked for (did you mean build?)");
    // Of an image that nobody has, and where nobody answers, nothing is taken for undefined.
    host.sh(&format!("{check} -H unix:///nowhere/docker.sock | jq -r '.warnings | length'")).says("0");
    host.sh("printf 'FROM nobody/has/it\\nCOPY $OTHER /\\n' | $STRATUS build --check -f - .")
        .says("Check complete, no warnings found.");
    host.sh("$STRATUS build --check nowhere")
        .exits_with(1)
        .complains("reading nowhere/Dockerfile: No such file or directory");
}
