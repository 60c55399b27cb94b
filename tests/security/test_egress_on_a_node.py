"""Wall: the egress proxy, on a real node with the chart's policies. A canary in the workspace stays in."""

import json
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from coding_agent_core.task.egress import Role, password, user_name
from coding_agent_testbed.until import until

from tests.chart.place import DENY_ALL, Place, place
from tests.e2e.pods import job_end
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system import BOT, REPOSITORY
from tests.fixtures.system_in_pods import host_address
from tests.integration.main_job.scripts import finish, run, script

pytestmark = [pytest.mark.needs_node, pytest.mark.needs_root, pytest.mark.timeout(1500)]

CANARY = r"""
import json, os, socket, subprocess, sys, urllib.error, urllib.request
from urllib.parse import urlsplit

given = json.loads(sys.argv[1])
proxy = urlsplit(os.environ["HTTP_PROXY"])
found = {"proxy": f"{proxy.hostname}:{proxy.port}", "user": proxy.username, "password": proxy.password}

def ask(url):
    try:
        return urllib.request.urlopen(url, timeout=15).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(error)

def connects(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return type(error).__name__
    return "connected"

def resolves(name):
    try:
        return socket.getaddrinfo(name, 443)[0][4][0]
    except OSError:
        return "no"

found["urls"] = {url: ask(url) for url in given["urls"]}
found["addresses"] = {address: connects(address) for address in given["addresses"]}
found["names"] = {name: resolves(name) for name in given["names"]}
ssh = ["git", "ls-remote", "ssh://git@forge.example.com/o/r"]
found["ssh"] = subprocess.run(ssh, capture_output=True, timeout=60).returncode
stolen = {"http": given["stolen"].replace("PROXY", found["proxy"])}
other = urllib.request.build_opener(urllib.request.ProxyHandler(stolen))
try:
    found["stolen"] = other.open(given["urls"][0], timeout=15).status
except urllib.error.HTTPError as error:
    found["stolen"] = error.code
print("CANARY", json.dumps(found))
"""


@pytest.fixture
def packages(cluster: ClusterUnderTest, stack: ExitStack) -> int:
    """A server of packages on this machine, which pods know as a Service; its port."""

    class Packages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = stack.enter_context(ThreadingHTTPServer((host_address(cluster), 0), Packages))
    Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.shutdown)
    return int(server.server_port)


def service(name: str, address: str, port: int) -> list[dict[str, object]]:
    """A Service of the namespace that stands for a machine outside."""
    kind = {"kubernetes.io/service-name": name}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"ports": [{"port": port}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": kind},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address]}],
            "ports": [{"port": port}],
        },
    ]


def test_a_canary_reaches_the_allowed_host_and_nothing_else(
    cluster: ClusterUnderTest,
    namespace: str,
    project_images: dict[str, str],
    enforced_policies: None,
    packages: int,
    stack: ExitStack,
    tmp_path: Path,
) -> None:
    world = place(stack, cluster, namespace, project_images, tmp_path, "github", [])
    release, address = world.release, host_address(cluster)
    domain = f"{namespace}.svc.cluster.local"
    objects = [DENY_ALL, *service("packages", address, packages), *service("inside", address, packages)]
    release.kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )
    allowed, private = f"packages.{domain}:{packages}", f"inside.{domain}:{packages}"
    values = {
        "polling": {"enabled": True, "schedule": "0 0 1 1 *"},
        "egress": {
            "enabled": True,
            "replicas": 1,
            "allow": [allowed, private],
            "private": [allowed.rpartition(":")[0]],
            "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        },
        "networkPolicy": {"attempts": {"egress": [{"to": [{"ipBlock": {"cidr": f"{address}/32"}}]}]}},
    }
    release.install(values, "--wait", "--timeout", "240s")
    forge = urlsplit(world.forge.base_url)
    given = {
        "urls": [
            f"http://{allowed}/",
            f"http://{private}/",
            "https://listed-nowhere.example.com/",
            f"http://listed-nowhere.example.com:{packages}/",
            f"http://{address}:{packages}/",
            f"https://{address}:{packages}/",
            f"http://{int(ip_address(address))}:{packages}/",
            f"http://[::ffff:{address}]:{packages}/",
            f"http://{allowed}@other-nowhere.example.com/",
            "http://169.254.169.254/latest/meta-data/",
            "http://metadata.google.internal/computeMetadata/v1/",
            "http://[fd00:ec2::254]/latest/meta-data/",
            f"http://{forge.hostname}:{forge.port}/",
        ],
        "addresses": [
            *(f"{address}:{packages}", f"{address}:{forge.port}", "10.96.0.10:53"),
            *("169.254.169.254:80", "[fd00:ec2::254]:80", "100.100.100.200:80"),
        ],
        "names": ["kubernetes.default.svc.cluster.local", "listed-nowhere.example.com"],
        "stolen": f"http://other-1.agent:{password('other-1.agent', 'guessed')}@PROXY",
    }
    program = f"cat > /tmp/canary.py <<'EOF'\n{CANARY}\nEOF"
    command = f"{program}\npython3 /tmp/canary.py '{json.dumps(given)}'"
    world.model.app.state.play.scripts = list(script(run(command), finish(status="nothing_to_change")))
    world.forge.add_label(REPOSITORY, 1, BOT)
    poll(world)
    until("end of the task", lambda: phase(world) in ("Succeeded", "Failed"), timeout=270, interval=0.5)
    status = release.tasks()[0]["status"]
    assert status["phase"] == "Succeeded", json.dumps(status, indent=1)
    said = str(world.model.requests[1]["messages"][-1]["content"])
    found = json.loads(said.partition("CANARY ")[2].splitlines()[0])
    urls = list(found["urls"].values())
    assert urls[0] == 200, found
    assert all("403" in str(answer) for answer in urls[1:]), found
    assert all(answer != "connected" for answer in found["addresses"].values()), found
    assert set(found["names"].values()) == {"no"}, found
    assert found["ssh"] != 0
    assert found["stolen"] == 407, found
    [attempt] = status["attempts"]
    assert found["user"] == user_name(attempt["job"], Role.WORKSPACE)
    denied = {entry["host"]: entry["count"] for entry in attempt["denied"]}
    assert denied["listed-nowhere.example.com"] == 1, denied
    assert denied[private] == 1, denied

    def shown() -> bool:
        return any("Blocked by the egress proxy" in comment for comment in world.comments())

    until("the comment", shown, timeout=90, interval=0.5)


def phase(world: Place) -> str:
    """Of the one task."""
    tasks = world.release.tasks()
    return str(tasks[0].get("status", {}).get("phase")) if tasks else ""


def poll(world: Place) -> None:
    """Have the forge polled now, and again while the node does not know yet what the policies say."""
    release = world.release
    for number in (1, 2, 3):
        name = f"poll-{number}"
        release.kubectl("create", "job", name, "--from=cronjob/coding-agent-poller-github")
        end = partial(job_end, release.cluster, release.namespace, name)
        if until(f"the end of {name}", end, timeout=180, interval=0.5) == "Complete":
            return
    pytest.fail(release.kubectl("logs", f"job/{name}"))
