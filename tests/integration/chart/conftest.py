"""The tools that check the chart, built once, and JSON schemas of all kinds that it makes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from coding_agent_testbed.cluster import build

from tests.chart import schemas
from tests.chart.run import run

Tool = Callable[..., str]


@pytest.fixture(scope="session")
def tool() -> Tool:
    """Run one of them: `tool("kubeconform", …)` is what it prints; fails with all of it if it fails."""

    def call(name: str, *arguments: str, stdin: str = "") -> str:
        return run(str(build.binaries([name])[name]), *arguments, stdin=stdin)

    return call


@pytest.fixture(scope="session")
def kind_schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSON schemas for kubeconform: Kubernetes' own kinds, and those of the known operators."""
    folder = tmp_path_factory.mktemp("schemas")
    schemas.write(folder)
    return folder
