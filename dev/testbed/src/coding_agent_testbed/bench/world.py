"""What benchmarks share: a control plane, a broker and a node of this run's own, if one of them needs it."""

from __future__ import annotations

import asyncio
import os
import uuid
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path

from coding_agent_testbed.bench.broker import Broker
from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.bench.plane import Plane
from coding_agent_testbed.cluster import cluster, parts, paths, quick_start, standalone
from coding_agent_testbed.cluster.access import Access
from coding_agent_testbed.cluster.locks import try_locked


class Part(StrEnum):
    """What a benchmark may need."""

    PLANE = "control plane"
    BROKER = "RabbitMQ"
    NODE = "node"


_CLUSTER = "bench"
"""The cluster with the node. Its images are kept for the next run."""


class World:
    """The folder, the control plane, the broker and the node of one run.

    Attributes:
        folder: for settings, logs and data; removed by whoever made it.
        quick: measure as little as shows that it works.
        scale: how many times larger than usual the big repository is.
    """

    def __init__(self, folder: Path, *, quick: bool, scale: int = 1) -> None:
        self.folder = folder
        self.quick = quick
        self.scale = scale
        self._ends = ExitStack()
        self._plane: Plane | None = None
        self._broker: Broker | None = None
        self._node: Access | None = None

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def size(self, usual: int, quick: int) -> int:
        """How many, in a run of this kind."""
        return quick if self.quick else usual

    @property
    def plane(self) -> Plane:
        """The control plane.

        Raises:
            BenchError: no benchmark of this run said that it needs one.
        """
        if self._plane is None:
            raise BenchError("this run has no control plane: the benchmark must name it in `needs`")
        return self._plane

    @property
    def broker(self) -> Broker:
        """The RabbitMQ server.

        Raises:
            BenchError: no benchmark of this run said that it needs one.
        """
        if self._broker is None:
            raise BenchError("this run has no RabbitMQ: the benchmark must name it in `needs`")
        return self._broker

    @property
    def node(self) -> Access:
        """A cluster with one node, which has what `make try` installs: the chart, a forge and a model.

        Raises:
            BenchError: no benchmark of this run said that it needs one.
        """
        if self._node is None:
            raise BenchError("this run has no node: the benchmark must name it in `needs`")
        return self._node

    async def start(self, needed: frozenset[Part]) -> None:
        """Start what is needed, side by side.

        Raises:
            ClusterError, RuntimeError: a part is missing on this machine, or does not start.
        """
        starts = {
            Part.PLANE: self._start_plane,
            Part.BROKER: self._start_broker,
            Part.NODE: self._start_node,
        }
        ended = await asyncio.gather(
            *(asyncio.to_thread(starts[part]) for part in sorted(needed)), return_exceptions=True
        )
        for entry in ended:
            if isinstance(entry, BaseException):
                raise entry

    def _start_plane(self) -> None:
        # The name of a test run's: the next one of those takes away what a killed run has left.
        root = paths.clusters_root() / f"test-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._ends.callback(standalone.down, root)
        standalone.sweep()
        plane = Plane(standalone.up(root, parts.CONTROL_PLANE, owner=os.getpid()))
        plane.install()
        self._plane = plane

    def _start_broker(self) -> None:
        broker = Broker(self.folder / "rabbitmq")
        self._ends.callback(broker.close)
        broker.start()
        self._broker = broker

    def _start_node(self) -> None:
        cluster.require_machine()
        self._ends.enter_context(try_locked(paths.clusters_root() / f"{_CLUSTER}.in-use"))
        self._ends.callback(cluster.down, _CLUSTER)
        cluster.down(_CLUSTER)  # what a killed run has left
        self._node = quick_start.start(_CLUSTER)[0].access
