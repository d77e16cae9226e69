//! Contexts that the daemon keeps: the next build sends what changed, and comes to what a first one would.

use std::fs;
use std::path::Path;

use e2e::{Daemon, eventually};

const DOCKERFILE: &str = "FROM busybox\nCOPY . /app/\nRUN cd /app && find . -type f | sort > /list\n";

/// A context of some files.
fn project(host: &Daemon) {
    host.sh("mkdir -p app/src/deep app/assets && cd app && echo one > src/one && echo two > src/deep/two && echo three > assets/three")
        .ok();
    fs::write(host.work().join("app/Dockerfile"), DOCKERFILE).expect("a Dockerfile");
    fs::write(host.work().join("app/.dockerignore"), "Dockerfile\n.dockerignore\n").expect("its rules");
    // Of what was changed a moment ago, nobody knows whether it will be again within the same moment.
    host.sh("find app -exec touch -h -d '2020-01-01' {} +; sleep 2.1").ok();
}

/// The image, which is what docker's own client has built of the same directory; that one sends all of it.
fn built(host: &Daemon) -> String {
    let id = host.sh("$STRATUS build -q -t app app").ok().text().to_owned();
    host.sh("DOCKER_BUILDKIT=0 docker build -q app").says(&id);
    id
}

/// The files that a build opens, below the context.
fn sent(host: &Daemon) -> Vec<String> {
    host.sh("strace -f -qq -e trace=openat,openat2 -o trace $STRATUS build -q -t app app").ok();
    let trace = fs::read_to_string(host.work().join("trace")).expect("a trace");
    let names = ["one", "two", "three", "four"];
    names.into_iter().filter(|name| trace.contains(&format!("\"{name}\""))).map(str::to_owned).collect()
}

#[test]
fn only_what_changed_is_sent() {
    let host = Daemon::start();
    project(&host);
    let first = built(&host);
    assert_eq!(sent(&host), Vec::<String>::new(), "nothing changed");
    host.sh("echo TWO > app/src/deep/two").ok();
    assert_eq!(sent(&host), ["two"]);
    let second = built(&host);
    assert_ne!(first, second);
    host.sh("docker run --rm app cat /list /app/src/deep/two").says("./assets/three\n./src/deep/two\n./src/one\nTWO");
    // Contents that are other though size and time are as they were.
    host.sh("printf 'oNe\\n' > app/src/one && touch -d '2020-01-01' app/src/one").ok();
    assert!(sent(&host).contains(&"one".to_owned()));
    host.sh("docker run --rm app cat /app/src/one").says("oNe");
    // Back again, it is found again.
    host.sh("echo one > app/src/one; echo two > app/src/deep/two").ok();
    assert_eq!(built(&host), first);
}

#[test]
fn a_kept_context_becomes_what_the_clients_is() {
    let host = Daemon::start();
    project(&host);
    built(&host);
    for change in [
        "rm -r src/deep",
        "mkdir src/deep && echo again > src/deep/two",
        "chmod 755 src/one && chmod 700 src",
        "rm src/one && mkdir src/one && echo in > src/one/in",
        "rm -r src/one && ln -s ../assets src/one",
        "rm src/one && mkfifo src/one",
        "rm src/one && echo file > src/one",
        "mv assets more && cp more/three three",
        "cp $(which busybox) src/box && setcap cap_net_raw+ep src/box 2>/dev/null || true",
        "echo more > .dockerignore",
        "find . -name three -delete",
    ] {
        host.sh(&format!("cd app && {change}")).ok();
        built(&host);
    }
    // Kept ones are bounded, and go with the rest of the cache.
    host.sh("docker builder prune -af").ok();
    assert_eq!(kept(&host), 0);
    built(&host);
}

fn kept(host: &Daemon) -> usize {
    fs::read_dir(host.data().join("build/kept")).expect("where they are kept").count()
}

#[test]
fn what_is_killed_while_a_context_comes_leaves_one_that_is_right_or_none() {
    let mut host = Daemon::start();
    project(&host);
    built(&host);
    // It never ends by itself: that much no disk here takes.
    host.sh("truncate -s 4T app/huge && echo new > app/assets/three").ok();
    let began = |host: &Daemon| {
        let trees = fs::read_dir(host.data().join("build/kept")).expect("where they are kept");
        trees.flatten().any(|one| one.path().join("tree/huge").exists())
    };
    for round in 0..2 {
        let mut build = host.session("$STRATUS build -q app");
        eventually("the file is on its way", || began(&host));
        if round == 0 {
            host.kill9();
            assert_ne!(build.exit_code(), 0);
            host.restart();
        } else {
            build.signal("KILL");
            build.exit_code();
        }
        eventually("what was being made is gone", || index_is_whole(&host.data()) && !began(&host));
    }
    host.sh("rm app/huge").ok();
    built(&host);
    host.sh("docker run --rm app cat /app/assets/three").says("new");
}

/// No kept context has both an index and what was not sent to its end.
fn index_is_whole(data: &Path) -> bool {
    let all = fs::read_dir(data.join("build/kept")).expect("where they are kept");
    all.flatten().all(|one| !(one.path().join("index").exists() && one.path().join("tree/huge").exists()))
}

#[test]
fn builds_of_one_context_at_once_see_what_is_theirs() {
    let host = Daemon::start();
    project(&host);
    let dockerfile = "FROM busybox\nRUN --mount=type=bind,target=/src echo begun; until test -e /src/go; do cat /src/src/one > /dev/null || exit 1; test $(cat /src/src/one) = one || exit 2; test $((N+=1)) -lt 400 || exit 0; sleep 0.01; done\n";
    fs::write(host.work().join("app/Dockerfile"), dockerfile).expect("a Dockerfile");
    let mut first = host.session("$STRATUS build app");
    first.waits_for(" begun\n");
    // While the first one runs, the same directory is another, and is built again.
    host.sh("echo changed > app/src/one && printf 'FROM busybox\\nCOPY src/one /one\\nCMD cat /one\\n' > other && $STRATUS build -q -t other -f other app")
        .ok();
    host.sh("docker run --rm other").says("changed");
    assert_eq!(first.exit_code(), 0, "{}", first.output());
}

/// A large layer of which little changed lies upon the former one, and is what it would be if it had been made anew.
#[test]
fn a_large_layer_of_which_little_changed_takes_no_more_room() {
    let host = Daemon::start();
    project(&host);
    host.sh("head -c 9000000 /dev/urandom > app/assets/large; cp app/assets/large app/zlarge").ok();
    host.sh("find app -exec touch -h -d '2020-01-01' {} +; sleep 2.1").ok();
    let layers = || -> u64 {
        let directory = host.data().join("images/layers");
        host.sh(&format!("du -s -B1 {} | cut -f1", directory.display())).text().parse().expect("bytes")
    };
    built(&host);
    let before = layers();
    for change in
        ["echo ONE > app/src/one", "echo more > app/src/more", "chmod 700 app/assets/three", "rm app/src/more"]
    {
        host.sh(change).ok();
        let id = host.sh("$STRATUS build -q -t app app").ok().text().to_owned();
        if !change.starts_with("rm") {
            assert!(layers() < before + 1_000_000, "{change}: {} bytes more", layers() - before);
        }
        host.sh("docker run --rm app cat /app/src/one").ok();
        host.sh("docker run --rm app sha256sum /app/assets/large | cut -d' ' -f1")
            .says(host.sh("sha256sum app/zlarge | cut -d' ' -f1").text());
        // Whoever wants everything anew copies all of it.
        host.sh("$STRATUS build -q --no-cache app").says(&id);
    }
    host.sh("docker save -o app.tar app && docker rmi -f $(docker images -q) && docker builder prune -af && docker load -i app.tar").ok();
    host.sh("docker run --rm app cat /app/src/one").says("ONE");
}

/// A file of several names is one in the image too, as it is by docker's own client: whatever becomes of the names from one build to the next.
#[test]
fn a_file_of_several_names_stays_one() {
    let host = Daemon::start();
    project(&host);
    host.sh("cd app && ln src/one assets/uno && ln src/one zero && echo excluded >> .dockerignore && ln src/deep/two excluded").ok();
    // Of each, the first that is the same file.
    let files = || {
        let numbers = host.sh("docker run --rm -w /app app stat -c %i src/one assets/uno zero src/deep/two");
        let numbers = numbers.lines();
        numbers.iter().map(|one| numbers.iter().position(|other| other == one).expect("itself")).collect::<Vec<_>>()
    };
    let first = built(&host);
    assert_eq!(files(), [0, 0, 0, 3]);
    for (change, seen) in [
        // Changed where it lies, by any of its names; one less; one that is another file; one more; as before.
        ("echo more >> app/zero", [0, 0, 0, 3]),
        ("rm app/assets/uno && echo new > app/assets/uno", [0, 1, 0, 3]),
        ("ln -f app/assets/uno app/zero", [0, 1, 1, 3]),
        ("ln -f app/assets/uno app/src/one", [0, 0, 0, 3]),
        ("echo one > app/zero", [0, 0, 0, 3]),
    ] {
        host.sh(change).ok();
        built(&host);
        assert_eq!(files(), seen, "{change}");
    }
    assert_eq!(built(&host), first);
    host.sh("docker run --rm app cat /app/assets/uno /app/src/one").says("one\none");
    // Each build has its own again: what a layer has is no name of the context's.
    host.sh("$STRATUS builder prune -af").ok();
    assert_eq!(built(&host), first);
}

#[test]
fn names_of_a_file_are_its_own_whatever_else_is_copied() {
    let host = Daemon::start();
    host.sh("mkdir -p app/a app/b app/c && echo one > app/a/f && echo two > app/b/f && ln app/a/f app/c/g && ln -s f app/a/lnk").ok();
    host.project(
        "FROM busybox\nCOPY a b c /dst/\nCOPY a/f a/lnk /one/\nRUN cat /dst/* > /said && stat -c %h /one/* >> /said\n",
        &[],
    );
    for build in [
        "$STRATUS build -q -t app app",
        "DOCKER_BUILDKIT=0 docker build -q -t app app",
        "$STRATUS build -q --no-cache -t app app",
    ] {
        host.sh(build).ok();
        // f is the second directory's, as the link finds, and g is what the first had there.
        host.sh("docker run --rm app cat /said | xargs").says("two one two 1 1");
    }
}

/// What a step sees of a file is the same whether it was sent just now, was here from the build before, or goes into two stages.
#[test]
fn how_many_names_a_file_has_does_not_depend_on_when_it_came() {
    let host = Daemon::start();
    let dockerfile = "\
FROM busybox AS other
COPY . /c
FROM busybox
COPY --from=other /c /other
COPY . /c
RUN stat -c '%n %h' /c/* /other/* > /names
";
    host.project(dockerfile, &[("a", "a"), (".dockerignore", "Dockerfile\n.dockerignore\n")]);
    host.sh("cd app && echo b > b && ln b c").ok();
    let mut ids = Vec::new();
    for flags in ["", "--no-cache", "--no-cache"] {
        ids.push(host.sh(&format!("$STRATUS build -q -t app {flags} app")).ok().text().to_owned());
        host.sh("docker run --rm app cat /names").says("/c/a 1\n/c/b 2\n/c/c 2\n/other/a 1\n/other/b 2\n/other/c 2");
    }
    ids.push(host.sh("DOCKER_BUILDKIT=0 docker build -q --no-cache app").ok().text().to_owned());
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}
