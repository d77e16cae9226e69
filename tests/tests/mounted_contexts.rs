//! What of its context `RUN --mount=type=bind` shows a step: what docker's client sends as a whole, and `stratus build` file by file.

use std::fs;

use e2e::Daemon;

/// Both of them.
const BUILDS: [&str; 2] = ["DOCKER_BUILDKIT=0 docker build", "$STRATUS build --progress plain"];

#[test]
fn what_is_excluded_is_neither_there_nor_makes_a_difference() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox
RUN --mount=type=bind,target=/src cd /src && find . | sort > /read-only
RUN --mount=type=bind,target=/src,rw cd /src && find . | sort > /written && echo more >> dir/keep
RUN --mount=type=bind,source=dir,target=/dir ls /dir > /of-dir
";
    host.project(dockerfile, &[("a", "a"), ("secret", "one"), ("dir/keep", "kept"), ("dir/other", "one")]);
    fs::write(host.work().join("app/.dockerignore"), "secret\nDockerfile\n.dockerignore\ndir\n!dir/keep\n")
        .expect("rules");
    let seen = ".\n./a\n./dir\n./dir/keep\n";
    for build in BUILDS {
        host.sh("echo one > app/secret; echo one > app/dir/other").ok();
        host.sh(&format!("{build} -t app app")).ok();
        host.sh("docker run --rm app cat /read-only /written /of-dir").says(&format!("{seen}{seen}keep"));
        let first = host.sh("docker image inspect -f '{{.Id}}' app").ok().text().to_owned();
        host.sh(&format!("echo two > app/secret; echo two > app/dir/other; {build} -t app app")).ok();
        host.sh("docker image inspect -f '{{.Id}}' app").says(&first);
        host.sh("docker builder prune -af").ok();
    }
    host.project("FROM busybox\nRUN --mount=type=bind,source=secret,target=/src true\n", &[]);
    for build in BUILDS {
        host.sh(&format!("{build} app")).complains("file not found in build context or excluded by .dockerignore");
    }
}

#[test]
fn files_look_the_same_whenever_they_came_and_however_they_are_mounted() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox
RUN --mount=type=bind,target=/src find /src -exec stat -c '%n %a %Y' {} + | sort > /read-only
RUN --mount=type=bind,target=/src,rw find /src -exec stat -c '%n %a %Y' {} + | sort > /written && stat -c %h /src/one > /names
";
    host.project(
        dockerfile,
        &[("one", "one"), ("sub/deep/file", "file"), (".dockerignore", "Dockerfile\n.dockerignore\n")],
    );
    host.sh("cd app && ln one other && ln -s one link && mkfifo pipe && chmod 751 sub && chmod 4755 sub/deep/file")
        .ok();
    let time = 315_619_200;
    let expected = format!(
        "/src 755 {time}\n/src/link 777 {time}\n/src/one 644 {time}\n/src/other 644 {time}\n/src/pipe 644 {time}\n\
         /src/sub 751 {time}\n/src/sub/deep 755 {time}\n/src/sub/deep/file 4755 {time}"
    );
    for build in BUILDS {
        for day in ["2020-01-01", "2021-01-01"] {
            host.sh(&format!("find app -exec touch -h -d {day} {{}} +; {build} --no-cache -t app app")).ok();
            host.sh("docker run --rm app cat /read-only").says(&expected);
            host.sh("docker run --rm app cat /written /names").says(&format!("{expected}\n2"));
        }
    }
}

/// A Dockerfile alone has a context without files: mounted as a whole, it is an empty directory.
#[test]
fn a_context_without_files_is_an_empty_directory() {
    let host = Daemon::start();
    let build = |mount: &str| {
        host.write(
            "",
            &[("alone", &format!("FROM busybox\nRUN --mount=type=bind{mount} ls -A /src > /seen && test -d /src\n"))],
        );
        host.sh("$STRATUS build -t alone - < alone")
    };
    for mount in [",target=/src", ",target=/src,source=.", ",target=/src,source=/,rw"] {
        build(mount).ok();
        host.sh("docker run --rm alone cat /seen").says("");
        host.sh("docker run --rm alone ls /src").fails_with("No such file");
    }
    build(",target=/src,source=file")
        .exits_with(1)
        .complains("stat file: file does not exist: there is no build context, as a Dockerfile came alone");
}

/// As one that is copied, it is a directory without anything in it.
#[test]
fn nothing_is_copied_from_a_context_without_files() {
    let host = Daemon::start();
    let build = |copy: &str| {
        host.write("", &[("alone", &format!("FROM scratch AS empty\nFROM busybox\n{copy}\n"))]);
        host.sh("$STRATUS build -t alone - < alone")
    };
    for copy in ["COPY . /x", "COPY / /x", "ADD . /x/", "COPY --chmod=755 . /x", "COPY --from=empty / /x"] {
        build(copy).ok();
        host.sh("docker run --rm alone sh -c 'ls -A /x; stat -c \"%a %u %Y\" /x'").says("755 0 315619200");
    }
    build("COPY file /x")
        .exits_with(1)
        .complains("stat file: file does not exist: there is no build context, as a Dockerfile came alone (stratus build -f - PATH has one)");
    build("COPY * /x").exits_with(1).complains("no source files were specified");
    build("COPY --from=empty file /x").exits_with(1).complains("stat file: file does not exist\n");
}
