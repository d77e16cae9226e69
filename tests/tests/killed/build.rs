//! An image is built: every kind of step that makes a layer, and the image's name.

use std::process::{Command, Stdio};

use e2e::{Daemon, eventually};

use crate::rounds::Step;

const DOCKERFILE: &str = "\
FROM busybox AS tools
WORKDIR /tools
ADD files.tar.gz /tools/
RUN --mount=type=cache,target=/c sha256sum /tools/large > /c/sum && cp /c/sum /tools/sum
FROM busybox
COPY large /large
COPY --from=tools /tools /tools
RUN sha256sum /large > /sum; mkdir /many; for i in 1 2 3 4 5 6 7 8; do echo $i > /many/$i; done
LABEL of=killed
";

#[derive(Default)]
pub(crate) struct Build {
    /// What it comes to, whatever was killed before.
    id: String,
}

impl Build {
    /// Builds it, and says what it came to, if it did.
    fn built(host: &Daemon) -> Option<String> {
        let build = host.work().join("app");
        let built = Command::new("docker")
            .args(["--host", &format!("unix://{}", host.socket().display()), "build", "-q", "-t", "made"])
            .arg(build)
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::null())
            .output()
            .expect("start docker");
        built.status.success().then(|| String::from_utf8_lossy(&built.stdout).trim().to_owned())
    }
}

impl Step for Build {
    fn begin(&mut self, host: &Daemon) {
        host.sh("mkdir app && head -c 300000 /dev/urandom > app/large && tar -C app -czf app/files.tar.gz large").ok();
        std::fs::write(host.work().join("app/Dockerfile"), DOCKERFILE).expect("the Dockerfile");
        self.id = Self::built(host).expect("an image");
        self.clear(host);
    }

    fn act(&self, host: &Daemon) -> usize {
        Self::built(host).map_or(0, |id| {
            assert_eq!(id, self.id, "the same context came to something else");
            1
        })
    }

    fn check(&self, host: &Daemon, told: usize) {
        let named = host.sh("docker images -q --no-trunc made").ok().text().to_owned();
        assert!(named == self.id || named.is_empty() && told == 0, "{named:?} is called made, told {told}");
        eventually("the end of its steps", || host.sh("docker ps -aq").text().is_empty());
        // What is found again is right, and what follows comes to the same.
        assert_eq!(Self::built(host).as_deref(), Some(self.id.as_str()));
        host.sh("docker run --rm --network none made sh -c 'sha256sum -c -s /sum && cd /tools && sha256sum -c -s sum && ls /many | wc -l'")
            .says("8");
    }

    fn clear(&self, host: &Daemon) {
        host.sh("docker rmi made").ok();
        // The cache's directory is measured after its step: what is in use stays.
        eventually("nothing to be kept", || {
            host.sh("docker builder prune -af").ok();
            host.sh("$STRATUS --format json builder du").text() == "[]"
        });
    }
}
