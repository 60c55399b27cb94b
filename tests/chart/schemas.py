"""JSON schemas for kubeconform, from what the Kubernetes, Contour and Prometheus Operator modules carry.

Kubernetes' swagger.json is the API server's own OpenAPI. Strict: an unknown field is an error.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from coding_agent_testbed.cluster.gomod import module_source
from coding_agent_testbed.cluster.parts import MODULES

LOCATION = "{{.ResourceKind}}{{.KindSuffix}}.json"
"""kubeconform's template of a file's name."""
_REFERENCE = re.compile(r'"#/definitions/([^"]+)"')
_CUSTOM = {
    "contour": ["examples/gateway/00-crds.yaml"],
    "prometheus-operator": [
        f"example/prometheus-operator-crd/monitoring.coreos.com_{plural}.yaml"
        for plural in ("servicemonitors", "podmonitors", "prometheusrules")
    ],
}


def write(folder: Path) -> None:
    swagger = json.loads(
        (module_source(MODULES["kubernetes"]) / "api/openapi-spec/swagger.json").read_text(encoding="utf-8")
    )
    definitions = {name: _strict(entry) for name, entry in swagger["definitions"].items()}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    for name, definition in swagger["definitions"].items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            if kind["kind"] == name.rsplit(".", 1)[-1] and not name.endswith("List"):
                schema = {"$ref": f"#/definitions/{name}", "definitions": _closure(name, definitions)}
                _put(folder / _file(kind["kind"], kind["group"], kind["version"]), schema)
    for module, files in _CUSTOM.items():
        source = module_source(MODULES[module])
        for file in files:
            _write_custom(folder, (source / file).read_text(encoding="utf-8"))


def _write_custom(folder: Path, text: str) -> None:
    for crd in yaml.safe_load_all(text):
        if not crd or crd["kind"] != "CustomResourceDefinition":
            continue
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            _put(folder / _file(spec["names"]["kind"], spec["group"], version["name"]), schema)


def _closure(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The definition and all that it refers to: each file stands alone, as kubeconform wants it."""
    found: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found[each] = definitions[each]
            waiting += _REFERENCE.findall(json.dumps(definitions[each]))
    return found


def _file(kind: str, group: str, version: str) -> str:
    # As kubeconform does: of a group only what stands before the first dot.
    parts = (kind.lower(), group.split(".", maxsplit=1)[0], version)
    return "-".join(part for part in parts if part) + ".json"


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string" or node.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    strict = {key: _strict(value) for key, value in node.items() if key not in ("format", "description")}
    if strict.get("type") == "object" and "properties" in strict and "additionalProperties" not in strict:
        strict["additionalProperties"] = False
    return strict


def _put(file: Path, schema: dict[str, Any]) -> None:
    file.write_text(json.dumps(schema), encoding="utf-8")
