"""The Dockerfiles are five, since each program has its own image, yet what they share is written the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted(ROOT.glob("Dockerfile.*"))
NAMES = [file.suffix.removeprefix(".") for file in DOCKERFILES]


def steps(file: Path) -> list[str]:
    """The instructions, one a line, without comments."""
    text = re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"\s*\\\n\s*", " ", text).split("\n")


def test_every_program_has_an_image() -> None:
    assert {"receiver", "operator", "consumer", "user-config", "sandbox"} <= set(NAMES)


@pytest.mark.parametrize(
    "shared",
    [
        "RUN printf ",
        "RUN --mount=type=bind",
        "ENV UV_",
        "ENV PATH=/opt/venv",
        "USER ",
    ],
)
def test_what_images_share_is_written_the_same(shared: str) -> None:
    found = {step for file in DOCKERFILES for step in steps(file) if step.startswith(shared)}
    assert len(found) == 1, "\n".join(found)


def test_images_are_built_with_the_uv_that_development_uses() -> None:
    pinned = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "dev/make/venv.mk").read_text(), re.MULTILINE)
    assert pinned is not None
    for file in DOCKERFILES:
        assert f"'uv=={pinned[1]} " in file.read_text(encoding="utf-8"), file.name


def base_image() -> str:
    """As docker-compose.yml gives it, found by the expression with which Renovate updates it."""
    renovate = json.loads((ROOT / "renovate.json").read_text(encoding="utf-8"))
    (expression,) = renovate["customManagers"][0]["matchStrings"]
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    found = re.search(expression.replace("(?<", "(?P<"), compose)
    assert found is not None
    return f"{found['depName']}:{found['currentValue']}@{found['currentDigest']}"


@pytest.mark.parametrize("file", DOCKERFILES, ids=NAMES)
def test_an_image_is_built_from_a_lock_and_runs_as_a_number(file: Path) -> None:
    lines = steps(file)
    assert lines[0] == f"ARG BASE_IMAGE={base_image()}"
    assert f"COPY requirements/{file.suffix[1:]}.txt /opt/requirements.txt" in lines
    assert "--require-hashes" in next(line for line in lines if "requirements.txt &&" in line)
    assert "USER 10001:10001" in lines
    assert not [line for line in lines if line.startswith("HEALTHCHECK")], (
        "Kubernetes and compose have their own"
    )


@pytest.mark.parametrize("file", DOCKERFILES, ids=NAMES)
def test_what_changes_often_comes_last(file: Path) -> None:
    final = steps(file)[[i for i, line in enumerate(steps(file)) if line.startswith("FROM ")][-1] :]
    order = [
        next(i for i, line in enumerate(final) if line.startswith(start))
        for start in ("COPY requirements/", "RUN --mount", "COPY --from=app", "ENV ", "ARG VERSION", "LABEL ")
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("file", DOCKERFILES, ids=NAMES)
def test_everything_that_is_copied_is_in_the_build_context(file: Path) -> None:
    """`.dockerignore` starts with `*`: a folder that it does not name again is not there."""
    allowed = [
        line.removeprefix("!").rstrip("/")
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    for step in steps(file):
        if step.startswith("COPY ") and "--from" not in step:
            source = step.split()[1]
            assert (ROOT / source).exists(), source
            assert any(
                Path(source).match(entry) or f"{source}/".startswith(f"{entry}/") for entry in allowed
            ), step


def test_the_build_context_has_nothing_but_sources() -> None:
    text = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in text if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {"**/__pycache__", "**/.mypy_cache", "**/.ruff_cache"} <= set(patterns)
    assert not any(".env" in line or "git" in line for line in patterns if line.startswith("!"))
