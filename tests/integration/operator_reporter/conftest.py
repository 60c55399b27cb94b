"""The reporter against a real API server and the sandbox forges."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.forge import ForgeServer

from tests.fixtures.cluster import PlaneUnderTest
from tests.fixtures.crd import install
from tests.integration.operator_reporter.process import Reporter
from tests.integration.operator_reporter.world import SEED, World


@pytest.fixture(scope="session")
def plane(control_plane: PlaneUnderTest) -> PlaneUnderTest:
    install(control_plane)
    return control_plane


@pytest.fixture(params=["github", "gitlab"])
def flavour(request: pytest.FixtureRequest) -> str:
    """Both forges; a test that needs one only says `@pytest.mark.parametrize("flavour", ["github"])`."""
    return str(request.param)


@pytest.fixture
def world(plane: PlaneUnderTest, namespace: str, flavour: str, tmp_path: Path) -> Iterator[World]:
    with ForgeServer(flavour, SEED, tmp_path / "forge") as forge:
        yield World(plane, namespace, forge, tmp_path)


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., Reporter]]:
    """Start a reporter with settings of its section; it ends with the test, and its log is shown."""
    with ExitStack() as stack:

        def begin(**reporter: Any) -> Reporter:
            process = world.reporter(**reporter).start()
            stack.callback(lambda: print(process.log()[-6000:]))
            stack.callback(process.stop)
            return process.ready()

        yield begin
