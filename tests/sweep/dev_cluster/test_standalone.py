"""Control planes without a node: side by side, again after a kill, and nothing is left of them."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from coding_agent_cluster import network, paths, standalone, state
from coding_agent_cluster.access import Access, KubectlError
from coding_agent_cluster.wait import until

from tests.fixtures.cluster import PlaneUnderTest

pytestmark = [pytest.mark.needs_linux, pytest.mark.timeout(600)]


def processes_of(root: Path) -> list[str]:
    """The command lines of living processes that name the folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(root) in line:
            lines.append(line)
    return lines


@pytest.fixture
def roots() -> Iterator[list[Path]]:
    folders = [paths.clusters_root() / f"test-parallel-{time.monotonic_ns()}-{n}" for n in range(2)]
    yield folders
    for folder in folders:
        standalone.down(folder)


def test_several_run_side_by_side_are_started_again_and_leave_nothing(roots: list[Path]) -> None:
    with ThreadPoolExecutor() as pool:
        one, two = pool.map(standalone.up, roots)
    Access(one.kubeconfig, one.binaries["kubectl"]).kubectl("create", "namespace", "only-here")
    with pytest.raises(KubectlError, match="not found"):
        Access(two.kubeconfig, two.binaries["kubectl"]).kubectl("get", "namespace", "only-here")

    pids = {name: one.processes.pid(name) for name in one.names}
    one.processes.stop("kube-apiserver", how=signal.SIGKILL, timeout=10)
    again = standalone.up(roots[0])
    assert again.network == one.network
    assert again.processes.pid("etcd") == pids["etcd"]
    assert again.processes.pid("kube-apiserver") not in (None, pids["kube-apiserver"])

    assert processes_of(roots[0])
    for root in roots:
        standalone.down(root)
        assert processes_of(root) == []
        assert not root.exists()


def test_a_port_that_was_taken_is_replaced_and_what_a_killed_test_run_left_is_swept(
    control_plane: PlaneUnderTest, roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = network.loopback_network()
    taken = replace(free, api_port=control_plane.plane.network.api_port)
    networks = iter([taken, free])
    monkeypatch.setattr(standalone, "loopback_network", lambda: next(networks))
    plane = standalone.up(roots[0], owner=os.getpid())
    assert plane.network == free

    dead_pid = 2**22 + 1  # above Linux's largest pid (proc(5), pid_max)
    # Not before it is up: another test run may sweep at any moment.
    state.save(roots[0], state.State(plane.network, plane.names, dead_pid))
    standalone.sweep()
    assert processes_of(roots[0]) == []
    assert not roots[0].exists()
    assert control_plane.core.list_namespace().items, "this run's own control plane is left alone"


def test_controllers_that_start_while_the_api_server_is_away_work_when_it_is_back(
    chaos_plane: PlaneUnderTest, namespace: str
) -> None:
    """They end after ten seconds without it, and are started again."""
    part = "kube-controller-manager"
    chaos_plane.kill("kube-apiserver")
    chaos_plane.kill(part)
    chaos_plane.plane.start(part)
    log = chaos_plane.plane.processes.log_tail
    until("its end", lambda: "is started again" in log(part, 50), timeout=120)
    chaos_plane.start("kube-apiserver")
    core = chaos_plane.core
    owner = core.create_namespaced_config_map(namespace, {"metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    owned = {"metadata": {"name": "owned", "ownerReferences": [reference]}}
    core.create_namespaced_config_map(namespace, owned)
    core.delete_namespaced_config_map("owner", namespace)

    def names() -> set[str]:
        return {found.metadata.name for found in core.list_namespaced_config_map(namespace).items}

    until("garbage collection", lambda: "owned" not in names(), timeout=120)
