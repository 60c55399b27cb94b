"""The operator against a real API server and its controllers; pods end as a script says."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.integration.operator.job_count import JobCount
from tests.integration.operator.pod_driver import DONE, PodDriver
from tests.integration.operator.world import OperatorProcess, World, account


@pytest.fixture(scope="session")
def plane(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    install(control_plane)
    return control_plane


@pytest.fixture
def world(plane: PlaneUnderTest, namespace: str) -> World:
    return World(plane, namespace)


@pytest.fixture
def pods(world: World) -> Iterator[PodDriver]:
    with PodDriver(world.plane, world.namespace, lambda _: DONE) as driver:
        yield driver


@pytest.fixture
def operator(world: World, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """Start the operator under its own service account, with settings; it ends with the test."""
    with ExitStack() as stack:

        def start(**settings: Any) -> OperatorProcess:
            kubeconfig = account(world.plane, world.namespace, tmp_path)
            process = OperatorProcess(kubeconfig, world.namespace, tmp_path, settings).start()
            stack.callback(process.stop)
            return process

        yield start


@pytest.fixture
def count(world: World) -> Iterator[JobCount]:
    with JobCount(world) as counting:
        yield counting
