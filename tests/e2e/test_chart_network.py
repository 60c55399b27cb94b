"""What each program of the chart can reach, where the namespace's own policy denies everything: a table."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from coding_agent_testbed.until import until

from tests.chart.helm import CHART, render_text
from tests.chart.place import DENY_ALL
from tests.e2e.pods import pod, python, server
from tests.fixtures.cluster import ClusterUnderTest
from tests.fixtures.system_in_pods import host_address

# Time for what may have to be built first.
pytestmark = [pytest.mark.needs_node, pytest.mark.timeout(1500)]

REACHED = {
    "receiver": {"names", "api"},
    "operator": {"names", "api"},
    "reporter": {"names", "api", "forge"},
    "poller": {"names", "api", "forge"},
    "attempt": {"names", "forge", "model", "user-config"},
    "evidence": {"names", "forge"},
    "selftest": {"names", "api", "receiver"},
    "user-config": set(),
    "stranger": set(),
}
"""Of the places of the test; everything else is refused. The stranger is a pod that is not the release's."""

SERVERS = ("receiver", "user-config")
"""The programs that listen."""

# Prints the places that let it connect. All are tried at once: what is refused takes the whole time.
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reached(place):
    name, (host, port) = place
    try:
        if port is None:
            socket.getaddrinfo(host, 443)
        else:
            socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return None
    return name

places = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(places)) as pool:
    print(*filter(None, pool.map(reached, places.items())))
"""


@pytest.fixture
def listeners(cluster: ClusterUnderTest) -> Iterator[dict[str, int]]:
    """Ports of this machine, a private network to the pods: forge, model, nobody's, an API server's.

    The API server itself cannot be tried: it is on the pods' own node, which no policy keeps them from.
    """
    with ExitStack() as stack:
        address = host_address(cluster)
        ports = {}
        for name, port in {"forge": 0, "model": 0, "nobody": 0, "api": 6443}.items():
            # Connections are made by the kernel; nobody needs to accept them.
            listening = stack.enter_context(socket.create_server((address, port), backlog=512))
            ports[name] = listening.getsockname()[1]
        yield ports


def labels(component: str) -> dict[str, str]:
    """As the chart and the operator label the pods of a program."""
    own = {"app.kubernetes.io/name": "coding-agent", "app.kubernetes.io/instance": "coding-agent"}
    found = {**own, "app.kubernetes.io/component": component}
    if component in ("attempt", "evidence"):
        found["app.kubernetes.io/managed-by"] = "coding-agent-operator"
    return {"app": "stranger"} if component == "stranger" else found


def serving(image: str, component: str) -> dict[str, Any]:
    made = server(component, image)[0]
    made["metadata"]["labels"] = labels(component)
    made["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 8080}]
    return made


def test_each_program_reaches_what_it_needs_and_nothing_else(
    cluster: ClusterUnderTest,
    namespace: str,
    test_image: str,
    enforced_policies: None,
    listeners: dict[str, int],
) -> None:
    address = host_address(cluster)
    network = {"cidrs": [f"{address}/32"]}
    values = {
        "userConfig": {"enabled": True},
        "polling": {"enabled": True},
        "config": {"github": {"owner": "acme"}},
        "networkPolicy": {
            "forge": {**network, "ports": [listeners["forge"]]},
            "model": {**network, "ports": [listeners["model"]]},
        },
    }
    policies = render_text(
        CHART / "ci" / "required-values.yaml",
        values=values,
        more=("--show-only", "templates/networkpolicy.yaml"),
        namespace=namespace,
    )
    sleep = python(test_image, "import time; time.sleep(600)")
    pods = [
        serving(test_image, name) if name in SERVERS else pod(name, sleep, labels(name)) for name in REACHED
    ]
    everything = {"apiVersion": "v1", "kind": "List", "items": pods}
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(everything))
    ready = ("wait", "--for=condition=Ready", "pod", "--all", "--timeout=180s")
    cluster.kubectl("-n", namespace, *ready, timeout=200)
    ip = {p["metadata"]["name"]: p["status"]["podIP"] for p in cluster.get("-n", namespace, "pods")["items"]}
    places = {
        "names": ("kubernetes.default.svc", None),
        **{name: (address, port) for name, port in listeners.items()},
        **{name: (ip[name], 8080) for name in SERVERS},
    }

    def reached(program: str) -> set[str]:
        # A pod reaches itself without leaving it.
        others = {name: place for name, place in places.items() if name != program}
        command = ["exec", program, "--", "python3", "-c", PROBE, json.dumps(others)]
        return set(cluster.kubectl("-n", namespace, *command).split())

    found: dict[str, set[str]] = {}

    def as_expected(expected: dict[str, set[str]]) -> bool:
        open_ones = [name for name in expected if found.get(name) != expected[name]]
        with ThreadPoolExecutor(4) as pool:
            found.update(zip(open_ones, pool.map(reached, open_ones), strict=True))
        wrong = {name: found[name] for name in expected if found[name] != expected[name]}
        if wrong:
            raise ValueError(f"reached: {wrong}")
        return True

    until(
        "all is open without policies",
        lambda: as_expected({"stranger": set(places)}),
        timeout=120,
        interval=1,
    )
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(DENY_ALL))
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=policies)
    # What a policy says about a pod is known a moment after it is made.
    until(
        "each reaches what it needs and nothing else", lambda: as_expected(REACHED), timeout=180, interval=1
    )
