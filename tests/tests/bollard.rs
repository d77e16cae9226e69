//! bollard, the client that Rust programs use, does what its users do.

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::{ContainerCreateBody, ExecConfig, HostConfig, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters as ask;
use bollard::{API_DEFAULT_VERSION, Docker};
use e2e::Daemon;
use futures_util::{Stream, StreamExt, TryStreamExt};

async fn connect(host: &Daemon) -> Docker {
    let socket = host.run_dir().join("docker.sock");
    let socket = socket.to_str().expect("a path in UTF-8");
    let docker = Docker::connect_with_socket(socket, 60, API_DEFAULT_VERSION).expect("a socket");
    docker.negotiate_version().await.expect("a version that both speak")
}

async fn text(output: impl Stream<Item = Result<LogOutput, Error>>) -> String {
    output.map_ok(|piece| piece.to_string()).try_collect().await.expect("output")
}

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

async fn create(docker: &Docker, name: &str, command: &[&str]) -> String {
    let body = ContainerCreateBody {
        image: Some("busybox".to_owned()),
        cmd: words(command),
        host_config: Some(HostConfig {
            binds: words(&["data:/data"]),
            memory: Some(64 << 20),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = ask::CreateContainerOptionsBuilder::default().name(name).build();
    docker.create_container(Some(options), body).await.expect("a container").id
}

#[tokio::test]
async fn a_containers_life() {
    let host = Daemon::start();
    let docker = connect(&host).await;
    assert_eq!(docker.version().await.expect("a version").api_version.as_deref(), Some("1.50"));
    let id = create(&docker, "box", &["sh", "-c", "echo begun; read x; exit 3"]).await;
    docker.start_container("box", None::<ask::StartContainerOptions>).await.expect("a start");
    let inspected = docker.inspect_container("box", None::<ask::InspectContainerOptions>).await.expect("a container");
    assert_eq!(inspected.id.as_ref(), Some(&id));
    assert_eq!(inspected.host_config.expect("its configuration").memory, Some(64 << 20));
    let options = ask::WaitContainerOptionsBuilder::default().condition("not-running").build();
    let waited = docker.wait_container("box", Some(options)).next().await.expect("an end");
    assert!(matches!(waited, Err(Error::DockerContainerWaitError { code: 3, .. })), "{waited:?}");
    let options = ask::LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    assert_eq!(text(docker.logs("box", Some(options))).await, "begun\n");
    docker.remove_container("box", None::<ask::RemoveContainerOptions>).await.expect("to remove it");
    let gone = docker.inspect_container("box", None::<ask::InspectContainerOptions>).await.unwrap_err();
    let Error::DockerResponseServerError { status_code, message } = gone else { panic!("{gone}") };
    assert_eq!((status_code, message.as_str()), (404, "No such container: box"));
}

#[tokio::test]
async fn further_processes() {
    let host = Daemon::start();
    let docker = connect(&host).await;
    create(&docker, "box", &["sleep", "1000"]).await;
    docker.start_container("box", None::<ask::StartContainerOptions>).await.expect("a start");
    let config = ExecConfig {
        cmd: words(&["sh", "-c", "echo out; echo err >&2; exit 4"]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec("box", config).await.expect("an exec").id;
    let started = docker.start_exec(&exec, None).await.expect("to start it");
    let StartExecResults::Attached { output, .. } = started else { panic!("it is not attached") };
    assert_eq!(text(output).await, "out\nerr\n");
    assert_eq!(docker.inspect_exec(&exec).await.expect("an exec").exit_code, Some(4));
    let options = ask::StatsOptionsBuilder::default().stream(false).build();
    let stats = docker.stats("box", Some(options)).next().await.expect("statistics").expect("statistics");
    assert_eq!(stats.name.as_deref(), Some("/box"));
    let options = ask::KillContainerOptionsBuilder::default().signal("KILL").build();
    docker.kill_container("box", Some(options)).await.expect("to kill it");
}

#[tokio::test]
async fn everything_around_them() {
    let host = Daemon::start();
    let docker = connect(&host).await;
    let images = docker.list_images(None::<ask::ListImagesOptions>).await.expect("images");
    assert_eq!(images[0].repo_tags, ["busybox:latest"]);
    let request = NetworkCreateRequest { name: "shop".to_owned(), ..NetworkCreateRequest::default() };
    docker.create_network(request).await.expect("a network");
    let network = docker.inspect_network("shop", None::<ask::InspectNetworkOptions>).await.expect("the network");
    assert_eq!(network.driver.as_deref(), Some("bridge"));
    docker.remove_network("shop").await.expect("to remove it");
    let request = VolumeCreateRequest { name: Some("data".to_owned()), ..VolumeCreateRequest::default() };
    assert_eq!(docker.create_volume(request).await.expect("a volume").name, "data");
    docker.remove_volume("data", None::<ask::RemoveVolumeOptions>).await.expect("to remove it");
    let options = ask::EventsOptionsBuilder::default().since("0").until("1").build();
    assert!(docker.events(Some(options)).next().await.is_none());
    docker.df(None::<ask::DataUsageOptions>).await.expect("what is used");
    docker.info().await.expect("information");
}
