"""What one does with Docker's SDK for Python. DOCKER_HOST says where the daemon is."""

import io
import os
import socket
import tarfile

import docker
import websocket
from docker.errors import APIError, BuildError, ContainerError, NotFound

client = docker.from_env()


def refused(error, status, words, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except error as refusal:
        assert refusal.status_code == status, refusal
        assert words in str(refusal), refusal
    else:
        raise AssertionError(f"expected to be refused: {words}")


def archive(name, content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def daemon():
    assert client.ping()
    assert client.version()["ApiVersion"] == "1.50"
    assert client.info()["OSType"] == "linux"
    assert set(client.df()) >= {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
    assert client.plugins.list() == []
    refused(APIError, 503, "not a swarm manager", client.services.list)


def short_runs():
    assert client.containers.run("busybox", "echo hello", remove=True) == b"hello\n"
    assert client.containers.run("busybox", "sh -c 'echo out; echo err >&2'", remove=True, stderr=True) == b"out\nerr\n"
    try:
        client.containers.run("busybox", "sh -c 'echo oops >&2; exit 3'", remove=True)
    except ContainerError as error:
        assert (error.exit_status, error.stderr) == (3, b"oops\n")
    else:
        raise AssertionError("expected an exit code")
    refused(NotFound, 404, "No such container: nobody", client.containers.get, "nobody")
    refused(NotFound, 404, "No such image: nothing", client.images.get, "nothing")


def streams(box):
    stream = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})._sock
    stream.sendall(b"one\n")
    assert exactly(stream, 16) == b"\x01\0\0\0\0\0\0\x08got one\n"
    stream.close()
    # The SDK itself opens no WebSocket through a Unix socket.
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["DOCKER_HOST"].removeprefix("unix://"))
    address = "ws://localhost/v1.50/containers/box/attach/ws?stdin=1&stdout=1&stream=1"
    web = websocket.create_connection(address, socket=connection)
    web.send("two\n")
    assert web.recv() in (b"got two\n", "got two\n")
    web.close()
    assert box.logs(stdout=True, tail=1) == b"got two\n"


def exactly(stream, length):
    data = b""
    while len(data) < length:
        more = stream.recv(length - len(data))
        assert more, f"it ends after {data!r}"
        data += more
    return data


def execs(box):
    for _ in range(20):
        ended = box.exec_run("sh -c 'echo out; echo err >&2; exit 4'", demux=True)
        assert (ended.exit_code, ended.output) == (4, (b"out\n", b"err\n")), ended
    assert box.exec_run("pwd", workdir="/tmp", user="1000", environment={"A": "b"}).output == b"/tmp\n"
    assert b"".join(box.exec_run("seq 3", stream=True).output) == b"1\n2\n3\n"
    started = box.exec_run("cat", stdin=True, socket=True).output._sock
    started.sendall(b"in\n")
    assert exactly(started, 11) == b"\x01\0\0\0\0\0\0\x03in\n"
    started.close()
    assert box.exec_run("nonsense").exit_code == 127


def files(box):
    assert box.put_archive("/tmp", archive("file", b"content"))
    parts, stat = box.get_archive("/tmp/file")
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
        assert tar.extractfile("file").read() == b"content"
    assert (stat["name"], stat["size"]) == ("file", 7)
    assert {"Kind": 1, "Path": "/tmp/file"} in box.diff()


def life():
    box = client.containers.run(
        "busybox",
        "sh -c 'while read x; do echo got $x; done'",
        name="box",
        detach=True,
        stdin_open=True,
        ports={"80/tcp": ("127.0.0.1", None)},
        volumes={"data": {"bind": "/data", "mode": "rw"}},
        labels={"tier": "front"},
        mem_limit="64m",
    )
    box.reload()
    assert box.status == "running" and box.labels == {"tier": "front"}
    assert box.ports["80/tcp"][0]["HostIp"] == "127.0.0.1"
    assert box.attrs["Mounts"][0]["Name"] == "data"
    streams(box)
    execs(box)
    files(box)
    assert "sh" in " ".join(box.top()["Processes"][0])
    assert box.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
    assert next(box.stats(stream=True, decode=True))["name"] == "/box"
    box.pause()
    box.reload()
    assert box.status == "paused"
    box.unpause()
    box.rename("crate")
    box.update(mem_limit="32m", memswap_limit="32m")
    box.restart(timeout=0)
    box.stop(timeout=0)
    assert box.wait()["StatusCode"] == 137
    assert [found.name for found in client.containers.list(all=True, filters={"label": "tier=front"})] == ["crate"]
    return box


def networks(box):
    box.start()
    network = client.networks.create("shop", driver="bridge", labels={"a": "b"})
    network.connect(box, aliases=["till"])
    network.reload()
    assert [found.name for found in network.containers] == ["crate"]
    network.disconnect(box)
    network.remove()


def images(box):
    made = box.commit("made", "1", changes=["CMD [\"true\"]"])
    assert made.tags == ["made:1"] and made.attrs["Config"]["Cmd"] == ["true"]
    saved = b"".join(client.images.get("made:1").save(named=True))
    client.images.remove("made:1")
    assert [image.tags for image in client.images.load(saved)] == [["made:1"]]
    assert client.images.get("made:1").history()[0]["Size"] >= 0
    assert made.tag("other", "2") and {"other:2", "made:1"} <= {tag for image in client.images.list() for tag in image.tags}
    for tag in ("made:1", "other:2"):
        client.images.remove(tag)


def builds():
    dockerfile = b"FROM busybox\nARG WHO\nRUN echo $WHO > /who\nCMD cat /who\n"
    arguments = {"tag": "built:1", "buildargs": {"WHO": "me"}, "labels": {"of": "python"}, "rm": True}
    image, said = client.images.build(fileobj=io.BytesIO(dockerfile), **arguments)
    words = [line["stream"] for line in said if "stream" in line]
    assert words[0].startswith("Step 1/5 : FROM busybox"), words
    assert image.tags == ["built:1"] and image.labels == {"of": "python"}
    assert client.containers.run("built:1", remove=True) == b"me\n"
    again, said = client.images.build(fileobj=io.BytesIO(dockerfile), **arguments)
    assert again.id == image.id and any("Using cache" in line.get("stream", "") for line in said)
    context = archive("Dockerfile", b"FROM busybox\nCOPY . /src\nRUN false\n")
    try:
        client.images.build(fileobj=io.BytesIO(context), custom_context=True)
    except BuildError as error:
        assert "returned a non-zero code: 1" in error.msg, error.msg
    else:
        raise AssertionError("expected a build to fail")
    # Its container stays to be looked at.
    failed = client.containers.list(all=True, limit=1)[0]
    assert failed.attrs["State"]["ExitCode"] == 1 and failed.attrs["Config"]["Cmd"][-1] == "false", failed.attrs
    failed.remove()
    refused(APIError, 400, "unknown instruction", client.images.build, fileobj=io.BytesIO(b"FORM busybox\n"))
    client.images.remove("built:1")
    assert client.api.prune_builds()["SpaceReclaimed"] >= 0


def follow():
    follower = client.containers.run("busybox", "sh -c 'echo a; sleep 0.1; echo b'", detach=True)
    assert list(follower.logs(stream=True, follow=True)) == [b"a\n", b"b\n"]
    assert follower.wait() == {"StatusCode": 0}
    follower.remove()
    seen = client.events(since=0, until=2**33, decode=True, filters={"container": follower.id})
    actions = []
    for event in seen:
        actions.append(event["Action"])
        if event["Action"] == "destroy":
            break
    assert actions == ["create", "start", "die", "destroy"], actions


def tidy(box):
    box.remove(force=True)
    client.volumes.get("data").remove()
    assert client.containers.list(all=True) == [] and client.volumes.list() == []
    for prune in (client.containers.prune, client.networks.prune, client.volumes.prune, client.images.prune):
        prune()


daemon()
short_runs()
box = life()
networks(box)
images(box)
builds()
follow()
tidy(box)
