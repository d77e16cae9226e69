//! Builds take files from the web: `ADD` of addresses.

use e2e::{Daemon, Web};

/// What builds with the classic builder's endpoint, which is all that this client has.
const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";

/// A daemon whose builds may fetch from the test's own server.
fn host() -> Daemon {
    Daemon::start_with(&["--build-allow-address", "127.0.0.1"])
}

/// Builds a Dockerfile.
fn built(host: &Daemon, dockerfile: &str, flags: &str) -> e2e::Outcome {
    std::fs::create_dir_all(host.work().join("app")).expect("a directory for it");
    std::fs::write(host.work().join("app/Dockerfile"), dockerfile).expect("the Dockerfile");
    host.sh(&format!("{BUILD} -t built {flags} app"))
}

#[test]
fn a_file_is_downloaded_once_and_asked_for_again() {
    let (host, web) = (host(), Web::start());
    web.put("/tool%20x?v=1", "one\n", "\"1\"");
    let dockerfile = format!("FROM busybox\nADD {} /opt/\nRUN cat '/opt/tool x' > /got\n", web.at("/tool%20x?v=1"));
    built(&host, &dockerfile, "").ok();
    host.sh("docker run --rm built sh -c 'cat /got; stat -c \"%a %u %g %Y\" \"/opt/tool x\"'")
        .says("one\n600 0 0 315619200");
    assert_eq!(web.asked(), ["GET /tool%20x?v=1 200"]);
    let id = host.sh("docker images -q --no-trunc built").text().to_owned();

    built(&host, &dockerfile, "").ok().omits("Running in");
    assert_eq!(web.asked(), ["GET /tool%20x?v=1 304"]);
    // The bytes are here, too, for another image below.
    built(&host, &dockerfile.replace("FROM busybox\n", "FROM busybox\nENV A=1\nWORKDIR /new\n"), "").ok();
    assert_eq!(web.asked(), ["GET /tool%20x?v=1 304"]);
    // What has another tag and the same bytes is the same.
    web.put("/tool%20x?v=1", "one\n", "\"2\"");
    built(&host, &dockerfile, "").ok().omits("Running in");
    assert_eq!(web.asked(), ["GET /tool%20x?v=1 200"]);
    host.sh("docker images -q --no-trunc built").says(&id);
    web.put("/tool%20x?v=1", "two\n", "\"3\"");
    built(&host, &dockerfile, "").ok().mentions("Running in");
    host.sh("docker run --rm built cat /got").says("two");
    // Nothing of it stays once the cache is emptied.
    host.sh("docker builder prune -af > /dev/null && ls ../data/build/downloads | wc -l").says("0");
    web.asked();
    built(&host, &dockerfile, "").ok();
    assert_eq!(web.asked(), ["GET /tool%20x?v=1 200"]);
}

#[test]
fn what_has_a_checksum_is_not_asked_for_again() {
    let (host, web) = (host(), Web::start());
    web.put_plain("/a", "one\n");
    let sum = "sha256:2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806";
    let add = |sum: &str| format!("FROM busybox\nARG SUM={sum}\nADD --checksum=$SUM {} /a\n", web.at("/a"));
    built(&host, &add(sum), "").ok();
    assert_eq!(web.asked(), ["GET /a 200"]);
    built(&host, &add(sum), "").ok().mentions("Using cache");
    assert!(web.asked().is_empty());
    let wrong = format!("sha256:{}", "0".repeat(64));
    built(&host, &add(&wrong), "").fails_with("its digest should be sha256:0000").complains("but is sha256:2c8b08da");
    built(&host, &add("sha256:1"), "").fails_with("--checksum: ");
    let two = format!("FROM busybox\nADD --checksum={sum} {0} {0} /x/\n", web.at("/a"));
    built(&host, &two, "").fails_with("--checksum says what one source holds");
    built(&host, &format!("FROM busybox\nADD --checksum={sum} Dockerfile /x\n"), "").fails_with("files of the context");
}

#[test]
fn where_it_goes_and_how_it_looks_is_as_with_any_file() {
    let (host, web) = (host(), Web::start());
    host.sh(
        "mkdir -p tree/sub app && echo in > tree/sub/file && tar -C tree -czf tree.tar.gz . && echo local > app/local",
    )
    .ok();
    web.put_plain("/tree.tar.gz", std::fs::read(host.work().join("tree.tar.gz")).expect("the archive"));
    web.put_plain("/plain", "plain\n");
    web.redirect("/moved", "/plain");
    web.put_plain("/", "no name\n");
    let dockerfile = "\
FROM busybox
ADD --chown=7:8 --chmod=640 URL/moved /owned/
ADD URL/tree.tar.gz /packed/
ADD --unpack URL/tree.tar.gz /unpacked/
ADD --link URL/plain /linked
ADD local URL/plain <<EOF /several/
text
EOF
ADD URL/ /named
ADD --exclude=pl* URL/plain local /left/
";
    built(&host, &dockerfile.replace("URL", &web.at("")), "").ok();
    let look = "cd / && stat -c '%n %a %u %g' owned/moved packed/tree.tar.gz linked several/* left/*; cat unpacked/sub/file named";
    host.sh(&format!("docker run --rm built sh -c \"{look}\"")).says(
        "owned/moved 640 7 8\npacked/tree.tar.gz 600 0 0\nlinked 600 0 0\nseveral/EOF 644 0 0\nseveral/local 644 0 0\n\
         several/plain 600 0 0\nleft/local 644 0 0\nin\nno name",
    );
    let refused = |line: &str| built(&host, &format!("FROM busybox\n{line}\n").replace("URL", &web.at("")), "");
    refused("ADD URL/ /directory/").fails_with("cannot determine filename from url: ").complains("Dockerfile:2");
    refused("ADD URL/missing /x").fails_with("the server answered 404 Not Found");
    refused("ADD ftp://127.0.0.1/x /x").fails_with("ADD takes addresses of http, https, git and ssh, and not of ftp");
    refused("ADD file:///etc/passwd /x").fails_with("and not of file");
    web.redirect("/circle", "/circle");
    refused("ADD URL/circle /x").fails_with("stopped after 10 redirects");
}

#[test]
fn a_build_reaches_nothing_that_is_this_machines_alone() {
    let (host, web) = (Daemon::start(), Web::start());
    web.put_plain("/a", "secret\n");
    let refused = |host: &Daemon, url: &str, address: &str| {
        let said = built(host, &format!("FROM busybox\nADD {url} /x\n"), "");
        said.fails_with(&format!("is at {address}, which is not to be reached from here"));
        said.complains("build-allow-address");
    };
    refused(&host, &web.at("/a"), "127.0.0.1");
    refused(&host, &format!("http://[::ffff:127.0.0.1]:{}/a", web.port()), "::ffff:127.0.0.1");
    refused(&host, &format!("http://2130706433:{}/a", web.port()), "127.0.0.1");
    refused(&host, "http://169.254.169.254/latest/meta-data/", "169.254.169.254");
    built(&host, &format!("FROM busybox\nADD http://localhost:{}/a /x\n", web.port()), "")
        .fails_with("which is not to be reached from here");
    assert!(web.asked().is_empty());
    // What may be reached leads no further.
    let host = self::host();
    web.redirect("/metadata", "http://169.254.169.254/latest/meta-data/");
    refused(&host, &web.at("/metadata"), "169.254.169.254");
    assert_eq!(web.asked(), ["GET /metadata 302"]);
}

#[test]
fn what_is_fetched_comes_through_the_daemons_proxy() {
    let (mut host, web) = (Daemon::start(), Web::start());
    web.put_plain("/lib.txt", "a library\n");
    web.put_plain("/context/Dockerfile", "FROM busybox\nADD http://lib.invalid/lib.txt /\n");
    let proxy = web.at("");
    host.restart_in(&[("HTTP_PROXY", &proxy), ("NO_PROXY", "direct.invalid")]);
    let dockerfile = "FROM busybox\nADD http://lib.invalid/lib.txt /opt/\n";
    built(&host, dockerfile, "").ok();
    host.sh("docker run --rm built cat /opt/lib.txt").says("a library");
    host.sh("$STRATUS build -q -t whole http://context.invalid/context/Dockerfile").ok();
    host.sh("docker run --rm whole cat /lib.txt").says("a library");
    assert_eq!(
        web.asked(),
        [
            "GET http://lib.invalid/lib.txt 200",
            "GET http://context.invalid/context/Dockerfile 200",
            "GET http://lib.invalid/lib.txt 200"
        ]
    );
    // A repository as well, by git's own client.
    host.sh("git init -q -b main repo && echo x > repo/file && git -C repo add . && git -C repo -c user.name=x -c user.email=x@x commit -qm one \
             && git clone -q --bare repo repo.git && git -C repo.git update-server-info")
        .ok();
    web.put_directory("/repo.git", host.work().join("repo.git"));
    built(&host, "FROM busybox\nADD http://git.invalid/repo.git /repo\n", "").ok();
    host.sh("docker run --rm built cat /repo/file").says("x");
    assert!(web.asked().iter().all(|asked| asked.starts_with("GET http://git.invalid/repo.git/")));
    // What is excepted is looked for where it is, and what a proxy leads to on this machine is its own matter.
    built(&host, "FROM busybox\nADD http://direct.invalid/lib.txt /opt/\n", "")
        .exits_with(1)
        .complains("direct.invalid");
    built(&host, &format!("FROM busybox\nADD {} /opt/\n", web.at("/lib.txt")), "").fails_with("build-allow-address");
    assert!(web.asked().is_empty());
    // A step gets none of it: only what a build is given as arguments.
    built(&host, "FROM busybox\nRUN env > /env\n", "").ok();
    host.sh("docker run --rm built grep -ci proxy /env || true").says("0");
}
