"""The pages about versions and sizing have the numbers of chart, pods and tests."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from coding_agent_docs.paths import DOCS, ROOT

from tests.unit.operator.test_pod import agent, pod, workspace

VERSIONS = (DOCS / "versions.md").read_text(encoding="utf-8").split("\n## ")[1]
SIZING = (DOCS / "operations" / "sizing.md").read_text(encoding="utf-8")
CHART = ROOT / "charts" / "coding-agent"
UNITS = {"m": 1, "Mi": 1, "Gi": 1024}


def row(text: str, name: str) -> list[str]:
    """The cells of the table's row that begins with this name, without it."""
    [line] = [line for line in text.splitlines() if line.startswith(f"| {name}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def pinned(module: str) -> str:
    """Major and minor version of a Go module that the tests build."""
    files = "\n".join(file.read_text(encoding="utf-8") for file in ROOT.glob("dev/*/go/*/go.mod"))
    found = re.search(rf"\b{re.escape(module)} v(\d+\.\d+)", files)
    assert found, module
    return found[1]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("Kubernetes", "k8s.io/kubernetes"),
        ("Helm", "helm.sh/helm/v4"),
        ("Gitea", "gitea.dev"),
        ("Kueue", "sigs.k8s.io/kueue"),
        ("Docker Compose", "github.com/docker/compose/v5"),
    ],
)
def test_the_tried_version_is_the_one_that_the_tests_build(name: str, module: str) -> None:
    assert row(VERSIONS, name)[1] == pinned(module)


def test_the_oldest_versions_are_those_of_chart_and_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert row(VERSIONS, "Kubernetes")[0].startswith(f"{chart['kubeVersion'][2:6]} or later")
    project = (ROOT / "core" / "pyproject.toml").read_text(encoding="utf-8")
    [oldest] = re.findall(r'^requires-python = ">=(.+)"$', project, re.MULTILINE)
    assert row(VERSIONS, "Python")[0] == f"{oldest} or later"


def amount(quantity: str) -> int:
    """CPU in thousandths, or memory in MiB."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def shown(cell: str) -> int:
    """The same as a cell of the page says it, such as `50m`, `256 MiB` or `5 GiB`."""
    return amount(cell.replace(" ", "").removesuffix("B"))


def sums(resources: list[dict[str, Any]]) -> list[int]:
    """Requested CPU, requested memory and the limit of memory, of all of them together."""
    keys = (("requests", "cpu"), ("requests", "memory"), ("limits", "memory"))
    return [sum(amount(entry[kind][name]) for entry in resources) for kind, name in keys]


def programs() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    yield "receiver, 2 pods", [values["receiver"]["resources"]] * values["receiver"]["replicas"]
    for name in ("operator", "reporter"):
        yield name, [values[name]["resources"]] * values[name]["replicas"]
    spec = pod()
    yield "one attempt: agent and workspace", [agent(spec)["resources"], workspace(spec)["resources"]]


@pytest.mark.parametrize(("name", "resources"), list(programs()), ids=lambda value: str(value)[:20])
def test_the_sizes_are_those_of_the_pods(name: str, resources: list[dict[str, Any]]) -> None:
    cells = row(SIZING, name)
    assert [shown(cell) for cell in cells[:3]] == sums(resources)
