"""helm on the project's chart."""

import functools
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from coding_agent_testbed.cluster import build
from coding_agent_testbed.errors import TestbedError

CHART = Path(__file__).resolve().parents[2] / "charts" / "coding-agent"
VALUES_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
# Longer than any `--timeout` that the tests give to helm itself.
_TIMEOUT_S = 300.0


class HelmError(TestbedError):
    """helm did not succeed; the text is what it said."""


def helm(*arguments: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """Run helm and return what it prints.

    Raises:
        HelmError: it did not succeed.
    """
    run = subprocess.run(
        [str(build.binaries(["helm"])["helm"]), *arguments],
        env=dict(os.environ if environment is None else environment),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if run.returncode:
        # Its notes about followed symbolic links are not part of the error.
        lines = [line for line in run.stderr.splitlines() if not line.startswith("level=INFO")]
        raise HelmError("\n".join(lines))
    return run.stdout


def render_text(
    *files: Path,
    values: Mapping[str, Any] | None = None,
    more: tuple[str, ...] = (),
    namespace: str = "agents",
) -> str:
    """What `helm template` makes of the values files and, over them, the values."""
    arguments = [item for file in files for item in ("--values", str(file))]
    return _rendered(namespace, yaml.safe_dump(dict(values or {})), *arguments, *more)


@functools.cache
def _rendered(namespace: str, values: str, *arguments: str) -> str:
    where = ("template", "coding-agent", str(CHART), "--namespace", namespace)
    return helm(*where, "--values", "-", *arguments, stdin=values)


def render(
    *files: Path, values: Mapping[str, Any] | None = None, namespace: str = "agents"
) -> list[dict[str, Any]]:
    return objects_of(render_text(*files, values=values, namespace=namespace))


def objects_of(text: str) -> list[dict[str, Any]]:
    return [found for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def one(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    found = [
        object_ for object_ in objects if object_["kind"] == kind and object_["metadata"]["name"] == name
    ]
    assert len(found) == 1, [(entry["kind"], entry["metadata"]["name"]) for entry in objects]
    return found[0]
