"""Receivers that keep their tasks in a real API server."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.fixtures.deliveries import PATIENT
from tests.fixtures.system import Program
from tests.integration.core_kubernetes.api_proxy import ApiProxy
from tests.integration.core_kubernetes.place import Place


@pytest.fixture(scope="session")
def plane_with_agenttasks(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    """The control plane with the AgentTask resource."""
    install(control_plane)
    return control_plane


@pytest.fixture
def place(plane_with_agenttasks: PlaneUnderTest, namespace: str, tmp_path: Path) -> Place:
    """A namespace of the test's own."""
    return Place(plane_with_agenttasks, namespace, tmp_path)


@pytest.fixture
def start_receiver(place: Place) -> Iterator[Callable[..., Program]]:
    """Start a receiver with a kubeconfig, by default its own account's, and settings of `development`."""
    with ExitStack() as stack:

        def start(kubeconfig: Path | None = None, **development: float) -> Program:
            sections = {"development": {**PATIENT, **development}}
            program = place.start_receiver(kubeconfig or place.account(), forge=sections)
            stack.callback(_end, program)
            return program

        yield start


@pytest.fixture
async def api_proxy(plane_with_agenttasks: PlaneUnderTest) -> AsyncIterator[ApiProxy]:
    """The way to the API server, with faults."""
    async with ApiProxy(plane_with_agenttasks) as proxy:
        yield proxy


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """A client that waits longer than a receiver may take."""
    limits = httpx2.Limits(max_connections=64)
    async with httpx2.AsyncClient(timeout=60, trust_env=False, limits=limits) as client:
        yield client


def _end(program: Program) -> None:
    if program.process.poll() is None:
        program.process.terminate()
        program.process.wait(60)
