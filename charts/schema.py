"""`python charts/schema.py`: makes values.schema.json from values.schema.yaml and the settings' own types.

It also makes what the templates know of other code: files/forges.json, from the forges' folders;
files/models.json, the vendors of models and the format that each runner speaks; and files/moved.yaml. It
makes what the programs know of the chart: core's agenttask_schema.json, from crds/agenttask.yaml.

`config` takes what config.yaml takes, except what the chart sets itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from coding_agent_core.platforms.registry import FACTS, Platform, forge_module
from coding_agent_core.settings.llm import VENDORS
from coding_agent_core.settings.model import RUNNER_FORMATS, Settings
from coding_agent_core.settings.moved import MOVED, Moved, Removed
from coding_agent_core.task.agenttask import VERSION
from coding_agent_core.task.agenttask_schema import schema_of

FOLDER = Path(__file__).parent
TARGET = FOLDER / "coding-agent" / "values.schema.json"
FORGES = FOLDER / "coding-agent" / "files" / "forges.json"
MODELS = FOLDER / "coding-agent" / "files" / "models.json"
CRD = FOLDER.parent / "crds" / "agenttask.yaml"
AGENTTASK = FOLDER.parent / "core" / "src" / "coding_agent_core" / "task" / "agenttask_schema.json"
MOVED_FILE = FOLDER / "coding-agent" / "files" / "moved.yaml"

CHART_SETS = {
    "queue.backend": "",
    "use_rabbitmq": "",
    "rabbitmq": "",
    "webhook.server": "",
    **{f"webhook.{name}.{facts.webhook_setting}": "secrets.webhook" for name, facts in FACTS.items()},
    **{f"{platform}.personal_access_token": f"secrets.{platform}" for platform in Platform},
    "github.app.private_key_file": "secrets.githubApp",
    "github.app.service": "tokens",
    "github.token_credential": "",
    "comment_key": "secrets.comments",
    "llm.openai.api_key": "secrets.model",
    "user_config_api.enabled": "userConfig.enabled",
    "user_config_api.api_key": "secrets.userConfig",
    "context_storage.s3.access_key_id": "secrets.s3",
    "context_storage.s3.secret_access_key": "secrets.s3",
    "operator.namespace": "",
    "operator.namespaces": "operator.namespaces",
    "consumer.commits.signing_key": "attempts.signing",
    "egress": "egress",
    "operator.job.image": "attempts.image",
    "operator.job.pull_policy": "image.pullPolicy",
    "operator.job.fixed_ids": "podSecurity.fixedIds",
    "operator.job.service_account": "",
    "operator.job.config_map": "",
    "operator.job.credentials": "attempts.credentials",
}
"""Settings that `config` does not take, with the value to set instead; empty: the chart alone sets them."""


_VARIABLE = r"\$\{[A-Za-z_]"
"""The beginning of a variable in config.yaml, as the settings' loader knows it."""
_SERVICE = "`receiver.service.spec`, which takes this key"
_MONITOR = "the same key of `metrics.serviceMonitor`, which holds for a PodMonitor too"
_REGISTRY = "the repository with its registry, or `image.registry` for all images"
MOVED_VALUES: dict[str, tuple[str, Any]] = {
    "imagePullSecrets": ("`image.pullSecrets`", []),
    "startupSeconds": ("`pods.startupProbe.failureThreshold`, with the same number", 300),
    **{
        f"{section}.image.registry": (_REGISTRY, "")
        for section in ("receiver", "operator", "attempts", "userConfig", "egress")
    },
    "receiver.autoscaling.behavior": (
        "nothing: Kubernetes' own behavior, which the default was; for another one, set "
        "`receiver.autoscaling.enabled` to false, and write the HorizontalPodAutoscaler into `extraObjects`",
        {
            "scaleUp": {"stabilizationWindowSeconds": 0},
            "scaleDown": {"stabilizationWindowSeconds": 300},
        },
    ),
    "receiver.service.loadBalancerClass": (_SERVICE, ""),
    "receiver.service.loadBalancerSourceRanges": (_SERVICE, []),
    "receiver.service.externalTrafficPolicy": (_SERVICE, ""),
    "receiver.service.ipFamilyPolicy": (_SERVICE, ""),
    "receiver.service.ipFamilies": (_SERVICE, []),
    "polling.suspend": ("`polling.enabled: false`", False),
    "polling.startingDeadlineSeconds": ("nothing: 120 s", 120),
    "polling.activeDeadlineSeconds": ("nothing: 600 s", 600),
    "metrics.podMonitor.interval": (_MONITOR, "30s"),
    "metrics.podMonitor.scrapeTimeout": (_MONITOR, ""),
    "metrics.podMonitor.labels": (_MONITOR, {}),
    "metrics.podMonitor.annotations": (_MONITOR, {}),
    "metrics.podMonitor.relabelings": (_MONITOR, []),
    "metrics.podMonitor.metricRelabelings": (_MONITOR, []),
    "check.activeDeadlineSeconds": ("nothing: 270 s, less than the five minutes that Helm waits", 270),
    "check.resources": (
        "`resources` of the programs, which their check has too",
        {
            "requests": {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "16Mi"},
            "limits": {"memory": "256Mi", "ephemeral-storage": "64Mi"},
        },
    ),
}
"""Values of the chart that moved or went: what to write instead, and the former default. The default is no
error, because an upgrade with `--reuse-values` gives the defaults of the installed chart."""
PROGRAMS = ("receiver", "operator", "reporter", "polling", "userConfig", "egress", "tokens")
"""The sections that take the keys of `pods` for one program."""


def values_schema() -> dict[str, Any]:
    """Return the whole schema."""
    schema: dict[str, Any] = yaml.safe_load((FOLDER / "values.schema.yaml").read_text(encoding="utf-8"))
    secrets, users = (schema["properties"][name]["properties"] for name in ("secrets", "userConfig"))
    for platform in Platform:
        secrets[platform] = {"$ref": "#/$defs/tokenSecret"}
        secrets["webhook"]["properties"][platform] = {"$ref": "#/$defs/webhookSecret"}
        secrets["webhook"]["properties"][f"{platform}Previous"] = {"type": "string"}
        users["users"]["properties"][platform] = {"$ref": "#/$defs/users"}
    shared = {
        key: {"$ref": f"#/properties/pods/properties/{key}"}
        for key in schema["properties"]["pods"]["properties"]
    }
    for name in PROGRAMS:
        own = {**shared, "serviceAccount": {"$ref": "#/$defs/serviceAccount"}}
        schema["properties"][name]["properties"] |= own
    for name in ("polling", "userConfig", "tokens"):  # one pod, or none
        del schema["properties"][name]["properties"]["podDisruptionBudget"]
    # The Job of a poll would never end next to another container.
    del schema["properties"]["polling"]["properties"]["extraContainers"]
    settings = Settings.model_json_schema()
    definitions = settings.pop("$defs")
    for key in CHART_SETS:
        _remove(settings, definitions, key.split("."))
    for key in MOVED:
        _let_through(settings, definitions, key.split("."))
    # Nobody's settings: the chart's tests on a node set them, and the programs check them.
    settings["properties"]["development"] = {"type": "object"}
    del definitions["Development"]
    for key in MOVED_VALUES:
        *sections, last = key.split(".")
        node = schema
        for section in sections:
            node = node["properties"][section]
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]] if "$ref" in node else node
        node["properties"][last] = {}
    schema["properties"]["config"] = _tidy(settings)
    for name, definition in sorted(definitions.items()):
        schema["$defs"][f"Settings.{name}"] = _tidy(definition)
    for definition in schema["$defs"].values():
        _allow_null(definition)
        _with_null(definition)
    _allow_null(schema)
    return schema


def _allow_null(node: Any) -> None:
    """Let every value be null, which stands for its default; entries of lists cannot be null.

    Helm itself removes null only where the chart has a default. After an upgrade with `--reuse-values` it
    does not even do that: it takes the values of the installed release for the defaults.
    """
    if isinstance(node, list):
        for entry in node:
            _allow_null(entry)
    if not isinstance(node, dict):
        return
    required = node.get("required", ())
    for key, value in node.items():
        if key in ("properties", "patternProperties"):
            for name, found in value.items():
                _allow_null(found)
                if name not in required:
                    _with_null(found)
        elif key == "items" and "$ref" in value:
            node[key] = {"allOf": [value, {"not": {"type": "null"}}]}
        else:
            _allow_null(value)
            if key == "additionalProperties":
                _with_null(value)


def _with_null(node: Any) -> None:
    """Add null to the types of this node. A reference stays: each definition takes null itself."""
    if not isinstance(node, dict):
        return
    if "enum" in node and None not in node["enum"]:
        node["enum"].append(None)
    if "type" in node:
        types = node["type"] if isinstance(node["type"], list) else [node["type"]]
        node["type"] = types if "null" in types else [*types, "null"]
    if "anyOf" in node and {"type": "null"} not in node["anyOf"]:
        node["anyOf"].append({"type": "null"})


def _let_through(settings: dict[str, Any], definitions: dict[str, Any], path: list[str]) -> None:
    """Accept a setting that moved: `_validate.tpl` refuses it and says where it is now."""
    node = settings
    for part in path[:-1]:
        below = node["properties"].setdefault(part, {})
        if not below:
            return
        node = definitions[_reference(below).rsplit("/", 1)[-1]]
    node["properties"][path[-1]] = {}


def _tidy(node: Any) -> Any:
    """Return the node without what only readers of the types need; references point into this schema."""
    if isinstance(node, list):
        return [_tidy(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    tidy: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            tidy[key] = {name: _tidy(found) for name, found in value.items()}
        elif key == "$ref":
            tidy[key] = value.replace("#/$defs/", "#/$defs/Settings.")
        elif key == "pattern":
            # A value may be a variable, which the programs replace before they check the value.
            tidy[key] = f"{value}|{_VARIABLE}"
        elif key not in ("title", "default", "format", "writeOnly", "description"):
            tidy[key] = _tidy(value)
    return tidy


def _remove(settings: dict[str, Any], definitions: dict[str, Any], path: list[str]) -> None:
    node = settings
    for part in path[:-1]:
        node = definitions[_reference(node["properties"][part]).rsplit("/", 1)[-1]]
    del node["properties"][path[-1]]
    if path[-1] in node.get("required", []):
        node["required"].remove(path[-1])


def _reference(node: dict[str, Any]) -> str:
    candidates = [node, *node.get("anyOf", []), *node.get("allOf", [])]
    return str(next(candidate["$ref"] for candidate in candidates if "$ref" in candidate))


def forges() -> str:
    """Return the content of files/forges.json."""
    found = {}
    for platform, facts in FACTS.items():
        section = Settings().forge(platform)
        place = Path(str(forge_module(platform, "facts").__file__)).with_name("chart.yaml")
        found[platform.value] = {
            "title": facts.title,
            "host": facts.web_host,
            "api": urlsplit(section.api_url).netloc,
            "webhook": facts.webhook_setting,
            "scope": section.SCOPE,
            **yaml.safe_load(place.read_text(encoding="utf-8")),
        }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def models() -> str:
    """Return the content of files/models.json: the providers with a key, and each runner's one of them."""
    found = {"vendors": list(VENDORS), "runners": {name.value: of for name, of in RUNNER_FORMATS.items()}}
    return json.dumps(found, indent=1) + "\n"


def agenttask() -> str:
    """Return the content of core's agenttask_schema.json: the schema of the CRD without its descriptions."""
    versions = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"]
    [version] = [one for one in versions if one["name"] == VERSION]
    return json.dumps(_undescribed(schema_of(version)), indent=1, ensure_ascii=False) + "\n"


def _undescribed(node: Any) -> Any:
    """Return a schema without the descriptions of its fields; a field can have the name `description`."""
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _undescribed(one) for name, one in value.items()}
        if key == "properties"
        else _undescribed(value)
        for key, value in node.items()
        if key != "description"
    }


def _instead(change: Moved | Removed) -> str:
    """Return a change of a setting as the chart's template reads it: the prefix marks what was removed."""
    return f"nothing: {change.now}" if isinstance(change, Removed) else change.instead


def moved() -> str:
    """Return the content of files/moved.yaml: what to write instead of each value that moved."""
    section = re.compile(rf"`(?=({'|'.join(Settings.model_fields)})\.)")
    found = {f"config.{key}": section.sub("`config.", _instead(change)) for key, change in MOVED.items()}
    values = {key: {"instead": instead, "default": was} for key, (instead, was) in MOVED_VALUES.items()}
    return (
        "# Written by charts/schema.py: values that moved, and what to write instead. The schema lets\n"
        "# them through, so that the chart can name the new place.\n"
        + yaml.safe_dump(found | values, width=1000, allow_unicode=True)
    )


def text() -> str:
    """Return the content of the file."""
    return json.dumps(values_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    FORGES.write_text(forges(), encoding="utf-8")
    MODELS.write_text(models(), encoding="utf-8")
    AGENTTASK.write_text(agenttask(), encoding="utf-8")
    MOVED_FILE.write_text(moved(), encoding="utf-8")
