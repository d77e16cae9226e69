//! What a person sees of `stratus build`: on a terminal, in a log, as documents, and before anything is done.

use e2e::Daemon;

/// A build on a terminal that somebody watches, whatever the machine of the test says of itself.
const WATCHED: &str = "env -u CI -u NO_COLOR -u BUILDKIT_PROGRESS TERM=xterm $STRATUS build";

#[test]
fn on_a_terminal_it_moves() {
    let host = Daemon::start();
    let script = "i=0; while [ $i -lt 9 ]; do i=$((i+1)); echo line $i; done; until [ -e /go/on ]; do sleep 0.1; done";
    let dockerfile = format!("FROM busybox AS base\nRUN true\nFROM base\nRUN --mount=type=cache,target=/go {script}\n");
    host.write("app", &[("Dockerfile", &dockerfile)]);
    let mut build = host.terminal(&format!("sh -c '{WATCHED} -t app app'"));
    // What runs has its last lines below it, the first of them not, and is drawn again and again.
    build.waits_until("the last lines", |output| {
        let frames: Vec<&str> = output.split("\u{1b}[J").collect();
        frames.len() > 3 && frames.iter().any(|frame| frame.contains("    line 4") && frame.contains("    line 9"))
    });
    let so_far = build.output();
    assert!(so_far.contains("Building app:latest") && so_far.contains("3/4 "), "{so_far}");
    let frames = so_far.split("\u{1b}[J").filter(|frame| frame.contains("    line 9"));
    frames.for_each(|frame| assert!(!frame.contains("    line 3"), "{frame}"));
    // It goes on once its cache has a file.
    host.sh("printf 'FROM busybox\\nRUN --mount=type=cache,target=/go touch /go/on\\n' | $STRATUS build -q -").ok();
    assert_eq!(build.exit_code(), 0);
    let all = build.output();
    let last = all.rsplit("\u{1b}[J").next().unwrap_or_default();
    assert!(last.contains("Built in ") && last.contains("5 steps"), "{last}");
    // What is done stays in one line.
    assert!(all.contains("[base 2/2] RUN true  "), "{all}");
    host.sh(&format!("script -qefc \"{WATCHED} app\" /dev/null < /dev/null")).prints("[base 2/2] RUN true  CACHED");
}

#[test]
fn a_failure_is_told_with_all_that_the_step_said() {
    let host = Daemon::start();
    let dockerfile = "FROM busybox\nRUN for i in 1 2 3 4 5 6 7 8; do echo said $i; done; \\\n    exit 7\n";
    host.write("app", &[("Dockerfile", dockerfile)]);
    let shown = host.sh(&format!("script -qefc \"{WATCHED} app\" /dev/null < /dev/null"));
    shown.exits_with(1).prints(" said 1\r\n").prints(" said 8\r\n").prints("returned a non-zero code: 7");
    shown.prints("   2 | RUN for i in").prints("  ERROR  0.");
    let plain = host.sh("$STRATUS build app");
    plain.exits_with(1).complains("\n#2 ERROR: ").complains("   2 | RUN for i in").complains("     | ^");
}

#[test]
fn elsewhere_it_is_lines() {
    let host = Daemon::start();
    host.write("app", &[("Dockerfile", "FROM busybox AS base\nRUN echo hello\nFROM base\nCMD echo hello\n")]);
    let steps = |text: &str| -> Vec<String> {
        let mut steps: Vec<String> = text.lines().filter(|line| line.contains(" [")).map(str::to_owned).collect();
        steps.sort();
        steps
    };
    let plain = host.sh("$STRATUS build --progress plain -t app app");
    let expected = [
        "#1 [base 1/2] FROM busybox AS base",
        "#2 [base 2/2] RUN echo hello",
        "#3 [stage-1 1/2] FROM base",
        "#4 [stage-1 2/2] CMD echo hello",
    ];
    assert_eq!(steps(plain.ok().stderr()), expected);
    assert!(plain.stderr().lines().any(|line| line.starts_with("#2 0.") && line.ends_with(" hello")), "{plain}");
    plain.complains("\n#2 DONE ").complains("#5 keeping the image as app:latest\n#5 DONE ");
    // What is likely not meant is told at the end.
    plain.complains("1 warning (stratus build --check says more):\n - JSONArgsRecommended: ");
    host.sh("$STRATUS build app").ok().complains("\n#2 CACHED");
    // A terminal that can't move, or that nobody watches, is no other.
    for said in ["TERM=dumb", "TERM=xterm CI=true", "TERM=xterm BUILDKIT_PROGRESS=plain"] {
        let shown = format!("script -qefc \"env -u CI {said} $STRATUS build app\" /dev/null < /dev/null");
        host.sh(&shown).mentions("#2 CACHED\r\n").omits("\u{1b}[J").omits("Building");
    }
    let shown = "script -qefc \"env -u CI NO_COLOR=1 TERM=xterm $STRATUS build app\" /dev/null < /dev/null";
    host.sh(shown).mentions("Built in ").omits("\u{1b}[1m").omits("\u{1b}[32m");
    // For programs: each line is a document, and the last says what came of it.
    let first = "$STRATUS build --progress json app | jq -c 'select(.told.event.planned) | .told.event.planned.stages[0].steps[1]'";
    host.sh(first).says("\"RUN echo hello\"");
    host.sh(
        "test \"$($STRATUS build --progress json app | tail -1 | jq -r .built.id)\" = \"$($STRATUS build -q app)\"",
    )
    .ok();
    host.sh("$STRATUS build --progress json app | jq -r '.told.event.checked[0].warning.rule // empty'")
        .says("JSONArgsRecommended");
}

#[test]
fn a_step_begins_when_what_it_copies_from_is_there() {
    let host = Daemon::start();
    let dockerfile = "FROM busybox AS slow\nRUN sleep 0.2\nFROM busybox\nCOPY --from=slow /bin/true /copied\n\
                      RUN --mount=from=slow,target=/slow test -e /slow/bin/true\n";
    host.write("app", &[("Dockerfile", dockerfile)]);
    let said = host.sh("$STRATUS build --progress plain app");
    let at = |text: &str| said.stderr().find(text).unwrap_or_else(|| panic!("{text} in {said}"));
    assert!(at("\n#2 DONE ") < at("#4 [stage-1 2/3] COPY"), "{}", said.ok());
}

#[test]
fn what_there_is_to_do_is_told_before() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox AS base
ENV A=1
RUN echo made > /made
FROM base AS other
RUN echo other > /other
FROM busybox
COPY --from=base /made /made
COPY --link --from=other /other /other
WORKDIR /work
RUN cat /made /other
";
    host.write("app", &[("Dockerfile", dockerfile)]);
    let look =
        |flags: &str| -> serde_json::Value { host.sh(&format!("$STRATUS build --print=json {flags} app")).json() };
    let outlooks = |graph: &serde_json::Value, stage: usize| -> Vec<String> {
        let steps = graph["stages"][stage]["steps"].as_array().cloned().unwrap_or_default();
        let word = |outlook: &serde_json::Value| match outlook {
            serde_json::Value::String(word) => word.clone(),
            other => other.as_object().and_then(|one| one.keys().next().cloned()).unwrap_or_default(),
        };
        steps.iter().map(|step| word(&step["outlook"])).collect()
    };
    let nothing = look("");
    assert_eq!(outlooks(&nothing, 0), ["here", "configures", "built"]);
    assert_eq!(outlooks(&nothing, 1), ["here", "unknown"]);
    assert_eq!(outlooks(&nothing, 2), ["here", "unknown", "unknown", "unknown", "unknown"]);
    // Nothing was done.
    host.sh("docker ps -aq; docker images -q app; docker system df -v --format '{{json .BuildCache}}' | jq '[.[] | select(.Description | test(\"RUN|COPY|WORKDIR\"))] | length'")
        .says("0");
    host.sh("$STRATUS build -q -t app app").ok();
    let all = look("");
    assert_eq!(outlooks(&all, 1), ["here", "cached"]);
    assert_eq!(outlooks(&all, 2), ["here", "cached", "cached", "cached", "cached"]);
    // What does not read what changed is known: the link reads no file below it.
    host.sh("sed -i 's/echo made/echo changed/' app/Dockerfile").ok();
    let changed = look("");
    assert_eq!(outlooks(&changed, 0), ["here", "configures", "built"]);
    assert_eq!(outlooks(&changed, 1), ["here", "unknown"]);
    host.sh("sed -i 's/echo changed/echo made/; s/^WORKDIR.*/WORKDIR \\/elsewhere/' app/Dockerfile").ok();
    assert_eq!(outlooks(&look(""), 2), ["here", "cached", "cached", "built", "unknown"]);
    assert_eq!(outlooks(&look("--no-cache"), 2), ["here", "built", "built", "built", "built"]);
    host.sh("$STRATUS build --print app")
        .mentions("base\n  FROM busybox AS base")
        .mentions("from base\n")
        .mentions("unknown until built");
    host.sh("$STRATUS build --print=dot app").mentions("digraph build {").mentions("s2_1 -> s0_2;");
    // Of a base that is not here nothing is known, and it is not fetched.
    host.sh("printf 'FROM nowhere.invalid/x\\nRUN true\\nCMD true\\n' | $STRATUS build --print -")
        .mentions("pulled")
        .mentions("unknown until built");
}

#[test]
fn limits_are_kept_and_named() {
    let host = Daemon::start();
    let build = |script: &str, flags: &str| {
        host.sh(&format!("printf 'FROM busybox\\nRUN {script}\\n' | $STRATUS build --no-cache {flags} -"))
    };
    build("sleep 1000", "--step-timeout 300ms")
        .exits_with(1)
        .complains("was killed, as it took longer than 0.3s (--step-timeout)");
    host.sh("docker ps -aq").says("");
    build("echo in time", "--step-timeout 10m").ok();
    // Forks that are refused are the command's own to tell.
    build("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done", "--pids-limit 5")
        .exits_with(1)
        .complains("Resource temporarily unavailable");
    build("tail /dev/zero", "-m 20m --memory-swap 20m")
        .exits_with(1)
        .complains("needed more memory than it may have (--memory)");
    build("true", "--cpus 0.5").ok();
}
