"""skaffold.yaml against skaffold's published schema, and against everything that it names."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import pytest
import yaml

from tests.unit.skaffold.published import before_v4, schema

ROOT = Path(__file__).resolve().parents[3]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text(encoding="utf-8"))
PROFILES = {entry["name"]: entry for entry in CONFIG["profiles"]}


def with_profile(name: str | None) -> dict[str, Any]:
    """The configuration as it is with a profile; only patches can change what is looked at here."""
    config = copy.deepcopy(CONFIG)
    patches = copy.deepcopy(PROFILES[name].get("patches", [])) if name else []
    return dict(jsonpatch.apply_patch(config, patches))


def documents(path: str) -> list[dict[str, Any]]:
    """The objects in a file of manifests."""
    return list(yaml.safe_load_all((ROOT / path).read_text(encoding="utf-8")))


WITH = pytest.mark.parametrize("profile", [None, *PROFILES])


@WITH
def test_skaffold_understands_it(profile: str | None) -> None:
    jsonschema.validate(before_v4(with_profile(profile)), schema(), jsonschema.Draft7Validator)


def test_the_schema_refuses_a_slip_of_the_pen() -> None:
    config = before_v4(CONFIG)
    config["portForward"][0]["localport"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, schema(), jsonschema.Draft7Validator)


@WITH
def test_every_file_exists(profile: str | None) -> None:
    config = with_profile(profile)
    files = [artifact["docker"]["dockerfile"] for artifact in config["build"]["artifacts"]]
    files += config["manifests"]["rawYaml"]
    for release in config["deploy"]["helm"]["releases"]:
        files += [f"{release['chartPath']}/Chart.yaml", *release["valuesFiles"]]
    assert not [file for file in files if not (ROOT / file).exists()]


@WITH
def test_every_image_is_built_and_every_build_is_used(profile: str | None) -> None:
    config = with_profile(profile)
    built = {artifact["image"] for artifact in config["build"]["artifacts"]}
    [release] = config["deploy"]["helm"]["releases"]
    templates = " ".join(release["setValueTemplates"].values())
    used = {image for image in built if f"IMAGE_REPO_{image.replace('-', '_')}}}" in templates}
    for path in config["manifests"]["rawYaml"]:
        for document in documents(path):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            used |= {container["image"] for container in pod.get("containers", [])}
    assert used == built
    named = set(re.findall(r"IMAGE_(?:REPO|TAG)_([a-z_]+)\}\}", templates))
    assert named <= {image.replace("-", "_") for image in built}


@WITH
def test_every_value_is_one_of_the_chart(profile: str | None) -> None:
    [release] = with_profile(profile)["deploy"]["helm"]["releases"]
    values = yaml.safe_load((ROOT / release["chartPath"] / "values.yaml").read_text(encoding="utf-8"))
    for key in release["setValueTemplates"]:
        place: Any = values
        for part in key.split("."):
            assert part in place, key
            place = place[part]


@pytest.mark.parametrize("name", ["values-dev.yaml", "values-github.yaml"])
def test_the_chart_takes_the_values(name: str) -> None:
    values = yaml.safe_load((ROOT / "dev/kubernetes" / name).read_text(encoding="utf-8"))
    strict = json.loads((ROOT / "charts/coding-agent/values.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(values, strict)


def test_namespaces_and_names_agree() -> None:
    [release] = CONFIG["deploy"]["helm"]["releases"]
    [namespace] = documents("dev/kubernetes/namespace.yaml")
    name = namespace["metadata"]["name"]
    assert release["namespace"] == CONFIG["deploy"]["kubectl"]["defaultNamespace"] == name
    assert {entry["namespace"] for entry in CONFIG["portForward"]} == {name}
    # A release whose name is the chart's gives its objects no prefix: the seed's webhook names the Service.
    assert release["name"] == "coding-agent"


def test_forwarded_ports_are_those_of_the_services() -> None:
    services = {
        document["metadata"]["name"]: document["spec"]["ports"][0]["port"]
        for path in CONFIG["manifests"]["rawYaml"]
        for document in documents(path)
        if document["kind"] == "Service"
    }
    values = yaml.safe_load((ROOT / "charts/coding-agent/values.yaml").read_text(encoding="utf-8"))
    services["coding-agent-receiver"] = values["receiver"]["service"]["port"]
    assert {found["resourceName"]: found["port"] for found in CONFIG["portForward"]} == services
    local = [entry["localPort"] for entry in CONFIG["portForward"]]
    assert len(set(local)) == len(local)


def test_the_sandbox_has_one_set_of_secrets() -> None:
    values = yaml.safe_load((ROOT / "dev/kubernetes/values-dev.yaml").read_text(encoding="utf-8"))
    forge, model = documents("dev/kubernetes/forge.yaml"), documents("dev/kubernetes/model.yaml")
    seed = yaml.safe_load(forge[0]["data"]["seed.yaml"])
    assert values["secrets"]["webhook"]["github"] == seed["hooks"][0]["secret"]
    assert values["secrets"]["github"]["token"] in {user["token"] for user in seed["users"]}
    [container] = model[0]["spec"]["template"]["spec"]["containers"]
    assert container["env"][0]["value"] == values["secrets"]["model"]["apiKey"]
    api = "http://forge:8080/api/v3"
    assert values["config"]["github"]["api_url"] == api
    [container] = forge[1]["spec"]["template"]["spec"]["containers"]
    assert "--public-url=" + api.removesuffix("/api/v3") in container["args"]


def test_the_github_profile_leaves_the_sandbox_out() -> None:
    config = with_profile("github")
    assert config["manifests"]["rawYaml"] == ["dev/kubernetes/namespace.yaml"]
    assert [entry["resourceName"] for entry in config["portForward"]] == ["coding-agent-receiver"]
    values = yaml.safe_load((ROOT / "dev/kubernetes/values-github.yaml").read_text(encoding="utf-8"))
    assert all(set(secret) == {"existingSecret"} for secret in values["secrets"].values())
