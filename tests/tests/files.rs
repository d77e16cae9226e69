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
