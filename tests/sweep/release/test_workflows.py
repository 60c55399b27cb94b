"""The workflows are what GitHub Actions understands, and the scripts of the release do what they say."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_release.chart import IMAGES
from coding_agent_testbed.cluster import build

from tests.chart.run import run
from tests.fixtures.noted_programs import NotedPrograms

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".github" / "workflows"
SHELL = ("bash", "-e", "-c")
"""How GitHub runs a step that names no shell: without `pipefail`."""
# Time for actionlint, which may have to be built first.
pytestmark = pytest.mark.timeout(900)


def actionlint(*arguments: str) -> str:
    return run(str(build.binaries(["actionlint"])["actionlint"]), *arguments)


def test_actionlint_finds_nothing_in_the_workflows_and_something_in_a_wrong_one(tmp_path: Path) -> None:
    actionlint(*map(str, sorted(FOLDER.glob("*.yaml"))))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        (FOLDER / "release.yaml").read_text().replace("needs.version.outputs", "needs.verison.outputs")
    )
    with pytest.raises(AssertionError, match="verison"):
        actionlint(str(wrong))


def script(job: str, name: str) -> str:
    """The script of a step of the release."""
    workflow: dict[str, Any] = yaml.safe_load((FOLDER / "release.yaml").read_text())
    [found] = [step["run"] for step in workflow["jobs"][job]["steps"] if step.get("name") == name]
    return str(found)


class Runner:
    """A runner of GitHub Actions.

    Attributes:
        folder: the folder in which the scripts run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = NotedPrograms(folder / "programs")
        self.output = folder / "output"
        self.output.touch()

    def has(self, name: str, prints: str = "") -> None:
        self.programs.add(name, after=f'printf "%b" "{prints}"')

    @property
    def calls(self) -> list[str]:
        return self.programs.calls

    def run(
        self, text: str, folder: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        own = {"GITHUB_OUTPUT": str(self.output), "PATH": f"{self.programs.folder}:{os.environ['PATH']}"}
        return subprocess.run(
            [*SHELL, text],
            cwd=folder or self.folder,
            env=own | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.mark.parametrize(
    ("tag", "version"), [("v0.1.0", "0.1.0"), ("v0.1.0-rc.1", "0.1.0-rc.1"), ("v9.9.9", ""), ("v0.1", "")]
)
def test_only_the_version_of_the_chart_can_be_tagged(runner: Runner, tag: str, version: str) -> None:
    text = script("version", "The tag is the version of the chart, or a candidate for it")
    done = runner.run(text, ROOT, GITHUB_REF_NAME=tag, GITHUB_REPOSITORY="Acme/Coding-Agent")
    assert (done.returncode == 0) is bool(version), done.stderr
    outputs = dict(line.split("=", 1) for line in runner.output.read_text().splitlines())
    if version:
        assert (outputs["version"], outputs["registry"]) == (version, "ghcr.io/acme/coding-agent")
        assert outputs["epoch"].isdigit()
    else:
        assert outputs == {}


def test_each_image_is_signed_by_its_digest_and_the_chart_gets_all_of_them(runner: Runner) -> None:
    runner.has("cosign")
    references = runner.folder / "references"
    references.mkdir()
    for program in IMAGES:
        reference = f"ghcr.io/acme/coding-agent-{program}@sha256:{program}"
        done = runner.run(
            script("image", "Sign the digest"), references, REFERENCE=reference, PROGRAM=program
        )
        assert done.returncode == 0, done.stderr
        assert runner.calls[-1] == f"cosign sign --yes {reference}"
    for name in ("make", "helm"):
        runner.has(name)
    python = runner.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(runner.programs.folder / "python")
    runner.has("python")
    text = script("chart", "Write the digests into the chart")
    done = runner.run(text, VERSION="0.1.0", REGISTRY="ghcr.io/acme")
    assert done.returncode == 0, done.stderr
    found = json.loads((runner.folder / "images.json").read_text())
    assert found == {program: f"ghcr.io/acme/coding-agent-{program}@sha256:{program}" for program in IMAGES}


def test_the_chart_is_signed_by_the_digest_that_helm_prints(runner: Runner) -> None:
    runner.has("cosign")
    runner.has("helm", "Pushed: ghcr.io/acme/charts/coding-agent:0.1.0\\\\nDigest: sha256:0123\\\\n")
    (runner.folder / "dist").mkdir()
    (runner.folder / "images.json").write_text('{"operator": "x"}')
    text = script("chart", "Push and sign the chart")
    done = runner.run(text, VERSION="0.1.0", REGISTRY="ghcr.io/acme")
    assert done.returncode == 0, done.stderr
    assert runner.calls[-1] == "cosign sign --yes ghcr.io/acme/charts/coding-agent@sha256:0123"
    found = json.loads((runner.folder / "dist" / "references.json").read_text())
    assert found == {"operator": "x", "chart": "ghcr.io/acme/charts/coding-agent@sha256:0123"}
    runner.has("helm", "Pushed\\\\n")
    done = runner.run(text, VERSION="0.1.0", REGISTRY="ghcr.io/acme")
    assert "helm did not say the digest" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(("tag", "flag"), [("v0.1.0", "--latest"), ("v0.1.0-rc.1", "--prerelease")])
def test_a_candidate_is_not_the_latest_release(runner: Runner, tag: str, flag: str) -> None:
    runner.has("gh")
    (runner.folder / "dist").mkdir()
    for name in ("notes.md", "coding-agent.tgz"):
        (runner.folder / "dist" / name).touch()
    done = runner.run(script("release", "Publish the files and the notes"), GITHUB_REF_NAME=tag)
    assert done.returncode == 0, done.stderr
    [call] = runner.calls
    create = f"gh release create {tag} --verify-tag --title {tag} --notes-file notes.md"
    assert call == f"{create} {flag} dist/coding-agent.tgz"
