//! `stratus` itself, beside `docker`: what one of them did, the other one finds.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use e2e::{Daemon, Registry};

#[test]
fn changes_of_a_container_become_an_image() {
    let host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'echo new > /root/new; rm /etc/group; chmod 700 /tmp'").ok();
    host.sh("$STRATUS diff box").says("C /etc\nD /etc/group\nC /root\nA /root/new\nC /tmp");
    host.sh("$STRATUS diff --output json box | jq -c '[.[] | .Kind]'").says("[0,2,0,1,0]");
    host.sh("docker create --name same busybox >id && $STRATUS diff same").says("");
    host.sh("$STRATUS diff nobody").fails_with("No such container: nobody");
    let id = host
        .sh("$STRATUS commit -a 'Ada <ada@example.org>' -m 'a note' -c 'CMD [\"cat\", \"/root/new\"]' -c 'ENV A=b' box made:1")
        .text()
        .to_owned();
    host.sh("docker inspect -f '{{.Id}} {{.Author}} {{.Comment}} {{json .Config.Cmd}}' made:1")
        .says(&format!(r#"{id} Ada <ada@example.org> a note ["cat","/root/new"]"#));
    host.sh("docker run --rm made:1").says("new");
    host.sh("$STRATUS commit --pause=false --output json box | jq -r .Id").mentions("sha256:");
    host.sh("$STRATUS commit box Not/Good").fails_with("is no image's name");
    host.sh("$STRATUS export box -o box.tar && tar -xOf box.tar root/new").says("new");
    host.sh("$STRATUS export box | tar -t | grep -c '^etc/group$'").exits_with(1).prints("0");
    host.sh("$STRATUS export nobody").fails_with("No such container: nobody");
    host.sh("ls -A | grep partial").exits_with(1);
}

#[test]
fn the_commands_that_docker_has_at_the_top() {
    let host = Daemon::start();
    host.sh("$STRATUS tag busybox again:1 && $STRATUS history --no-trunc again:1 | tail -n +2 | wc -l").says("1");
    host.sh("$STRATUS save -o again.tar again:1 && $STRATUS rmi again:1 && $STRATUS load -qi again.tar && docker images -q again | wc -l")
        .mentions("Untagged: again:1");
    host.sh("docker images -q again | wc -l").says("1");
    host.sh("docker create --name box again:1 true && $STRATUS export box | $STRATUS import -c 'CMD [\"sh\"]' - imported && docker run --rm imported echo works")
        .mentions("works");
    host.sh("$STRATUS container create --name other busybox && $STRATUS container ls -aq --no-trunc | wc -l")
        .mentions("2");
    host.sh("$STRATUS container inspect other | jq -r '.[0].Name'").says("/other");
    host.sh("$STRATUS container inspect busybox").fails_with("No such container: busybox");
    host.sh("$STRATUS container run --rm busybox sh -c 'exit 7'").exits_with(7);
    host.sh("$STRATUS container prune").fails_with("give --force");
    host.sh("$STRATUS container prune -f | grep -c '^[0-9a-f]\\{64\\}$'").says("2");
    host.sh("docker run -d --name db busybox sleep 1000 && docker run -d --name web --link db:data busybox sleep 1000")
        .ok();
    host.sh("$STRATUS rm --link web/data && docker inspect -f '{{json .HostConfig.Links}}' web").mentions("null");
    host.sh("$STRATUS rm -f web db").says("web\ndb");
}

#[test]
fn a_registry_that_wants_to_know_who_comes() {
    let host = Daemon::start();
    let registry = Registry::start_for(&host, "ada");
    let name = registry.name();
    let image = format!("{name}/box");
    host.sh(&format!("docker tag busybox {image} && $STRATUS push {image}")).fails_with("no basic auth credentials");
    host.sh(&format!("printf wrong | $STRATUS login -u ada --password-stdin {name}"))
        .fails_with("failed with status: 401 Unauthorized");
    host.sh(&format!("$STRATUS login {name} < /dev/null")).fails_with("give --username and --password-stdin");
    let config = host.work().with_file_name("client").join("config.json");
    assert!(!config.exists(), "nothing is known yet");

    fs::write(&config, "{\n\t\"psFormat\": \"kept\"\n}").expect("write a configuration");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("set a mode");
    host.sh(&format!("echo 'open sesame' | $STRATUS login -u ada --password-stdin http://{name}/v2/"))
        .says("Login Succeeded")
        .complains("config.json");
    host.sh(&format!("jq -r '.psFormat, (.auths[\"{name}\"].auth | @base64d)' {}", config.display()))
        .says("kept\nada:open sesame");
    host.sh(&format!("stat -c %a {}", config.display())).says("600");
    // What was kept is good for both.
    host.sh(&format!(
        "$STRATUS push {image} && docker rmi {image} && docker pull -q {image} && $STRATUS pull -q {image}"
    ))
    .ok();
    host.sh(&format!("$STRATUS login {name} < /dev/null")).says("Login Succeeded");
    host.sh(&format!("docker login {name} < /dev/null")).mentions("Login Succeeded");
    host.sh(&format!("$STRATUS logout {name} && docker rmi {image} && $STRATUS pull {image}"))
        .fails_with("no basic auth credentials")
        .complains(&format!("stratus login {name}"));
    // An older client asks for a name and a password where it is told 401, and scripts have nobody to answer.
    host.sh(&format!("timeout 20 docker pull {image} < /dev/null"))
        .exits_with(1)
        .complains("no basic auth credentials");
    host.sh(&format!("$STRATUS logout {name}")).says(&format!("Nothing was known of {name}"));
    host.sh(&format!("jq -c . {}", config.display())).says(r#"{"auths":{},"psFormat":"kept"}"#);

    // At a terminal, which does not show the password.
    let mut login = host.terminal(&format!("$STRATUS login {name}"));
    login.waits_for("User's name at ");
    login.types("ada\n").waits_for("Password: ");
    login.types("open sesame\n").waits_for("Login Succeeded");
    assert_eq!(login.exit_code(), 0);
    assert!(!login.output().contains("sesame"), "{}", login.output());
    host.sh(&format!("docker pull -q {image}")).ok();
}

#[test]
fn a_program_that_keeps_secrets() {
    let host = Daemon::start();
    let registry = Registry::start_for(&host, "ada");
    let name = registry.name();
    let client = host.work().with_file_name("client");
    fs::write(client.join("config.json"), r#"{"credsStore":"drawer"}"#).expect("write a configuration");
    // One file for each server, in the working directory.
    let helper = r#"#!/bin/sh
case $1 in
store) read -r entry; echo "$entry" > "drawer-$(echo "$entry" | jq -r .ServerURL)";;
get) read -r server; cat "drawer-$server" 2>/dev/null || { echo 'credentials not found in native keychain'; exit 1; };;
erase) read -r server; rm "drawer-$server";;
esac
"#;
    let program = host.work().join("docker-credential-drawer");
    fs::write(&program, helper).expect("write a program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it one");
    let with = |line: &str| host.sh(&format!("export PATH=$PWD:$PATH; {line}"));
    with(&format!("echo 'open sesame' | $STRATUS login -u ada --password-stdin {name}")).says("Login Succeeded");
    with(&format!("jq -c '[.Username, .Secret]' drawer-{name}")).says(r#"["ada","open sesame"]"#);
    with(&format!("jq -c .auths {}", client.join("config.json").display())).says(&format!(r#"{{"{name}":{{}}}}"#));
    with(&format!("docker tag busybox {name}/box && $STRATUS push {name}/box && docker push -q {name}/box")).ok();
    with(&format!("docker login {name} < /dev/null")).mentions("Login Succeeded");
    with(&format!("$STRATUS logout {name} && ls drawer-{name}")).fails_with("No such file");
    with(&format!("$STRATUS push {name}/box")).fails_with("no basic auth credentials");
    host.sh(&format!("echo x | $STRATUS login -u ada --password-stdin {name}"))
        .fails_with("failed with status: 401 Unauthorized");
}

/// Answers as a registry with the search of old: every connection one request.
fn searched(listener: TcpListener) {
    for stream in listener.incoming().map_while(Result::ok) {
        let mut asked = String::new();
        let mut reader = BufReader::new(&stream);
        while reader.read_line(&mut asked).is_ok_and(|count| count > 2) {}
        let body = match asked.split(' ').nth(1) {
            Some(path) if path.starts_with("/v1/search?") && path.contains("q=box") => concat!(
                r#"{"num_results":2,"results":[{"name":"team/box","description":"A box\nof things, and more of them than a line has room for","#,
                r#""star_count":7,"is_official":true},{"name":"other/box","description":"","star_count":1,"is_official":false}]}"#
            ),
            Some("/end") => return,
            _ => "{}",
        };
        let _ = write!(&stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}

#[test]
fn searching() {
    let host = Daemon::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || searched(listener));
    host.sh(&format!("$STRATUS search {address}/box | tail -n +2 | tr -s ' '"))
        .says("team/box A box of things, and more of them than a lin… 7 yes\nother/box 1");
    host.sh(&format!("$STRATUS search --filter stars=3 --output json {address}/box | jq -r '.[].name'"))
        .says("team/box");
    host.sh(&format!("docker search --format '{{{{.Name}}}}' {address}/box")).says("team/box\nother/box");
    host.sh(&format!("$STRATUS search --filter nonsense=3 {address}/box")).fails_with("invalid filter 'nonsense'");
    let mut end = TcpStream::connect(address).expect("connect");
    end.write_all(b"GET /end HTTP/1.1\r\n\r\n").expect("a request");
    server.join().expect("the registry ends");
    let registry = Registry::start(&host);
    host.sh(&format!("$STRATUS search {}/box", registry.name())).fails_with("it answers no search requests");
}
