"""A key that the values lack has its default: `helm upgrade --reuse-values` brings no key that is newer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, helm, render_text

# Time for helm, which may have to be built first.
pytestmark = pytest.mark.timeout(900)

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
FIRST = Path(__file__).resolve().parents[2] / "chart" / "first-values.yaml"
# Given, because a generated secret is another one each time.
GIVEN = {
    "secrets": {
        "webhook": {"github": "github-webhook-secret", "gitlab": "gitlab-webhook-token"},
        "userConfig": {"apiKey": "user-config-key"},
    }
}


def render_without_defaults(folder: Path, known: dict[str, Any], *files: Path) -> str:
    """What the chart makes where Helm knows only these defaults, as with `--reuse-values`."""
    chart = folder / "coding-agent"
    shutil.copytree(CHART, chart)  # files/defaults.yaml becomes a file of its own
    (chart / "values.yaml").write_text(yaml.safe_dump(known))
    arguments = [item for file in files for item in ("--values", str(file))]
    return helm(
        *("template", "coding-agent", str(chart), "--namespace", "agents", "--values", "-"),
        *arguments,
        stdin=yaml.safe_dump(GIVEN),
    )


def as_far_as(values: dict[str, Any], older: dict[str, Any]) -> dict[str, Any]:
    """The values without the keys that the older ones lack."""
    return {
        key: as_far_as(value, older[key])
        if isinstance(value, dict) and isinstance(older[key], dict)
        else value
        for key, value in values.items()
        if key in older
    }


@pytest.mark.parametrize("name", ["required", "everything", "polling"])
def test_without_any_default_the_same_is_made(name: str, tmp_path: Path) -> None:
    file = CHART / "ci" / f"{name}-values.yaml"
    assert render_without_defaults(tmp_path, {}, file) == render_text(file, values=GIVEN)


def test_with_the_first_release_s_defaults_the_same_is_made(tmp_path: Path) -> None:
    file = CHART / "ci" / "everything-values.yaml"
    known = as_far_as(DEFAULTS, yaml.safe_load(FIRST.read_text()))
    assert known != DEFAULTS
    assert render_without_defaults(tmp_path, known, file) == render_text(file, values=GIVEN)


def test_null_for_a_group_is_its_default() -> None:
    file = CHART / "ci" / "required-values.yaml"
    groups = [key for key, value in DEFAULTS.items() if isinstance(value, dict) and key != "secrets"]
    nulls = ",".join(f"{key}=null" for key in groups)
    assert render_text(file, values=GIVEN, more=("--set", nulls)) == render_text(file, values=GIVEN)


def test_what_is_switched_off_stays_off_and_null_removes_an_entry_of_a_map() -> None:
    values = {
        "receiver": {"enabled": False, "resources": {"limits": {"memory": None}}},
        "operator": {"resources": {"limits": {"memory": None}}},
        "metrics": {"dashboard": {"enabled": True, "labels": {"grafana_dashboard": None}}},
    }
    text = render_text(CHART / "ci" / "required-values.yaml", values={**GIVEN, **values})
    objects = {
        (found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(text) if found
    }
    assert ("Deployment", "coding-agent-receiver") not in objects
    [container] = objects["Deployment", "coding-agent-operator"]["spec"]["template"]["spec"]["containers"]
    assert set(container["resources"]["limits"]) == {"ephemeral-storage"}
    dashboard = objects["ConfigMap", "coding-agent-dashboard"]
    assert "grafana_dashboard" not in dashboard["metadata"]["labels"]
