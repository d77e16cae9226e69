//! A project of several services, with Debian's docker-compose.

use e2e::{Daemon, eventually};

const PROJECT: &str = r#"
version: "2.4"
services:
  page:
    build:
      context: page
      args: { TITLE: first }
      labels: { tier: front }
    ports: ["127.0.0.1:${PORT}:80"]
    depends_on: [words]
  words:
    image: shop-words
    build: { context: ., dockerfile: words/words.Dockerfile, target: small }
"#;
const PAGE: &str = "\
FROM busybox
ARG TITLE
RUN mkdir /www && echo \"$TITLE page\" > /www/index.html
COPY body /www/body
CMD exec httpd -f -h /www -p 80
";
const WORDS: &str = "\
FROM busybox AS small
COPY words/list /list
CMD sleep 1000
FROM small
RUN false
";
/// As it is called by people: it builds by the docker command.
const DEFAULTS: &str = "env COMPOSE_PROJECT_NAME=shop docker-compose";
/// By the API itself, and by an older version of it, as dockerd since version 25 needs it.
const BY_THE_API: &str = "env COMPOSE_API_VERSION=1.44 COMPOSE_DOCKER_CLI_BUILD=0 DOCKER_BUILDKIT=0 COMPOSE_PROJECT_NAME=shop docker-compose";

#[test]
fn a_project_is_built_and_built_anew() {
    built_and_built_anew(DEFAULTS);
}

#[test]
fn a_project_is_built_and_built_anew_by_the_api() {
    built_and_built_anew(BY_THE_API);
}

fn built_and_built_anew(compose: &str) {
    let host = Daemon::start();
    let files = [
        ("docker-compose.yml", PROJECT),
        ("page/Dockerfile", PAGE),
        ("page/body", "one\n"),
        ("words/words.Dockerfile", WORDS),
        ("words/list", "a b c\n"),
    ];
    host.write(".", &files);
    host.sh(&format!("{compose} build"))
        .ok()
        .mentions("Successfully tagged shop-words:latest")
        .omits("Running in false");
    host.sh(&format!("{compose} up -d --no-color")).ok();
    let ask = |path: &str| host.sh(&format!("curl -s -m 5 http://127.0.0.1:$PORT/{path}")).stdout().to_owned();
    eventually("the page", || ask("index.html") == "first page\n");
    host.sh("docker exec $(docker ps -qf ancestor=shop-words) cat /list").says("a b c");
    host.sh("docker exec $(docker ps -qf label=tier=front) ping -c 1 -W 5 words").mentions("1 packets received");

    host.sh("echo two > page/body").ok();
    let again = host.sh(&format!("{compose} up -d --no-color --build"));
    again.ok().omits("Running in");
    assert_eq!(again.text().matches("Using cache").count(), 2, "{again}");
    eventually("the page of today", || ask("body") == "two\n");
    host.sh(&format!("{compose} build --no-cache --build-arg TITLE=second page && {compose} up -d --no-color")).ok();
    eventually("the second page", || ask("index.html") == "second page\n");
    host.sh(&format!("{compose} down --rmi all -t 0")).ok();
    host.sh("docker ps -aq; docker images -q shop-words; docker network ls -qf name=shop").says("");
}
