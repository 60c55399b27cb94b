"""Threads that look at a cluster's processes at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.cluster import processes
from coding_agent_testbed.cluster.processes import Processes


class Ended:
    """A child that has ended; two threads that ask at the same time learn of it at the same time."""

    def __init__(self) -> None:
        self.both = threading.Barrier(2)

    def poll(self) -> int:
        with suppress(threading.BrokenBarrierError):
            self.both.wait(timeout=0.5)
        return 0


def test_two_threads_may_find_that_the_same_process_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[Any] = [Ended()]
    monkeypatch.setattr(processes, "_children", children)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(Processes(tmp_path).pid, ["api", "etcd"]))
    assert found == [None, None]
    assert children == []
