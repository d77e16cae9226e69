//! Builds take files from git repositories, and are of contexts that lie somewhere else.

use e2e::{Daemon, Session, Waiting, Web};
use std::net::TcpStream;

/// What builds with the classic builder's endpoint, which is all that this client has.
const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";

/// A daemon whose builds may fetch from loopback, and repositories beside it: `lib`, and `app`, which has it as a module.
fn host() -> Daemon {
    let host = Daemon::start_with(&["--build-allow-address", "127.0.0.1"]);
    std::fs::write(host.work().join("repositories.sh"), REPOSITORIES).expect("the script");
    host.sh("sh repositories.sh").ok();
    host
}

const REPOSITORIES: &str = r#"set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='@1700000000 +0000' GIT_COMMITTER_DATE='@1700000000 +0000'
git init -q -b main lib && cd lib && echo lib > lib.txt && git add . && git commit -qm lib && cd ..
git clone -q --bare lib served/lib.git
git init -q -b main app && cd app
mkdir -p service/src && echo one > service/src/main && printf '#!/bin/sh\necho run\n' > tool && chmod +x tool
printf 'FROM busybox\nCOPY src /src\n' > service/Dockerfile && ln -s service/src link && ln -s /etc outside
printf 'FROM busybox\nCOPY . /all\n' > Dockerfile && echo '*.log' > .dockerignore
git add . && git commit -qm one && git tag -a -m v1 v1
echo two > service/src/main && git commit -qam two
git checkout -qb other && echo three > service/src/main && git commit -qam three
git -c protocol.file.allow=always submodule --quiet add ../served/lib.git modules/lib
git config -f .gitmodules submodule.modules/lib.url ../lib.git && git -c protocol.file.allow=always submodule --quiet add ../served/lib.git 'modules/quo"ted'
git config -f .gitmodules 'submodule.modules/quo"ted.url' ../lib.git
git add . && git commit -qm module
git checkout -q main && cd ..
git clone -q --bare app served/app.git
git -C served/app.git update-server-info && git -C served/lib.git update-server-info
"#;

/// git's own server, which hands out parts of histories.
fn served(host: &Daemon) -> (Session, String) {
    let port = host.port();
    let server = host.session(&format!(
        "$(git --exec-path)/git-daemon --reuseaddr --listen=127.0.0.1 --port={port} --base-path={0}/served --export-all --strict-paths {0}/served/app.git {0}/served/lib.git",
        host.work().display()
    ));
    let mut waiting = Waiting::for_what("git's server to answer");
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        waiting.look_again();
    }
    (server, format!("git://127.0.0.1:{port}/app.git"))
}

/// What the daemon said of a build.
struct Said(String);

impl Said {
    #[track_caller]
    fn mentions(&self, text: &str) -> &Self {
        assert!(self.0.contains(text), "expected {text:?} of {}", self.0);
        self
    }
}

/// Builds a Dockerfile.
fn built(host: &Daemon, dockerfile: &str) -> e2e::Outcome {
    std::fs::create_dir_all(host.work().join("context")).expect("a directory for it");
    std::fs::write(host.work().join("context/Dockerfile"), dockerfile).expect("the Dockerfile");
    host.sh(&format!("{BUILD} -t built context"))
}

/// Git's own protocol is spoken with the host that was named, and a submodule names another.
#[test]
fn a_submodule_leads_nowhere_else() {
    let host = host();
    let (server, url) = served(&host);
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("a listener that does not wait");
    let port = elsewhere.local_addr().expect("its address").port();
    let edit = format!("git config -f .gitmodules submodule.modules/lib.url git://127.0.0.1:{port}/lib.git");
    host.sh(&format!(
        "git clone -q -b other served/app.git edited && cd edited && {edit} && git -c user.name=x -c user.email=x@x commit -qam away && git push -q origin HEAD:away"
    ))
    .ok();
    built(&host, &format!("FROM busybox\nADD {url}#other /x\n")).ok();
    built(&host, &format!("FROM busybox\nADD {url}#away /x\n")).exits_with(1).complains("git: ");
    assert!(elsewhere.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    server.signal("TERM");
}

#[test]
fn files_of_a_context_that_is_a_commit_are_of_when_that_was_made() {
    let host = host();
    let (_server, url) = served(&host);
    let times = |image: &str, paths: &str| {
        let said = host.sh(&format!("docker run --rm {image} stat -c %Y {paths}"));
        said.ok().text().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let build = format!("$STRATUS build -q --no-cache -t all '{url}#v1'");
    let first = host.sh(&build).ok().text().to_owned();
    assert_eq!(times("all", "/all /all/tool /all/service/src/main"), "1700000000 1700000000 1700000000");
    host.sh(&build).says(&first);
    host.sh(&format!("$STRATUS build -q '{url}#v1'")).says(&first);
    // Whoever asks for a time gets that.
    host.sh(&format!("{build} --build-arg SOURCE_DATE_EPOCH=1600000000")).ok();
    assert_eq!(times("all", "/all /all/tool"), "1600000000 1600000000");
    host.write("own", &[("Dockerfile", "FROM busybox\nCOPY --from=app tool /tool\nCOPY Dockerfile /own\n")]);
    host.sh(&format!("$STRATUS build -q -t own --build-context 'app={url}#v1' own")).ok();
    assert_eq!(times("own", "/tool /own"), "1700000000 315619200");
}

#[test]
fn what_a_repository_has_is_added() {
    let host = host();
    let (_server, app) = served(&host);
    let dockerfile = "FROM busybox
ADD URL /main
ADD URL#v1:service /v1/
ADD --chown=3:4 --exclude=src/ma* URL#other:/service /left
ADD URL#other /other
ADD --keep-git-dir URL#v1 /kept
"
    .replace("URL", &app);
    built(&host, &dockerfile).ok();
    let look = "cat /main/service/src/main /v1/src/main /other/modules/lib/lib.txt; cd / && ls -A main left/src; \
                stat -c '%a %u %g %Y' main/tool main/service v1/src/main left/Dockerfile; readlink main/outside; \
                ls -A other/modules/lib other/modules/quo*; cat kept/.git/HEAD";
    let said = host.sh(&format!("docker run --rm built sh -c \"{look}\""));
    let v1 = host.sh("git -C app rev-parse v1^{commit}").text().to_owned();
    said.says(&format!(
        "two\none\nlib\nleft/src:\n\nmain:\n.dockerignore\nDockerfile\nlink\noutside\nservice\ntool\n755 0 0 315619200\n\
         755 0 0 315619200\n644 0 0 315619200\n644 3 4 315619200\n/etc\nother/modules/lib:\nlib.txt\n\n\
         other/modules/quo\"ted:\nlib.txt\n{v1}"
    ));
    host.sh("docker run --rm built grep -c 127.0.0.1 /kept/.git/config").says("1");
    built(&host, &dockerfile).ok().mentions("Using cache").omits("Running in");

    // A commit that is written in full is nobody asked for.
    let by_commit =
        |commit: &str, flags: &str| built(&host, &format!("FROM busybox\nADD {flags} {app}#{commit} /at\n"));
    by_commit(&v1, "").ok();
    host.sh("docker run --rm built cat /at/service/src/main").says("one");
    by_commit("v1", &format!("--checksum={}", &v1[..12])).ok().mentions("Using cache");
    by_commit("main", &format!("--checksum={v1}")).fails_with(&format!("the commit should be {v1}, but is "));
    by_commit("nothing", "").fails_with("app.git has no branch and no tag nothing");
    by_commit("main:nothing", "").fails_with("the repository has no directory nothing");
    by_commit("main:outside", "").fails_with("the repository has no directory outside");
    by_commit(&"0".repeat(40), "").fails_with("git: ");
    by_commit("--upload-pack=touch", "").fails_with("is no name of a branch, a tag or a commit");
    built(&host, "FROM busybox\nADD git@127.0.0.1:a/b.git /x\n").fails_with("nobody has lent a key for SSH");
    host.sh("ls ../data/build/present").says("");
}

#[test]
fn a_repository_is_fetched_from_a_plain_web_server_too_and_from_nowhere_it_is_not_to() {
    let (host, web) = (host(), Web::start());
    web.put_directory("/git", host.work().join("served"));
    let url = web.at("/git/app.git");
    built(
        &host,
        &format!("FROM busybox\nADD {url}#other /x\nRUN cat /x/modules/lib/lib.txt /x/service/src/main > /got\n"),
    )
    .ok();
    host.sh("docker run --rm built cat /got").says("lib\nthree");
    web.asked();
    let commit = host.sh("git -C app rev-parse other").text().to_owned();
    let dockerfile = format!("FROM busybox\nADD {url}#{commit} /x\nRUN true\n");
    // What it was found by makes no difference.
    built(&host, &dockerfile).ok().mentions("Using cache");
    assert!(web.asked().is_empty());
    // Where a server leads is looked at as the first address is.
    web.redirect(
        "/away.git/info/refs?service=git-upload-pack",
        "http://169.254.169.254/x.git/info/refs?service=git-upload-pack",
    );
    built(&host, &format!("FROM busybox\nADD {} /x\n", web.at("/away.git")))
        .fails_with("is at 169.254.169.254, which is not to be reached from here");
    let strict = Daemon::start();
    built(&strict, &format!("FROM busybox\nADD {url} /x\n"))
        .fails_with("is at 127.0.0.1, which is not to be reached from here");
    built(&strict, "FROM busybox\nADD git://127.0.0.1:1/x.git /x\n")
        .fails_with("is at 127.0.0.1, which is not to be reached from here");
}

#[test]
fn a_context_lies_somewhere_else() {
    let (host, web) = (host(), Web::start());
    let (_server, app) = served(&host);
    let build = |remote: &str, more: &str| {
        let remote = remote.replace(':', "%3A").replace('/', "%2F").replace('#', "%23");
        let asked = host.ask(&format!("POST /v1.41/build?t=built&remote={remote}{more}"), "");
        Said(asked.expect("an answer").text())
    };
    build(&format!("{app}#v1:service"), "").mentions("Successfully tagged built:latest");
    host.sh("docker run --rm built cat /src/main").says("one");
    // An image is as young as the commit of its context, and the same from wherever that comes.
    host.sh("docker inspect -f '{{.Created}}' built").says("2023-11-14T22:13:20Z");
    let id = host.sh("docker images -q --no-trunc built").text().to_owned();
    web.put_directory("/git", host.work().join("served"));
    build(&web.at("/git/app.git#v1:service"), "").mentions("Using cache").mentions("Successfully tagged");
    host.sh("docker images -q --no-trunc built").says(&id);
    host.sh(&format!("$STRATUS build -t again {app}#v1:service")).ok();
    host.sh("docker images -q --no-trunc again").says(&id);
    host.sh(&format!("$STRATUS build -q -f service/Dockerfile {app}")).complains("file not found in build context");
    build(&app, "&dockerfile=service%2FDockerfile").mentions("file not found in build context");
    // Its `.git` comes with it where that is asked for.
    let keeps = "&buildargs=%7B%22BUILDKIT_CONTEXT_KEEP_GIT_DIR%22%3A%221%22%7D";
    build(&app, "").mentions("Successfully tagged");
    host.sh("docker run --rm built ls /all/.git").fails_with("/all/.git");
    build(&app, keeps).mentions("Successfully tagged");
    host.sh("docker run --rm built ls /all/.git").mentions("HEAD\n");
    host.sh(&format!("$STRATUS build -t again --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=true {app}")).ok();
    host.sh("test $(docker images -q again) = $(docker images -q built)").ok();
    host.sh(&format!("$STRATUS build --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=perhaps {app}"))
        .complains("BUILDKIT_CONTEXT_KEEP_GIT_DIR=perhaps: it is to be true or false");
    build(&format!("{app}#nothing"), "").mentions("has no branch and no tag nothing");

    host.sh("tar -C app --exclude=.git -czf app.tar.gz .").ok();
    web.put("/app.tar.gz", std::fs::read(host.work().join("app.tar.gz")).expect("the archive"), "\"1\"");
    build(&web.at("/app.tar.gz"), "&dockerfile=Dockerfile").mentions("Successfully tagged");
    host.sh("docker run --rm built cat /all/service/src/main").says("two");
    web.put_plain("/Dockerfile", "FROM busybox\nRUN echo alone > /alone\n");
    build(&web.at("/Dockerfile"), "").mentions("Successfully tagged");
    host.sh("docker run --rm built cat /alone").says("alone");
    build("/etc/passwd", "").mentions("a context is at an address of http, https or git");
    build("file:///etc/passwd", "").mentions("a context is at an address of http, https or git");
    build("client-session", "").mentions("no BuildKit sessions");
    host.sh("ls ../data/build/present").says("");
}

/// `x-access-token:open-sesame-token`, as a header shows it.
const SHOWN: &str = "Basic eC1hY2Nlc3MtdG9rZW46b3Blbi1zZXNhbWUtdG9rZW4=";

#[test]
fn a_repository_that_asks_for_a_name_is_shown_a_secret() {
    let (host, web, other) = (host(), Web::start(), Web::start());
    web.put_directory("/git", host.work().join("served"));
    web.guard("/git", SHOWN);
    let url = web.at("/git/app.git");
    std::fs::create_dir_all(host.work().join("context")).expect("a directory");
    let build = |dockerfile: &str, secret: &str| {
        std::fs::write(host.work().join("context/Dockerfile"), dockerfile).expect("the Dockerfile");
        host.sh(&format!(
            "env GIT_AUTH_TOKEN=open-sesame-token OTHER=wrong $STRATUS build --progress plain -t built {secret} context"
        ))
    };
    let added = format!("FROM busybox\nADD {url}#other /x\nRUN cat /x/modules/lib/lib.txt > /got\n");
    let named = format!("GIT_AUTH_TOKEN.127.0.0.1:{}", web.port());
    let advice = format!("stratus build --secret id={named} gives what its server asks for");
    build(&added, "").exits_with(1).complains(&advice);
    // The classic builder has nobody to ask.
    built(&host, &added).fails_with(&advice);
    build(&added, &format!("--secret id={named},env=OTHER"))
        .exits_with(1)
        .complains(&format!("its server does not take what the secret {named} has"));
    web.shown();
    // One that names no host is not said in clear.
    build(&added, "--secret id=GIT_AUTH_TOKEN").exits_with(1).complains(&advice);
    assert_eq!(web.shown(), [""; 0]);
    // Its submodule lies on the same server.
    let own = format!("--secret id={named},env=GIT_AUTH_TOKEN");
    build(&added, &own).ok();
    host.sh("docker run --rm built cat /got").says("lib");
    assert!(web.shown().iter().all(|shown| shown == SHOWN));
    build(&added, &format!("--no-cache --secret id=GIT_AUTH_TOKEN,env=OTHER {own}")).ok();
    let header = format!(
        "printf '{SHOWN}\\n' > header && $STRATUS build -t built --no-cache --secret id=GIT_AUTH_HEADER.127.0.0.1:{},src=header",
        web.port()
    );
    host.sh(&format!("{header} context")).ok();
    host.sh(&format!("{header} {url}")).ok();
    host.sh("docker run --rm built cat /all/service/src/main").says("two");

    // Where the server leads, nothing is shown.
    other.put_directory("/git", host.work().join("served"));
    web.redirect(
        "/away.git/info/refs?service=git-upload-pack",
        &other.at("/git/app.git/info/refs?service=git-upload-pack"),
    );
    build(&format!("FROM busybox\nADD {} /x\n", web.at("/away.git")), &own)
        .exits_with(1)
        .complains(&format!("no redirection is followed where the secret {named} is shown"));
    build(&format!("FROM busybox\nADD {} /x\n", other.at("/git/app.git")), &own).ok();
    assert_eq!(other.shown(), [""; 0]);
    // It is nowhere that stays.
    let (data, run) = (host.data(), host.run_dir());
    let (data, run) = (data.display(), run.display());
    for text in ["open-sesame-token", SHOWN.trim_start_matches("Basic ")] {
        host.sh(&format!("! grep -rlaF -D skip -e {text} {data} {run}")).ok();
        assert!(!host.log().contains(text));
    }
}

/// Whoever comes to a port for what a session does.
#[track_caller]
fn comes(listener: &std::net::TcpListener, session: &Session) -> TcpStream {
    listener.set_nonblocking(true).expect("a listener that does not wait");
    let mut waiting = Waiting::for_what("git to ask its server");
    loop {
        match listener.accept() {
            Ok((connection, _)) => return connection,
            Err(_) => waiting.look_again_at(|| session.output()),
        }
    }
}

/// Processes in whose arguments a text stands, and their numbers.
fn named_in_arguments(text: &str) -> Vec<(u32, String)> {
    let processes = std::fs::read_dir("/proc").expect("processes").filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse::<u32>().ok()?;
        // One may have ended meanwhile.
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&arguments).replace('\0', " ")))
    });
    processes.filter(|(_, arguments)| arguments.contains(text)).collect()
}

/// What an address has before its host is in no process list while git waits for its server, and nowhere afterwards.
#[test]
fn a_password_in_an_address_is_for_its_server_alone() {
    let (host, web) = (host(), Web::start());
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("127.0.0.1:{}/slow.git", slow.local_addr().expect("its address").port());
    let dockerfile = "FROM busybox\nARG URL\nADD --keep-git-dir $URL#other /x\n";
    host.write("context", &[("Dockerfile", dockerfile)]);
    host.write("", &[("url", &format!("http://x-access-token:open-sesame-token@{address}"))]);
    let said =
        host.session("sh -c 'export URL=$(cat url); exec $STRATUS build --progress plain --build-arg URL context'");
    let held = comes(&slow, &said);
    let git = named_in_arguments(&address);
    assert!(git.iter().any(|(_, arguments)| arguments.contains("git ls-remote")), "{git:?}");
    assert!(git.iter().all(|(_, arguments)| !arguments.contains("open-sesame")), "{git:?}");
    drop((held, slow));
    said.waits_for("error: ");
    assert!(!said.output().contains("open-sesame"), "{}", said.output());

    web.put_directory("/git", host.work().join("served"));
    web.guard("/git", SHOWN);
    let url = web.at("/git/app.git").replace("http://", "http://x-access-token:open-sesame-token@");
    host.sh(&format!("$STRATUS build -t built {url}")).ok();
    host.sh("docker run --rm built cat /all/service/src/main").says("two");
    // Its submodule lies on the same server.
    host.sh(&format!("$STRATUS build -t built --build-arg URL={url} context")).ok();
    host.sh("docker run --rm built cat /x/modules/lib/lib.txt").says("lib");
    let wrong = url.replace("open-sesame", "no");
    host.sh(&format!("$STRATUS build {wrong}"))
        .exits_with(1)
        .complains("its server does not take the name and the password of the address");
    let (data, run) = (host.data(), host.run_dir());
    host.sh(&format!("! grep -rlaF -D skip -e open-sesame-token {} {}", data.display(), run.display())).ok();
    assert!(!host.log().contains("open-sesame"));
}

/// Of git nothing goes on when the daemon was killed, whatever it was at.
#[test]
fn git_ends_with_its_daemon() {
    let mut host = host();
    let slow = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://127.0.0.1:{}/slow.git", slow.local_addr().expect("its address").port());
    host.write("context", &[("Dockerfile", &format!("FROM busybox\nADD {address} /x\n"))]);
    let building = host.session("$STRATUS build context");
    let _held = comes(&slow, &building);
    let git = || named_in_arguments(&address);
    let all = git();
    assert!(all.iter().any(|(_, arguments)| arguments.contains("git-remote-http")), "{all:?}");
    // What is stopped does not even hear that its connection is gone.
    for (pid, _) in all.iter().filter(|(_, arguments)| arguments.contains("git-remote-http")) {
        host.sh(&format!("kill -s STOP {pid}")).ok();
    }
    host.kill9();
    e2e::eventually("git to end", || git().is_empty());
}
