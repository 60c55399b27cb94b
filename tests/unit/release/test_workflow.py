"""The workflow of a release: every action is one commit, every job has the rights that it needs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_release.chart import IMAGES
from coding_agent_testbed.tiers.nightly import tiers

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
RIGHTS = {
    "version": {"contents": "read"},
    "nightly": {"contents": "read", "issues": "write"},
    "image": {"contents": "read", "packages": "write", "id-token": "write"},
    "chart": {"contents": "read", "packages": "write", "id-token": "write"},
    "plugin": {"contents": "read"},
    "site": {"contents": "read"},
    "pages": {"pages": "write", "id-token": "write"},
    "release": {"contents": "write"},
}


def release() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yaml").read_text())
    return found


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_each_action_is_one_commit(file: Path) -> None:
    uses = re.findall(r"uses: (.*)", file.read_text())
    assert uses
    ours = "./.github/workflows/"
    assert [
        line
        for line in uses
        if not line.startswith(ours) and not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
    ] == []


def test_each_job_has_the_rights_that_it_needs() -> None:
    workflow = release()
    assert workflow["permissions"] == {}
    assert {name: job["permissions"] for name, job in workflow["jobs"].items()} == RIGHTS
    # The jobs of a workflow that is called have their own limits.
    assert all("timeout-minutes" in job for job in workflow["jobs"].values() if "uses" not in job)


def test_the_images_are_those_that_the_chart_names() -> None:
    matrix = release()["jobs"]["image"]["strategy"]["matrix"]["include"]
    assert {image["program"] for image in matrix} == set(IMAGES)
    for image in matrix:
        assert f" AS {image['target']}\n" in (ROOT / image["file"]).read_text()


def test_what_a_checkout_pins_is_kept_new() -> None:
    renovate = (ROOT / ".github" / "renovate.json").read_text()
    [pattern] = re.findall(r'"pip_requirements": \{ "managerFilePatterns": \["/(.*?)/"\]', renovate)
    locks = [str(file.relative_to(ROOT)) for file in (ROOT / "requirements").glob("*.txt")]
    assert all(re.search(pattern.replace("\\\\", "\\"), lock) for lock in locks)


def test_every_tier_has_a_job_at_night() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yaml").read_text())
    assert workflow["jobs"]["tier"]["strategy"]["matrix"]["tier"] == list(tiers(1, ROOT))
