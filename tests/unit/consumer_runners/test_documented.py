"""Every runner has an image, a version and a row in the documents."""

from pathlib import Path

import pytest
from coding_agent_consumer.runners.programs import RUNNERS
from coding_agent_core.task.runners import RunnerName
from coding_agent_demo.programs import version_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", RUNNERS)
def test_its_version_is_that_of_its_image_and_of_the_documents(name: RunnerName) -> None:
    dockerfile = (ROOT / "consumer" / "runners.Dockerfile").read_text(encoding="utf-8")
    assert f"\nFROM base AS {name}\n" in dockerfile
    page = (ROOT / "docs" / "runners.md").read_text(encoding="utf-8")
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"| {version_of(name)} |" in row
