"""A key that the values lack has its default: `helm upgrade --reuse-values` brings no key that is newer."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, helm, render_text

# Time for helm, which may have to be built first.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("rendered-chart")]

DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
# Given, because a generated secret is another one each time.
GIVEN = {
    "secrets": {
        "webhook": {"github": "github-webhook-secret", "gitlab": "gitlab-webhook-token"},
        "userConfig": {"apiKey": "user-config-key"},
        "comments": {"key": "key-of-comments-with-32-characters"},
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


def test_without_any_default_the_same_is_made(tmp_path: Path) -> None:
    file = CHART / "ci" / "everything-values.yaml"
    assert render_without_defaults(tmp_path, {}, file) == render_text(file, values=GIVEN)


def test_the_defaults_that_an_older_chart_had_are_no_error() -> None:
    """An upgrade with `--reuse-values` gives them."""
    moved = yaml.safe_load((CHART / "files" / "moved.yaml").read_text())
    former: dict[str, Any] = copy.deepcopy(GIVEN)
    for old, new in moved.items():
        if isinstance(new, dict):
            *sections, name = old.split(".")
            section = former
            for key in sections:
                section = section.setdefault(key, {})
            section[name] = new["default"]
    file = CHART / "ci" / "everything-values.yaml"
    assert render_text(file, values=former) == render_text(file, values=GIVEN)


def nulls(values: dict[str, Any]) -> dict[str, Any]:
    """Null for every value, also for those of groups. In a map that is one value, null removes an entry."""
    one_value = ("resources", "labels")
    return {
        key: nulls(value)
        if isinstance(value, dict) and any(value.values()) and key not in one_value
        else None
        for key, value in values.items()
    }


def settings_as_null(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """Null for every setting that a node of the schema of `config` knows."""
    found = [schema, *schema.get("anyOf", ())]
    reference = next((entry["$ref"] for entry in found if "$ref" in entry), None)
    if reference is not None:
        return settings_as_null(definitions[reference.rsplit("/", 1)[-1]], definitions)
    # What needs a value cannot be given without it.
    properties = {} if "required" in schema else schema.get("properties", {})
    return {name: settings_as_null(node, definitions) for name, node in properties.items()} or None


def test_null_is_the_default_of_every_value_also_where_helm_knows_no_defaults(tmp_path: Path) -> None:
    """As with `--reuse-values` after an installation with null: Helm removes null only beside a default."""
    file = CHART / "ci" / "required-values.yaml"
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = nulls(DEFAULTS)
    values["config"] = settings_as_null(schema["properties"]["config"], schema["$defs"])
    given = tmp_path / "nulls.yaml"
    values["secrets"] |= GIVEN["secrets"]
    given.write_text(yaml.safe_dump(values))
    assert render_without_defaults(tmp_path, {}, given, file) == render_text(file, values=GIVEN)


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
