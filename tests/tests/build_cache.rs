//! What a build finds again, and what it leaves behind, with the stock client.

use e2e::Daemon;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

/// What builds with the classic builder's endpoint.
const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";

#[test]
fn a_layer_that_says_nothing_of_the_root_directory_changes_nothing_of_it() {
    let (host, other) = (Daemon::start(), Daemon::start());
    let dockerfile = "\
FROM busybox AS strict
RUN chmod 550 / && chown 5:6 / && echo m > /made
FROM strict AS linked
COPY --link a /a
FROM linked AS seen
RUN stat -c %a.%u.%g / > /seen
FROM busybox AS plain
COPY --from=strict / /new
FROM linked
RUN chmod 755 / && chown 0:0 /
COPY --link a /b
";
    host.project(dockerfile, &[("a", "a")]);
    let shows = |host: &Daemon, image: &str| host.sh(&format!("docker run --rm {image} stat -c %a.%u.%g /"));
    for target in ["linked", "seen"] {
        host.sh(&format!("{BUILD} --target {target} -t {target} app")).ok();
        shows(&host, target).says("550.5.6");
    }
    host.sh("docker run --rm seen cat /seen").says("550.5.6");
    host.sh(&format!("{BUILD} -t opened app")).ok();
    shows(&host, "opened").says("755.0.0");
    // What came as archives says as much, or as little.
    host.sh("docker save linked opened -o images.tar").ok();
    other.sh(&format!("docker load -i {}/images.tar", host.work().display())).ok();
    shows(&other, "linked").says("550.5.6");
    shows(&other, "opened").says("755.0.0");
    // A root directory has no time of its own.
    let built = || host.sh(&format!("{BUILD} --no-cache -q --target plain app")).ok().text().to_owned();
    let first = built();
    host.sh("now=$(date +%s); until [ $(date +%s) != $now ]; do sleep 0.1; done").ok();
    assert_eq!(built(), first);
}

#[test]
fn one_directory_is_mounted_twice_by_who_has_it_alone() {
    let host = Daemon::start();
    let mount = |id: &str, target: &str| format!("--mount=type=cache,id={id},target={target},sharing=locked");
    let stage = |name: &str, first: &str, second: &str| {
        let (first, second) = (mount(first, "/one"), mount(second, "/two"));
        format!("FROM busybox AS {name}\nRUN {first} {second} sleep 0.1; echo {name} > /{name}\n")
    };
    let twice = format!(
        "FROM busybox AS twice\nRUN {} {} --mount=type=cache,id=x,target=/three echo x > /one/x && cat /two/x /three/x > /twice\n",
        mount("x", "/one"),
        mount("x", "/two")
    );
    // Whatever order two have them in, neither waits for what the other has.
    let all = format!(
        "{twice}{}{}FROM busybox\nCOPY --from=twice /twice /\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
        stage("a", "x", "y"),
        stage("b", "y", "x"),
    );
    host.project(&all, &[]);
    host.sh(&format!("timeout 120 {BUILD} -t app app && docker run --rm app cat /twice /a /b")).mentions("x\nx\na\nb");
}

/// A step with the cache `x` in `/c`. It says `NAME is in`, and ends once another build has said that it may, or has come as far itself; what it
/// saw of `/c` then is in `/saw`. The quotes tell what it says from the step's own text.
fn step(name: &str, sharing: &str, waits_for: &str) -> String {
    format!(
        "FROM busybox\nRUN --mount=type=cache,id=x,target=/c,sharing={sharing} --mount=type=cache,id=words,target=/words \
         ls /c > /found && touch /c/{name} && echo {name} is i''n && touch /words/{name} \
         && until [ -e /words/{waits_for} ]; do sleep 0.05; done && touch /c/{name}-out && ls /c > /saw\n"
    )
}

/// Has those who wait for `word` go on.
fn say(host: &Daemon, word: &str) {
    host.write(
        "say",
        &[(
            "Dockerfile",
            &format!("FROM busybox\nRUN --mount=type=cache,id=words,target=/words touch /words/{word}\n"),
        )],
    );
    host.sh(&format!("{BUILD} -q say")).ok();
}

/// What is in the cache `x` for a build that comes now and shares it.
fn seen_by_another(host: &Daemon) -> String {
    host.write("look", &[("Dockerfile", "FROM busybox\nRUN --mount=type=cache,id=x,target=/c ls /c > /saw\n")]);
    host.sh(&format!("{BUILD} --no-cache -q -t look look && docker run --rm look cat /saw")).ok();
    host.sh("docker run --rm look cat /saw").text().to_owned()
}

#[test]
fn a_cache_that_is_locked_is_had_by_one_of_several_builds() {
    let host = Daemon::start();
    for (name, sharing, waits_for) in [("first", "shared", "go"), ("second", "locked", "on"), ("third", "locked", "on")]
    {
        host.write(name, &[("Dockerfile", &step(name, sharing, waits_for))]);
    }
    let mut first = host.session(&format!("{BUILD} -t first first"));
    first.waits_for("first is in");
    assert_eq!(seen_by_another(&host), "first");
    // Who comes after one who waits to have it alone gets another: so that one waits, and has not come in.
    let mut second = host.session("$STRATUS build --progress plain -t second second");
    e2e::eventually("that one waits", || seen_by_another(&host).is_empty());
    assert!(!second.output().contains("second is in"), "{}", second.output());
    say(&host, "go");
    assert_eq!(first.exit_code(), 0, "{}", first.output());
    second.waits_for("second is in");
    let mut third = host.session(&format!("{BUILD} -t third third"));
    third.waits_for("RUN --mount");
    say(&host, "on");
    for session in [&mut second, &mut third] {
        assert_eq!(session.exit_code(), 0, "{}", session.output());
    }
    host.sh("docker run --rm second cat /found").says("first\nfirst-out");
    host.sh("docker run --rm third cat /found").says("first\nfirst-out\nsecond\nsecond-out");
}

#[test]
fn a_cache_that_is_private_is_another_for_each_build_at_a_time() {
    let host = Daemon::start();
    let both = |round: &str| {
        let [one, other] = ["one", "other"].map(|name| format!("{name}{round}"));
        host.write(&one, &[("Dockerfile", &step(&one, "private", &other))]);
        host.write(&other, &[("Dockerfile", &step(&other, "private", &one))]);
        let mut sessions = [format!("{BUILD} -t {one} {one}"), format!("$STRATUS build -t {other} {other}")]
            .map(|build| host.session(&build));
        // Neither ends before the other has come in.
        for session in &mut sessions {
            assert_eq!(session.exit_code(), 0, "{}", session.output());
        }
        [one, other].map(|name| {
            let found = host.sh(&format!("docker run --rm {name} cat /found")).text().to_owned();
            let saw = host.sh(&format!("docker run --rm {name} cat /saw")).text().to_owned();
            // Nothing came while it was in, but what is its own.
            let own = [name.clone(), format!("{name}-out")];
            let expected: BTreeSet<&str> = found.lines().chain(own.iter().map(String::as_str)).collect();
            assert_eq!(saw.lines().collect::<BTreeSet<_>>(), expected, "{name}");
            found
        })
    };
    assert_eq!(both("-1"), ["", ""]);
    // Each gets one of the two that there are by now.
    let mut found = both("-2");
    found.sort();
    assert_eq!(found, ["one-1\none-1-out", "other-1\nother-1-out"]);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let host = Daemon::start();
    // More than sockets hold, and than is kept of it.
    host.project("FROM busybox\nRUN yes | head -c 20000000; echo done > /done\nRUN cat /done\n", &[]);
    host.sh("tar -C app -cf context.tar .").ok();
    let context = std::fs::read(host.work().join("context.tar")).expect("the context");
    let mut deaf = UnixStream::connect(host.socket()).expect("a connection");
    let head = format!(
        "POST /v1.43/build?t=deaf HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        context.len()
    );
    deaf.write_all(head.as_bytes()).and_then(|()| deaf.write_all(&context)).expect("a request");
    // The same steps at the same time, whoever gets to carry them out.
    host.sh(&format!("timeout 120 {BUILD} -t heard app > /dev/null && docker run --rm heard cat /done")).says("done");
    e2e::eventually("the end of the other one", || host.sh("docker images -q deaf").text() != "");
    let mut said = String::new();
    deaf.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a limit");
    let mut piece = [0; 65536];
    while !said.contains("Successfully tagged deaf:latest") {
        let count = deaf.read(&mut piece).expect("the rest of the answer");
        assert_ne!(count, 0, "it ended early");
        said.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
}

#[test]
fn what_builds_keep_is_shown_and_ends() {
    let mut host = Daemon::start_with(&["--build-cache-days", "1"]);
    let dockerfile = "\
FROM busybox
RUN --mount=type=cache,id=downloads,target=/c echo kept > /c/file && head -c 3000000 /dev/zero > /first
RUN head -c 2000000 /dev/zero > /second
RUN true
";
    host.project(dockerfile, &[]);
    host.sh(&format!("{BUILD} -t app app")).ok();
    let shown = host.sh("$STRATUS builder du");
    shown.ok().mentions("RUN head -c 2000000").mentions("mount of the cache downloads").mentions("exec.cachemount");
    // What the image has costs nothing, and so do the steps that made no layer.
    shown.mentions("shared").mentions("Shared:      5.00MB");
    host.sh("$STRATUS builder du --verbose").ok().mentions("Parents    ");
    let df = "docker system df -v --format '{{json .}}' | jq -r '.BuildCache[] | .CacheType + \" \" + .Shared + \" \" + .InUse'";
    host.sh(df).ok().mentions("regular true false").mentions("exec.cachemount false false");
    host.sh("$STRATUS --format json builder du | jq -r '.[] | select(.Size == 2000000) | .Parents | length'").says("1");

    host.sh("docker builder prune -f --filter type=regular").ok();
    host.sh(&format!("{BUILD} app | grep -c 'Using cache'")).says("2");
    // Without its image they cost what they hold: the one that was used last is the one that stays, with what it follows.
    host.sh("docker rmi -f $(docker images -q app)").ok();
    host.sh("$STRATUS builder prune -f --max-used-space 1000").mentions("Total reclaimed space: ");
    host.sh("docker system df --format '{{.Type}} {{.Size}}' | grep Build").mentions("Build Cache ");
    host.sh("$STRATUS builder du").omits("RUN head");
    host.sh("docker builder prune -af").ok();
    host.sh("$STRATUS --format json builder du").says("[]");

    // Without being asked: more than the limit does not stay, and less does.
    host.restart_with(&["--build-cache-size", "4m"]);
    host.sh(&format!("{BUILD} -t app app && docker rmi app")).ok();
    host.project("FROM busybox\nRUN head -c 1000 /dev/zero > /small\n", &[]);
    host.sh(&format!("{BUILD} -t small app && docker rmi small")).ok();
    e2e::eventually("no more than the limit", || {
        let kept = host.sh("$STRATUS --format json builder du | jq '[.[] | select(.Shared | not) | .Size] | add'");
        kept.number() < 4_000_000
    });
    host.sh(&format!("{BUILD} app")).ok().mentions("Using cache");
}

#[test]
fn what_was_not_used_for_long_goes_and_what_is_reserved_stays() {
    let host = Daemon::start();
    let built = |file: &str, bytes: u32| {
        host.project(&format!("FROM busybox\nRUN head -c {bytes} /dev/zero > /{file}\n"), &[]);
        host.sh(&format!("{BUILD} -t app app && docker rmi app")).ok();
    };
    let kept = || host.sh("$STRATUS --format json builder du | jq -r '.[].Description'").ok().text().to_owned();
    for prune in ["docker builder prune -af", "$STRATUS builder prune -af"] {
        built("old", 3_000_000);
        let between = host.sh("date -u +%Y-%m-%dT%H:%M:%S.%N").text().to_owned();
        built("new", 2_000_000);
        host.sh(&format!("{prune} --filter until=24h")).ok();
        assert_eq!(kept().lines().count(), 2, "{}", kept());
        host.sh(&format!("{prune} --filter until={between}")).ok();
        assert_eq!(kept(), "RUN head -c 2000000 /dev/zero > /new");
        // What was used again is as young as that.
        built("old", 3_000_000);
        let between = host.sh("date -u +%Y-%m-%dT%H:%M:%S.%N").text().to_owned();
        built("new", 2_000_000);
        host.sh(&format!("{prune} --filter until={between}")).ok();
        assert_eq!(kept(), "RUN head -c 2000000 /dev/zero > /new");
        // As much stays as is said, of what was used last.
        built("old", 3_000_000);
        built("new", 2_000_000);
        host.sh(&format!("{prune} --keep-storage 6m")).ok();
        assert_eq!(kept().lines().count(), 2, "{}", kept());
        host.sh(&format!("{prune} --keep-storage 2500k")).ok();
        assert_eq!(kept(), "RUN head -c 2000000 /dev/zero > /new");
        host.sh(prune).ok();
        assert_eq!(kept(), "");
    }
    // No more goes than leaves so much of the disk free.
    built("old", 3_000_000);
    let free = |bytes: &str| host.sh(&format!("$STRATUS builder prune -af --min-free-space {bytes}"));
    free("1").ok();
    assert_ne!(kept(), "");
    free("1000t").ok();
    assert_eq!(kept(), "");
}

#[test]
fn a_stage_is_done_again_on_wish() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid > /tools
FROM busybox AS app
RUN cat /proc/sys/kernel/random/uuid > /own
COPY --from=tools /tools /
";
    host.project(dockerfile, &[]);
    let built = |flags: &str| {
        host.sh(&format!("$STRATUS build -q {flags} -t app app")).ok();
        let shown = host.sh("docker run --rm app cat /tools /own").ok().text().to_owned();
        let (tools, own) =
            shown.split_once('\n').map(|(tools, own)| (tools.to_owned(), own.to_owned())).expect("two lines");
        (tools, own)
    };
    let first = built("");
    assert_eq!(built(""), first);
    let second = built("--no-cache-filter tools");
    assert!(second.0 != first.0 && second.1 == first.1);
    let third = built("--no-cache-filter tools,1");
    assert!(third.0 != second.0 && third.1 != second.1);
    host.sh("$STRATUS build --no-cache-filter nothing app").fails_with("nothing");
}

#[test]
fn a_step_that_went_well_is_run_to_look_at_the_next() {
    let mut host = Daemon::start();
    host.project("FROM busybox\nRUN echo one > /one\nENV TWO=2\nRUN cat /missing\n", &[]);
    let failed = host.sh(&format!("{BUILD} app"));
    failed.fails_with("returned a non-zero code: 1");
    let ids: Vec<String> =
        failed.stdout().lines().filter_map(|line| line.strip_prefix(" ---> ")).map(str::to_owned).collect();
    let id =
        ids.iter().rev().find(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).expect("an id");
    // None of them is an image before it is asked for, and none is lost with its daemon.
    host.sh("docker images -aq | wc -l").says("1");
    host.kill9();
    host.restart();
    e2e::eventually("what steps came to", || {
        host.sh(&format!("docker inspect -f '{{{{.Config.Env}}}}' {id}")).text().contains("TWO=2")
    });
    host.sh(&format!("docker run --rm {id} sh -c 'cat /one; echo $TWO'")).says("one\n2");
    host.sh("docker images -q -f dangling=true").says(id);
    // The container of the command that failed is there to be looked at, and uses it.
    host.sh("docker rm $(docker ps -aq) && docker ps -aq").omits("Error");
    host.sh(&format!("docker tag {id} debug && docker rmi debug && docker run --rm {id} cat /one")).ok();
    host.sh("docker rmi $(docker images -aq -f dangling=true); docker builder prune -af").ok();
    host.sh(&format!("docker inspect {id}")).fails_with("");
}

#[test]
fn what_is_copied_from_a_stage_is_read_once() {
    const SIZE: u64 = 48 << 20;
    let host = Daemon::start();
    let dockerfile = format!(
        "FROM busybox AS made\nRUN head -c {SIZE} /dev/urandom > /large && mkdir -p /more && echo 1 > /more/one && echo 2 > /more/two\n\
         FROM busybox\nCOPY --from=made /large /copied\nCOPY --from=made --exclude=two /more /more\n"
    );
    host.project(&dockerfile, &[]);
    let build = |more: &str| host.sh(&format!("$STRATUS build -q {more} app")).ok().text().to_owned();
    let first = build("");
    let read = || {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", host.pid())).expect("the daemon's counts");
        let line = counts.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("what it read");
        line.parse::<u64>().expect("a number")
    };
    let before = read();
    assert_eq!(build(""), first);
    assert!(read() - before < SIZE / 2, "{} bytes were read", read() - before);
    // What is excluded is a part of what was asked for.
    host.sh("sed -i s/--exclude=two/--exclude=one/ app/Dockerfile").ok();
    let other = build("");
    assert_ne!(other, first);
    host.sh(&format!("docker run --rm {other} ls /more")).says("two");
    // What is known already comes to the same in a layer that is made anew.
    let anew = build("--no-cache-filter 1");
    assert_eq!(anew, other);
}

#[test]
fn a_copy_of_a_stages_or_a_contexts_file_has_its_blocks() {
    let mut host = Daemon::start();
    host.move_to_xfs();
    let dockerfile = "\
FROM busybox AS made
RUN mkdir -p /a/b && head -c 20000000 /dev/urandom > /a/b/large && echo old > /a/small
RUN echo new > /a/small && rm -r /a/b && mkdir /a/b && head -c 20000000 /dev/urandom > /a/b/large
FROM scratch
COPY --from=made /a /copied
";
    host.project(dockerfile, &[]);
    host.sh("$STRATUS build -q -t copied app").ok();
    let data = host.data();
    let data = data.display();
    host.sh(&format!("filefrag -v $(find {data} -path '*/fs/copied/b/large') | grep -c shared")).ok();
    host.sh("docker create --name box copied x >/dev/null && docker cp box:/copied - | tar -xO copied/small")
        .says("new");
    host.sh("docker create --name source copied x >/dev/null; docker cp source:/copied/b/large out && wc -c < out")
        .says("20000000");
    // What the client sent is in the copy of its context, which the next build compares with, and in the layer: once on the disk.
    host.project("FROM scratch\nCOPY large /sent/large\n", &[]);
    host.sh("head -c 20000000 /dev/urandom > app/large && $STRATUS build -q -t sent app").ok();
    host.sh(&format!("filefrag -v $(find {data} -path '*/fs/sent/large') | grep -c shared")).ok();
}

#[test]
fn a_step_that_several_builds_want_at_once_is_done_once() {
    let host = Daemon::start();
    host.project(
        "FROM busybox\nRUN --mount=type=cache,target=/c echo ran >> /c/runs && sleep 1 && echo made > /made\n",
        &[],
    );
    let builds = ["$STRATUS build -t a app", "$STRATUS build -t b app", "env DOCKER_BUILDKIT=0 docker build -t c app"];
    let mut sessions: Vec<_> = builds.into_iter().map(|build| host.session(build)).collect();
    for session in &mut sessions {
        assert_eq!(session.exit_code(), 0, "{}", session.output());
    }
    host.sh("for image in a b c; do docker run --rm $image cat /made; done; docker images -q | sort -u | wc -l")
        .says("made\nmade\nmade\n2");
    host.project("FROM busybox\nRUN --mount=type=cache,target=/c wc -l < /c/runs > /count\n", &[]);
    host.sh("$STRATUS build -t count app && docker run --rm count cat /count").ok().prints("1\n");
}
