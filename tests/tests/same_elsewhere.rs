//! The same context comes to the same image: on another day, on another file system, whoever builds it and with whatever umask.

use e2e::Daemon;

/// Files of all kinds, by all that copies and makes them.
const DOCKERFILE: &str = "\
FROM busybox AS made
WORKDIR /work/deep
RUN mkdir -m 750 made && echo one > made/one && ln made/one made/hard && ln -s one made/link && mkfifo made/fifo \\
 && head -c 70000 /dev/zero > made/zeros && touch made/empty && chown -R 5:6 made && umask > made/umask
COPY --chown=7:8 tree tree
FROM busybox
ADD files.tar.gz /unpacked/
COPY tree /tree
COPY --from=made /work /work
RUN touch -d @1700000000 /tree/touched; rm /tree/private; id > /who; chmod 1777 /tree
VOLUME /data
CMD [\"sh\"]
";

/// Makes the context in the directory `app`. Its files have the time of its making.
const CONTEXT: &str = "mkdir -p app/tree/dir/sub app/tree/none && cd app && echo a > tree/a && echo b > tree/dir/sub/b && ln -s ../a tree/dir/link \
    && ln tree/a tree/hard && echo p > tree/private && echo x > tree/run && printf 'log\\n' > .dockerignore && echo l > log && chmod 755 . tree tree/* tree/dir/sub \
    && chmod 600 tree/private && chmod 644 tree/a tree/dir/sub/b && tar -C tree --sort=name --mtime=@0 --owner=7 --group=8 -czf files.tar.gz a dir";

/// What a build comes to: the image's id, and the sum of all that is in its archive.
fn built(host: &Daemon, before: &str, directory: &str) -> [String; 2] {
    let build = "$STRATUS build --no-cache -q";
    let id = host.sh(&format!("{before} {build} -t app {directory}")).ok().text().to_owned();
    host.sh(&format!("{before} env DOCKER_BUILDKIT=0 docker build --no-cache -q {directory}")).says(&id);
    host.sh(&format!("{build} -o type=oci,dest=app.tar {directory} >/dev/null")).ok();
    let sum = host.sh("sha256sum < app.tar; rm app.tar").text().to_owned();
    [id, sum]
}

/// A host with the context, and the base that the first one has.
fn host(base: Option<&Daemon>) -> Daemon {
    let host = Daemon::start();
    if let Some(first) = base {
        let archive = first.work().join("base.tar");
        host.sh(&format!("docker rmi -f busybox && docker load -qi {}", archive.display())).ok();
    }
    host.sh(CONTEXT).ok();
    host.write("app", &[("Dockerfile", DOCKERFILE)]);
    host
}

#[test]
fn an_image_is_the_same_wherever_and_whenever_it_is_built() {
    let first = host(None);
    first.sh("docker save -o base.tar busybox").ok();
    let expected = built(&first, "", "app");
    assert_eq!(built(&first, "", "app"), expected);
    first
        .sh("docker run --rm app sh -c 'cat /work/deep/made/umask; stat -c %a%u /work/deep/tree/private'")
        .says("0022\n6007");

    // Another machine: its context was made at another time, in another order, by somebody else, whose umask lets nobody look.
    let mut host = host(Some(&first));
    host.sh("mkdir elsewhere && cp -a app elsewhere/renamed && cd elsewhere/renamed && find . -exec touch -h -d '2001-02-03 04:05:06.789' {} + && chown -hR 1234:5678 .")
        .ok();
    assert_eq!(built(&host, "umask 077; TZ=Asia/Tokyo LC_ALL=C", "elsewhere/renamed"), expected);
    host.sh("chmod 755 .. ../run elsewhere && chmod 666 ../run/docker.sock && mkdir -m 777 ../client/of && chmod 755 ../client").ok();
    let nobody = "umask 027; HOME=/ DOCKER_CONFIG=/tmp setpriv --reuid=1234 --regid=5678 --clear-groups";
    let id = host.sh(&format!("{nobody} $STRATUS build --no-cache -q elsewhere/renamed")).text().to_owned();
    assert_eq!(id, expected[0], "built by nobody in particular");
    // The context's own file system lists names in another order, and tells other times, sizes of directories and numbers of files.
    for mount in ["-t tmpfs none", "-o loop xfs"] {
        host.sh("test -e xfs || { truncate -s 400M xfs && mkfs.xfs -q xfs; }").ok();
        let inside = format!(
            "mkdir -p at && mount {mount} at && cp -a app at/ && $STRATUS build --no-cache -q at/app; umount at"
        );
        let id = host.sh(&format!("unshare --mount --propagation private sh -c '{inside}'")).text().to_owned();
        assert_eq!(id, expected[0], "from {mount}");
    }

    // Another daemon: its umask, its disk. Its clock is the kernel's, by which files have their times.
    host.restart_with_umask("077");
    assert_eq!(built(&host, "", "app"), expected, "by a daemon with another umask");
    host.move_to_disk(500 << 20);
    assert_eq!(built(&host, "", "app"), expected, "on tmpfs");
}

#[test]
fn an_image_is_the_same_on_other_disks() {
    let first = host(None);
    first.sh("docker save -o base.tar busybox").ok();
    let expected = built(&first, "", "app");
    for make in [
        "mkfs.xfs -q -m reflink=1",
        "mkfs.xfs -q -m reflink=0",
        "mke2fs -q -t ext4 -O ^has_journal",
        "mke2fs -q -t ext4 -I 128 -b 1024",
    ] {
        let mut host = host(Some(&first));
        host.move_to_file_system(make);
        assert_eq!(built(&host, "", "app"), expected, "on what {make} makes");
    }
}
