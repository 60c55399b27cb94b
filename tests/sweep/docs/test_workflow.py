"""The workflow of CI is one that GitHub accepts."""

import pytest
from coding_agent_cluster import build
from coding_agent_docs.paths import ROOT

from tests.chart.run import run

# Time for actionlint, which may have to be built first.
pytestmark = pytest.mark.timeout(900)
WORKFLOWS = sorted(str(file) for file in (ROOT / ".github" / "workflows").iterdir())


def test_actionlint_finds_nothing() -> None:
    assert WORKFLOWS
    run(str(build.binaries(["actionlint"])["actionlint"]), *WORKFLOWS)
