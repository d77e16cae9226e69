//! Dockerfiles as people write them, for projects in six languages: each is built unchanged with the stock client, run, and asked.

use e2e::{Daemon, Web, eventually};
use std::path::{Path, PathBuf};

const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";
/// What users may copy, and what stands here for styles of Dockerfiles.
const PLACES: [&str; 2] = ["../examples", "dockerfiles"];

fn project(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = PLACES.iter().map(|place| here.join(place).join(name)).find(|path| path.join("Dockerfile").exists());
    found.unwrap_or_else(|| panic!("there is no project {name}"))
}

/// Builds a project, and gives its image the project's name.
fn build(host: &Daemon, name: &str, flags: &str) {
    let path = project(name);
    host.slowly(&format!("{BUILD} {flags} -t {name} {}", path.display())).ok().mentions("Successfully tagged");
}

/// Runs what was built, and asks it over HTTP until it answers so.
fn answers(host: &Daemon, name: &str, port: u16, path: &str, expected: &str) {
    host.sh(&format!("docker run -d --name {name} -p $PORT:{port} {name}")).ok();
    eventually(&format!("{name} to answer {expected}"), || {
        host.sh(&format!("curl -s -m 5 \"http://127.0.0.1:$PORT{path}\"")).stdout().contains(expected)
    });
}

/// What runs ends when it is asked to, and not because it is killed.
fn ends_well(host: &Daemon, name: &str, code: i32) {
    host.sh(&format!("docker stop -t 30 {name} && docker inspect -f '{{{{.State.ExitCode}}}}' {name}"))
        .says(&format!("{name}\n{code}"));
    host.sh(&format!("docker rm {name}")).ok();
}

#[test]
fn node() {
    let host = Daemon::start();
    host.has(&["node:18-bookworm-slim", "nginx:1.22"]);

    build(&host, "node-notes", "");
    build(&host, "node-notes", "--target test");
    build(&host, "node-notes", "");
    answers(&host, "node-notes", 8080, "/notes", "[]");
    let add = "curl -s -m 5 -H 'content-type: application/json' http://127.0.0.1:$PORT/notes -d";
    host.sh(&format!("{add} '{{\"text\": \"milk\"}}'")).says("{\"id\":1,\"text\":\"milk\"}");
    host.sh(&format!("{add} '{{\"text\": 1}}'")).says("{\"error\":\"a note needs a text\"}");
    host.sh("docker exec node-notes id -u").says("1000");
    ends_well(&host, "node-notes", 0);

    build(&host, "node-typescript", "--build-arg VERSION=2.2.0");
    answers(&host, "node-typescript", 3000, "/Ada", "hello, Ada (2.2.0)");
    host.sh("docker exec node-typescript ls node_modules/picocolors").ok();
    host.sh("docker exec node-typescript ls node_modules/typescript").fails_with("No such file or directory");
    host.sh("docker rm -f node-typescript").ok();

    let monorepo = project("node-workspaces");
    host.sh(&format!("{BUILD} {}", monorepo.display())).fails_with("returned a non-zero code: 1");
    for service in ["orders", "prices"] {
        host.slowly(&format!("{BUILD} --build-arg SERVICE={service} -t {service} {}", monorepo.display())).ok();
        answers(&host, service, 4000, "/", &format!("{service} 19.99 EUR"));
        host.sh(&format!("docker exec {service} find /repo/packages -name '*.test.js'")).says("");
        host.sh(&format!("docker rm -f {service}")).ok();
    }

    build(&host, "node-static", "");
    answers(&host, "node-static", 80, "/page.js", "A page of ");
    host.sh("curl -s -m 5 -H 'Accept-Encoding: gzip' -o /dev/null -w '%header{content-encoding}' http://127.0.0.1:$PORT/page.js").says("gzip");
    ends_well(&host, "node-static", 0);
}

#[test]
fn python() {
    let host = Daemon::start();
    host.has(&["python:3.11-slim-bookworm"]);

    build(&host, "python-quotes", "--build-arg RELEASE=7");
    answers(&host, "python-quotes", 8000, "/", "\"release\":\"7\"");
    host.sh("docker exec python-quotes id -un").says("quotes");
    eventually("it to be healthy", || {
        host.sh("docker inspect -f '{{.State.Health.Status}}' python-quotes").text() == "healthy"
    });
    ends_well(&host, "python-quotes", 0);

    build(&host, "python-plain", "");
    answers(&host, "python-plain", 8080, "/add/40/2", "{\"sum\": 42}");
    host.sh("docker image inspect -f '{{.Author}}' python-plain").says("Somebody <somebody@example.com>");
    host.sh("docker rm -f python-plain").ok();

    build(&host, "python-wheels", "");
    host.sh("docker run --rm python-wheels && docker run --rm python-wheels 1987").says("MMXXIV\nMCMLXXXVII");
    host.sh("docker run --rm python-wheels 0").fails_with("Invalid value");
    host.sh("docker run --rm --entrypoint ls python-wheels /wheels").fails_with("No such file or directory");

    let path = project("python-onbuild");
    host.sh(&format!("{BUILD} -t python-onbuild-base -f {0}/base.Dockerfile {0}", path.display())).ok();
    build(&host, "python-onbuild", "");
    host.sh("docker run --rm python-onbuild").says("good day forty-two");
}

#[test]
fn go() {
    let host = Daemon::start();
    host.has(&["golang:1.19-bookworm", "debian:bookworm-slim"]);

    build(&host, "go-clock", "--build-arg VERSION=3.0.0");
    answers(&host, "go-clock", 8080, "/?zone=Asia/Tokyo", "+09:00\",\"version\":\"3.0.0\"");
    ends_well(&host, "go-clock", 0);
    host.sh("docker image inspect -f '{{len .RootFS.Layers}}' go-clock").says("1");

    build(&host, "go-layers", "");
    answers(&host, "go-layers", 8080, "/about-us/", "ABOUT-US");
    host.sh("docker top go-layers -o pid,uid | tail -1").mentions("65532");
    host.sh("docker rm -f go-layers").ok();
}

/// Has a server hand out the module `example.org/greet` as a proxy of Go does (`go help goproxy`).
fn publish_module(host: &Daemon, web: &Web) {
    let (version, root) = ("v1.2.0", "/go/example.org/greet/@v");
    let manifest = "module example.org/greet\n\ngo 1.19\n";
    let source = "// Package greet greets people.\npackage greet\n\n// Hello greets one.\nfunc Hello(name string) string { return \"hello, \" + name }\n";
    let directory = format!("module/example.org/greet@{version}");
    host.write(&directory, &[("go.mod", manifest), ("greet.go", source)]);
    host.sh("cd module && zip -qrD ../module.zip example.org").ok();
    web.put_plain(&format!("{root}/list"), format!("{version}\n"));
    web.put_plain(
        &format!("{root}/{version}.info"),
        format!("{{\"Version\":\"{version}\",\"Time\":\"2024-02-29T12:00:00Z\"}}"),
    );
    web.put_plain(&format!("{root}/{version}.mod"), manifest);
    web.put_plain(&format!("{root}/{version}.zip"), std::fs::read(host.work().join("module.zip")).expect("the module"));
}

#[test]
fn go_with_modules_of_a_registry() {
    let (host, web) = (Daemon::start(), Web::start());
    host.has(&["golang:1.19-bookworm"]);
    publish_module(&host, &web);
    let proxy = format!("--network host --build-arg GOPROXY={}", web.at("/go"));
    build(&host, "go-modules", &proxy);
    host.sh("docker run --rm go-modules Ada Grace").says("hello, Ada\nhello, Grace");
    // What was fetched stays for the next build, though everything else is done anew.
    assert!(web.asked().iter().any(|asked| asked.contains("v1.2.0.zip")));
    build(&host, "go-modules", &format!("--no-cache {proxy}"));
    assert!(web.asked().iter().all(|asked| !asked.contains("v1.2.0.zip")));
}

#[test]
fn java_with_packages_of_a_registry() {
    let (host, web) = (Daemon::start(), Web::start());
    host.has(&["eclipse-temurin:17-jdk"]);
    let path = project("java-packages");
    host.slowly(&format!("$STRATUS build --target published -o published {}", path.display())).ok();
    web.put_directory("/maven2", host.work().join("published"));
    let repository = format!("--network host --build-arg REPOSITORY={}", web.at("/maven2"));
    build(&host, "java-packages", &repository);
    host.sh("docker run --rm java-packages Ada Grace").says("hello, Ada\nhello, Grace");
    // Another one of the same name is found out by the build.
    host.sh("echo 0000000000000000000000000000000000000000 > published/org/example/greet/1.2.0/greet-1.2.0.jar.sha1")
        .ok();
    host.slowly(&format!("{BUILD} --force-rm --no-cache {repository} {}", path.display()))
        .fails_with("returned a non-zero code: 1")
        .prints("the package is not what its author published");
}

#[test]
fn hello_web_as_its_own_page_says() {
    let host = Daemon::start();
    // In a copy: what is compiled lies beside the Dockerfile. What this machine has cargo do otherwise is not the example's.
    host.sh(&format!("cp -r {} hello-web && rm -rf hello-web/target", project("hello-web").display())).ok();
    host.slowly("cd hello-web && env -u CARGO_TARGET_DIR -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS cargo build --quiet --release --locked").ok();
    host.sh(&format!("{BUILD} -t hello-web hello-web")).ok().mentions("Successfully tagged hello-web:latest");
    host.sh("docker image inspect -f '{{len .RootFS.Layers}} {{.Config.User}}' hello-web").says("1 65534:65534");
    answers(&host, "hello-web", 8080, "/", "Hello from ");
    host.sh("curl -s -m 5 http://127.0.0.1:$PORT/healthz").says("ok");
    host.sh("docker exec hello-web hello-web --check").ok();
    ends_well(&host, "hello-web", 0);

    // Over a base with a shell, by the other builder's words.
    host.sh("$STRATUS build -q -t hello-web --build-arg BASE=busybox hello-web").ok();
    host.sh("docker run -d --name hello-web -e PORT=9000 -p $PORT:9000 hello-web").ok();
    eventually("the second one", || {
        host.sh("curl -s -m 5 http://127.0.0.1:$PORT/").stdout().starts_with("Hello from ")
    });
    host.sh("docker exec hello-web sh -c 'id -u && wc -c < /etc/passwd' | head -1").says("65534");
    ends_well(&host, "hello-web", 0);
}

#[test]
fn rust() {
    let host = Daemon::start();
    host.has(&["rust:1-slim-bookworm", "debian:bookworm-slim"]);

    build(&host, "rust-words", "");
    answers(&host, "rust-words", 8080, "/", "");
    host.sh("curl -s -m 5 --data 'to be or not to be' http://127.0.0.1:$PORT/").says("be 2\nnot 1\nor 1\nto 2");
    host.sh("docker rm -f rust-words").ok();

    build(&host, "rust-dummy", "");
    host.sh("docker run --rm rust-dummy 40 2 && docker run --rm rust-dummy").says("42\n0");

    build(&host, "rust-scratch", "");
    host.sh("docker run -d --name still -p $PORT:9000 rust-scratch").ok();
    eventually("an answer", || host.sh("curl -s -m 5 --http0.9 http://127.0.0.1:$PORT").stdout() == "still here\n");
    host.sh("docker rm -f still").ok();
}

#[test]
fn java() {
    let host = Daemon::start();
    host.has(&["eclipse-temurin:17-jdk", "debian:bookworm-slim"]);

    build(&host, "java-dice", "");
    answers(&host, "java-dice", 8080, "/1", "a die has two sides at least");
    let thrown = host.sh("curl -s -m 5 http://127.0.0.1:$PORT/20").number();
    assert!((1..=20).contains(&thrown), "{thrown}");
    ends_well(&host, "java-dice", 143);

    build(&host, "java-ant", "");
    host.sh("printf 'a\\nb\\n' | docker run -i --rm -e JAVA_OPTS=-Xmx32m java-ant").says("2 lines, heap of 32 MB");
    host.sh("docker run --rm --entrypoint cat java-ant /etc/java-release").mentions("openjdk version \"17");
}

#[test]
fn c_and_its_kin() {
    let host = Daemon::start();
    host.has(&["gcc:12-bookworm", "debian:bookworm-slim"]);

    build(&host, "c-echo", "");
    host.sh("docker run -d --name c-echo -p $PORT:7777 c-echo").ok();
    let ask = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/'$PORT'; echo hello >&3; head -1 <&3'";
    eventually("an echo", || host.sh(ask).stdout() == "HELLO\n");
    ends_well(&host, "c-echo", 0);

    build(&host, "c-autotools", "");
    host.sh("echo Hello | docker run -i --rm c-autotools | docker run -i --rm c-autotools").says("Hello");

    build(&host, "cpp-cmake", "--target test");
    build(&host, "cpp-cmake", "");
    host.sh("docker run --rm cpp-cmake && docker run --rm cpp-cmake 10")
        .says("168 primes, the last 997\n4 primes, the last 7");
}

#[test]
fn what_is_configured_and_not_compiled() {
    let host = Daemon::start();
    host.has(&["debian:bookworm", "debian:bookworm-slim", "nginx:1.22"]);

    build(&host, "redis", "");
    host.sh("docker run -d --name redis redis").ok();
    eventually("it to be healthy", || {
        host.sh("docker inspect -f '{{.State.Health.Status}}' redis").text() == "healthy"
    });
    host.sh("docker exec redis redis-cli set a 1 && docker restart -t 30 redis").says("OK\nredis");
    // It is back when it answers, and not when it has begun.
    eventually("what it kept", || host.sh("docker exec redis redis-cli get a").text() == "1");
    host.sh("docker rm -fv redis").ok();

    build(&host, "shell-service", "");
    host.sh("docker run --name kept shell-service")
        .says("first as 4242\nsecond in /var/lib/keeper/data\nkept by keeper: nothing");
    host.sh("docker start -a kept").mentions("kept by keeper: nothing\nkept by keeper: nothing");
    host.sh("docker run --rm --user 4242 shell-service id -un").says("keeper");
    host.sh("docker rm -v kept").ok();

    host.sh(&format!(
        "cp -r {} site && mkdir -p site/a/b && echo deep > site/a/b/index.html",
        project("site-archive").display()
    ))
    .ok();
    host.sh("cd site && tar -czf site.tar.gz a && rm -r a").ok();
    host.sh(&format!("{BUILD} -t site site")).ok();
    answers(&host, "site", 80, "/a/b/", "deep");
    host.sh("curl -s -m 5 http://127.0.0.1:$PORT/files.txt | xargs -n 1 basename | xargs")
        .says("50x.html index.html index.html robots.txt");
    host.sh("docker rm -f site").ok();
}

/// Who has no registry finds on the page of the examples how each of their bases is made.
#[test]
fn each_base_of_an_example_can_be_made_without_a_registry() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let read =
        |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    let page = read(examples.join("README.md"));
    let made: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("stratus image bootstrap debian:bookworm --tag "))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    let mut projects = 0;
    for entry in std::fs::read_dir(&examples).expect("the examples").flatten().filter(|entry| entry.path().is_dir()) {
        projects += 1;
        let file = read(entry.path().join("Dockerfile")).replace("${PYTHON}", "3.11");
        let froms = file.lines().filter_map(|line| line.strip_prefix("FROM "));
        let froms = froms.map(|from| from.split(' ').filter(|word| !word.starts_with("--")).collect::<Vec<_>>());
        let mut stages = vec!["scratch", "${BASE}"];
        for words in froms {
            let place = format!("{} of {}", words[0], entry.path().display());
            assert!(stages.contains(&words[0]) || made.contains(&words[0]), "nothing says how to make {place}");
            stages.extend(words.get(2));
        }
        assert!(page.contains(&format!("]({})", entry.file_name().display())), "{}", entry.path().display());
    }
    assert!(projects >= 7, "{projects}");
}
