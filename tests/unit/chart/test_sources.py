"""What the chart repeats of the code is the code's: settings, metrics, payloads."""

import importlib.util
import json
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from coding_agent_core.platforms.registry import Platform

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "coding-agent"
OTHER_METRICS = {
    *("up", "process_resident_memory_bytes"),
    # kube-state-metrics, docs/metrics/workload/cronjob-metrics.md
    *("kube_cronjob_status_last_successful_time", "kube_cronjob_created", "kube_cronjob_spec_suspend"),
}


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_schema_of_the_values_is_that_of_the_settings() -> None:
    schema = load(ROOT / "charts" / "schema.py")
    assert (CHART / "values.schema.json").read_text() == schema.text(), "run: python charts/schema.py"
    assert (CHART / "files" / "forges.json").read_text() == schema.forges(), "run: python charts/schema.py"
    assert (CHART / "files" / "models.json").read_text() == schema.models(), "run: python charts/schema.py"
    assert schema.AGENTTASK.read_text() == schema.agenttask(), "run: python charts/schema.py"


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    source = load(ROOT / "charts" / "schema.py")
    programs, moved = source.PROGRAMS, defaultdict[str, set[str]](set)
    for key in source.MOVED_VALUES:
        section, _, name = key.rpartition(".")
        moved[section].add(name)

    def compare(node: dict[str, Any], value: Any, path: str) -> None:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
        if path == ".config" or "properties" not in node or not isinstance(value, dict) or not value:
            return
        optional = {"claims", *moved.get(path.removeprefix("."), ())} | {
            f"{one}{end}" for one in Platform for end in ("", "Previous")
        }
        if path.removeprefix(".") in programs:
            optional |= set(values["pods"])
        assert set(node["properties"]) - optional == set(value) - optional, path
        for key in value:
            compare(node["properties"][key], value[key], f"{path}.{key}")

    compare(schema, values, "")


def test_the_upgrade_notes_list_every_setting_that_moved() -> None:
    text = (ROOT / "docs" / "operations" / "index.md").read_text()
    rows = re.findall(r"^\| (`[a-zA-Z0-9_.]+`(?:, `[a-zA-Z0-9_.]+`)*) \| (.*) \|$", text, re.MULTILINE)
    listed = {old: new for names, new in rows for old in re.findall(r"`(.*?)`", names)}
    moved = yaml.safe_load((CHART / "files" / "moved.yaml").read_text())
    assert (CHART / "files" / "moved.yaml").read_text() == load(ROOT / "charts" / "schema.py").moved()
    assert listed == {old: new["instead"] if isinstance(new, dict) else new for old, new in moved.items()}
    schema = json.loads((CHART / "values.schema.json").read_text())
    for old in moved:
        node = schema
        for part in old.split("."):
            node = next((one for one in node.get("anyOf", ()) if "$ref" in one), node)
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
            if not node:
                break
            node = node["properties"][part]
        assert node == {}, f"the schema refuses {old} before the chart can say where it is now"


def test_every_template_gives_missing_keys_their_defaults() -> None:
    templates = [file for file in (CHART / "templates").rglob("*") if file.suffix in (".yaml", ".txt")]
    assert len(templates) > 20
    for template in templates:
        first = template.read_text().splitlines()[0]
        assert first == '{{- include "coding-agent.defaults" . -}}', template.name
    assert (CHART / "files" / "defaults.yaml").read_text() == (CHART / "values.yaml").read_text()


def test_a_map_that_is_one_value_is_not_filled_with_its_defaults() -> None:
    text = (CHART / "templates" / "_helpers.tpl").read_text()
    [listed] = re.findall(r"not \(has \$key \(list ([^)]*)\)\)", text)
    names = set(re.findall(r'"(\w+)"', listed))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    # A comment that starts with `--` documents one value. In `config` null means the default too.
    documented = re.findall(r"# -- .*\n(?: *# .*\n)* *(\w+):\n", (CHART / "values.yaml").read_text())
    found = {key: _find(values, key) for key in documented}
    assert {
        key for key, value in found.items() if isinstance(value, dict) and any(value.values())
    } == names | {"config"}


def _find(values: Any, key: str) -> Any:
    if not isinstance(values, dict):
        return None
    return (
        values[key] if key in values else next(filter(None, (_find(v, key) for v in values.values())), None)
    )


def metric_names() -> set[str]:
    """As the reference, which is made from the code, lists them."""
    text = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    return set(re.findall(r"^\| `(coding_agent_\w+)` \|", text, re.MULTILINE))


def used_metrics(expression: str) -> set[str]:
    """The metrics in a PromQL expression, without the suffixes of histograms."""
    names = set(re.findall(r"\b([a-z_]+[a-z0-9_]*)\{", expression))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_alerts_and_dashboard_use_metrics_that_exist() -> None:
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["alerts"]
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    expressions = [alert["expr"] for alert in alerts]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set().union(*(used_metrics(expression) for expression in expressions))
    assert len(used) > 10
    assert used - OTHER_METRICS <= metric_names()


def test_every_alert_has_a_runbook() -> None:
    alerts = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["alerts"]
    runbooks = (ROOT / "docs" / "operations" / "runbooks.md").read_text()
    headings = set(re.findall(r"^#+ (\w+)\s*$", runbooks, re.MULTILINE))
    assert {alert["alert"] for alert in alerts} <= headings
