"""Three Dockerfiles make the images of six programs, and what they share is written the same."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted([ROOT / "Dockerfile", *ROOT.glob("Dockerfile.*")])
PROGRAMS = ("receiver", "consumer", "operator", "user-config", "egress", "sandbox")


def steps(file: Path) -> list[str]:
    """The instructions, one a line, without comments."""
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"\s*\\\n\s*", " ", text).split("\n")


def stage(name: str) -> list[str]:
    """The instructions of a stage, from its FROM on, in the Dockerfile that has it."""
    for file in DOCKERFILES:
        lines = steps(file)
        starts = [i for i, line in enumerate(lines) if line.startswith("FROM ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            if lines[start].endswith(f" AS {name}"):
                return lines[start:end]
    raise AssertionError(f"no stage is called {name}")


def test_what_images_share_is_written_the_same() -> None:
    for shared in ("ARG ", "ENV ", "USER ", "RUN --mount=type=bind"):
        for_each = {tuple(line for line in stage(name) if line.startswith(shared)) for name in PROGRAMS}
        assert len(for_each) == 1, for_each
    first = steps(DOCKERFILES[0])
    tools = first[: first.index("WORKDIR /src") + 1]
    for file in DOCKERFILES:
        assert steps(file)[: len(tools)] == tools, file.name
        assert steps(file)[0] == f"ARG BASE_IMAGE={base_image()}", file.name


def base_image() -> str:
    """As docker-compose.yml gives it, found by the expression with which Renovate updates it."""
    renovate = json.loads((ROOT / ".github" / "renovate.json").read_text(encoding="utf-8"))
    (expression,) = renovate["customManagers"][0]["matchStrings"]
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    found = re.search(expression.replace("(?<", "(?P<"), compose)
    assert found is not None
    return f"{found['depName']}:{found['currentValue']}@{found['currentDigest']}"


@pytest.mark.parametrize("script", ["build-environment.sh", "../dev/make/venv.mk"])
def test_what_is_installed_has_a_hash(script: str) -> None:
    installs = [
        line for line in steps(ROOT / "requirements" / script) if "pip install" in line and "-r " in line
    ]
    assert installs
    assert all("--require-hashes" in line for line in installs)
