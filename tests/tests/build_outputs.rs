//! Where what is built goes: archives, directories, registries; for one platform and for several.

use e2e::{Daemon, Registry, eventually};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

fn project(host: &Daemon, dockerfile: &str) {
    let app = host.work().join("app");
    fs::create_dir_all(&app).expect("a directory");
    fs::write(app.join("Dockerfile"), dockerfile).expect("the file");
    fs::write(app.join("main"), "hello\n").expect("a file");
}

const APP: &str =
    "FROM busybox\nCOPY main /srv/main\nRUN ln -s main /srv/link && ln -s /etc /srv/out\nCMD cat /srv/link\n";

#[test]
fn files_come_out_as_a_directory_or_an_archive() {
    let host = Daemon::start();
    project(&host, &format!("{APP}FROM scratch\nCOPY --from=0 /srv /srv\n"));
    host.sh("$STRATUS build -o out app").ok().complains("exporting its files");
    host.sh("cat out/srv/main; readlink out/srv/link out/srv/out; ls out").says("hello\nmain\n/etc\nsrv");
    host.sh("$STRATUS build -o - app | tar -tf -").says("srv/\nsrv/link\nsrv/main\nsrv/out");
    host.sh("$STRATUS build -o type=tar,dest=files.tar --output type=local,dest=other app && tar -xOf files.tar srv/main other/srv/main; cat other/srv/main")
        .prints("hello");
    // Nothing of it is among the daemon's images, unless that was asked for, too.
    host.sh("docker images -q | wc -l").says("1");
    host.sh("$STRATUS build -q -t app -o again --load app").ok();
    host.sh("docker images -q app | wc -l; ls again/srv").says("1\nlink\nmain\nout");
    // What is there stays, and no link in it leads anywhere else.
    host.sh("mkdir -p trap aside && ln -s ../aside trap/srv && echo mine > trap/own && $STRATUS build -o trap app")
        .ok();
    host.sh("cat trap/own trap/srv/main; ls aside").says("mine\nhello");
    // An archive has its name once it is complete: one that could not be kept is not there, and the build failed.
    host.sh("$STRATUS build -o type=oci,dest=/dev/full app").exits_with(1).complains("/dev/full");
    // What can't be kept is told before anything is done.
    for (output, why) in [
        ("type=oci,dest=nowhere/x", "writing nowhere/x: there is no directory nowhere: make it first"),
        ("type=tar,dest=app", "writing app: it is a directory: name a file in it"),
        ("files.tar", "writing files.tar: it is there, and no directory"),
        ("x --metadata-file nowhere/m", "creating nowhere/m: No such file or directory"),
        ("x --iidfile app", "opening app: Is a directory"),
    ] {
        let said = host.sh(&format!("$STRATUS build --progress plain -o {output} app"));
        said.exits_with(1).complains(why);
        assert!(!said.stderr().contains("FROM busybox"), "{said}");
    }
    host.sh("$STRATUS build ftp://x/y").exits_with(2).complains("nothing is fetched by ftp");
    host.sh("$STRATUS build --check --print app").exits_with(2);
    host.sh("$STRATUS build --step-timeout 0s -t twice -t twice app 2>&1").ok().omits("twice:latest, twice");
    host.sh("$STRATUS build -o '' app").exits_with(2).complains("there is nothing in it");
    host.sh("$STRATUS build -o x -o type=tar,dest=./x app").exits_with(2).complains("two outputs go to ./x");
    host.sh("$STRATUS build --platform linux/foo app").exits_with(2).complains("foo is no architecture");
    host.sh("$STRATUS build -o aside --build-context spare=out app")
        .ok()
        .complains("the further context spare is not used");
    host.sh("$STRATUS build -q --target stage-0 --iidfile id -t first app && test $(cat id) = $(docker image inspect -f '{{.Id}}' first)").ok();
    // Through a link, the file is written that it leads to, and the link stays. Nobody has to read a pipe before all is built.
    host.sh("ln -s real link && $STRATUS build -q --target stage-0 --iidfile link app > said && test -L link && test $(cat said) = $(cat real)").ok();
    host.sh("$STRATUS build --iidfile real --metadata-file ./link app").exits_with(2).complains("both go to real");
    host.sh("test -s real && mkfifo pipe || exit 1; $STRATUS build -q --target stage-0 --iidfile pipe -t piped app > said & until docker image inspect piped; do sleep 0.1; done > seen 2>&1; cat pipe | cmp - real && wait $!").ok();
    host.sh("$STRATUS build -q --target stage-0 --iidfile pipe app & kill $! && ! wait $!").ok();
    host.sh("ls -A | grep partial; true").says("");
    host.sh("sed -i 's/^FROM scratch/RUN exit 3\\nFROM scratch/; s/--from=0/--from=0/' app/Dockerfile; $STRATUS build --no-cache -o late -o type=oci,dest=late.tar app").exits_with(1);
    host.sh("ls -d late late.tar .late*").exits_with(2);
}

#[test]
fn a_device_that_who_builds_may_not_make_is_told_with_what_may_hold_it() {
    let host = Daemon::start();
    project(
        &host,
        "FROM busybox AS made\nRUN mkdir /out && mknod /out/null c 1 3\nFROM scratch\nCOPY --from=made /out /\n",
    );
    let without = "setpriv --bounding-set=-mknod --inh-caps=-mknod";
    let said = host.sh(&format!("{without} $STRATUS build -o out app"));
    said.exits_with(1).complains("unpacking null").complains("an archive (type=tar,dest=FILE) has it whoever builds");
    host.sh("test ! -e out").ok();
    host.sh(&format!("{without} $STRATUS build -o type=tar,dest=out.tar app && tar -tvf out.tar | cut -c 1")).says("c");
    host.sh("$STRATUS build -o out app && test -c out/null").ok();
}

#[test]
fn an_image_comes_out_as_an_archive() {
    let host = Daemon::start();
    project(&host, APP);
    for kind in ["oci", "docker"] {
        host.sh(&format!("$STRATUS build -t app:1 -o type={kind},dest={kind}.tar --metadata-file {kind}.json app"))
            .ok();
        host.sh("docker images -q app").says("");
        host.sh(&format!("tar -xOf {kind}.tar index.json | jq -r '.manifests[0].digest'"))
            .says(host.sh(&format!("jq -r '.[\"containerimage.digest\"]' {kind}.json")).text());
        host.sh(&format!("docker load -q -i {kind}.tar")).says("Loaded image: app:1");
        host.sh("docker run --rm app:1").says("hello");
        host.sh("docker image inspect -f '{{.Id}}' app:1")
            .says(host.sh(&format!("jq -r '.[\"containerimage.config.digest\"]' {kind}.json")).text());
        host.sh("docker rmi -f app:1").ok();
    }
    // The same image is the same archive.
    host.sh("$STRATUS build -t app:1 -o type=oci app > again.tar && cmp oci.tar again.tar").ok();
    host.sh("$STRATUS build -o type=oci,name=x:2,dest=named.tar app && docker load -q -i named.tar").mentions("x:2");
    // A name of --tag is the name wherever it goes, and one that is not used for that is told.
    host.sh("$STRATUS build -t t:1 -o type=image,name=n:1 -o type=oci,name=n:2,dest=n.tar app")
        .ok()
        .complains("name=n:1 of an --output is not used")
        .complains("name=n:2 of an --output is not used");
    host.sh("docker images --format '{{.Repository}}:{{.Tag}}' | grep -e ^t: -e ^n:").says("t:1");
    host.sh("docker load -q -i n.tar").says("Loaded image: t:1");
    host.sh(
        "$STRATUS build -t t:2 --metadata-file m.json -o type=oci,dest=n.tar app && jq -r '.[\"image.name\"]' m.json",
    )
    .says("docker.io/library/t:2");
    host.sh("$STRATUS build --progress json -o - app").exits_with(2).complains("can't both go to standard output");
}

#[test]
fn who_goes_away_leaves_no_half_of_an_export() {
    let host = Daemon::start();
    project(&host, "FROM busybox\nRUN head -c 64m /dev/urandom > /big\n");
    host.sh("mkfifo slow").ok();
    // Nobody reads on: the daemon waits, and gives it up with its client.
    let mut build = host.session("sh -c 'exec $STRATUS build -o type=tar,dest=slow app'");
    let reader = host.session("sh -c 'exec 3< slow; head -c 1000 <&3 > /dev/null; echo read; exec sleep 1000'");
    reader.waits_for("read\n");
    build.signal("KILL");
    assert_eq!(build.exit_code(), 128 + 9);
    eventually("no mount of it", || host.sh("docker ps -aq").text().is_empty());
}

/// A way to the daemon on which nothing of what it says arrives after so many bytes.
fn stalls_after(host: &Daemon, bytes: usize) -> PathBuf {
    let path = host.work().join("way.sock");
    let (listener, daemon) = (UnixListener::bind(&path).expect("a socket"), host.socket());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(daemon) = UnixStream::connect(&daemon) else { return };
            let (from, to) = (client.try_clone().expect("a copy"), daemon.try_clone().expect("a copy"));
            std::thread::spawn(move || pass(from, to, usize::MAX));
            std::thread::spawn(move || pass(daemon, client, bytes));
        }
    });
    path
}

/// Passes on what comes, up to so many bytes, until the end of what comes.
fn pass(mut from: UnixStream, mut to: UnixStream, most: usize) {
    let (mut piece, mut passed) = ([0; 16 << 10], 0);
    while let Ok(count @ 1..) = from.read(&mut piece) {
        if passed < most && to.write_all(&piece[..count]).is_err() {
            break;
        }
        passed += count;
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_daemon_or_a_client_that_goes_away_leaves_no_half_of_an_export() {
    let mut host = Daemon::start();
    project(&host, "FROM busybox\nRUN head -c 4m /dev/urandom > /big\n");
    host.sh("mkdir out && $STRATUS build -q app").ok();
    let way = stalls_after(&host, 2 << 20);
    let build = format!("env DOCKER_HOST=unix://{} $STRATUS build -o type=tar,dest=out/x app", way.display());
    let holds = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
    let out = host.work().join("out");
    // It has no name yet.
    let open = format!("find /proc/[0-9]*/fd -lname '{}/*' 2>/dev/null; true", out.display());
    let killed = host.session(&build);
    eventually("half of it", || !host.sh(&open).text().is_empty());
    killed.signal("KILL");
    eventually("the client to be gone", || host.sh(&open).text().is_empty());
    assert_eq!(holds(&out), 0, "{}", host.sh("ls -A out"));
    let mut build = host.session(&build);
    eventually("half of it", || !host.sh(&open).text().is_empty());
    host.kill9();
    assert_eq!(build.exit_code(), 1, "{}", build.output());
    assert_eq!(holds(&out), 0, "{}", host.sh("ls -A out"));
}

#[test]
fn layers_are_squashed() {
    let host = Daemon::start();
    let dockerfile = "FROM busybox\nRUN mkdir /d && echo a > /d/a && echo b > /d/b && echo gone > /gone\nRUN rm /d/a /gone /bin/true && rm -r /d && mkdir /d && echo c > /d/c\nRUN chmod 700 /d && echo x > /x\nENV A=1\n";
    project(&host, dockerfile);
    // As docker's client asks for it, which does so only of a daemon with experiments.
    let build = "tar -C app -c . | curl -sf --unix-socket ${DOCKER_HOST#unix://} -H 'Content-Type: application/x-tar' --data-binary @- 'http://d/build?squash=1&t=thin'";
    host.sh(build).mentions("Successfully tagged thin:latest");
    host.sh("$STRATUS build -q -t fat app && $STRATUS build -q --squash -t own app").ok();
    host.sh("test $(docker image inspect -f '{{.Id}}' own) = $(docker image inspect -f '{{.Id}}' thin)").ok();
    host.sh("docker image inspect -f '{{len .RootFS.Layers}} {{index .Config.Env 1}}' thin").says("2 A=1");
    host.sh("docker history --no-trunc --format '{{.Comment}}' thin | head -1")
        .mentions("merge sha256:")
        .mentions(" to sha256:");
    let tree = |image: &str| {
        host.sh(&format!("docker run --rm {image} sh -c 'find /d /bin /x -exec stat -c \"%n %F %a %u %g %s %Y\" {{}} + | grep -v directory | sort; stat -c %a%Y /d; ls /gone 2>&1'"))
    };
    assert_eq!(tree("thin").stdout(), tree("fat").stdout());
    host.sh("docker run --rm thin sh -c 'ls /d /bin/true 2>&1'").prints("c\n").prints("/bin/true: No such file");
    // It is an image like others: pushed, saved and loaded it is the same.
    host.sh("docker save thin -o thin.tar && docker rmi thin own && docker load -q -i thin.tar && docker run --rm thin cat /d/c").mentions("\nc");
}

#[test]
fn an_image_is_for_several_platforms() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    let name = format!("{}/app", registry.name());
    project(&host, "FROM scratch\nARG TARGETPLATFORM TARGETARCH\nCOPY main /$TARGETARCH\nLABEL for=$TARGETPLATFORM\n");
    let both = "--platform linux/amd64,linux/arm64 --platform linux/arm64";
    host.sh(&format!("$STRATUS build {both} -t app app")).exits_with(1).complains("--output type=oci,dest=FILE");
    host.sh(&format!("$STRATUS build {both} -t app -o type=oci,dest=app.tar --iidfile id --metadata-file meta app"))
        .ok()
        .complains("[linux/amd64 1/4] FROM scratch")
        .complains("[linux/arm64 4/4] LABEL for=$TARGETPLATFORM");
    host.sh("jq -r '.[\"containerimage.descriptor\"].mediaType' meta").says("application/vnd.oci.image.index.v1+json");
    host.sh("test $(cat id) = $(jq -r '.[\"containerimage.digest\"]' meta)").ok();
    for (platform, file) in [("linux/amd64", "amd64"), ("linux/arm64", "arm64")] {
        host.sh(&format!("docker load -q --platform {platform} -i app.tar")).mentions("app");
        host.sh("docker image inspect -f '{{.Os}}/{{.Architecture}} {{.Config.Labels.for}}' app")
            .says(&format!("{platform} {platform}"));
        host.sh(&format!(
            "docker create --name it app x; docker export it | tar -t | grep -c '^{file}$'; docker rm it"
        ))
        .prints("1\n");
        host.sh("docker rmi -f app").ok();
    }
    // At a registry the name is an index, of which everybody takes what is for them.
    host.sh(&format!("$STRATUS build {both} -t {name} --push --metadata-file meta app"))
        .ok()
        .complains("pushing localhost");
    let digest = host.sh("jq -r '.[\"containerimage.digest\"]' meta").text().to_owned();
    host.sh(&format!("curl -sf -o index -D head -H 'Accept: application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json' http://{}/v2/app/manifests/latest && jq -c '[.manifests[].platform.architecture]' index", registry.name()))
        .says("[\"amd64\",\"arm64\"]");
    host.sh(&format!("grep -i docker-content-digest head | grep -c {digest}")).says("1");
    host.sh(&format!("docker rmi -f {name}; docker pull -q --platform linux/arm64 {name} && docker image inspect -f '{{{{.Architecture}}}}' {name}")).mentions("arm64");
    // Files are in a directory for each.
    host.sh(&format!("$STRATUS build {both} -o both app && ls both both/*"))
        .says("both:\nlinux_amd64\nlinux_arm64\n\nboth/linux_amd64:\namd64\n\nboth/linux_arm64:\narm64");
    // What runs needs something to run it, and what that is is said before it is begun.
    if !host.sh("grep -ls 'f705\\|b700' /proc/sys/fs/binfmt_misc/*; true").text().contains("binfmt") {
        project(&host, "FROM scratch\nCOPY main /bin/sh\nRUN true\n");
        host.sh("$STRATUS build --platform linux/arm64 app").exits_with(1).complains(
            "no emulator for linux/arm64 is registered at /proc/sys/fs/binfmt_misc: install qemu-user-static",
        );
    }
}

#[test]
fn one_image_is_pushed_as_it_is_kept() {
    let host = Daemon::start();
    let registry = Registry::start_for(&host, "ada");
    let name = format!("{}/app:1", registry.name());
    project(&host, APP);
    host.sh(&format!("$STRATUS build -o type=image,name={name},push=true app"))
        .exits_with(1)
        .complains("pushing localhost");
    host.sh(&format!("echo 'open sesame' | $STRATUS login -u ada --password-stdin {}", registry.name())).ok();
    host.sh("$STRATUS build --push app").exits_with(1).complains("nothing is pushed without a name");
    host.sh(&format!("$STRATUS build -o type=image,name={name},push=true --metadata-file meta app")).ok();
    host.sh(&format!("docker image inspect -f '{{{{index .RepoDigests 0}}}}' {name}")).says(&format!(
        "{}@{}",
        name.trim_end_matches(":1"),
        host.sh("jq -r '.[\"containerimage.digest\"]' meta").text()
    ));
    host.sh(&format!("docker rmi -f {name} && docker run --rm {name}")).mentions("hello");
    host.sh(&format!("$STRATUS build -t {name}3 -o type=image,name={name}4,push=true app"))
        .ok()
        .complains("is not used");
    host.sh(&format!("docker rmi -f {name}3 && docker pull -q {name}3")).ok();
    host.sh(&format!("docker pull -q {name}4")).exits_with(1);
    // The classic builder's endpoint takes the same, but nothing that would have to come back.
    let classic = |outputs: &str| {
        format!(
            "tar -C app -c . | curl -s --unix-socket ${{DOCKER_HOST#unix://}} -X POST -H 'Content-Type: application/x-tar' -H \"X-Registry-Config: $(jq -c .auths $DOCKER_CONFIG/config.json | base64 -w0)\" --data-binary @- \"http://d/build?outputs=$(printf %s '{outputs}' | jq -sRr @uri)\""
        )
    };
    host.sh(&classic(&format!("[{{\"Type\":\"image\",\"Attrs\":{{\"name\":\"{name}2\",\"push\":\"true\"}}}}]")))
        .mentions("Successfully built");
    host.sh(&format!("docker rmi -f {name}2 && docker pull -q {name}2")).ok();
    host.sh(&classic("[{\"Type\":\"local\",\"Attrs\":{}}]")).mentions("has no way to send an output of the type");
}

#[test]
fn a_build_is_cancelled_by_the_name_that_its_client_gave_it() {
    let host = Daemon::start();
    host.write("app", &[("Dockerfile", "FROM busybox\nRUN echo it runs && sleep 1000\n")]);
    let post = "curl -s --no-buffer --unix-socket ${DOCKER_HOST#unix://} -X POST";
    let build = format!(
        "tar -C app -c . | {post} -H 'Content-Type: application/x-tar' --data-binary @- 'http://d/build?buildid=mine' > told & build=$!"
    );
    host.sh(&format!(
        "{build}; until grep -q 'it runs' told; do sleep 0.05; done
        {post} 'http://d/build/cancel?id=another'; {post} 'http://d/build/cancel?id=mine'; wait $build; tail -n 1 told | jq -r .error"
    ))
    .says("the build mine was cancelled");
    host.sh("docker ps -aq").says("");
    host.sh(&format!("{post} -w ' %{{http_code}}' http://d/build/cancel"))
        .says("{\"message\":\"build ID not provided\"}\n 400");
}
