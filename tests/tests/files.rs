//! Files in and out of containers: `cp`, `diff`, `commit`, `export`.

use e2e::Daemon;

#[test]
fn copied_out() {
    let host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'mkdir -p /d/sub; echo one > /d/one; echo two > /d/sub/two; chmod 640 /d/one; ln -s one /d/link'")
        .ok();
    host.sh("docker cp box:/d/one got && cat got && stat -c %a got").says("one\n640");
    host.sh("docker cp box:/d copied && find copied | sort | tr '\\n' ' '")
        .says("copied copied/link copied/one copied/sub copied/sub/two");
    host.sh("mkdir there && docker cp box:/d there && cat there/d/sub/two").says("two");
    host.sh("docker cp box:/d/. there && cat there/one").says("one");
    host.sh("docker cp box:/d/link linked && readlink linked").says("one");
    host.sh("docker cp -L box:/d/link followed && cat followed").says("one");
    host.sh("docker cp box:/d/sub - | tar -t").says("sub/\nsub/two");
    host.sh("docker cp box:/nothing .").fails_with("Could not find the file /nothing in container box");
    host.sh("docker cp nobody:/x .").fails_with("No such container: nobody");
}

#[test]
fn copied_in() {
    let host = Daemon::start();
    host.sh("docker run -d --name box -v /vol --tmpfs /mem busybox sleep 1000").ok();
    host.sh("echo hello > f && chmod 600 f && docker cp f box:/tmp/renamed").ok();
    host.sh("docker exec box sh -c 'cat /tmp/renamed; stat -c \"%a %u\" /tmp/renamed'").says("hello\n600 0");
    host.sh("docker cp f box:/tmp && docker exec box cat /tmp/f").says("hello");
    host.sh("docker cp f box:/vol/f && docker exec box cat /vol/f").says("hello");
    host.sh("docker cp f box:/no/such/dir/f").fails_with("Could not find the file /no/such/dir in container box");
    host.sh("mkdir -p tree/a && echo deep > tree/a/b && docker cp tree box:/new && docker exec box cat /new/a/b")
        .says("deep");
    host.sh("docker cp tree box:/tmp && docker exec box cat /tmp/tree/a/b").says("deep");
    host.sh("docker cp tree box:/tmp/f").fails_with("cannot copy directory");
    host.sh("tar -C tree -c a | docker cp - box:/var").fails_with("/var");
    host.sh("docker exec box mkdir /var && tar -C tree -c a | docker cp - box:/var && docker exec box cat /var/a/b")
        .says("deep");
    // Also into one that does not run.
    host.sh("docker stop -t 0 box && docker cp f box:/stopped && docker start box && docker exec box cat /stopped")
        .mentions("hello");
    host.sh("docker run -d --name locked --read-only busybox sleep 1000 && docker cp f locked:/f")
        .fails_with("marked read-only");
}

#[test]
fn hostile_links_lead_nowhere() {
    let host = Daemon::start();
    let secret = host.work().join("secret");
    std::fs::write(&secret, "the host's").unwrap();
    let (outside, secret) = (host.work().display().to_string(), secret.display().to_string());
    host.sh(&format!(
        "docker run -d --name box busybox sh -c 'ln -s {secret} /file; ln -s {outside} /dir; \
         ln -s ../../../../../../../..{outside} /up; ln -s loop /loop; sleep 1000'"
    ))
    .ok();
    e2e::eventually("the links", || host.sh("docker exec box test -L /loop").code() == 0);
    host.sh("docker cp -L box:/file got").fails_with("Could not find the file");
    host.sh("docker cp box:/dir/secret got").fails_with("Could not find the file");
    host.sh("docker cp box:/up/secret got").fails_with("Could not find the file");
    host.sh("docker cp box:/loop/x got").fails_with("");
    host.sh("test ! -e got").ok();
    host.sh(
        "echo evil > evil; docker cp evil box:/dir/evil2; docker cp evil box:/up/evil3; docker cp evil box:/file; true",
    )
    .ok();
    host.sh("ls evil2 evil3").fails_with("No such file");
    host.sh("cat secret").says("the host's");
    // An archive whose own links lead out.
    host.sh("mkdir t && ln -s / t/root && tar -C t -c root > bad.tar && mkdir -p u/root && echo evil > u/root/escaped && tar -C u -rf bad.tar root/escaped")
        .ok();
    host.sh("docker cp - box:/tmp < bad.tar; true").ok();
    host.sh("test ! -e /escaped").ok();
}

#[test]
fn what_changed() {
    let host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'echo new > /new; rm /etc/group; chmod 600 /etc/passwd; mkdir /d; echo x > /d/f'").ok();
    let diff = host.sh("docker diff box");
    for change in ["A /new", "D /etc/group", "C /etc/passwd", "C /etc", "A /d", "A /d/f"] {
        assert!(diff.lines().contains(&change), "{change}: {diff}");
    }
    assert_eq!(diff.lines().len(), 6, "{diff}");
    host.sh("docker create --name fresh busybox && docker diff fresh").omits("A ");
}

#[test]
fn committed() {
    let host = Daemon::start();
    host.sh("docker run --name box -e OLD=1 busybox sh -c 'echo kept > /kept; rm /etc/group'").ok();
    let id = host.sh("docker commit -a 'An Author <a@example.org>' -m 'A message' -c 'ENV NEW=2' -c 'WORKDIR /tmp' -c 'EXPOSE 80' box made:v1").text().to_owned();
    host.sh("docker inspect -f '{{.Id}} {{.Author}} {{.Comment}}' made:v1")
        .says(&format!("{id} An Author <a@example.org> A message"));
    host.sh("docker run --rm made:v1 sh -c 'cat /kept; test ! -e /etc/group && echo $OLD$NEW; pwd'")
        .says("kept\n12\n/tmp");
    host.sh("docker inspect -f '{{json .Config.ExposedPorts}}' made:v1").says("{\"80/tcp\":{}}");
    host.sh("docker history --format '{{.Comment}}' made:v1 | head -1").says("A message");
    host.sh("docker history -q made:v1 | wc -l").says("2");
    host.sh("docker commit box").mentions("sha256:");
    host.sh("docker images -f dangling=true -q | wc -l").says("1");
    host.sh("docker commit box 'NOT/Good'").fails_with("invalid reference format");
    host.sh("docker run -d --name live busybox sleep 1000 && docker commit live && docker exec live true").ok();
}

#[test]
fn exported_and_imported() {
    let host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'echo kept > /kept; mkdir -p /a/b; ln /kept /a/hard; chmod 4755 /bin/busybox'").ok();
    host.sh("docker export box | tar -t | grep -c kept").says("1");
    host.sh("docker export -o out.tar box && docker import -m imported -c 'CMD [\"cat\", \"/kept\"]' -c 'ENV PATH=/bin' out.tar flat:1").mentions("sha256:");
    host.sh("docker run --rm flat:1").says("kept");
    host.sh("docker run --rm flat:1 stat -c '%a %h' /bin/busybox /kept").says("4755 1\n644 2");
    host.sh("docker history --format '{{.Comment}}' flat:1").says("imported");
    host.sh("echo rubbish | docker import - x:1").fails_with("");
    // From a web server.
    let _server = host.session("busybox httpd -f -p 127.0.0.1:$PORT -h .");
    e2e::eventually("the server", || host.sh("curl -s -o /dev/null http://127.0.0.1:$PORT/").code() == 0);
    host.sh("docker import -c 'ENV PATH=/bin' http://127.0.0.1:$PORT/out.tar fetched:1")
        .mentions("Downloading from http");
    host.sh("docker run --rm fetched:1 cat /kept").says("kept");
    host.sh("$STRATUS image import http://127.0.0.1:$PORT/out.tar fetched:2 && docker image inspect fetched:2").ok();
    host.sh("docker import http://127.0.0.1:$PORT/nothing.tar fetched:3").fails_with("404 Not Found");
    host.sh("docker import http://127.0.0.1:1/out.tar fetched:3").fails_with("connection refused");
    host.sh("curl -s --unix-socket ${DOCKER_HOST#unix://} -X POST 'http://d/images/create?fromSrc=gopher://h/x'")
        .mentions("it is not http://HOST");
    host.sh("gzip -c out.tar | docker import - zipped:1 && docker run --rm zipped:1 /bin/cat /kept").mentions("kept");
}

/// A container that does not run is seen with its volumes, as it would see itself.
#[test]
fn volumes_of_what_does_not_run() {
    let host = Daemon::start();
    host.sh("docker run --name up -v data:/srv/data -v $PWD/dir:/bound -v data:/locked:ro busybox sh -c \
             'echo kept > /srv/data/f; echo root > /srv/beside; echo b > /bound/g; ln -s /srv/data /link; mkdir /srv/data/sub'")
        .ok();
    host.sh("docker cp up:/srv/data out && cat out/f").says("kept");
    host.sh("docker cp up:/srv/data/. flat && cat flat/f").says("kept");
    host.sh("docker cp up:/srv - | tar -t | sort | xargs").says("srv/ srv/beside srv/data/ srv/data/f srv/data/sub/");
    host.sh("docker cp up:/link/f - | tar -xO").says("kept");
    host.sh("docker cp up:/bound/g - | tar -xO").says("b");
    host.sh(
        "echo new > file && docker cp file up:/srv/data && docker cp file up:/link/linked && docker cp file up:/bound",
    )
    .ok();
    host.sh("docker cp file up:/locked").fails_with("marked read-only");
    host.sh("docker run --rm -v data:/d busybox sh -c 'cat /d/file /d/linked; ls /d | xargs'")
        .says("new\nnew\nf file linked sub");
    host.sh("cat dir/file").says("new");
    // Nothing of it went under the mounts, and looking changes nothing.
    host.sh("docker diff up | sort | xargs").says("A /bound A /link A /locked A /srv A /srv/beside A /srv/data");
    host.sh("docker export up | tar -t | grep -E '^(srv|bound)/' | sort | xargs")
        .says("bound/ srv/ srv/beside srv/data/");
    // One that was never started has no mount points yet.
    host.sh(
        "docker create --name fresh -v data:/not/there/yet busybox && docker cp fresh:/not/there/yet/f - | tar -xO",
    )
    .mentions("kept");
    host.sh("docker diff fresh").says("");
    host.sh("docker cp file fresh:/not/there/yet/late && docker run --rm -v data:/d busybox cat /d/late").says("new");
    host.sh("docker create --name ro --read-only -v data:/d busybox && docker cp file ro:/d/through && docker cp file ro:/tmp")
        .fails_with("container rootfs is marked read-only");
    host.sh("docker cp ro:/d/through - | tar -xO").says("new");
    host.sh("docker rm up fresh ro && docker volume rm data").ok();
}

/// A part of a volume is looked up in that volume: a link in it does not lead to the host's files.
#[test]
fn parts_of_volumes_stay_in_them() {
    let host = Daemon::start();
    let outside = host.work().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "the host's").unwrap();
    host.sh(&format!(
        "docker run --rm -v data:/d busybox sh -c 'ln -s {} /d/away; mkdir /d/part; echo in > /d/part/f'",
        outside.display()
    ))
    .ok();
    host.sh("docker create --name part --mount type=volume,src=data,dst=/v,volume-subpath=part busybox").ok();
    host.sh("docker cp part:/v/f - | tar -xO").says("in");
    host.sh("docker create --name away --mount type=volume,src=data,dst=/v,volume-subpath=away busybox").ok();
    host.sh("docker cp away:/v/secret got").fails_with("opening away to mount it: No such file or directory");
}

/// What is exported is the root file system, also of what runs: not what the kernel makes up, and no volumes.
#[test]
fn an_export_of_what_runs() {
    let host = Daemon::start();
    host.sh("docker run -d --name box -v data:/data busybox sh -c 'echo v > /data/f; echo r > /tmp/r; echo done; sleep 1000'").ok();
    e2e::eventually("its files", || host.sh("docker logs box").stdout() == "done\n");
    host.sh("docker export box > all.tar && tar -tf all.tar | grep -cE '^(proc|sys|data)/.'").prints("0");
    host.sh("tar -xOf all.tar tmp/r").says("r");
    // A copy of everything has the volumes, and what the kernel makes up only where one asks for it.
    host.sh("docker cp box:/ - > all.tar && tar -tf all.tar | grep -cE '^(proc|sys)/.'").prints("0");
    host.sh("tar -xOf all.tar data/f").says("v");
    host.sh("docker cp box:/proc/1/comm - | tar -t").says("comm");
}

/// Who sends files as slowly as he likes holds up nobody but himself: a removal ends it, a start says why it can't be.
#[test]
fn a_copy_that_stalls() {
    use std::io::{Read as _, Write as _};
    let host = Daemon::start();
    host.sh("docker create --name box busybox sleep 1000").ok();
    let stalled = |name: &str| {
        let mut stream = host.connect();
        let head = format!(
            "PUT /containers/{name}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10240\r\n\r\n"
        );
        let mut header = [0; 512];
        header[..5].copy_from_slice(b"begun");
        stream.write_all(head.as_bytes()).expect("send a request");
        stream.write_all(&header[..100]).expect("send a beginning");
        stream
    };
    let mut stream = stalled("box");
    let holds = || host.sh("docker start box").stderr().contains("files are being copied into");
    e2e::eventually("the copy to begin", || {
        let busy = holds();
        if !busy {
            host.sh("docker stop -t 0 box").ok();
            stream = stalled("box");
        }
        busy
    });
    host.sh("docker inspect -f '{{.State.Status}}' box && docker cp box:/bin/true - | tar -t").mentions("true");
    host.sh("docker rename box other && docker rm -f other").ok();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    // Who sends is told what happened, and not that the sending failed.
    assert!(!answer.starts_with("HTTP/1.1 200") && answer.contains("container box is removed"), "{answer}");
    host.sh("docker ps -aq").says("");
}

/// A container that is being committed can be stopped and removed meanwhile.
#[test]
fn a_commit_holds_up_nobody() {
    let host = Daemon::start();
    let big = "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null; echo ready; exec sleep 1000";
    host.sh(&format!("docker run -d --init --name box busybox sh -c '{big}'")).ok();
    e2e::eventually("something to commit", || host.sh("docker logs box").stdout() == "ready\n");
    let mut commit = host.session("docker commit box snapshot");
    // Whether it comes before, in the middle or after: it ends, and so does the commit.
    host.sh("docker stop -t 30 box").ok();
    host.sh("docker inspect -f '{{.State.ExitCode}}' box").says("143");
    host.sh("docker rm box").ok();
    assert_eq!(commit.exit_code(), 0, "the commit failed: {}", commit.output());
    host.sh("docker run --rm snapshot sh -c 'stat -c %s /big'").says("209715200");
}

#[test]
fn a_container_with_users_of_its_own_is_copied_into_and_out_of_while_it_runs() {
    let host = Daemon::start();
    host.sh("$STRATUS run -d --name own --userns private -v kept:/kept --tmpfs /memory -u 0 busybox sleep 1000").ok();
    host.sh("mkdir -p in/dir && echo one > in/one && echo two > in/dir/two && ln -s one in/link && chown -R 1000:1001 in/dir && mkfifo in/pipe")
        .ok();
    for place in ["/", "/kept/", "/memory/"] {
        host.sh(&format!("docker cp in own:{place} && docker exec own sh -c 'cd {place}in && cat one dir/two link && stat -c %u:%g one dir/two dir pipe link' | xargs"))
            .says("one two one 0:0 1000:1001 1000:1001 0:0 0:0");
        // What comes out is as the container sees it, and what goes in again takes the place of what was there.
        host.sh(&format!("docker cp -a own:{place}in - | tar -tv --numeric-owner | awk '/two$/ {{ print $2 }}'"))
            .says("1000/1001");
        host.sh(&format!("rm -rf out && docker cp own:{place}in out && docker cp out/. own:{place}in && rm -r out"))
            .ok();
        host.sh(&format!("docker exec own sh -c 'echo more >> {place}in/one && rm -r {place}in'")).ok();
    }
    host.sh("touch in/far && chown 70000 in/far && docker cp in/far own:/")
        .fails_with("Container ID 70000 cannot be mapped to a host ID");
    // Whose it is in the container, where the client asks for that.
    host.sh("docker cp -a in/dir own:/mine && docker exec own stat -c %u:%g /mine/two").says("0:0");
    host.sh("docker stop -t 0 own && docker cp in/one own:/later && docker start own && docker exec own stat -c %u /later | tail -n 1")
        .mentions("0");
}
