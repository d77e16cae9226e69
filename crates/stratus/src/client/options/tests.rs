use clap::Parser;

use super::*;

#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Command {
    #[command(flatten)]
    container: ContainerArgs,
}

const ATTACHED: Attached = Attached::OUTPUT;

fn body(arguments: &str) -> Value {
    let words = std::iter::once("run").chain(arguments.split(' '));
    Command::try_parse_from(words).expect(arguments).container.body(ATTACHED).expect(arguments)
}

#[test]
fn what_follows_the_image_is_the_containers() {
    let body = body("-it --rm busybox sh -c id --rm -h");
    assert_eq!(body["Image"], "busybox");
    assert_eq!(body["Cmd"], json!(["sh", "-c", "id", "--rm", "-h"]));
    assert_eq!(
        (&body["Tty"], &body["OpenStdin"], &body["HostConfig"]["AutoRemove"]),
        (&json!(true), &json!(true), &json!(true))
    );
}

#[test]
fn without_a_command_it_is_the_images() {
    let body = body("busybox");
    assert!(body["Cmd"].is_null() && body["Entrypoint"].is_null() && body["Healthcheck"].is_null());
    assert_eq!(body["HostConfig"]["NetworkMode"], "default");
}

#[test]
fn dockers_usual_flags() {
    let body = body(
        "--name web -e A=1 -v data:/data -p 8080:80 -P -w /srv -u 7:8 --entrypoint /bin/x --network net --ip 10.1.2.3 \
         --hostname web --restart on-failure:3 --memory 64m --cpus 1.5 --pids-limit 100 --cap-add NET_ADMIN --cap-drop ALL \
         --privileged --read-only --tmpfs /tmp:size=1m --ulimit nofile=10:20 --label a=b --log-driver local --log-opt max-size=1m \
         --init --health-cmd true --health-interval 5s --add-host h:10.0.0.1 --dns 10.0.0.2 --userns host --isolation container \
         --mount type=tmpfs,dst=/m img",
    );
    let host = &body["HostConfig"];
    assert_eq!(body["Env"], json!(["A=1"]));
    assert_eq!(body["ExposedPorts"], json!({ "80/tcp": {} }));
    assert_eq!(body["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    assert_eq!(body["Healthcheck"]["Interval"], 5_000_000_000_i64);
    assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["net"]["IPAMConfig"]["IPv4Address"], "10.1.2.3");
    assert_eq!(host["PortBindings"]["80/tcp"], json!([{ "HostIp": "", "HostPort": "8080" }]));
    assert_eq!(host["RestartPolicy"], json!({ "Name": "on-failure", "MaximumRetryCount": 3 }));
    assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(64 << 20), &json!(1_500_000_000)));
    assert_eq!(host["Ulimits"], json!([{ "Name": "nofile", "Soft": 10, "Hard": 20 }]));
    assert_eq!(
        (&host["Binds"], &host["Isolation"], &host["Init"]),
        (&json!(["data:/data"]), &json!("container"), &json!(true))
    );
}

#[test]
fn variables_come_from_here_and_from_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("env");
    std::fs::write(&file, "# comment\n\nA=from file\nNOWHERE_TO_BE_FOUND\n").expect("a file");
    let body = body(&format!("--env-file {} -e PATH -e A=2 img", file.display()));
    let path = std::env::var("PATH").expect("a path");
    assert_eq!(body["Env"], json!(["A=from file", format!("PATH={path}"), "A=2"]));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for bad in [
        "--restart sometimes i",
        "--memory x i",
        "--cpus -1 i",
        "--ulimit nofile i",
        "-p a i",
        "--health-interval 5 i",
        "",
    ] {
        let words = std::iter::once("run").chain(bad.split(' ').filter(|word| !word.is_empty()));
        assert!(Command::try_parse_from(words).is_err(), "{bad}");
    }
}
