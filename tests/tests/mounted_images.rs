//! Images that are mounted in containers of other images.

use e2e::Daemon;

/// A daemon with the image `data:1`, which has files of two layers below `/srv`.
fn with_data() -> Daemon {
    let host = Daemon::start();
    host.sh("docker run --name one busybox sh -c 'mkdir -p /srv/sub; echo lower > /srv/f; echo gone > /srv/g; echo deep > /srv/sub/h; ln -s /etc /srv/out' && docker commit one data:0").ok();
    host.sh("docker run --name two data:0 sh -c 'echo upper > /srv/f; rm /srv/g' && docker commit two data:1").ok();
    host.sh("docker rm one two && docker rmi data:0").ok();
    host
}

#[test]
fn all_of_it_or_a_part() {
    let host = with_data();
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m busybox sh -c 'cat /m/srv/f /m/srv/sub/h; ls /m/srv; ls -d /m/proc/self'")
        .exits_with(1)
        .prints("upper\ndeep\nf\nout\nsub");
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m,image-subpath=srv/sub busybox ls /m").says("h");
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m/f,image-subpath=srv/f busybox cat /m/f")
        .says("upper");
    // An image of one layer, and one of none.
    host.sh("$STRATUS run --rm --mount type=image,src=busybox,dst=/m busybox /m/bin/busybox echo runs").says("runs");
    host.sh("tar -cT /dev/null | docker import - empty >id && $STRATUS run --rm --mount type=image,src=empty,dst=/m busybox ls -A /m").says("");
    // Two at once, one of them in the other's place.
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m --mount type=image,src=busybox,dst=/m/srv/sub busybox ls -d /m/srv/f /m/srv/sub/bin")
        .says("/m/srv/f\n/m/srv/sub/bin");
    host.sh("grep -c $PWD /proc/self/mountinfo").exits_with(1).prints("0");
}

#[test]
fn nothing_leads_out_of_it_or_changes_it() {
    let host = with_data();
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m busybox sh -c 'echo x > /m/srv/f'")
        .fails_with("Read-only file system");
    host.sh("$STRATUS run --rm --cap-add SYS_ADMIN --security-opt apparmor=unconfined --mount type=image,src=data:1,dst=/m busybox sh -c 'mount -o remount,rw /m; echo x > /m/srv/f'")
        .fails_with("Read-only file system");
    // The link `out` leads to the image's own /etc.
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m,image-subpath=srv/out busybox cat /m/passwd")
        .mentions("nobody");
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m,image-subpath=../x busybox true")
        .fails_with("subpath must be a relative path within the image");
    host.sh("$STRATUS run --rm --mount type=image,src=data:1,dst=/m,image-subpath=not/there busybox true")
        .fails_with("data:1/not/there to /m: no such file or directory");
    host.sh("$STRATUS run --rm --mount type=image,src=nothing:1,dst=/m busybox true")
        .fails_with("No such image: nothing:1");
    host.sh("$STRATUS run --rm --mount type=image,dst=/m busybox true").fails_with("field Source must not be empty");
    host.sh("docker ps -aq").says("");
}

#[test]
fn of_a_container_with_a_user_namespace() {
    let host = with_data();
    let mounts = r#"[{"Type":"image","Source":"data:1","Target":"/m","ImageOptions":{"Subpath":"srv"}}]"#;
    let body = format!(
        r#"{{"Image":"busybox","Cmd":["sh","-c","stat -c %u /m/f; cat /m/f; touch /m/x"],"HostConfig":{{"UsernsMode":"private","Mounts":{mounts}}}}}"#
    );
    assert_eq!(host.ask("POST /containers/create?name=box", &body).unwrap().status, 201);
    host.sh("docker start -a box").exits_with(1).prints("0\nupper").complains("Read-only file system");
}

#[test]
fn clients_before_it_was_there() {
    let host = with_data();
    let body = r#"{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"image","Source":"data:1","Target":"/m"}]}}"#;
    let refused = host.ask("POST /v1.47/containers/create", body).unwrap();
    assert_eq!((refused.status, refused.text().contains("needs API v1.48 or newer")), (400, true));
    assert_eq!(host.ask("POST /v1.48/containers/create", body).unwrap().status, 201);
}

#[test]
fn as_inspection_shows_it() {
    let host = with_data();
    host.sh("$STRATUS create --name box --mount type=image,src=data:1,dst=/m,image-subpath=srv busybox").ok();
    let id = host.sh("docker inspect -f '{{.Id}}' data:1").text().to_owned();
    host.sh("docker inspect -f '{{with index .Mounts 0}}{{.Type}} {{.Name}} {{.Source}} {{.Destination}} {{.RW}} {{.Propagation}}{{end}}' box")
        .says(&format!("image data:1 {id} /m false rprivate"));
    host.sh("docker inspect -f '{{json .HostConfig.Mounts}}' box")
        .says(r#"[{"Type":"image","Source":"data:1","Target":"/m","ImageOptions":{"Subpath":"srv"}}]"#);
    host.sh("docker cp box:/m/f - | tar -xO").says("upper");
    host.sh("docker cp box:/m/sub/h - | tar -xO").says("deep");
    host.sh("docker run --rm --volumes-from box busybox cat /m/f").says("upper");
    host.sh("echo x > f && docker cp f box:/m/f").fails_with("read-only");
    // No volume is meant by a name that an image has, too.
    host.sh("docker volume create data:1").fails_with("includes invalid characters");
    host.sh("docker tag data:1 data && docker volume create data && $STRATUS run --rm --mount type=image,src=data,dst=/m busybox true && docker volume rm data")
        .ok();
}

#[test]
fn stays_for_as_long_as_a_container_has_it() {
    let mut host = with_data();
    let mount = "--mount type=image,src=data:1,dst=/m";
    host.sh(&format!("$STRATUS run -d --name box {mount} busybox sleep 1000")).ok();
    host.sh("docker rmi data:1").fails_with("must force) - container");
    host.sh("docker rmi -f $(docker images -q data:1)")
        .fails_with("(cannot be forced) - image is being used by running container");
    host.sh("docker image prune -af").omits("data:1");

    host.kill9();
    host.restart();
    host.sh("docker exec box cat /m/srv/f").says("upper");
    host.sh("docker rmi data:1").fails_with("must force) - container");
    host.sh("docker restart -t 0 box && docker exec box cat /m/srv/f").says("box\nupper");

    // Without a name and without a record, its files are there until the last container goes.
    host.sh("docker stop -t 0 box && docker rmi -f data:1").mentions("Deleted");
    host.sh("docker images -q data").says("");
    host.sh("docker start box && docker exec box cat /m/srv/f").says("box\nupper");
    let layers = format!("ls {}/images/layers | wc -l", host.data().display());
    let before = host.sh(&layers).number();
    host.sh("docker rm -f box && docker rmi $(docker images -q busybox)").ok();
    e2e::eventually("its layers to go", || host.sh(&layers).number() < before);
}
