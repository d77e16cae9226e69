//! Containers in which the commands of builds ran: which of them stay, and what they are then.

use e2e::Daemon;

/// What builds with the classic builder's endpoint, which is all that this client has.
const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";

/// How each container is, and what its build had mounted in it, the last one first.
const SHOWN: &str = "docker ps -aq --no-trunc | xargs -r docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{len .Mounts}} {{len .HostConfig.Mounts}}'";

const FAILS: &str = "\
FROM busybox AS tools
RUN echo tool > /tool
FROM busybox
RUN echo whole > /whole
RUN --mount=type=cache,target=/cache --mount=from=tools,target=/tools echo half > /half; cat /tools/tool; exit 7
";

#[test]
fn the_container_of_a_command_that_failed_is_there_to_be_looked_at() {
    let mut host = Daemon::start();
    host.project(FAILS, &[]);
    host.sh(&format!("{BUILD} app")).fails_with("returned a non-zero code: 7").prints("\ntool\n");
    host.sh(SHOWN).says("exited 7 0 0");
    let container = host.sh("docker ps -aq").text().to_owned();
    host.sh(&format!("docker diff {container}")).mentions("A /half");
    host.sh(&format!("docker cp {container}:/half - | tar -xO")).says("half");
    host.sh(&format!("docker commit {container} half && docker run --rm half cat /whole /half"))
        .mentions("whole\nhalf");
    // It is a container like any other: what goes on with builds and the daemon is nothing to it.
    host.restart();
    host.sh("docker builder prune -af").ok();
    host.sh(&format!("docker start -a {container}")).exits_with(7).complains("can't open '/tools/tool'");
    host.sh("docker container prune -f").mentions(&container);
    host.sh(SHOWN).says("");
    // One that could not be started, too.
    host.project("FROM busybox\nRUN [\"nothing-of-the-kind\"]\n", &[]);
    host.sh(&format!("{BUILD} app")).fails_with("nothing-of-the-kind");
    host.sh("docker ps -a --format '{{.State}}'").says("created");
    host.sh("docker container prune -f && docker ps -aq").omits("created");
}

#[test]
fn who_wants_none_of_them_leaves_none() {
    let host = Daemon::start();
    host.project(FAILS, &[]);
    for build in
        [&format!("{BUILD} --force-rm"), &format!("{BUILD} --rm=false --force-rm"), "$STRATUS build --no-cache"]
    {
        host.sh(&format!("{build} app")).exits_with(if build.contains("STRATUS") { 1 } else { 7 });
        host.sh("docker ps -aq").says("");
    }
    host.sh("docker ps -aq").says("");
}

#[test]
fn containers_of_commands_that_ended_well_stay_on_wish() {
    let host = Daemon::start();
    host.project("FROM busybox\nRUN mkdir /dir && echo one > /dir/one\nRUN --mount=type=tmpfs,target=/memory echo two > /dir/two\n", &[]);
    let built = host.sh(&format!("{BUILD} --rm=false -t app app"));
    built.ok().omits("Removing intermediate container");
    host.sh(SHOWN).says("exited 0 0 0\nexited 0 0 0");
    // What they made is in the image, and they have it as well.
    host.sh("docker cp $(docker ps -aql):/dir - | tar -t | sort").says("dir/\ndir/one\ndir/two");
    let changed = "C /dir\nA /dir/two";
    host.sh("docker diff $(docker ps -aql)").says(changed);
    host.sh("docker start -a $(docker ps -aql) && docker diff $(docker ps -aql)").says(changed);
    // Nothing ran for what is found again.
    host.sh(&format!("{BUILD} --rm=false app")).ok().mentions("Using cache");
    host.sh("docker ps -aq | wc -l").says("2");
    // The image goes, and what they are made of stays as long as they do.
    host.sh("docker rmi app && docker builder prune -af && docker cp $(docker ps -aql):/dir/two - | tar -xO")
        .mentions("two");
    host.sh("docker rm $(docker ps -aq)").ok();
}
