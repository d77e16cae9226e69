# Dockerfiles as people write them, of the tests and the examples: those that need nothing of BuildKit's, and can do without a network. What they begin
# with is large: of most only what is built upon it is shown.

based_on gcc debian; parts='/usr/bin /etc' project tests/dockerfiles/c-autotools; echo Hello | docker run -i --rm built
project examples/c-echo
for base in scratch busybox; do rm -rf app; cp -r $SOURCES/examples/hello-web app; mkdir -p app/target/release; echo program > app/target/release/hello-web; built --build-arg BASE=$base < $SOURCES/examples/hello-web/Dockerfile; done
clean_up >/dev/null 2>&1; based_on golang debian; project tests/dockerfiles/go-layers
clean_up >/dev/null 2>&1; based_on node; parts=/usr/src project tests/dockerfiles/node-typescript --build-arg VERSION=2.2.0
clean_up >/dev/null 2>&1; based_on python; parts='/code /usr/local' project tests/dockerfiles/python-plain
DOCKER_BUILDKIT=0 docker build -q -t python-onbuild-base -f $SOURCES/tests/dockerfiles/python-onbuild/base.Dockerfile $SOURCES/tests/dockerfiles/python-onbuild >/dev/null; parts='/app /venv' project tests/dockerfiles/python-onbuild; docker run --rm built
clean_up >/dev/null 2>&1; based_on debian-packages; parts='/etc/redis /etc/passwd /etc/group /data /usr/bin' project tests/dockerfiles/redis; docker run --rm built redis-server --version
