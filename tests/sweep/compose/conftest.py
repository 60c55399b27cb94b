"""docker-compose.yml as docker compose itself reads it, and Caddy: both built from their Go modules."""

from collections.abc import Callable
from pathlib import Path

import pytest
from coding_agent_testbed.cluster import build

from tests.sweep.compose.project import Project, render

Render = Callable[..., Project]


@pytest.fixture(scope="session")
def docker_compose() -> Path:
    """The program; the first time it is built, for about a minute."""
    return build.binaries(["docker-compose"])["docker-compose"]


@pytest.fixture(scope="session")
def caddy() -> Path:
    """The program; the first time it is built, for about two minutes."""
    return build.binaries(["caddy"])["caddy"]


@pytest.fixture
def rendered(docker_compose: Path, tmp_path: Path) -> Render:
    """A function that reads the file with the variables of an `.env`: `rendered(RABBITMQ_PASSWORD="x")`."""
    return lambda *services, **variables: render(docker_compose, tmp_path, services, variables)
