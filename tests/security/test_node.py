"""Wall: the node. What one attempt's commands can do to other attempts, and reach on the node itself.

The decoys: with one user for all workspaces, the same fork bomb stops the other attempt; without
policies, the same probe reaches what the policies close.
"""

import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from coding_agent_testbed.model.script import Script
from coding_agent_testbed.until import until

from tests.chart.helm import CHART, render_text
from tests.chart.place import node_values
from tests.chart.release import Release
from tests.e2e.pods import container, pod, python
from tests.e2e.test_chart_network import labels
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.deliveries import SECRET, encode, github_headers, github_issue
from tests.fixtures.system import REPOSITORY, over
from tests.fixtures.system_in_pods import PodSystem, StartPods, host_address, with_container
from tests.integration.main_job.scripts import finish, run, write

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

# Threads count like processes, and need less memory. It ends by itself, later than `bombed` waits, and has a
# bound of its own.
BOMB = """
import threading, time
threading.stack_size(65536)
end = time.monotonic() + 280
def idle():
    time.sleep(max(0, end - time.monotonic()))  # not a wait
started = 0
try:
    while started < 10_000:
        threading.Thread(target=idle, daemon=True).start()
        started += 1
except RuntimeError:
    open("full", "w").write(str(started))
idle()
"""
_NO_PROCESS = "Resource temporarily unavailable"
MEMORY = {"limits": {"memory": "1Gi"}}


def bombed(start_pods: StartPods, **workspace: Any) -> tuple[PodSystem, str]:
    """What a command of a second attempt says while a fork bomb is at its limit in the first."""
    bomb = f"cat > bomb.py <<'END'\n{BOMB}\nEND\npython3 bomb.py"
    work = run("for n in 1 2 3 4 5; do (sleep 0.1; echo worked-$n) & done; wait")
    scripts = [
        Script(name="neighbour", match="A feature", turns=(work, write("b.md", "b\n"), finish())),
        Script(name="bomb", turns=(run(bomb), finish(status="nothing_to_change"))),
    ]
    job = with_container(name="workspace", resources=MEMORY, **workspace)
    system = start_pods("github", scripts, job=job)
    system.put_label(1)

    def full() -> str:
        for found in system.pods():
            said = system.exec(found["metadata"]["name"], "workspace", "cat", "/workspace/tree/full")
            if said.strip().isdigit():
                return said.strip()
        return ""

    count = until("the bomb is at its limit", full, timeout=120, interval=0.5)
    assert 3500 < int(count) <= 4096
    other = system.forge.open_issue(REPOSITORY, "A feature", "Please.")
    system.put_label(other)

    def told() -> str:
        for request in system.model.requests:
            last = request["messages"][-1]
            if last["role"] == "tool" and "A feature" in str(request["messages"]):
                return str(last["content"])
        pods = json.dumps(system.pods())
        return pods if _NO_PROCESS in pods else ""

    return system, until("the other attempt works or fails", told, timeout=150, interval=0.5)


def test_a_fork_bomb_leaves_other_attempts_alone(start_pods: StartPods) -> None:
    system, told = bombed(start_pods)
    assert all(f"worked-{number}" in told for number in range(1, 6))
    users = {found["spec"]["initContainers"][-1]["securityContext"]["runAsUser"] for found in system.pods()}
    assert len(users) == 2


def test_with_one_user_for_all_it_stops_the_others(start_pods: StartPods) -> None:
    _, told = bombed(start_pods, securityContext={"runAsUser": 10002})
    assert _NO_PROCESS in told


# A model that leaves a file of 700 MB, is told so, and then a patch that unpacks to just within the limits.
_HUGE = "echo kept > kept.md; truncate -s 700M core"
DEFAULT_MEMORY = [
    {"name": name, "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": limit}}}
    for name, limit in (("agent", "1Gi"), ("workspace", "4Gi"))
]
"""The limits of attempts' containers unless the values say otherwise (`operator/job.py`)."""
_AT_THE_LIMIT = "rm core; for n in 1 2 3 4; do head -c 32M /dev/zero > zeros-$n.bin; done"


def test_files_too_large_are_named_and_those_within_the_limits_kill_nothing(start_pods: StartPods) -> None:
    turns = (run(_HUGE), finish(), run(_AT_THE_LIMIT), finish("Added zeros."))
    job = {"pod_template": {"spec": {"containers": DEFAULT_MEMORY}}}
    system = start_pods("github", [Script(name="huge", turns=turns)], job=job)
    system.put_label(1)
    system.wait_for_phase("Succeeded")
    told = str(system.model.requests[2]["messages"][-1]["content"])
    assert "core (700 MiB)" in told
    branch = system.git("ls-tree", "-r", "--name-only", "coding-agent/issue-1").split()
    assert {"kept.md", "zeros-1.bin", "zeros-4.bin"} <= set(branch)
    assert "core" not in branch
    (found,) = system.pods()
    statuses = [*found["status"]["containerStatuses"], *found["status"]["initContainerStatuses"]]
    assert [status["restartCount"] for status in statuses] == [0] * len(statuses), "nothing was killed"


PORTS = (22, 2379, 2380, 6443, 10248, 10249, 10250, 10255, 10256, 10257, 10259)
"""Of a node: SSH, etcd, API server, kubelet, kube-proxy, controller manager, scheduler."""
PROBE = """
import json, socket, ssl, sys, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor
context = ssl._create_unverified_context()

def status(url):
    try:
        return urllib.request.urlopen(url, timeout=5, context=context).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None

def open_port(place):
    try:
        socket.create_connection(place, timeout=5).close()
        return place
    except OSError:
        return None

given = json.loads(sys.argv[1])
with ThreadPoolExecutor(16) as pool:
    ports = [place for place in pool.map(open_port, map(tuple, given["places"])) if place]
    statuses = dict(zip(given["urls"], pool.map(status, given["urls"])))
print(json.dumps({"ports": ports, "statuses": statuses}))
"""


@pytest.fixture
def private(cluster: ClusterUnderTest) -> Iterator[tuple[str, int]]:
    """A service of nobody in a private network: this machine, as the pods see it."""
    with socket.create_server((host_address(cluster), 0), backlog=64) as listening:
        yield listening.getsockname()[:2]


def test_policies_close_other_networks_but_not_the_pods_own_node(
    cluster: ClusterUnderTest,
    namespace: str,
    test_image: str,
    enforced_policies: None,
    private: tuple[str, int],
) -> None:
    """With the chart's defaults. The node is open by design of NetworkPolicies, and asks who it is."""
    (node,) = cluster.get("nodes")["items"]
    address = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
    service = cluster.get("-n", "default", "service", "kubernetes")["spec"]["clusterIP"]
    probe = {
        "places": [*((address, port) for port in PORTS), (service, 443), private],
        "urls": [
            f"https://{address}:10250/pods",
            f"https://{address}:10250/run/kube-system/x/y?cmd=id",
            f"https://{address}:6443/api/v1/secrets",
            f"https://{service}/api/v1/secrets",
        ],
    }
    rests = python(test_image, "import time; time.sleep(600)")  # not a wait
    attempt = pod("attempt", rests, labels("attempt"))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(attempt))
    cluster.kubectl(
        "-n", namespace, "wait", "--for=condition=Ready", "pod/attempt", "--timeout=120s", timeout=150
    )

    def found() -> dict[str, Any]:
        said = cluster.kubectl(
            *("-n", namespace, "exec", "attempt", "--", "python3", "-c", PROBE, json.dumps(probe)), timeout=60
        )
        answer: dict[str, Any] = json.loads(said)
        return answer

    # A busy node may need longer for a connection than the probe waits.
    until("open without policies", lambda: list(private) in found()["ports"], timeout=120, interval=1)
    policies = render_text(
        CHART / "ci" / "required-values.yaml",
        more=("--show-only", "templates/networkpolicy.yaml"),
        namespace=namespace,
    )
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=policies)

    def closed() -> dict[str, Any]:
        """What a probe sees once the policies count; nothing while the node is too busy to answer in time."""
        answer = found()
        asked = [status for status in answer["statuses"].values() if status is not None]
        in_time = [address, 10250] in answer["ports"] and asked
        return answer if in_time and list(private) not in answer["ports"] else {}

    # The kubelet: this is what docs/security.md says.
    answer = until("the policies count, and the node answers", closed, timeout=180, interval=1)
    print(json.dumps(answer))
    asked = [status for status in answer["statuses"].values() if status is not None]
    assert set(asked) <= {401, 403}, "nothing of Kubernetes answers a stranger"


# Forged webhooks from inside the cluster: so many bodies of 24 MB at once, and so many slow senders.
FLOOD = """
import asyncio, resource, sys
host, bodies, slow = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
head = ("POST /webhook/github HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\n"
    "X-GitHub-Event: issues\\r\\nX-GitHub-Delivery: d\\r\\nX-Hub-Signature-256: sha256=" + "0" * 64 +
    "\\r\\nContent-Length: {}\\r\\n\\r\\n")
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

async def send(size, piece, pause, pieces):
    try:
        reader, writer = await asyncio.open_connection(host, 80)
        writer.write(head.format(size).encode())
        for _ in range(pieces):
            writer.write(bytes(piece))
            await writer.drain()
            await asyncio.sleep(pause)  # not a wait
        await asyncio.wait_for(reader.read(100), 5)
        writer.close()
    except (OSError, asyncio.TimeoutError):
        pass

async def main():
    for _ in range(3):
        await asyncio.gather(
            *(send(24_000_000, 65_536, 0, 366) for _ in range(bodies)),
            *(send(500_000, 1, 1, 5) for _ in range(slow)),
        )
    print("flooded")

asyncio.run(main())
"""


ATTACKERS = 4


def test_a_flood_restarts_no_receiver_and_authentic_webhooks_are_answered(
    cluster: ClusterUnderTest,
    namespace: str,
    new_namespace: Callable[[str], str],
    test_image: str,
    project_images: dict[str, str],
) -> None:
    """40 bodies of 24 MB and 1,000 slow senders of four addresses, three times, with the chart's limits."""
    values = {
        "secrets": {
            "webhook": {"github": SECRET},
            "github": {"token": "never-used"},
            "model": {"apiKey": "never-used"},
        },
        "config": {"limits": {"global": 0}},
        "reporter": {"enabled": False},
        "operator": {"enabled": False},
    }
    release = Release(cluster, namespace, over(node_values(project_images), values))
    release.take_crd()
    release.install(None, "--wait", "--timeout", "240s")
    address = release.get("service", "coding-agent-receiver")["spec"]["clusterIP"]
    elsewhere = new_namespace("restricted")
    command = ["python3", "-c", FLOOD, address, str(40 // ATTACKERS), str(1000 // ATTACKERS)]
    resources = {"requests": {"memory": "32Mi", "cpu": "10m"}, "limits": {"memory": "256Mi"}}
    for number in range(ATTACKERS):
        attacker = pod(f"attacker-{number}", container(test_image, *command, resources=resources))
        cluster.kubectl("-n", elsewhere, "apply", "-f", "-", stdin=json.dumps(attacker))

    def phases() -> list[str]:
        return [found["status"]["phase"] for found in cluster.get("-n", elsewhere, "pods")["items"]]

    # The first attacker may be done before the last one starts.
    until("the flood has started", lambda: "Pending" not in phases(), timeout=120, interval=0.2)
    answers: list[tuple[int, float]] = []
    deadline = time.monotonic() + 600
    with httpx2.Client(base_url=f"http://{address}", trust_env=False, timeout=30) as http:
        for number in itertools.count(1):
            body = encode(github_issue(number=number))
            started = time.monotonic()
            answer = http.post(
                "/webhook/github", content=body, headers=github_headers(body, delivery=f"d-{number}")
            )
            answers.append((answer.status_code, time.monotonic() - started))
            if "Running" not in phases() or time.monotonic() > deadline:
                break
    assert set(phases()) == {"Succeeded"}
    pods = release.get("pods", "-l", "app.kubernetes.io/component=receiver")["items"]
    restarts = [status["restartCount"] for found in pods for status in found["status"]["containerStatuses"]]
    slowest = max(seconds for _, seconds in answers)
    print(f"{len(answers)} authentic webhooks, slowest {slowest:.2f} s, restarts {restarts}")
    assert len(answers) >= 10
    assert {status for status, _ in answers} == {200}
    assert restarts == [0] * len(pods)
