"""skaffold.yaml against skaffold's published schema, and against everything that it names."""

import copy
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


WITH = pytest.mark.parametrize("profile", [None, *PROFILES])


@WITH
def test_skaffold_understands_it_and_every_file_exists(profile: str | None) -> None:
    config, published = with_profile(profile), schema()
    jsonschema.validate(before_v4(config), published, jsonschema.Draft7Validator)
    slip = before_v4(config)
    slip["portForward"][0]["localport"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(slip, published, jsonschema.Draft7Validator)
    files = [artifact["docker"]["dockerfile"] for artifact in config["build"]["artifacts"]]
    files += config["manifests"]["rawYaml"]
    for release in config["deploy"]["helm"]["releases"]:
        files += [f"{release['chartPath']}/Chart.yaml", *release["valuesFiles"]]
    assert not [file for file in files if not (ROOT / file).exists()]
