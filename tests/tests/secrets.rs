//! What commands of a build are given and nobody else may see; and what they copy from beside the context.

use std::fs;
use std::path::Path;

use e2e::{Daemon, Registry, eventually};

const SECRET: &str = "open-sesame-7d1f0c";
/// Another one: the first is looked for in all command lines of the machine, and this one is in some of a test's own.
const UNSEEN: &str = "open-sesame-55ab19";

fn project(host: &Daemon, dockerfile: &str) {
    fs::create_dir_all(host.work().join("app")).expect("a directory");
    fs::write(host.work().join("app/Dockerfile"), dockerfile).expect("a Dockerfile");
}

/// Where a text is found, in all that the daemon keeps, says and shows.
fn seen(host: &Daemon, text: &str) -> String {
    let run = host.run_dir();
    let found = host.sh(&format!("grep -rlaF -D skip -e {text} {} {}; true", host.data().display(), run.display()));
    let shown = host.sh("for image in $(docker images -aq); do docker history --no-trunc $image; docker inspect $image; done; docker ps -a --no-trunc; docker system df -v");
    let mut seen = found.text().to_owned();
    for (what, said) in [("what is shown", shown.stdout().to_owned()), ("the log", host.log())] {
        if said.contains(text) {
            seen.push_str(what);
        }
    }
    seen
}

#[test]
fn a_secret_is_where_it_was_mounted_and_nowhere_else() {
    let host = Daemon::start();
    project(
        &host,
        "\
FROM busybox
RUN --mount=type=secret,id=token --mount=type=secret,id=token,target=/etc/app/token,mode=0440,uid=7,gid=8 \
    --mount=type=secret,id=variable,env=TOKEN \
    stat -c '%n %a %u:%g' /run/secrets/token /etc/app/token; stat -f -c %T /run/secrets/token; \
    test $(cat /run/secrets/token) = $TOKEN && echo same; \
    echo x 2>/dev/null > /run/secrets/token || echo read-only; echo begun; \
    until test -e /tmp/go; do sleep 0.02; done; rm /tmp/go
RUN ls /run/secrets /etc/app 2>/dev/null; env | grep -c TOKEN; echo left
RUN --mount=type=secret,id=absent ls /run/secrets/absent 2>/dev/null || echo absent
",
    );
    fs::write(host.work().join("token"), SECRET).expect("a secret");
    let build =
        format!("env VALUE={SECRET} $STRATUS build -t app --secret id=token,src=token --secret id=variable,env=VALUE");
    let mut first = host.session(&format!("{build} app"));
    first.waits_for(" begun\n");
    // While the step runs, and has it.
    assert_eq!(seen(&host, SECRET), "");
    assert!(!fs::read_to_string("/proc/mounts").expect("the mounts").contains("/run/secrets"));
    let processes = host.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(!processes.text().contains(SECRET), "it is in a command line");
    host.sh("docker exec $(docker ps -q) touch /tmp/go").ok();
    assert_eq!(first.exit_code(), 0, "{}", first.output());
    let said = first.output();
    for line in
        ["/run/secrets/token 400 0:0", "/etc/app/token 440 7:8", "tmpfs", "same", "read-only", "0", "left", "absent"]
    {
        assert!(said.lines().any(|said| said.ends_with(&format!(" {line}"))), "{line} in {said}");
    }
    assert_eq!(seen(&host, SECRET), "");
    // Nothing of where it was mounted is in the image, and another one of the same id is the same step.
    host.sh("docker run --rm app ls -d /run/secrets /etc/app").fails_with("/run/secrets");
    host.sh("echo other > token").ok();
    host.sh(&format!("{build} app")).ok().complains("CACHED");
    host.sh("$STRATUS build app --secret id=nobody,src=nowhere").exits_with(2).complains("nowhere is no file");
}

/// Where a text is found in what a build handed out: archives, and directories of blobs, which are compressed.
fn handed_out(host: &Daemon, what: &str, text: &str) -> String {
    let opened = "case $(head -c 2 $file | od -An -tx1 | tr -d ' ') in 1f8b) zcat $file ;; *) cat $file ;; esac";
    let all = format!(
        "rm -rf opened && mkdir opened && for part in {what}; do if test -d $part; then cp -r $part opened; else tar -C opened -xf $part; fi; done"
    );
    let found = host.sh(&format!(
        "{all} && find opened -type f | while read -r file; do {opened} | grep -qaF {text} && echo $file; done; true"
    ));
    found.ok().text().to_owned()
}

#[test]
fn a_secret_is_in_nothing_that_leaves_a_build_and_in_nothing_that_a_failure_leaves() {
    let host = Daemon::start();
    let registry = Registry::start(&host);
    fs::write(host.work().join("token"), UNSEEN).expect("a secret");
    let secrets = "--secret id=token,src=token --secret id=variable,env=VALUE";
    let build = format!("env VALUE={UNSEEN} $STRATUS build --progress plain {secrets}");
    let uses = "RUN --mount=type=secret,id=token --mount=type=secret,id=variable,env=TOKEN \
                test $(cat /run/secrets/token) = $TOKEN && echo in-the-open > /made";
    project(&host, &format!("FROM busybox AS first\n{uses}\nFROM busybox\nCOPY --from=first /made /got\n"));
    let (name, all) = (registry.name(), "mode=max");
    let to = format!(
        "--cache-to type=local,dest=cache,{all} --cache-to type=registry,ref={name}/cache,{all} --cache-to type=inline"
    );
    let out = format!(
        "-o type=oci,dest=oci.tar -o type=docker,dest=docker.tar -o type=tar,dest=files.tar -o type=image,name={name}/app,push=true"
    );
    host.sh(&format!("{build} {to} {out} --provenance --metadata-file meta app")).ok();
    let places = "cache registry oci.tar docker.tar files.tar";
    assert_eq!(handed_out(&host, places, UNSEEN), "");
    // It would be found there.
    for part in places.split(' ') {
        assert_ne!(handed_out(&host, part, "in-the-open"), "", "{part}");
    }
    host.sh(&format!("grep -F {UNSEEN} meta")).exits_with(1);
    assert_eq!(seen(&host, UNSEEN), "");

    // A command that fails with it, one that can't be begun, and one that is killed.
    for ends in ["&& exit 3", "&& exec /nothing-of-the-kind", "&& tail /dev/zero"] {
        project(&host, &format!("FROM busybox\n{uses} {ends}\n"));
        let failed = host.sh(&format!("{build} --memory 24m --memory-swap 24m app"));
        assert!(failed.code() != 0 && !failed.stderr().contains(UNSEEN), "{failed}");
        assert_eq!(seen(&host, UNSEEN), "", "{ends}");
    }
    project(&host, &format!("FROM busybox\nSHELL [\"/nothing-of-the-kind\"]\n{uses}\n"));
    host.sh(&format!("{build} app")).fails_with("nothing-of-the-kind");
    assert_eq!(seen(&host, UNSEEN), "");
}

#[test]
fn a_secret_that_is_required_has_to_be_given() {
    let host = Daemon::start();
    project(&host, "FROM busybox\nRUN --mount=type=secret,id=token,required true\n");
    host.sh("$STRATUS build app")
        .exits_with(1)
        .complains("secret token: not found: stratus build --secret gives it")
        .complains("   2 | RUN --mount=type=secret,id=token,required true");
    host.sh("DOCKER_BUILDKIT=0 docker build app")
        .fails_with("secret token: not found: the classic builder is given none");
    project(&host, "FROM busybox\nRUN --mount=type=ssh,required true\n");
    host.sh("$STRATUS build app").exits_with(1).complains("SSH agent default: not found: stratus build --ssh gives it");
    project(&host, "FROM busybox\nRUN --mount=type=secret,id=big,required true\n");
    host.sh("head -c 600000 /dev/zero > big; $STRATUS build --secret id=big,src=big app")
        .exits_with(1)
        .complains("secret big: more than 512000 bytes");
}

/// Programs of this machine with what they need of it, in `tools`.
fn tools(host: &Daemon, programs: &str) {
    host.sh(&format!(
        "mkdir -p tools/bin && for program in {programs}; do cp $(which $program) tools/bin && for file in $(ldd $(which $program) | grep -o '/[^ ]*'); do \
         cp -L --parents $file tools; done; done"
    ))
    .ok();
}

#[test]
fn an_agent_is_spoken_with_from_within_a_step() {
    let host = Daemon::start();
    project(
        &host,
        "\
FROM busybox
COPY --from=tools . /
RUN --mount=type=ssh --mount=type=ssh,id=other,target=/tmp/other,mode=0666,uid=5 \
    stat -c '%F %a %u' /tmp/other; ssh-add -l; SSH_AUTH_SOCK=/tmp/other ssh-add -l
RUN test -z \"$SSH_AUTH_SOCK\" && echo no agent
",
    );
    tools(&host, "ssh-add");
    let mut agents = Vec::new();
    for name in ["one", "other"] {
        agents.push(host.session(&format!("ssh-agent -D -a {name}.agent")));
        eventually("the agent is there", || host.work().join(format!("{name}.agent")).exists());
        host.sh(&format!("ssh-keygen -q -t ed25519 -N '' -C key-of-{name} -f {name} && SSH_AUTH_SOCK=$PWD/{name}.agent ssh-add -q {name}"))
            .ok();
    }
    let build = "SSH_AUTH_SOCK=$PWD/one.agent $STRATUS build -t app --build-context tools=tools --ssh default --ssh other=other.agent app";
    host.sh(build)
        .ok()
        .complains(" socket 666 5\n")
        .complains("key-of-one")
        .complains("key-of-other")
        .complains(" no agent\n");
    host.sh("docker run --rm app ls /tmp/other /run/stratus").fails_with("No such file");
    let key = host.sh("sed -n 2p one").text().to_owned();
    assert_eq!(seen(&host, &key), "");
    host.sh("$STRATUS build --ssh default=app/Dockerfile app").exits_with(2).complains("app/Dockerfile is not taken: ");
    for agent in &agents {
        agent.signal("TERM");
    }
}

/// A step may ask for more connections than a session has streams.
#[test]
fn a_step_that_speaks_with_its_agent_all_at_once_waits_and_breaks_nothing() {
    let host = Daemon::start();
    project(
        &host,
        "FROM busybox\nCOPY --from=tools . /\nRUN --mount=type=ssh for i in $(seq 200); do ssh-add -l & done; wait; echo asked\n",
    );
    tools(&host, "ssh-add");
    let agent = host.session("ssh-agent -D -a $PWD/agent");
    eventually("the agent is there", || host.work().join("agent").exists());
    // It answers nobody until all have asked whom it takes.
    agent.signal("STOP");
    let mut build = host.session("env SSH_AUTH_SOCK=agent $STRATUS build --progress plain -t app --build-context tools=tools --ssh default app > said 2>&1");
    let socket = host.work().join("agent").display().to_string();
    let waiting = || host.sh(&format!("ss -xlH | awk '$5 == \"{socket}\" {{ print $3 }}'")).text().parse::<usize>();
    eventually("as many ask as may", || waiting().is_ok_and(|waiting| waiting > 40));
    agent.signal("CONT");
    assert_eq!(build.exit_code(), 0, "{}", host.sh("cat said").text());
    host.sh("cat said").mentions(" asked\n");
    agent.signal("TERM");
}

#[test]
fn further_contexts_have_names() {
    let host = Daemon::start();
    project(
        &host,
        "\
FROM base AS built
COPY --from=assets logo /logo
RUN --mount=type=bind,from=assets,target=/assets cat /assets/logo > /seen
FROM tools
COPY --from=built /logo /seen /
COPY --from=assets . /all
CMD [\"cat\", \"/logo\", \"/seen\", \"/tool\"]
",
    );
    let write = |path: &str, text: &str| {
        let path = host.work().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    write("assets/logo", "logo\n");
    write("assets/secret", "secret\n");
    write("assets/.dockerignore", "secret\n");
    // Files alone are a root file system, too.
    host.sh("mkdir -p tools/bin && cp $(which busybox) tools/bin/busybox && ln -s busybox tools/bin/cat && ln -s busybox tools/bin/ls && echo tool > tools/tool").ok();
    let build = "$STRATUS build -q -t app --build-context base=docker-image://busybox --build-context assets=assets --build-context tools=tools app";
    host.sh(build).ok();
    host.sh("docker run --rm app").says("logo\nlogo\ntool");
    host.sh("docker run --rm app /bin/ls /all").says("logo");
    let id = host.sh("docker images -q --no-trunc app").text().to_owned();
    host.sh(build).says(&id);
    host.sh("echo new > assets/logo").ok();
    host.sh(build).ok();
    host.sh("docker run --rm app").says("new\nnew\ntool");
    host.sh("$STRATUS build --build-context a=oci-layout://x app").exits_with(2).complains("x is no OCI layout");
    host.sh("$STRATUS build --build-context assets=nowhere app").exits_with(1).complains("looking up nowhere");
}

/// What a stranger's base asks of whoever builds upon it is none of theirs to have.
#[test]
fn a_bases_trigger_gets_what_the_build_has_only_where_that_says_so() {
    let host = Daemon::start();
    let trigger = "RUN --mount=type=secret,id=token cat /run/secrets/token 2>/dev/null || echo none there";
    project(&host, &format!("FROM busybox\nONBUILD {trigger}\n"));
    host.sh("$STRATUS build -t base app").ok();
    fs::write(host.work().join("token"), UNSEEN).expect("a secret");
    project(&host, "FROM base\nRUN --mount=type=secret,id=token test -s /run/secrets/token && echo mine\n");
    let build = "$STRATUS build --progress plain --no-cache --secret id=token,src=token";
    let refused = host.sh(&format!("{build} app"));
    refused
        .exits_with(1)
        .complains("secret token is withheld: it is an ONBUILD of the base image base that asks for it")
        .complains("stratus build --allow onbuild.secrets gives it")
        .complains("ONBUILD trigger of base (app/Dockerfile:1):1:5");
    assert!(!refused.stderr().contains(UNSEEN), "{refused}");
    host.sh(&format!("{build} --allow onbuild.secrets app")).ok().complains(UNSEEN).complains(" mine\n");
    // Nothing is withheld that was not given.
    project(&host, "FROM base\n");
    host.sh("$STRATUS build --progress plain app").ok().complains(" none there\n");
    // A stage of the same file is who writes it.
    project(&host, &format!("FROM busybox AS own\nONBUILD {trigger}\nFROM own\n"));
    host.sh(&format!("{build} app")).ok().complains(UNSEEN);

    project(&host, "FROM busybox\nONBUILD RUN --mount=type=ssh test -z \"$SSH_AUTH_SOCK\" && echo no agent\n");
    host.sh("$STRATUS build -t base app").ok();
    project(&host, "FROM base\n");
    host.sh("$STRATUS build --progress plain app").ok().complains(" no agent\n");
    host.sh("ssh-keygen -q -t ed25519 -N '' -f key").ok();
    host.sh("$STRATUS build --ssh default=key app").exits_with(1).complains("SSH agent default is withheld: ");
    let daemons = host.sh("$STRATUS daemon --data-dir data --run-dir run --build-allow-entitlement onbuild.secrets");
    daemons.fails_with("onbuild.secrets is nothing of the daemon's: who builds says it");
}

/// Keys of every kind and form that are in no agent are seen and used by a step's own ssh.
#[test]
fn keys_that_are_in_no_agent_sign_for_a_step() {
    let host = Daemon::start();
    host.sh("for kind in ed25519 rsa ecdsa; do ssh-keygen -q -t $kind -N '' -C $kind -f $kind; done && \
         ssh-keygen -q -t rsa -m PEM -N '' -C pem -f pem && ssh-keygen -q -t ecdsa -m PKCS8 -N '' -f pkcs8 && \
         ssh-keygen -q -t ed25519 -N secret -f locked && ssh-keygen -q -t ed25519 -N '' -f open && chmod 644 open")
        .ok();
    tools(&host, "ssh-add ssh-keygen");
    host.sh("mkdir keys && cp ed25519.pub rsa.pub ecdsa.pub pem.pub pkcs8.pub keys").ok();
    host.write("app", &[("Dockerfile", STEP)]);
    let build = "$STRATUS build -t built --build-context tools=tools --build-context keys=keys";
    host.sh(&format!("TMPDIR=$PWD {build} --ssh default=ed25519,rsa,ecdsa,pem,pkcs8 app && ! ls -d stratus-keys-*"))
        .ok();
    let listed = host.sh("docker run --rm built cat /listed");
    listed.ok().mentions("ed25519 (ED25519)").mentions("rsa (RSA)").mentions("ecdsa (ECDSA)").mentions("pem (RSA)");
    assert_eq!(listed.lines().len(), 5, "{}", listed.text());
    // What was signed within is checked out here.
    for key in ["ed25519", "rsa", "ecdsa", "pem", "pkcs8"] {
        host.sh(&format!(
            "docker run --rm built cat /signed/{key} > signature && printf '%s ' me > allowed && cat {key}.pub >> allowed && \
             echo text | ssh-keygen -q -Y verify -f allowed -I me -n file -s signature"
        ))
        .ok();
    }
    let build = |key: &str| host.sh(&format!("TMPDIR=$PWD {build} --ssh default={key} app </dev/null"));
    build("locked")
        .exits_with(2)
        .complains("locked is not taken: nobody typed its passphrase")
        .complains("ssh-add, and --ssh ID=SOCKET");
    build("open").exits_with(2).complains("open is not taken: Permissions 0644");
    build("nothing").complains("looking up nothing");
    host.sh("ls -d stratus-keys-* 2>/dev/null || true").says("");

    // Where the client is killed, they are nobody's any more.
    host.write("held", &[("Dockerfile", "FROM busybox\nRUN --mount=type=ssh echo begun; sleep 3600\n")]);
    let held = host.session("env TMPDIR=$PWD $STRATUS build --progress plain --ssh default=ed25519 held");
    held.waits_for(" begun\n");
    let agents = || host.sh("pgrep -f \"[s]sh-agent -D -a $PWD/stratus-keys-\" || true").text().to_owned();
    assert_ne!(agents(), "");
    held.signal("KILL");
    eventually("the agent to end", || agents().is_empty());
    let left = || host.sh("ls -d stratus-keys-* 2>/dev/null || true").text().to_owned();
    eventually("its directory to go", || left().is_empty());

    // Who is asked for a passphrase may end it all.
    let mut asked = host.terminal("env TMPDIR=$PWD $STRATUS build --ssh default=locked held");
    asked.waits_for("passphrase for");
    host.sh("kill -TERM $(pgrep -x stratus -a | grep -F -e '--ssh default=locked' | cut -d ' ' -f 1)").ok();
    assert_eq!(asked.exit_code(), 143, "{}", asked.output());
    eventually("the agent to end", || agents().is_empty());
    eventually("its directory to go", || left().is_empty());
    host.sh("pgrep -f \"[s]sh-add -q -- $PWD\"; pgrep -x ssh-add -a | grep -F locked || true").says("");
}

const STEP: &str = r#"FROM busybox
COPY --from=tools . /
COPY --from=keys . /keys/
RUN echo root:x:0:0:root:/:/bin/sh > /etc/passwd
RUN --mount=type=ssh ssh-add -l > /listed && mkdir /signed && for key in ed25519 rsa ecdsa pem pkcs8; do \
    echo text | ssh-keygen -q -Y sign -f /keys/$key.pub -n file > /signed/$key || exit 1; done
"#;
