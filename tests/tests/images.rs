//! Images: tags, lists, archives, registries, and their removal.

use e2e::{Daemon, Registry};

#[test]
fn tagged_listed_and_removed() {
    let host = Daemon::start();
    host.sh("docker tag busybox box:v1 && docker tag box:v1 registry.example.org:5000/team/box").ok();
    host.sh("docker images --format '{{.Repository}}:{{.Tag}}' | sort")
        .says("box:v1\nbusybox:latest\nregistry.example.org:5000/team/box:latest");
    host.sh("docker images -q | sort -u | wc -l").says("1");
    host.sh("docker images box").mentions("v1").omits("busybox");
    host.sh("docker images --filter reference='*/team/*' --format '{{.Tag}}'").mentions("");
    host.sh("docker images --no-trunc -q box").mentions("sha256:");
    host.sh("docker image inspect busybox -f '{{.Os}} {{.RootFS.Type}} {{len .RootFS.Layers}} {{len .RepoTags}}'")
        .says("linux layers 1 3");
    host.sh("docker tag nothing x").fails_with("No such image: nothing");
    host.sh("docker tag busybox UPPER").fails_with("invalid reference format");
    host.sh("docker rmi box:v1").says("Untagged: box:v1");
    host.sh("docker rmi box:v1").fails_with("No such image: box:v1");
    host.sh("docker create --name user busybox").ok();
    host.sh("docker rmi registry.example.org:5000/team/box").ok();
    host.sh("docker rmi busybox")
        .fails_with("unable to remove repository reference \"busybox\" (must force)")
        .complains("is using its referenced image");
    host.sh("docker rm user && docker rmi busybox").mentions("Deleted: sha256:");
    host.sh("docker images -q").says("");
    host.sh("docker image inspect busybox").fails_with("No such image: busybox");
}

#[test]
fn one_that_runs_stays() {
    let host = Daemon::start();
    host.sh("docker run -d --name box busybox sleep 1000").ok();
    let id = host.sh("docker images -q busybox").text().to_owned();
    host.sh(&format!("docker rmi {id}")).fails_with("image is being used by running container");
    host.sh("docker rmi -f busybox").says("Untagged: busybox:latest");
    host.sh("docker exec box true").ok();
    host.sh("docker ps --format '{{.Image}}'").says(&id);
    host.sh("docker rm -f box && docker image prune -f").mentions("Total reclaimed space: ");
    host.sh("docker images -aq").says("");
}

#[test]
fn saved_and_loaded() {
    let host = Daemon::start();
    host.sh("docker run --name box busybox sh -c 'echo kept > /kept' && docker commit box second:v2").ok();
    let id = host.sh("docker images -q --no-trunc second").text().to_owned();
    host.sh("docker save -o both.tar busybox second:v2 && docker save second:v2 > one.tar").ok();
    host.sh("tar -xOf both.tar manifest.json | jq -r '.[].RepoTags[]' | sort").says("busybox:latest\nsecond:v2");
    host.sh("tar -tf one.tar | grep -c '^oci-layout$'").says("1");
    host.sh("docker rm box && docker rmi busybox second:v2 && docker images -q").ok();
    host.sh("docker images -q").says("");
    host.sh("docker load -i both.tar | sort").says("Loaded image: busybox:latest\nLoaded image: second:v2");
    host.sh("docker images -q --no-trunc second").says(&id);
    host.sh("docker run --rm second:v2 cat /kept").says("kept");
    host.sh("docker rmi second:v2 && docker load < one.tar").mentions("Loaded image: second:v2");
    host.sh("echo rubbish | docker load").fails_with("");
    host.sh("docker save nothing").fails_with("No such image: nothing");
    // What others read.
    host.sh("skopeo copy -q docker-archive:both.tar:second:v2 oci:layout:v2 && ls layout/index.json")
        .says("layout/index.json");
    host.sh("skopeo copy -q oci:layout:v2 docker-archive:theirs.tar:theirs:v1 && docker load -q -i theirs.tar && docker run --rm theirs:v1 cat /kept")
        .mentions("kept");
}

#[test]
fn filtered_and_pruned() {
    let host = Daemon::start();
    host.sh(
        "docker create --name box busybox && docker commit -c 'LABEL tier=front' box labelled && docker commit box",
    )
    .ok();
    host.sh("docker images -f label=tier=front --format '{{.Repository}}'").says("labelled");
    host.sh("docker images -f dangling=true --format '{{.Repository}}'").says("<none>");
    host.sh("docker images -f since=busybox -q | wc -l").says("2");
    host.sh("docker images -f before=labelled --format '{{.Repository}}'").says("busybox");
    host.sh("docker images -f reference='lab*' --format '{{.Repository}}'").says("labelled");
    host.sh("docker images -f fluff=1").fails_with("invalid filter 'fluff'");
    host.sh("docker image prune -f").mentions("deleted: sha256:");
    host.sh("docker images -f dangling=true -q").says("");
    host.sh("docker image prune -af").mentions("untagged: labelled:latest");
    host.sh("docker images --format '{{.Repository}}'").says("busybox");
}

#[test]
fn pushed_and_pulled() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    let name = registry.name();
    host.sh("docker run --name box busybox sh -c 'echo kept > /kept' && docker commit box second").ok();
    let push = host.sh(&format!("docker tag second {name}/team/box:v1 && docker push {name}/team/box:v1"));
    push.mentions(&format!("The push refers to repository [{name}/team/box]"))
        .mentions("Pushed")
        .mentions("v1: digest: sha256:");
    host.sh(&format!("docker push -q {name}/team/box:v1")).says(&format!("{name}/team/box:v1"));
    host.sh(&format!("docker push {name}/team/box:v1")).mentions("Layer already exists");
    let digest =
        host.sh(&format!("docker inspect -f '{{{{index .RepoDigests 0}}}}' {name}/team/box:v1")).text().to_owned();
    assert!(digest.starts_with(&format!("{name}/team/box@sha256:")), "{digest}");
    host.sh(&format!("docker rm box && docker rmi second busybox {name}/team/box:v1")).ok();
    host.sh(&format!("docker pull {name}/team/box:v1"))
        .mentions("v1: Pulling from team/box")
        .mentions("Pull complete")
        .mentions("Status: Downloaded newer image for ");
    host.sh(&format!("docker pull {name}/team/box:v1")).mentions("Status: Image is up to date for ");
    host.sh(&format!("docker run --rm {name}/team/box:v1 cat /kept")).says("kept");
    host.sh(&format!("docker rmi {name}/team/box:v1 && docker run --rm {digest} cat /kept")).mentions("kept");
    host.sh(&format!("docker rmi $(docker images -aq) && docker run --rm {name}/team/box:v1 cat /kept"))
        .mentions("kept")
        .complains("Unable to find image");
    host.sh(&format!("docker pull {name}/team/box:v9"))
        .fails_with("manifest for")
        .complains("not found: manifest unknown");
    host.sh(&format!("docker pull {name}/nobody/here")).fails_with("");
    host.sh(&format!("docker tag {name}/team/box:v1 {name}/team/box:v2 && docker push -a -q {name}/team/box")).ok();
    host.sh(&format!("docker rmi {name}/team/box:v1 {name}/team/box:v2 && docker pull -a -q {name}/team/box")).ok();
    host.sh(&format!("docker images {name}/team/box --format '{{{{.Tag}}}}' | sort")).says("v1\nv2");
    host.sh(&format!("skopeo inspect --tls-verify=false docker://{name}/team/box:v1 --format '{{{{.Architecture}}}} {{{{len .Layers}}}}'")).mentions(" 2");
    host.sh("docker pull localhost:1/x").fails_with("connection refused");
    host.sh("docker push busybox").fails_with("An image does not exist locally with the tag: busybox");
}

#[test]
fn manifests_of_what_was_pulled() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    let name = format!("{}/box", registry.name());
    host.sh(&format!(
        "docker tag busybox {name} && docker push -q {name} && docker rmi busybox {name} && docker pull -q {name}"
    ))
    .ok();
    let user = host.sh(&format!("docker create {name}")).text().to_owned();
    let of = |path: &str| host.ask(&format!("GET {path}"), "").expect("an answer");
    let listed = of("/v1.47/images/json?manifests=1").json();
    let manifest = &listed[0]["Manifests"][0];
    assert_eq!((manifest["Kind"].as_str(), manifest["Available"].as_bool()), (Some("image"), Some(true)), "{listed}");
    assert_eq!(
        (&manifest["ID"], &manifest["ImageData"]["Containers"][0]),
        (&manifest["Descriptor"]["digest"], &user.into())
    );
    let digest = manifest["ID"].as_str().expect("a digest").to_owned();
    host.sh(&format!("docker inspect -f '{{{{index .RepoDigests 0}}}}' {name}")).says(&format!("{name}@{digest}"));
    let bytes = |number: &serde_json::Value| number.as_u64().expect("a number");
    let (content, unpacked) = (bytes(&manifest["Size"]["Content"]), bytes(&manifest["ImageData"]["Size"]["Unpacked"]));
    assert_eq!((bytes(&manifest["Size"]["Total"]), unpacked), (content + unpacked, bytes(&listed[0]["Size"])));
    assert!(content > bytes(&manifest["Descriptor"]["size"]), "{listed}");
    let id = listed[0]["Id"].as_str().expect("an identifier");
    assert_eq!(&of(&format!("/v1.48/images/{id}/json?manifests=1")).json()["Manifests"][0], manifest);
    // Who does not ask, or speaks a version without them, gets none; what was made here has none.
    for path in ["/v1.47/images/json", "/v1.46/images/json?manifests=1"] {
        assert!(of(path).json()[0].get("Manifests").is_none(), "{path}");
    }
    assert!(of(&format!("/v1.47/images/{id}/json?manifests=1")).json().get("Manifests").is_none());
    assert_eq!(of(&format!("/images/{id}/json?manifests=1&platform=x")).status, 400);
    host.sh("docker images --tree").mentions(&digest["sha256:".len()..][..12]);
    host.sh(&format!("docker commit {} made", listed[0]["Manifests"][0]["ImageData"]["Containers"][0])).ok();
    assert!(of("/images/made/json?manifests=1").json().get("Manifests").is_none());
    // An image has one platform: with it goes all of it, and another is none of its.
    let remove = |platforms: &str| {
        host.sh(&format!(
            "curl -s -w ' %{{http_code}}' -X DELETE --unix-socket ${{DOCKER_HOST#unix://}} 'http://d/images/once?{platforms}'"
        ))
    };
    let document =
        |architecture: &str| format!("platforms=%7B%22os%22:%22linux%22,%22architecture%22:%22{architecture}%22%7D");
    let own = host.sh("docker version -f '{{.Server.Arch}}'").text().to_owned();
    host.sh(&format!("docker tag {name} once")).ok();
    remove("platforms=linux/amd64").mentions("failed to parse platform: ").mentions(" 400");
    remove(&format!("{}&{}", document(&own), document("riscv64")))
        .mentions("multiple platforms are not supported")
        .mentions(" 400");
    remove(&document("riscv64")).mentions("does not match the specified platform (linux/riscv64)").mentions(" 404");
    for command in ["docker", "$STRATUS"] {
        host.sh(&format!("docker tag {name} once && {command} rmi --platform linux/riscv64 once"))
            .fails_with("does not match the specified platform");
        host.sh(&format!("{command} rmi --platform linux/{own} once")).mentions("once:latest");
    }
}

#[test]
fn history_and_inspection() {
    let host = Daemon::start();
    host.sh("docker history --no-trunc --format '{{.ID}} {{.Size}} {{.Comment}}' busybox").mentions("sha256:");
    let image = host.sh("docker inspect busybox").json();
    let image = &image[0];
    assert_eq!(image["RepoTags"][0], "busybox:latest");
    assert_eq!(image["Config"]["Cmd"][0], "sh");
    assert_eq!(image["Config"]["Env"][0], "PATH=/bin");
    assert_eq!(image["Os"], "linux");
    assert_eq!(image["Architecture"], host.sh("docker version -f '{{.Server.Arch}}'").text());
    assert!(image["Size"].as_u64().unwrap() > 1_000_000);
    host.sh("docker inspect --type container busybox").fails_with("No such container: busybox");
    host.sh("docker images --digests --format '{{.Digest}}' busybox").mentions("");
    host.sh("docker images --tree").mentions("busybox:latest");
}
