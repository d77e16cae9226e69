"""A service in a container, for the length of a test: Testcontainers for Python."""

import urllib.request

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

SERVICE = "sh -c 'mkdir w; echo hello > w/index.html; httpd -p 80 -h w; echo ready; sleep 1000'"

with Network() as network:
    service = DockerContainer("busybox").with_command(SERVICE).with_exposed_ports(80).with_env("A", "b")
    service = service.with_network(network).with_network_aliases("web").waiting_for(LogMessageWaitStrategy("ready"))
    with service:
        address = f"http://{service.get_container_host_ip()}:{service.get_exposed_port(80)}/"
        assert urllib.request.urlopen(address).read() == b"hello\n"
        assert service.exec("sh -c 'echo $A'").output == b"b\n"
        assert service.get_logs()[0] == b"ready\n"
        caller = DockerContainer("busybox").with_command("wget -q -O - http://web/").with_network(network)
        with caller:
            assert caller.get_wrapped_container().wait()["StatusCode"] == 0
            assert caller.get_logs()[0] == b"hello\n"
