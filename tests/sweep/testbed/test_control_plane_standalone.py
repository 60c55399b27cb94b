"""Control planes without a node: side by side, again after a kill, and nothing is left of them."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from coding_agent_testbed.cluster import paths, standalone
from coding_agent_testbed.cluster.access import Access, KubectlError

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
