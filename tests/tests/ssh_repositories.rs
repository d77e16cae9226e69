//! Builds take files from git repositories by SSH, with keys that the client lends: a real sshd hands them out.

use e2e::{Daemon, Session, Waiting};
use std::net::TcpStream;

/// A repository with two commits and a tag, and one that has it as a module by the same server; a key of a user, one of nobody, and one of a host.
const READY: &str = r#"set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git init -q -b main lib && cd lib && mkdir sub && echo one > sub/file && echo 'FROM busybox
COPY sub /sub' > Dockerfile && git add . && git commit -qm one && git tag v1
echo two > sub/file && git commit -qam two && cd .. && git clone -q --bare lib served/lib.git
git init -q -b main app && cd app && echo app > app
git -c protocol.file.allow=always submodule --quiet add ../served/lib.git absolute
git -c protocol.file.allow=always submodule --quiet add ../served/lib.git relative
git config -f .gitmodules submodule.absolute.url "ssh://root@127.0.0.1:$PORT$PWD/../served/lib.git"
git config -f .gitmodules submodule.relative.url ../lib.git
git add . && git commit -qm app && cd .. && git clone -q --bare app served/app.git
for key in user other host; do ssh-keygen -q -t ed25519 -N '' -C $key -f $key; done
mkdir -p /run/sshd home/.ssh && cp user.pub authorized
printf '%s\n' "Port $PORT" 'ListenAddress 127.0.0.1' "HostKey $PWD/host" "AuthorizedKeysFile $PWD/authorized" 'PidFile none' \
    'UsePAM no' 'StrictModes no' 'PermitRootLogin prohibit-password' 'PasswordAuthentication no' 'AcceptEnv GIT_PROTOCOL' > sshd_config
"#;

/// A daemon, an sshd, and an agent that has the user's key.
struct Host {
    // They end before anything that is left is looked for.
    _programs: Vec<Session>,
    host: Daemon,
    port: u16,
}

impl Host {
    fn new() -> Host {
        let host = Daemon::start_with(&["--build-allow-address", "127.0.0.1"]);
        let port = host.port();
        host.write("", &[("ready.sh", READY)]);
        host.sh(&format!("PORT={port} sh ready.sh")).ok();
        let programs = vec![
            host.session("/usr/sbin/sshd -D -e -f $PWD/sshd_config"),
            host.session("ssh-agent -D -a $PWD/agent"),
            host.session("ssh-agent -D -a $PWD/empty"),
        ];
        let mut waiting = Waiting::for_what("sshd and the agents to answer");
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        let agents = || ["agent", "empty"].iter().all(|name| host.work().join(name).exists());
        while !(answers() && agents()) {
            waiting.look_again();
        }
        host.sh("SSH_AUTH_SOCK=agent ssh-add -q user").ok();
        Host { _programs: programs, host, port }
    }

    fn url(&self, name: &str) -> String {
        format!("ssh://root@127.0.0.1:{}{}/served/{name}.git", self.port, self.host.work().display())
    }

    /// Says whose key the host's is.
    fn knows(&self, line: &str) {
        self.host.sh(&format!("{line} > home/.ssh/known_hosts")).ok();
    }

    fn knows_its_key(&self) {
        self.knows(&format!("echo \"[127.0.0.1]:{} $(cut -d' ' -f1,2 host.pub)\"", self.port));
    }

    fn builds(&self, arguments: &str) -> e2e::Outcome {
        self.host.sh(&format!("env HOME=$PWD/home $STRATUS build --progress plain -t built {arguments}"))
    }

    fn adds(&self, dockerfile: &str, arguments: &str) -> e2e::Outcome {
        self.host.write("context", &[("Dockerfile", dockerfile)]);
        self.builds(&format!("{arguments} context"))
    }
}

#[test]
fn a_repository_is_fetched_with_the_clients_agent() {
    let own = Host::new();
    own.knows_its_key();
    let (lib, app) = (own.url("lib"), own.url("app"));
    let ssh = "--ssh default=agent";
    own.adds(
        &format!(
            "FROM busybox\nADD {lib} /main\nADD {lib}#v1:sub /v1/\nADD --keep-git-dir {lib}#v1 /kept\nADD {app} /app\n\
             RUN cat /main/sub/file /v1/file /app/absolute/sub/file /app/relative/sub/file > /got && grep -h url /kept/.git/config >> /got\n"
        ),
        ssh,
    )
    .ok();
    own.host.sh("docker run --rm built cat /got").says(&format!("two\none\ntwo\ntwo\n\turl = {}", lib));
    let v1 = own.host.sh("git -C lib rev-parse v1").text().to_owned();
    own.adds(&format!("FROM busybox\nADD --checksum={v1} {lib}#v1 /x\n"), ssh).ok();
    own.adds(&format!("FROM busybox\nADD --checksum={v1} {lib}#main /x\n"), ssh)
        .exits_with(1)
        .complains(&format!("the commit should be {v1}, but is "));

    // As the context, and as a further one.
    own.builds(&format!("{ssh} {lib}#v1")).ok();
    own.host.sh("docker run --rm built cat /sub/file").says("one");
    own.adds("FROM busybox\nCOPY --from=lib file /file\n", &format!("{ssh} --build-context lib={lib}#v1:sub")).ok();
    own.host.sh("docker run --rm built cat /file").says("one");
    // Nothing of it stays: no configuration, no socket.
    own.host.sh("ls ../data/build/present").says("");
}

#[test]
fn a_host_is_to_be_known_and_to_take_a_key() {
    let own = Host::new();
    let lib = own.url("lib");
    let dockerfile = format!("FROM busybox\nADD {lib} /main\n");
    let unknown = "the key of 127.0.0.1 is not known where stratus build was started: ssh-keyscan -p";
    own.adds(&dockerfile, "--ssh default=agent").exits_with(1).complains(unknown);
    own.knows("echo bank.example $(cut -d' ' -f1,2 other.pub)");
    own.adds(&dockerfile, "--ssh default=agent").exits_with(1).complains(unknown);
    own.knows(&format!("echo \"[127.0.0.1]:{} $(cut -d' ' -f1,2 other.pub)\"", own.port));
    own.adds(&dockerfile, "--ssh default=agent")
        .exits_with(1)
        .complains("127.0.0.1 has another key than known_hosts has");
    own.knows_its_key();
    let lends = "nobody has lent a key for SSH: stratus build --ssh default lends";
    own.adds(&dockerfile, "").exits_with(1).complains(lends);
    own.adds(&dockerfile, "--ssh other=agent").exits_with(1).complains(lends);
    own.host.sh("env DOCKER_BUILDKIT=0 docker build context").fails_with(lends);
    own.adds(&dockerfile, "--ssh default=empty")
        .exits_with(1)
        .complains("127.0.0.1 takes none of the keys that --ssh default lends");
    own.adds("FROM busybox\nADD ssh://me:secret@127.0.0.1/x /x\n", "--ssh default=agent")
        .exits_with(1)
        .complains("SSH takes no password from an address");
    // Hosts that are written as hashes are looked for in what the client sends.
    own.host.sh("ssh-keygen -q -H -f home/.ssh/known_hosts && ! grep -q 127.0.0.1 home/.ssh/known_hosts").ok();
    own.adds(&dockerfile, "--ssh default=agent").ok();

    // A key that is in no agent.
    own.adds(&dockerfile, "--no-cache --ssh default=other")
        .exits_with(1)
        .complains("takes none of the keys that --ssh default lends");
    own.adds(&dockerfile, "--no-cache --ssh default=other,user").ok();

    let strict = Daemon::start();
    strict.write("context", &[("Dockerfile", &dockerfile)]);
    let work = own.host.work();
    strict
        .sh(&format!("env HOME={0}/home $STRATUS build --ssh default={0}/agent context", work.display()))
        .exits_with(1)
        .complains("is at 127.0.0.1, which is not to be reached from here");
}

/// SSH is spoken with the host that was named, and a submodule names another.
#[test]
fn a_submodule_leads_nowhere_else() {
    let own = Host::new();
    own.knows_its_key();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    elsewhere.set_nonblocking(true).expect("a listener that does not wait");
    let port = elsewhere.local_addr().expect("its address").port();
    let edit = format!("git config -f .gitmodules submodule.absolute.url ssh://root@127.0.0.1:{port}/lib.git");
    own.host
        .sh(&format!(
            "cd app && {edit} && git -c user.name=x -c user.email=x@x commit -qam away && git push -q ../served/app.git HEAD:away"
        ))
        .ok();
    own.adds(&format!("FROM busybox\nADD {}#away /x\n", own.url("app")), "--ssh default=agent")
        .exits_with(1)
        .complains("git: ");
    assert!(elsewhere.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}
