"""`make cluster` and `make cluster-down`: quick when warm, idempotent, and nothing is left behind."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from coding_agent_testbed.cluster import apt, cgroups, cluster, paths
from coding_agent_testbed.cluster.commands import run
from coding_agent_testbed.cluster.node_config import NodeFolders
from coding_agent_testbed.until import until

pytestmark = [
    pytest.mark.needs_node,
    pytest.mark.needs_root,
    pytest.mark.needs_linux,
    pytest.mark.timeout(900),
]

NAME = "lifecycle"
# On two cores that do nothing else.
WARM_UP_S = 40.0
DOWN_S = 15.0
TRIES = 3
"""The machine is shared: the best of so many counts."""


def traces() -> dict[str, list[str]]:
    """What of the cluster NAME this machine shows: processes, mounts, interfaces, routes, rules, groups.

    Other clusters may run meanwhile, so only what is the cluster's by its name or its addresses counts.
    """
    root = str(paths.clusters_root() / NAME)
    known = cluster.find(NAME)
    assert known is not None
    network = known.network
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            groups = (folder / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if root in line or f"{cgroups.group(NAME)}/" in groups:
            processes.append(line)
    prefix = network.host_address.rsplit(".", 1)[0] + "."
    marks = (network.host_interface, prefix, network.pods.rsplit(".", 1)[0] + ".", network.services)

    def lines(*command: str) -> list[str]:
        return [line for line in run(command).splitlines() if any(mark in line for mark in marks)]

    apt.ensure({"iptables-save": "iptables"})
    return {
        "processes": processes,
        "mounts": [line for line in Path("/proc/mounts").read_text().splitlines() if root in line],
        "interfaces": lines("ip", "-o", "link"),
        "routes": lines("ip", "route"),
        "firewall": lines("iptables-save"),
        "groups": [str(path) for path in cgroups.left(NAME)],
    }


def nothing_left() -> bool:
    """What was started through nsenter ends a moment after the process that it waits for."""

    def clean() -> bool:
        if left := {what: found for what, found in traces().items() if found}:
            raise ValueError(f"left: {left}")
        return True

    return until("nothing is left", clean, timeout=90)


# What the node's parts would write outside their folder, were it not for the sandbox.
SCATTER = ["/run/containerd", "/run/coding-agent", "/var/lib/kubelet", "/opt/containerd", "/var/log/pods"]


@pytest.fixture
def scatter() -> Iterator[list[str]]:
    before = [path for path in SCATTER if Path(path).exists()]
    yield before
    cluster.purge(NAME)


def test_up_is_quick_and_idempotent_and_down_leaves_nothing(scatter: list[str]) -> None:
    cluster.up(NAME)
    running = traces()
    assert running["processes"]
    assert running["interfaces"]
    assert running["routes"]
    assert running["groups"]

    first = {n: cluster.up(NAME).processes.pid(n) for n in ("etcd", "kubelet", "sandbox")}
    again = cluster.up(NAME)
    assert {n: again.processes.pid(n) for n in first} == first

    # A test that is killed does not remove what it gave to containerd.
    folders = NodeFolders(again.root)
    leftovers = (folders.registries, folders.image_verifiers)
    for folder in leftovers:
        folder.mkdir()

    downs: list[float] = []
    ups: list[float] = []
    while not ups or ((min(downs) >= DOWN_S or min(ups) >= WARM_UP_S) and len(ups) < TRIES):
        begin = time.monotonic()
        cluster.down(NAME)
        downs.append(time.monotonic() - begin)
        assert nothing_left()
        assert not any(folder.exists() for folder in leftovers)
        assert [path for path in SCATTER if Path(path).exists()] == scatter

        begin = time.monotonic()
        warm = cluster.up(NAME)
        ups.append(time.monotonic() - begin)
        assert "Ready" in warm.access.kubectl("get", "nodes", "--no-headers").split()
    assert min(downs) < DOWN_S, downs
    assert min(ups) < WARM_UP_S, ups
    cluster.down(NAME)
    assert nothing_left()
