//! Dockerfiles become images, with the stock client.

use e2e::{Daemon, eventually};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What builds with the classic builder's endpoint, which is all that this client has.
const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";

const SERVICE: &str = "\
FROM busybox AS base
ARG GREETING=hello
WORKDIR /srv/app
COPY package.json .
RUN mkdir modules && echo installed > modules/dep
FROM base AS test
RUN exit 7
FROM base
ENV GREETING=$GREETING
COPY src ./src
RUN cat src/main > out && echo made
EXPOSE 80 53/udp
LABEL of=\"the service\"
CMD [\"cat\", \"out\"]
";

#[test]
fn only_what_follows_a_change_is_done_again() {
    let host = Daemon::start();
    host.project(SERVICE, &[("package.json", "{}"), ("src/main", "one\n")]);
    let steps = "grep -c -e 'Using cache' -e 'Running in'";
    let first = host.sh(&format!("{BUILD} -t app:1 app"));
    first.ok().mentions("Step 1/12 : FROM busybox AS base\n").mentions(" ---> Running in ").mentions("\nmade\n");
    first.mentions("Successfully built ").mentions("Successfully tagged app:1").omits("Using cache").omits("exit 7");
    host.sh("docker run --rm app:1").says("one");
    let again = host.sh(&format!("{BUILD} -t app:1 app"));
    again.ok().omits("Running in");
    host.sh(&format!("{BUILD} app | {steps}")).says("5");
    let id = host.sh("docker images -q --no-trunc app:1").text().to_owned();
    host.sh(&format!("touch app/src/main; {BUILD} -q -t app:1 app")).says(&id);

    host.sh("echo two > app/src/main").ok();
    host.sh(&format!("{BUILD} -t app:2 app | grep -c 'Using cache'")).says("3");
    host.sh("docker run --rm app:2 && docker run --rm app:1").says("two\none");
    // Back again, it is found again, whatever was built in between.
    host.sh(&format!("echo one > app/src/main; {BUILD} -t app:3 app")).ok().omits("Running in");
    host.sh("docker images -q --no-trunc app:3").says(&id);
    host.sh(&format!("{BUILD} --force-rm --target test app"))
        .fails_with("The command '/bin/sh -c exit 7' returned a non-zero code: 7");
    host.sh("docker ps -aq").says("");
    // A label beside the file's is a step.
    let labelled = host.sh(&format!("{BUILD} --label a=1 --label b='2 3' -t labelled app"));
    labelled.ok().mentions("Step 13/14 : LABEL a=1\n ---> ").mentions("Step 14/14 : LABEL b=2 3\n ---> ");
    host.sh("docker history --no-trunc --format '{{.CreatedBy}}' labelled | head -3")
        .says("LABEL b=2 3\nLABEL a=1\nCMD [\"cat\", \"out\"]");
    host.sh("docker image inspect labelled -f '{{.Config.Labels}}'").says("map[a:1 b:2 3 of:the service]");
    host.sh("docker image inspect app:1 -f '{{.Config.Env}} {{.Config.WorkingDir}} {{.Config.ExposedPorts}} {{.Config.Labels}}'")
        .says("[PATH=/bin GREETING=hello] /srv/app map[53/udp:{} 80/tcp:{}] map[of:the service]");
}

#[test]
fn the_same_context_is_the_same_image_elsewhere() {
    let (one, other) = (Daemon::start(), Daemon::start());
    let mut ids = Vec::new();
    for host in [&one, &other] {
        host.project(SERVICE, &[("package.json", "{}"), ("src/main", "one\n")]);
        // Busybox itself is brought in by each daemon's test, at another time.
        host.sh("docker save busybox -o base.tar").ok();
        ids.push(host.work());
    }
    other.sh(&format!("docker rmi busybox && docker load -i {}/base.tar", ids[0].display())).ok();
    let built = |host: &Daemon, flags: &str| host.sh(&format!("{BUILD} -q {flags} app")).ok().text().to_owned();
    let id = built(&one, "");
    assert_eq!(built(&other, ""), id);
    assert_eq!(built(&other, "--no-cache"), id);
    assert_ne!(built(&one, "--build-arg GREETING=bye"), id);
    assert_ne!(built(&one, "--build-arg SOURCE_DATE_EPOCH=1000000000"), id);
    one.sh(&format!("{BUILD} -q --build-arg SOURCE_DATE_EPOCH=1000000000 -t old app && docker image inspect old -f '{{{{.Created}}}}'"))
        .mentions("2001-09-09T01:46:40Z");
}

#[test]
fn files_are_copied_as_the_reference_says() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox AS made
RUN mkdir -p /made/deep && echo m > /made/deep/file && chmod 750 /made/deep && chown 5:6 /made/deep/file && ln -s file /made/deep/link
FROM busybox
RUN echo worker:x:123:123::/:/bin/sh > /etc/passwd && mkdir -p /opt/real && ln -s /opt/real /opt/link
COPY a.txt /one
COPY a.txt b.txt /two/
COPY dir /three
COPY --chown=worker *.txt /opt/link/new/
COPY --chown=9:8 --chmod=u=rwX,go= dir /five
COPY --from=made /made /six
COPY --from=0 /made/deep/link /seven
COPY --from=busybox /bin/busybox /eight
COPY --parents dir/./sub/in /nine/
COPY --exclude=*.log dir /ten
COPY --link a.txt /eleven/
ADD files.tar.gz /twelve
ADD --unpack=false files.tar.gz /thirteen/
COPY <<first <<-\"second\" /fourteen/
$PATH is set
first
\tas it $is
second
COPY [\"with blank\", \"/fifteen\"]
";
    let files = [
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("dir/sub/in", "in"),
        ("dir/x.log", "log"),
        ("dir/ignored", "ignored"),
        ("secret.txt", "secret"),
        ("with blank", "blank"),
        (".dockerignore", "# a comment\nsecret.txt\n**/ignored\n"),
    ];
    host.project(dockerfile, &files);
    host.sh("mkdir t && echo t > t/file && tar -C t -czf app/files.tar.gz .").ok();
    host.sh(&format!("{BUILD} -t app app")).ok();
    let shows = |command: &str| host.sh(&format!("docker run --rm app sh -c '{command}'"));
    shows("cat /one /two/a.txt /two/b.txt /three/sub/in /three/x.log").says("aabinlog");
    shows("ls /opt/real/new; stat -c %u:%g /opt/real/new/a.txt /opt/real/new").says("a.txt\nb.txt\n123:123\n123:123");
    shows("stat -c %a.%u.%g /five/sub /five/sub/in").says("700.9.8\n600.9.8");
    shows("stat -c %a /six/deep; stat -c %u:%g /six/deep/file; readlink /six/deep/link; cat /seven")
        .says("750\n5:6\nfile\nm");
    shows("cmp /eight /bin/busybox && ls /nine /ten /eleven").says("/eleven:\na.txt\n\n/nine:\nsub\n\n/ten:\nsub");
    shows("cat /twelve/file; ls /thirteen; ls /three").says("t\nfiles.tar.gz\nsub\nx.log");
    shows("cat /fourteen/first /fourteen/second; cat /fifteen").mentions("/bin is set\nas it $is\nblank");
    shows("stat -c %Y /one /two /fourteen").says("315619200\n315619200\n315619200");
}

#[test]
fn what_one_instruction_does_to_a_file_is_nothing_to_the_next() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox
COPY --chmod=700 a /one
COPY a /two
COPY --chown=5:6 a /three
COPY a /four
ADD dir /five/
ADD dir/inner.tar /six/
";
    host.project(dockerfile, &[("a", "a"), ("dir/b", "b")]);
    host.sh("chmod 644 app/a && tar -C app -cf app/dir/inner.tar a").ok();
    host.sh(&format!("{BUILD} -t app app")).ok();
    host.sh("docker run --rm app stat -c %a.%u.%g /one /two /three /four").says("700.0.0\n644.0.0\n644.5.6\n644.0.0");
    // Only an archive that is named itself is unpacked.
    host.sh("docker run --rm app ls /five /six").says("/five:\nb\ninner.tar\n\n/six:\na");
}

#[test]
fn nothing_of_the_day_comes_into_an_image() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN chmod 555 /\n", &[]);
    host.sh(&format!("{BUILD} -t strict app")).ok();
    // The archive does not have the directory of its file.
    host.sh("mkdir -p t/deep && echo t > t/deep/file && tar -C t -cf app/files.tar deep/file").ok();
    host.project("FROM strict\nRUN true\nADD files.tar /\nCOPY a /\nWORKDIR /new\n", &[("a", "a")]);
    let built = || host.sh(&format!("{BUILD} -q --no-cache -t app app")).ok().text().to_owned();
    let first = built();
    host.sh("now=$(date +%s); until [ $(date +%s) != $now ]; do sleep 0.1; done").ok();
    assert_eq!(built(), first);
    host.sh("docker run --rm app stat -c %a /").says("555");
}

#[test]
fn pruning_takes_nothing_from_a_build() {
    let host = Daemon::start();
    let dockerfile: String = (0..12).map(|step| format!("RUN echo {step} > /{step}\n")).collect();
    host.project(&format!("FROM busybox\n{dockerfile}"), &[]);
    let built = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !built.load(Ordering::Relaxed) {
                for what in ["containers", "images", "build"] {
                    host.ask(&format!("POST /v1.43/{what}/prune"), "").expect("an answer");
                }
            }
        });
        let build = host.sh(&format!("{BUILD} -t app app"));
        built.store(true, Ordering::Relaxed);
        build.ok();
    });
    host.sh("docker run --rm app cat /0 /11").says("0\n11");
    host.sh("docker ps -aq").says("");
}

#[test]
fn the_context_is_never_written_to() {
    let host = Daemon::start();
    let mounts = "--mount=type=bind,source=files,target=/copy,rw --mount=type=bind,source=files,target=/own";
    let dockerfile = format!(
        "FROM busybox\nCOPY files /files\nRUN {mounts} echo copy > /copy/a && if echo own > /own/a; then exit 1; fi\n"
    );
    host.project(&dockerfile, &[("files/a", "a")]);
    host.sh(&format!("{BUILD} -t app app")).ok();
    host.sh("docker run --rm app cat /files/a").says("a");
}

#[test]
fn mistakes_are_told_where_they_stand() {
    let host = Daemon::start();
    let fails = |dockerfile: &str| {
        host.project(dockerfile, &[("a", "a"), (".dockerignore", "hidden"), ("hidden", "")]);
        host.sh(&format!("{BUILD} --force-rm app"))
    };
    fails("FORM busybox").fails_with("Dockerfile:1:1: unknown instruction: FORM (did you mean FROM?)");
    fails("FROM busybox\nCOPY nothing /")
        .fails_with("COPY failed: file not found in build context or excluded by .dockerignore: stat nothing: file does not exist")
        .complains("COPY nothing /\n");
    fails("FROM busybox\nUSER nobody-here\nRUN true")
        .fails_with("unable to find user nobody-here")
        .complains("RUN true\n");
    fails("FROM busybox\nCOPY hidden /").fails_with("excluded by .dockerignore: stat hidden: file does not exist");
    fails("FROM busybox\nCOPY ../a /").fails_with("forbidden path outside the build context: ../a");
    fails("FROM busybox\nCOPY *.none /").fails_with("no source files were specified");
    fails("FROM busybox\nCOPY --chown=nobody-here a /").fails_with("unable to find user nobody-here");
    fails("FROM busybox\nCOPY a /bin").ok();
    fails("FROM busybox\nCOPY a /bin/busybox/x").fails_with("cannot overwrite non-directory with directory");
    fails("FROM nothing-of-the-kind\n").fails_with("Dockerfile:1:6\n");
    fails("FROM busybox AS base\nFROM bsae").fails_with("did you mean the stage base?");
    for mount in ["source=x,target=/x", "type=cache,target=/x"] {
        fails(&format!("FROM busybox AS base\nFROM busybox\nRUN --mount={mount},from=bsae true"))
            .fails_with("(did you mean the stage base?)")
            .complains("Dockerfile:3:5\n");
    }
    fails("FROM busybox\nRUN nothing-of-the-kind").fails_with("returned a non-zero code: 127").prints("not found");
    fails("FROM busybox\nRUN --mount=type=secret,id=token,required true").fails_with("secret token: not found");
    fails("FROM busybox\nRUN --mount=source=nothing,target=/x true").fails_with("stat nothing: file does not exist");
    host.sh(&format!("{BUILD} -f nothing app")).fails_with("");
    host.sh(&format!("{BUILD} --target nothing app")).fails_with("target stage \"nothing\" could not be found");
    host.sh("docker ps -aq").says("");
}

#[test]
fn a_step_may_be_in_a_containers_network() {
    let host = Daemon::start();
    host.sh("docker run -d --name nc --hostname of-nc busybox sh -c 'echo served > /f; while true; do nc -l -p 80 -e cat /f; done'").ok();
    host.project(
        "FROM busybox\nRUN hostname > /name; until nc 127.0.0.1 80 > /heard && test -s /heard; do sleep 0.02; done\n",
        &[],
    );
    for build in [BUILD, "$STRATUS build"] {
        host.sh(&format!("{build} --no-cache --network container:nc -t app app")).ok();
        host.sh("docker run --rm app cat /name /heard").says("of-nc\nserved");
    }
    host.sh(&format!("{BUILD} --network container:none app")).fails_with("none");
}

#[test]
fn what_a_step_can_not_have_is_not_passed_over() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN true\n", &[]);
    host.sh(&format!("{BUILD} --security-opt seccomp=unconfined app"))
        .fails_with("the daemon on linux does not support setting security options on build");
    host.sh(&format!("{BUILD} --isolation hyperv app")).fails_with("unsupported isolation: \"hyperv\"");
    host.sh(&format!("{BUILD} --isolation default app")).ok();
    host.project("FROM busybox\nRUN --device=vendor.example/class=one,required true\n", &[]);
    for build in [BUILD, "$STRATUS build"] {
        host.sh(&format!("{build} app")).fails_with("stratus has no devices for a RUN").complains("Dockerfile:2:5\n");
    }
}

/// What a command that runs in a build sees of its limits, and does under them.
#[test]
fn limits_of_a_build_hold_for_its_commands() {
    let host = Daemon::start();
    let build = |script: &str, flags: &str| {
        host.project(&format!("FROM busybox\nRUN {script}\n"), &[]);
        host.sh(&format!("{BUILD} --no-cache --force-rm -t app {flags} app"))
    };
    // In whichever of the two hierarchies the controller is.
    let says =
        |one: &str, two: &str| format!("cd /sys/fs/cgroup && cat {two} {one} 2>/dev/null > /says; test -s /says");
    let said = || host.sh("docker run --rm app cat /says").ok().text().to_owned();
    build(&says("memory/memory.limit_in_bytes", "memory.max"), "--memory 48m").ok();
    assert_eq!(said(), (48 << 20).to_string());
    build("tail /dev/zero", "--memory 24m --memory-swap 24m").fails_with("returned a non-zero code: 137");
    build(&says("cpu/cpu.shares", "cpu.weight"), "--cpu-shares 512").ok();
    // What v2 has in place of 512 of v1's shares.
    assert!(matches!(said().as_str(), "512" | "20" | "59"), "{}", said());
    build("nproc > /says; grep Cpus_allowed_list /proc/self/status >> /says", "--cpuset-cpus 0").ok();
    assert_eq!(said(), "1\nCpus_allowed_list:\t0");
    // It ends once it was held up, which without a limit it never is.
    let throttled =
        "cd /sys/fs/cgroup; until grep -q 'nr_throttled [1-9]' cpu.stat cpu/cpu.stat 2>/dev/null; do :; done";
    build(throttled, "--cpu-period 20000 --cpu-quota 10000").ok();
    build("ulimit -Sn > /says; ulimit -Hn >> /says", "--ulimit nofile=100:200").ok();
    assert_eq!(said(), "100\n200");
    build(
        "df -k /dev/shm | tail -1 | awk '{ print $2 }' > /says; ! head -c 3000000 /dev/zero 2>&1 > /dev/shm/x",
        "--shm-size 2m",
    )
    .ok();
    assert_eq!(said(), "2048");
}

#[test]
fn archives_are_unpacked_whatever_made_them_small() {
    let host = Daemon::start();
    host.sh("mkdir -p app/t/dir && echo packed > app/t/dir/file && ln -s file app/t/dir/link && cd app && tar -C t -cf t.tar dir && rm -r t && gzip -k t.tar && bzip2 -k t.tar && xz -k t.tar && zstd -q t.tar")
        .ok();
    let ends = ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"];
    let adds: String = ends.iter().map(|end| format!("ADD t.{end} /{end}/\n")).collect();
    host.project(&format!("FROM busybox\n{adds}ADD --unpack=false t.tar.zst /as-it-is/\n"), &[]);
    for build in [BUILD, "$STRATUS build --no-cache"] {
        host.sh(&format!("{build} -t app app")).ok();
        for end in ends {
            host.sh(&format!("docker run --rm app sh -c 'cat /{end}/dir/link; ls /{end}'")).says("packed\ndir");
        }
        host.sh("docker run --rm app cat /as-it-is/t.tar.zst | cmp - app/t.tar.zst").ok();
    }
}

#[test]
fn a_container_is_healthy_soon_where_its_image_says_how_often_it_is_asked_at_first() {
    let host = Daemon::start();
    let check = "--interval=1h --timeout=20s --start-period=1h --start-interval=50ms CMD test -e /ready";
    host.project(&format!("FROM busybox\nHEALTHCHECK {check}\nCMD sleep 1000\n"), &[]);
    host.sh(&format!("{BUILD} -t app app")).ok();
    host.sh("docker image inspect -f '{{json .Config.Healthcheck}}' app | jq -c '[.StartInterval, .StartPeriod]'")
        .says("[50000000,3600000000000]");
    host.sh("docker run -d --name app app && docker exec app touch /ready").ok();
    // Not within the hour, were it asked as often as later on.
    eventually("it is healthy", || host.sh("docker inspect -f '{{.State.Health.Status}}' app").text() == "healthy");
    host.sh("docker rm -f app").ok();
}

#[test]
fn a_file_may_ask_for_its_warnings_to_end_the_build() {
    let host = Daemon::start();
    host.project("# check=error=true\nFROM busybox\nCMD echo hello\n", &[]);
    let place = "Dockerfile:3:1\n   3 | CMD echo hello\n     | ^";
    let rules = "lint violation found for rules: JSONArgsRecommended";
    host.sh(&format!("{BUILD} app")).fails_with(rules).complains(place);
    host.sh("$STRATUS build app").fails_with(rules).complains("   3 | CMD echo hello\n     | ^");
    host.project("# check=skip=JSONArgsRecommended;error=true\nFROM busybox\nCMD echo hello\n", &[]);
    host.sh(&format!("{BUILD} app")).ok();
}

/// The client sends it under a name of its own making, which says nothing to anybody.
#[test]
fn a_dockerfile_that_lies_elsewhere_is_called_what_it_is() {
    let host = Daemon::start();
    host.project("FROM busybox\n", &[]);
    host.write("elsewhere", &[("Dockerfile", "FROM busybox\nRUN false\n")]);
    let place = "Dockerfile:2:1\n   2 | RUN false\n     | ^^^^^^^^^";
    host.sh(&format!("{BUILD} -f elsewhere/Dockerfile app")).fails_with(place).spares(".dockerfile.");
    host.write("elsewhere", &[("Dockerfile", "FROM busybox\nRIN false\n")]);
    host.sh(&format!("{BUILD} -f elsewhere/Dockerfile app")).fails_with("Dockerfile:2:1: ").spares(".dockerfile.");
}

#[test]
fn files_of_a_stage_are_written_to_and_thrown_away_and_fill_caches() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox AS made
RUN mkdir -p /made/sub && echo made > /made/file && chown 7:8 /made/file && ln -s /made /link
FROM busybox
RUN --mount=from=made,source=/link,target=/m,rw stat -c '%u %g' /m/file && echo x >> /m/file && mkdir /m/sub/new && cat /m/file
RUN --mount=from=made,source=made/file,target=/one,rw cat /one && echo x > /one
RUN --mount=type=cache,id=filled,from=made,source=made,target=/c,uid=5,mode=750 stat -c '%u %a' /c && cat /c/file && echo y >> /c/file
RUN --mount=type=cache,id=filled,from=busybox,target=/d cat /d/file && ! test -e /d/bin
RUN --mount=type=cache,id=wrong,from=made,source=made/file,target=/e true
";
    host.project(dockerfile, &[]);
    host.sh(&format!("{BUILD} -t app app"))
        .fails_with("made/file is no directory that a cache could be filled from")
        .complains("Dockerfile:8")
        .prints("\n7 8\nmade\nx\n")
        .prints("\n5 750\nmade\n")
        .prints("\nmade\ny\n");
    host.project(dockerfile.rsplit_once("RUN").expect("a last line").0, &[]);
    host.sh(&format!("{BUILD} -t app app && docker run --rm app ls /")).ok().omits("\nm\n").omits("\none\n");
    host.sh("ls ../data/build/present").says("");
}

#[test]
fn a_command_sees_what_is_mounted_and_its_layer_does_not() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox AS made
RUN mkdir /made && echo made > /made/file && ln -s /made/file /link
FROM busybox
WORKDIR /work
RUN --mount=type=cache,id=c,target=/root/.cache,mode=700 echo $(cat /root/.cache/count)x > /root/.cache/count
RUN --mount=type=cache,id=c,target=/cache,ro ! touch /cache/y && cat /cache/count > /out
RUN --mount=target=/src --mount=source=sub,target=sub,rw cat /src/a sub/in && ! touch /src/x && echo w > sub/in && touch sub/new
RUN --mount=from=made,source=made,target=/from/made --mount=from=busybox,target=/from/box \\
    cat /from/made/file && test -x /from/box/bin/busybox && ! touch /from/made/x
RUN --mount=type=tmpfs,target=/scratch,size=1m echo s > /scratch/s && ! dd if=/dev/zero of=/scratch/t bs=1M count=2
RUN --mount=type=secret,id=token --mount=type=ssh ls /run/secrets 2> /dev/null || echo none
";
    host.project(dockerfile, &[("a", "a\n"), ("sub/in", "in\n"), (".dockerignore", "hidden"), ("hidden", "")]);
    host.sh(&format!("{BUILD} -t app app")).ok().mentions("\na\nin\n").mentions("\nmade\n").mentions("\nnone\n");
    host.sh("docker run --rm app sh -c 'cat /out; ls -a /work /root /cache /src /from /scratch 2>&1; true'")
        .mentions("x\n")
        .mentions("/root:\n.\n..\n\n/work:\n.\n..")
        .mentions("ls: /cache: No such file or directory")
        .mentions("ls: /src: No such file or directory")
        .mentions("ls: /from: No such file or directory")
        .mentions("ls: /scratch: No such file or directory");
    // A cache outlives builds, and goes with all that is cached.
    host.sh(&format!("{BUILD} --no-cache -t app app && docker run --rm app cat /out")).mentions("\nxx");
    host.sh(&format!("docker builder prune -af && {BUILD} -t app app && docker run --rm app cat /out")).omits("\nxx");
    // What saw other files is done again, and what follows is found: it changed nothing that lasts.
    host.sh(&format!("echo other > app/sub/in; {BUILD} -t app app | grep -c 'Using cache'")).says("7");
}

#[test]
fn bases_ask_something_of_whoever_builds_upon_them() {
    let host = Daemon::start();
    let base = "\
FROM busybox
ONBUILD COPY a /from-context
ONBUILD RUN echo triggered > /triggered
ENTRYPOINT [\"cat\"]
CMD [\"/triggered\"]
HEALTHCHECK --interval=1h CMD true
STOPSIGNAL 9
VOLUME /data
";
    host.project(base, &[("a", "a")]);
    host.sh(&format!("{BUILD} -t base app")).ok().omits("Running in");
    host.project("FROM base\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN false; true\n", &[]);
    host.sh(&format!("{BUILD} -t child app")).fails_with("").prints("# Executing 2 build triggers");
    host.project("FROM base\nENTRYPOINT [\"cat\", \"/from-context\"]\n", &[]);
    host.sh(&format!("{BUILD} -t child app")).ok();
    host.sh("docker run --rm child /triggered").says("atriggered");
    // Also where nothing follows them.
    host.project("FROM base\n", &[]);
    host.sh(&format!("{BUILD} --no-cache app")).prints("# Executing 2 build triggers").mentions("Running in");
    // A trigger that names the stage that carries it out would wait for itself.
    host.project("FROM busybox AS a\nONBUILD COPY --from=b /bin/true /x\nFROM a AS b\nRUN true\n", &[]);
    host.sh(&format!("{BUILD} app")).fails_with("circular dependency detected on stage: b");
    host.project("FROM base AS b\nFROM busybox\nRUN <<E\n#!/bin/cat\nread by cat\nE\n", &[]);
    host.sh(&format!("{BUILD} -t script app")).ok().mentions("read by cat");
    host.sh("docker image inspect base -f '{{.Config.OnBuild}} {{.Config.StopSignal}} {{.Config.Healthcheck}} {{.Config.Volumes}}'")
        .mentions("[COPY a /from-context RUN echo triggered > /triggered] 9 {[CMD-SHELL true] 1h0m0s").mentions("map[/data:{}]");
}

#[test]
fn stages_that_do_not_need_each_other_are_built_side_by_side() {
    let host = Daemon::start();
    // Each waits for the other, on the host's loopback: one after the other they would never end.
    let (one, two) = (host.port(), host.sh("echo $((PORT + 1))").number());
    let meets = |own: u64, other: u64| {
        format!("RUN nc -l -p {own} -e true & until echo | nc 127.0.0.1 {other}; do sleep 0.02; done; wait")
    };
    let dockerfile = format!(
        "FROM busybox AS one\n{}\nFROM busybox AS two\n{}\nFROM busybox\nCOPY --from=one /bin/true /one\nCOPY --from=two /bin/true /two\n",
        meets(one.into(), two),
        meets(two, one.into()),
    );
    host.project(&dockerfile, &[]);
    host.sh(&format!("{BUILD} --network host -t both app")).ok();
    host.sh("docker run --rm both ls /one /two").says("/one\n/two");
}

#[test]
fn a_build_that_is_given_up_leaves_nothing_that_runs() {
    let mut host = Daemon::start();
    host.project("FROM busybox\nRUN echo first > /first\nRUN echo begun; sleep 1000\n", &[]);
    let client = host.session(&format!("{BUILD} -t never app"));
    client.waits_for("\nbegun");
    host.sh("docker ps -q | wc -l").says("1");
    client.signal("INT");
    eventually("the end of its step", || host.sh("docker ps -aq").text().is_empty());

    let client = host.session(&format!("{BUILD} -t never app"));
    client.waits_for("\nbegun");
    let process = process_of_step(&host);
    host.kill9();
    // Nobody has to come back for that.
    eventually("the end of its process", || !process.exists());
    drop(client);
    host.restart();
    eventually("the end of its step", || host.sh("docker ps -aq").text().is_empty());
    let left = || {
        let parts = std::fs::read_dir(host.data().join("build")).expect("what builds have").flatten();
        let parts = parts.filter(|part| part.file_name() != "caches");
        parts.flat_map(|part| std::fs::read_dir(part.path()).into_iter().flatten()).count()
    };
    eventually("the end of its context", || left() == 0);
    // What was whole is found again.
    host.project("FROM busybox\nRUN echo first > /first\n", &[]);
    host.sh(&format!("{BUILD} -t app app")).ok().mentions("Using cache");
    host.sh("docker run --rm app cat /first").says("first");
}

/// Where the kernel has the process of the only step that runs.
fn process_of_step(host: &Daemon) -> PathBuf {
    let pid = host.sh("docker inspect -f '{{.State.Pid}}' $(docker ps -q)").text().to_owned();
    let process = Path::new("/proc").join(pid);
    assert!(process.exists(), "{}", process.display());
    process
}

/// What a step may write to is removed after the step, and by nobody whom others wait for.
#[test]
fn a_step_that_writes_on_while_its_build_is_given_up_holds_up_nobody() {
    let host = Daemon::start();
    let endless = "cd /src; i=0; while mkdir d$i && echo > d$i/f; do i=$((i + 1)); done";
    host.sh("mkdir app && echo x > app/x").ok();
    let file = format!("FROM busybox\nRUN --mount=type=bind,target=/src,rw --mount=type=cache,target=/c {endless}\n");
    std::fs::write(host.work().join("app/Dockerfile"), file).expect("a Dockerfile");
    let build = host.session("$STRATUS build --progress plain app");
    eventually("it writes", || {
        let present = std::fs::read_dir(host.data().join("build/present")).into_iter().flatten().flatten();
        present.map(|entry| entry.path().join("files/d100")).any(|written| written.exists())
    });
    build.signal("KILL");
    host.sh("docker version").ok();
    eventually("its container is gone", || host.sh("docker ps -aq --no-trunc").text().is_empty());
    host.sh("docker ps").ok();
    let left = || std::fs::read_dir(host.data().join("build/present")).map_or(0, Iterator::count);
    eventually("so is what it wrote", || left() == 0);
}

#[test]
fn a_build_that_ends_with_its_daemon_is_no_success() {
    let mut host = Daemon::start();
    host.project("FROM busybox\nRUN echo begun; sleep 1000\n", &[]);
    let mut client = host.session(&format!("{BUILD} -t never app"));
    client.waits_for("\nbegun");
    let process = process_of_step(&host);
    host.stop();
    assert!(!process.exists(), "the step has ended before the daemon");
    assert_eq!(client.exit_code(), 1);
    assert!(client.output().contains("the build was given up, as the daemon is being stopped"), "{}", client.output());
    host.restart();
    host.sh("docker ps -aq").says("");
}

#[test]
fn what_was_built_just_now_is_as_young_as_that() {
    let host = Daemon::start();
    host.project("FROM scratch\nCOPY in /\n", &[("in/a", "a")]);
    host.sh("ln app/in/a app/in/b").ok();
    host.sh(&format!("{BUILD} -t app --build-arg NOPE=1 app")).ok().mentions("[NOPE] were not consumed");
    host.sh("docker image inspect app -f '{{.Created}}'").says("1980-01-02T00:00:00Z");
    host.sh("docker images app --format '{{.CreatedSince}}'").omits("years");
    host.sh("docker image prune -af --filter until=10m").omits("app");
    host.sh("docker system prune -af --filter label=nothing").ok();
    // What comes again stays as young, and what comes anew is as old as that.
    let keeps_its_time = |how: &str| {
        host.sh(how).ok();
        host.sh("docker images app --format '{{.CreatedSince}}'").omits("years");
        host.sh("docker image prune -af --filter until=10m").omits("app");
        host.sh("docker image inspect app -f '{{.Created}}'").says("1980-01-02T00:00:00Z");
    };
    keeps_its_time("docker save app -o app.tar && docker load -i app.tar");
    keeps_its_time("docker rmi app && docker load -i app.tar");
    keeps_its_time(&format!("{BUILD} -t app app"));
    // Two names of a file are two names of a file.
    host.sh("docker create --name box app none && docker export box | tar -tv | grep -c 'link to'").mentions("\n1");
    // The client sends a Dockerfile from elsewhere in an archive without an end.
    host.sh(&format!("mv app/Dockerfile elsewhere; {BUILD} -t other -f elsewhere app")).ok();
    host.sh(&format!(
        "{BUILD} -t other -f - app < elsewhere && docker image inspect app other | jq -r .[].Id | sort -u | wc -l"
    ))
    .mentions("\n1");
}

#[test]
fn the_cache_is_shown_and_emptied() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN echo layer > /layer\n", &[]);
    host.sh(&format!("{BUILD} -t app app")).ok();
    host.sh("docker system df --format '{{.Type}} {{.TotalCount}}'").mentions("Build Cache 1");
    let shown = host.ask("GET /v1.43/system/df?type=build-cache", "").expect("an answer").json();
    assert_eq!(shown["BuildCache"][0]["Description"], "RUN echo layer > /layer", "{shown}");
    // An image has it.
    host.sh("docker builder prune -f").mentions("Total reclaimed space: 0B");
    host.sh("docker rmi app").omits("Deleted: sha256:\n");
    host.sh(&format!("{BUILD} -t app app")).ok().mentions("Using cache");
    host.sh("docker rmi app && docker builder prune -f").mentions("Total reclaimed space: 6B");
    host.sh(&format!("{BUILD} -t app app")).ok().omits("Using cache");
    host.sh("docker builder prune -af").mentions("Total reclaimed space: 0B");
    host.sh("docker run --rm app cat /layer").says("layer");
    host.sh(&format!("{BUILD} -t app app")).ok().omits("Using cache");
    for (filter, said) in [
        ("nothing=x", "invalid filter"),
        ("inuse=maybe", "invalid filter 'inuse=maybe': there are true, false"),
        ("type=foo", "invalid filter 'type=foo': there are regular, exec.cachemount"),
    ] {
        host.sh(&format!("docker builder prune -f --filter {filter}")).fails_with(said);
    }
    host.sh("$STRATUS builder prune -f --filter label=x")
        .exits_with(2)
        .complains("nothing that builds keep has a label");
    host.sh("$STRATUS image attestations --type foo app").exits_with(2).complains("there are provenance, sbom");
}
