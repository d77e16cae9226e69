//! Dockerfiles as a person at a terminal has them built and checked.

use std::fs;
use std::os::unix::net::UnixListener;

use e2e::{Daemon, Registry, eventually};

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
    host.write(
        "app",
        &[("Dockerfile", APP), ("src/main", "one"), ("secret", "s"), (".dockerignore", "secret\nDockerfile\n")],
    );
    let first = host.sh("$STRATUS build -t app:1 -t other app");
    first
        .ok()
        .prints("")
        .complains("#1 [base 1/4] FROM busybox AS base\n")
        .complains(" heard\n")
        .complains("keeping the image as app:1, other:latest\n");
    assert!(!first.stderr().contains("CACHED") && !first.stderr().contains('\u{1b}'), "{first}");
    host.sh("docker run --rm other; docker run --rm app:1 find /app -type f | sort")
        .says("hello\n/app/.dockerignore\n/app/src/main");
    // The same, and the same as what docker's own client sends.
    let id = host.sh("docker images -q --no-trunc app:1").text().to_owned();
    host.sh("$STRATUS build app").ok().complains("\n#4 CACHED").complains("\n#6 CACHED");
    host.sh("cd app && $STRATUS build -q .").says(&id);
    host.sh("DOCKER_BUILDKIT=0 docker build -q app").says(&id);
    host.sh("WHO=you $STRATUS build -q -t app:2 --build-arg GREETING=bye --build-arg WHO --build-arg NOBODY app").ok();
    host.sh("docker run --rm app:2").says("bye you");
    host.sh("$STRATUS build -q --target base --label of=base --label empty -t base app").ok();
    host.sh("docker image inspect base -f '{{json .Config.Labels}}'").says(r#"{"empty":"","of":"base"}"#);
    host.sh("docker run --rm base ls /app").fails_with("/app");
    assert!(!host.sh("$STRATUS build --no-cache app").ok().stderr().contains("CACHED"));
    // Another file is built of the same directory.
    host.write(
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
fn a_quiet_build_says_why_it_failed() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN echo well\nRUN echo before; echo and >&2; false\n", &[]);
    let failed = host.sh("$STRATUS build -q app");
    failed.exits_with(1).prints("").complains(" before\n").complains(" and\n").complains("returned a non-zero code: 1");
    assert!(!failed.stderr().contains("well"), "{failed}");
    host.project("FROM busybox\nRUN echo before\n", &[]);
    assert_eq!(host.sh("$STRATUS build -q app").ok().stderr(), "");
}

#[test]
fn flags_of_habit_are_taken_or_the_way_here_is_said() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN echo $SOURCE_DATE_EPOCH > /epoch\n", &[]);
    let id = host.sh("$STRATUS build -q app").ok().text().to_owned();
    let taken = "--rm=false --force-rm=true --compress --pull=false --no-cache=false --push=false --isolation default --call build";
    host.sh(&format!("$STRATUS build -q {taken} app")).says(&id);
    for command in ["image build", "builder build", "buildx build"] {
        host.sh(&format!("$STRATUS {command} -q --rm --force-rm app")).says(&id);
    }
    for (flag, way) in [
        ("--isolation hyperv", "leave it out"),
        ("--security-opt seccomp=unconfined", "RUN --security=insecure"),
        ("--cgroup-parent x", "docker build has this flag"),
        ("--builder x", "the daemon is the builder"),
        ("--call check", "stratus build --check"),
        ("--call outline", "stratus build --print"),
    ] {
        host.sh(&format!("$STRATUS build {flag} app")).exits_with(2).complains(way);
    }
    // The time of what is built is taken from here, unless it is said otherwise.
    let epoch = |flags: &str| {
        host.sh(&format!("SOURCE_DATE_EPOCH=1700000000 $STRATUS build -q -t app {flags} app")).ok();
        host.sh("docker run --rm app cat /epoch")
    };
    epoch("").says("1700000000");
    epoch("--build-arg SOURCE_DATE_EPOCH=1800000000").says("1800000000");
}

#[test]
fn what_is_wrong_says_where_and_does_nothing_to_a_terminal() {
    let host = Daemon::start();
    let fails = |text: &str| {
        fs::write(host.work().join("app/Dockerfile"), text).expect("a Dockerfile");
        let failed = host.sh("$STRATUS build -t app app");
        failed.exits_with(1);
        failed
    };
    host.project("FROM busybox\nONBUILD RUN false\n", &[("a", "a")]);
    host.sh("$STRATUS build -q -t base app").ok();
    let failed = fails("FROM busybox\n\u{1b}]0;owned\u{7}\u{1b}[31mX y\n");
    failed.complains("\u{fffd}[31mX y").complains("Dockerfile:2:1");
    assert!(!failed.stderr().contains(['\u{1b}', '\u{7}']), "{failed}");
    fails("FROM busybox\nFROM base\n").complains("ONBUILD trigger of base (app/Dockerfile:2):1:1");
    fails("FROM busybox\nCOPY --exclude=[ a /\n").complains("--exclude: ").complains("app/Dockerfile:2:");
    host.sh("mv app/Dockerfile app/Containerfile; $STRATUS build app")
        .exits_with(1)
        .complains("reading app/Dockerfile: ")
        .complains("name the Dockerfile with --file app/Containerfile");
    let ssh = "SSH_AUTH_SOCK=/nonexist $STRATUS build -f app/Containerfile --ssh default app";
    host.sh(ssh).exits_with(1).complains("--ssh default: looking up /nonexist, of SSH_AUTH_SOCK: ");
}

#[test]
fn only_the_context_is_sent() {
    let host = Daemon::start();
    let dockerfile = "FROM busybox\nCOPY . /app/\nRUN cd /app && find . | sort > /list; stat -c '%a %u:%g' open/run linked; readlink link\n";
    host.write(
        "app",
        &[
            ("Dockerfile", dockerfile),
            (".dockerignore", "*\n!open\n!linked\n!also\n!link\n!out\nopen/private\n!open/private/but\n"),
            ("open/run", "run"),
            ("open/private/not", "not"),
            ("open/private/but", "but"),
            ("modules/deep/file", "file"),
            ("linked", "linked"),
        ],
    );
    host.sh(
        "cd app && chown -R 7:8 open && chmod 4751 open/run && ln linked also && ln -s nowhere link && ln -s / out",
    )
    .ok();
    // How large that is which is left out does not matter.
    host.sh("truncate -s 1T app/modules/huge").ok();
    let _socket = UnixListener::bind(host.work().join("app/open/socket")).expect("a socket");
    host.sh("$STRATUS build -t app app")
        .ok()
        .complains(" 4751 0:0\n")
        .complains(" 644 0:0\n")
        .complains(" nowhere\n")
        .complains("warning: open/socket is a socket, which no archive can hold: it is left out");
    host.sh("docker run --rm app cat /list")
        .says(".\n./also\n./link\n./linked\n./open\n./open/private\n./open/private/but\n./open/run\n./out");
    host.sh("docker run --rm app cat /app/open/private/but /app/also").says("butlinked");
    host.sh("echo '[' >> app/.dockerignore; $STRATUS build app")
        .exits_with(1)
        .complains("app/.dockerignore:9:1: syntax error in pattern");
}

#[test]
fn no_link_of_a_context_leads_out_of_it() {
    let host = Daemon::start();
    host.write("app", &[("etc/mine", "the context's own"), ("sub/file", "file")]);
    host.sh("cd app && ln -s / out && ln -s /etc etc-of-whom && ln -s ../../../../../etc sub/up").ok();
    // The host has this file, and the context has not.
    let theirs = "/etc/passwd";
    for build in ["DOCKER_BUILDKIT=0 docker build", "$STRATUS build", "$STRATUS build --build-context c=app"] {
        for link in ["out/etc", "etc-of-whom", "sub/up"] {
            let from = if build.contains("c=app") { "--from=c " } else { "" };
            host.write("app", &[("Dockerfile", &format!("FROM busybox\nCOPY {from}{link}/mine /mine\n"))]);
            host.sh(&format!("{build} -t app app && docker run --rm app cat /mine")).ok().prints("the context's own");
            host.write("app", &[("Dockerfile", &format!("FROM busybox\nCOPY {from}{link}{} /x\n", &theirs[4..]))]);
            host.sh(&format!("{build} app")).exits_with(1);
        }
    }
    let mounted = "FROM busybox\nRUN --mount=type=bind,source=out/etc,target=/m ls /m > /seen\n";
    host.write("app", &[("Dockerfile", mounted)]);
    host.sh("$STRATUS build -t app app && docker run --rm app cat /seen").ok().prints("mine\n");
}

#[test]
fn the_dockerfile_may_be_elsewhere() {
    let host = Daemon::start();
    let dockerfile = "FROM busybox\nCOPY . /app\nCMD find /app -type f | sort\n";
    host.write(
        ".",
        &[
            ("app/main", "main"),
            ("app/secret", "secret"),
            ("app/.dockerignore", "secret\n"),
            ("own/Dockerfile", dockerfile),
            ("own/Dockerfile.dockerignore", "main\n.dockerignore"),
            ("ops/Dockerfile", dockerfile),
            ("broken", "FROM busybox\nRUN exit 3\n"),
        ],
    );
    let shown = "docker run --rm app";
    host.sh("cd app && $STRATUS build -q -t app -f ../ops/Dockerfile .").ok();
    host.sh(shown).says("/app/.dockerignore\n/app/main");
    let id = host.sh("docker images -q --no-trunc app").text().to_owned();
    host.sh("$STRATUS build -q -f - app < ops/Dockerfile").says(&id);
    // A link out of the context is the same as what it leads to.
    host.sh("ln -s ../ops/Dockerfile app/Dockerfile && echo Dockerfile >> app/.dockerignore && $STRATUS build -q -t app app").ok();
    host.sh(shown).says("/app/.dockerignore\n/app/main");
    // Its own rules are beside it.
    host.sh("$STRATUS build -q -t app -f own/Dockerfile app").ok();
    host.sh(shown).says("/app/secret");
    host.sh("$STRATUS build -f broken app").exits_with(1).complains("broken:2:1\n").complains("   2 | RUN exit 3");
    host.sh("$STRATUS build -f nowhere app").exits_with(1).complains("reading nowhere: No such file or directory");
    host.sh("$STRATUS build broken").exits_with(2).complains("broken is no directory");
    host.sh("$STRATUS build -f - https://example.org/app.git")
        .exits_with(2)
        .complains("it is the name of a file there");
}

#[test]
fn standard_input_is_a_dockerfile_or_an_archive() {
    let host = Daemon::start();
    host.write(
        "app",
        &[
            ("Dockerfile", "FROM busybox\nCOPY main /\nCMD cat main\n"),
            ("main", "main\n"),
            ("other", "FROM busybox\nCMD echo other\n"),
        ],
    );
    host.sh("printf 'FROM busybox\\nCMD echo alone\\n' | $STRATUS build -q -t app - && docker run --rm app")
        .mentions("\nalone");
    host.sh("$STRATUS build -q -t app app").ok();
    let id = host.sh("docker images -q --no-trunc app").text().to_owned();
    for flag in ["", "-z", "-j", "-J", "--zstd"] {
        host.sh(&format!("tar -C app {flag} -c . | $STRATUS build -q -")).says(&id);
    }
    host.sh("tar -C app -c . | $STRATUS build -q -t app -f other - && docker run --rm app").mentions("\nother");
    host.sh("$STRATUS build -f other - < app/Dockerfile")
        .exits_with(2)
        .complains("standard input is no archive that other could be in");
    host.sh("$STRATUS build -f - - < app/Dockerfile").exits_with(2).complains("and not both");
    host.sh("head -c 100 /dev/zero | $STRATUS build -").exits_with(1);
    host.sh("printf 'COPY a /\\n' | $STRATUS build -").exits_with(1).complains("Dockerfile:1:1: ");
}

#[test]
fn programs_and_scripts_are_told_what_came_of_it() {
    let host = Daemon::start();
    host.write("app", &[("Dockerfile", "FROM busybox\nRUN echo made\nRUN test -e /etc/ok || exit 9\n")]);
    host.sh("echo old > id; $STRATUS build -q --iidfile id app")
        .exits_with(1)
        .prints("")
        .complains("returned a non-zero code: 9");
    host.sh("ls id").fails_with("No such file");
    host.sh("sed -i 's/exit 9/touch later/' app/Dockerfile; $STRATUS build -q -t app --iidfile id app > out && test \"$(cat id)\" = \"$(cat out)\"").ok();
    let id = host.sh("cat id").text().to_owned();
    host.sh("docker images -q --no-trunc app").says(&id);
    let last = host.sh("$STRATUS build --output json -t app -t b:2 app | tail -1");
    assert_eq!(last.json()["built"]["id"], *id);
    assert_eq!(
        last.json()["built"]["names"],
        serde_json::json!(["docker.io/library/app:latest", "docker.io/library/b:2"])
    );
    host.sh("$STRATUS build --output json app | jq -c 'select(.told.event.step.what == \"cached\")' | wc -l").says("2");
    host.sh("$STRATUS build --progress json app | jq -r '.built.id // empty'").says(&id);
    host.sh("$STRATUS build --progress quiet app").says(&id);
    host.sh("$STRATUS build --cache-to type=gha app").exits_with(2).complains("keeps no caches in gha");
    host.sh("$STRATUS build --output type=zip,dest=x app").exits_with(2).complains("\"zip\" is no type");
    host.sh("$STRATUS build -t 'No Name' app").exits_with(2).complains("is no image's name");
    host.sh("$STRATUS build --target nowhere app").exits_with(1).complains("nowhere");
}

#[test]
fn commands_run_as_it_is_said() {
    let host = Daemon::start();
    let dockerfile = "FROM busybox\nRUN ulimit -n; grep db /etc/hosts; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; ls /sys/class/net\n";
    host.write("app", &[("Dockerfile", dockerfile)]);
    host.sh("$STRATUS build --ulimit nofile=77:99 --add-host db:10.1.2.3 --shm-size 3m --network none -m 64m --memory-swap 64m --cpu-shares 100 --cpu-period 100000 --cpu-quota 50000 --cpuset-cpus 0 --cpuset-mems 0 app")
        .ok().complains(" 77\n").complains(" 10.1.2.3\tdb\n").complains(" 3072\n").complains(" lo\n");
    host.sh("$STRATUS build --add-host db app").exits_with(2).complains("has no address");
}

#[test]
fn arguments_that_are_the_builders_own_are_heeded() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN --mount=type=cache,target=/c hostname > /name; ls /c > /seen; touch /c/x\n", &[]);
    let built = |arguments: &str| {
        let said = host.sh(&format!("$STRATUS build --no-cache -t app {arguments} app"));
        assert!(!said.ok().stderr().contains("were not consumed"), "{said}");
        host.sh("docker run --rm app cat /name /seen").ok().text().to_owned()
    };
    assert_eq!(built("--build-arg BUILDKIT_SANDBOX_HOSTNAME=there --build-arg BUILDKIT_CACHE_MOUNT_NS=one"), "there");
    assert_eq!(built("--build-arg BUILDKIT_CACHE_MOUNT_NS=one"), "build\nx");
    assert_eq!(built("--build-arg BUILDKIT_CACHE_MOUNT_NS=other"), "build");
    assert_eq!(built(""), "build");
    assert_eq!(built(""), "build\nx");
    // Another name is another step.
    host.sh("$STRATUS build app").complains("CACHED");
    let other = host.sh("$STRATUS build --build-arg BUILDKIT_SANDBOX_HOSTNAME=there app");
    assert!(!other.ok().stderr().contains("CACHED"), "{other}");

    // One platform as if it were several.
    host.project("FROM scratch\nCOPY a /a\n", &[("a", "a")]);
    let several = "$STRATUS build --build-arg BUILDKIT_MULTI_PLATFORM=1 app";
    let platform = format!("linux_{}", host.sh("docker version -f '{{.Server.Arch}}'").text());
    host.sh(&format!("{several} -o files && find files -type f")).says(&format!("files/{platform}/a"));
    host.sh(&format!("{several} -o type=oci,dest=app.tar --metadata-file meta && jq -r '.[\"containerimage.descriptor\"].mediaType' meta"))
        .says("application/vnd.oci.image.index.v1+json");
    host.sh("$STRATUS build --build-arg BUILDKIT_MULTI_PLATFORM=perhaps app")
        .fails_with("BUILDKIT_MULTI_PLATFORM=perhaps: it is to be true or false");
}

#[test]
fn a_base_may_be_named_by_its_digest() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    let name = format!("{}/base", registry.name());
    let pushed = |text: &str| {
        host.project(&format!("FROM busybox\nRUN echo {text} > /which\n"), &[]);
        host.sh(&format!("$STRATUS build -q -t {name}:1 app && docker push -q {name}:1")).ok();
        let digest = host.sh(&format!("docker image inspect -f '{{{{index .RepoDigests 0}}}}' {name}:1"));
        digest.text().rsplit('@').next().expect("a digest").to_owned()
    };
    let (first, second) = (pushed("first"), pushed("second"));
    host.sh(&format!("docker rmi -f $(docker images -q {name}) && docker builder prune -af")).ok();
    // The digest counts, whatever the tag stands for by now; it is pulled, and then it is here.
    for build in ["$STRATUS build", "DOCKER_BUILDKIT=0 docker build", "$STRATUS build --pull"] {
        for (base, which) in [
            (format!("{name}@{first}"), "first"),
            (format!("{name}:1@{first}"), "first"),
            (format!("{name}@{second}"), "second"),
        ] {
            host.project(&format!("FROM {base}\nRUN cat /which > /seen\n"), &[]);
            host.sh(&format!("{build} -t app app && docker run --rm app cat /seen")).ok().prints(&format!("{which}\n"));
        }
    }
    host.project(&format!("FROM {name}@sha256:{:064}\n", 7), &[]);
    host.sh("$STRATUS build app").fails_with(&format!("sha256:{:064}", 7)).complains("Dockerfile:1:6\n");
}

#[test]
fn a_base_whose_tag_has_moved_comes_with_pull() {
    let (host, other) = (Daemon::start(), Daemon::start());
    let registry = Registry::start(&host);
    let name = format!("{}/base:1", registry.name());
    let push = |from: &Daemon, text: &str| {
        from.project(&format!("FROM busybox\nRUN echo {text} > /which\n"), &[]);
        from.sh(&format!("$STRATUS build -q -t {name} app && docker push -q {name}")).ok();
    };
    push(&host, "first");
    push(&other, "second");
    host.project(&format!("FROM {name}\nRUN cat /which > /seen\n"), &[]);
    for build in ["$STRATUS build", "DOCKER_BUILDKIT=0 docker build"] {
        let seen = |flags: &str| {
            host.sh(&format!("{build} {flags} -t app app && docker run --rm app cat /seen")).ok().stdout().to_owned()
        };
        assert!(seen("").ends_with("first\n"), "what is here does");
        assert!(seen("--pull").ends_with("second\n"), "what the tag is now");
        host.sh(&format!("docker rmi -f {name} && docker builder prune -af")).ok();
        push(&host, "first");
        push(&other, "second");
        host.project(&format!("FROM {name}\nRUN cat /which > /seen\n"), &[]);
    }
}

#[test]
fn a_context_comes_compressed_and_the_answer_is_as_clients_read_it() {
    let host = Daemon::start();
    let post = |pack: &str, query: &str| {
        let curl = "curl -sS --unix-socket ${DOCKER_HOST#unix://} -X POST -H 'Content-Type: application/x-tar' --data-binary @-";
        host.sh(&format!("tar -C app -c . | {pack} | {curl} 'http://d/v1.41/build?{query}'")).ok().stdout().to_owned()
    };
    let line = |answer: &str, key: &str| -> serde_json::Value {
        let lines = answer.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
        lines.into_iter().find(|line| !line[key].is_null()).unwrap_or_else(|| panic!("no {key} in {answer}"))
    };
    host.project("FROM busybox\nCOPY file /file\nRUN cat /proc/self/cgroup | head -1\n", &[("file", "what came")]);
    for pack in ["cat", "gzip", "bzip2", "xz", "zstd -q"] {
        let answer = post(pack, "t=app&nocache=1");
        let id = line(&answer, "aux")["aux"]["ID"].as_str().expect("an id").to_owned();
        host.sh("docker image inspect -f '{{.Id}}' app").says(&id);
        host.sh("docker run --rm app cat /file").says("what came");
        host.sh("docker rmi app").ok();
    }
    assert!(post("cat", "nocache=1&cgroupparent=/of-this-build").contains("/of-this-build/"), "where its steps run");
    host.project("FROM busybox\nRUN exit 9\n", &[]);
    let error = line(&post("cat", ""), "errorDetail");
    assert_eq!(error["errorDetail"]["code"], 9);
    let message = error["error"].as_str().expect("a message");
    assert_eq!(error["errorDetail"]["message"], message);
    // And where, which dockerd does not say.
    assert!(
        message.starts_with("The command '/bin/sh -c exit 9' returned a non-zero code: 9\nDockerfile:2:1\n"),
        "{message}"
    );
}

#[test]
fn a_frontend_that_is_not_used_is_told() {
    let host = Daemon::start();
    let warning = |syntax: &str, flags: &str| {
        host.project(&format!("{syntax}FROM busybox\n"), &[]);
        let said = host.sh(&format!("$STRATUS build {flags} app"));
        said.ok().stderr().lines().find(|line| line.contains("frontend")).map(str::to_owned)
    };
    for dockers in ["", "# syntax=docker/dockerfile:1\n", "# syntax=docker.io/docker/dockerfile-upstream:master-labs\n"]
    {
        assert_eq!(warning(dockers, ""), None, "{dockers}");
    }
    let told = "the frontend example.org/mine:2 is not used: stratus reads the file itself, as docker/dockerfile does";
    assert!(warning("# syntax=example.org/mine:2\n", "").is_some_and(|said| said.contains(told)));
    let given = "--build-arg BUILDKIT_SYNTAX=example.org/mine:2";
    assert!(warning("# syntax=docker/dockerfile:1\n", given).is_some_and(|said| said.contains(told)));
    host.sh(&format!("DOCKER_BUILDKIT=0 docker build {given} app")).mentions(told);
}

#[test]
fn base_images_come_from_registries_that_one_is_logged_in_at() {
    let host = Daemon::start();
    let registry = Registry::start_for(&host, "ada");
    let name = registry.name();
    host.sh(&format!(
        "docker tag busybox {name}/box && echo 'open sesame' | $STRATUS login -u ada --password-stdin {name}"
    ))
    .ok();
    host.sh(&format!("docker push {name}/box && docker rmi {name}/box")).ok();
    let build = format!("printf 'FROM {name}/box\\nCMD echo pulled\\n' | $STRATUS build -q -t app -");
    host.sh(&format!("export DOCKER_CONFIG=/nowhere; {build}")).exits_with(1);
    host.sh(&format!("{build} && docker run --rm app")).mentions("\npulled");
    host.sh(&format!("{build} --pull")).ok();
}

#[test]
fn what_hinders_a_build_is_told_with_what_to_do() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN echo begun && sleep 1000\n", &[]);
    let mut build = host.session("$STRATUS build -t app app");
    build.waits_for(" begun\n");
    host.sh(&format!("kill -9 {}", host.keeper())).ok();
    assert_eq!(build.exit_code(), 1);
    build.waits_for("running a command: the keeper that held it ended");
    assert!(!build.output().contains("255"), "{}", build.output());

    host.project("FROM busybox\n", &[]);
    host.sh("BUILDKIT_PROGRESS=fancy $STRATUS build app")
        .exits_with(2)
        .complains("BUILDKIT_PROGRESS=fancy is no way to show a build: there are auto, plain, tty, rawjson and quiet");
    host.sh("BUILDKIT_PROGRESS=auto $STRATUS build app").ok();
    host.sh("$STRATUS build --iidfile nowhere/id app").fails_with("--iidfile: ").complains("nowhere");
    host.sh("$STRATUS build --metadata-file nowhere/meta app").fails_with("--metadata-file: ").complains("nowhere");
    host.sh("DOCKER_HOST=unix:///nowhere STRATUS_HOST=unix:///nowhere $STRATUS build --check app")
        .complains("UndefinedVar");
    assert!(!host.sh("$STRATUS build --check app").ok().stderr().contains("UndefinedVar"));
}

#[test]
fn who_ends_it_leaves_nothing() {
    let host = Daemon::start();
    host.write("app", &[("Dockerfile", "FROM busybox\nRUN echo begun && sleep 1000\n")]);
    let mut build = host.session("$STRATUS build -t app app");
    build.waits_for(" begun\n").signal("INT");
    assert_eq!(build.exit_code(), 130);
    build.waits_for("The build was given up. What was whole of it is found again by the next one.");
    eventually("no container", || host.sh("docker ps -aq").text().is_empty());
    host.sh("docker images -q app").says("");
}

#[test]
fn another_version_is_told_which_one_there_is() {
    let host = Daemon::start();
    let ask = |upgrade: &str| {
        format!(
            "curl -s -i -m 20 --unix-socket ${{DOCKER_HOST#unix://}} -X POST -H 'Connection: Upgrade' {upgrade} http://d/stratus/build"
        )
    };
    for upgrade in ["-H 'Upgrade: stratus-build/99'", ""] {
        host.sh(&ask(upgrade))
            .mentions("426 Upgrade Required")
            .mentions("Upgrade: stratus-build/1")
            .mentions("the command and the daemon are to be of the same version");
    }
    // Whoever says nothing then keeps nobody from anything.
    host.sh(&format!("{} | head -1", ask("-H 'Upgrade: stratus-build/1' -m 1"))).mentions("101 UPGRADED");
}

#[test]
fn the_end_of_a_build_is_heard_however_soon_it_comes() {
    let host = Daemon::start();
    host.write("app", &[("Dockerfile", "FROM scratch\nRUN --mount=type=secret,id=none,required true\n")]);
    host.sh("for round in $(seq 100); do $STRATUS build app 2>&1 | tail -n 4 | grep -q '^error: .*secret none: not found' && echo heard; done | uniq -c | tr -s ' '")
        .says("100 heard");
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
        .says("Check complete, no warnings found. What may be one:")
        .complains("no stage is called \"biuld\": an image of that name will be looked for (did you mean build?)");
    // Of an image that nobody has, and where nobody answers, nothing is taken for undefined.
    host.sh(&format!("{check} -H unix:///nowhere/docker.sock | jq -r '.warnings | length'")).says("0");
    host.sh("printf 'FROM nobody/has/it\\nCOPY $OTHER /\\n' | $STRATUS build --check -f - .")
        .says("Check complete, no warnings found.");
    host.sh("$STRATUS build --check nowhere").exits_with(1).complains(
        "reading nowhere/Dockerfile: No such file or directory (os error 2): name the Dockerfile with --file FILE",
    );
}

#[test]
fn a_file_may_have_more_names_than_the_daemons_file_system_allows() {
    let host = Daemon::start();
    // A file system of memory, which counts no names. That of the daemon's may stop at 65000, or 32000.
    let context = Context(format!("/dev/shm/stratus-names-{}", std::process::id()).into());
    fs::create_dir(&context.0).expect("a directory");
    let at = |name: &str| context.0.join(name);
    fs::write(at("Dockerfile"), "FROM busybox\nCOPY names /names\n").expect("a file");
    fs::create_dir(at("names")).expect("a directory");
    fs::write(at("names/0"), "same").expect("a file");
    (1..65_010).for_each(|name| fs::hard_link(at("names/0"), at(&format!("names/{name}"))).expect("a name"));
    host.sh(&format!("$STRATUS build -t names {}", context.0.display())).ok();
    host.sh("docker run --rm names sh -c 'ls /names | wc -l; cat /names/0 /names/65009'").says("65010\nsamesame");
}

/// A directory that goes with the test.
struct Context(std::path::PathBuf);

impl Drop for Context {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
