"""Messages say where a credential is set: the chart refuses the settings that hold them elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from coding_agent_core.settings.credentials import CHART_VALUES, credential_place
from coding_agent_core.settings.model import Settings

VALUES = Path(__file__).resolve().parents[3] / "charts" / "coding-agent" / "values.yaml"
FILE = {"files": ["/etc/coding-agent/credentials/openai-api-key"]}
MOUNTED = {"secret": "team-model", "key": "api-key", "file": "openai-api-key"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "`llm.openai.api_key` (OPENAI_API_KEY)"),
        (
            {
                "queue": {"backend": "kubernetes"},
                "llm": {"openai": {"api_key": FILE}},
                "operator": {"job": {"credentials": [MOUNTED, {**MOUNTED, "file": "github-token"}]}},
            },
            "the key `api-key` of the Secret `team-model` (the chart's value `secrets.model.apiKey`)",
        ),
        (
            {
                "queue": {"backend": "kubernetes"},
                "llm": {"openai": {"api_key": FILE}},
                "operator": {
                    "job": {"credentials": [MOUNTED, {**MOUNTED, "secret": "b", "repository": "o/r"}]}
                },
            },
            "the key `api-key` of the Secret `team-model` or the key `api-key` of the Secret `b` "
            "(the chart's value `secrets.model.apiKey`)",
        ),
    ],
)
def test_where_a_key_is_set(given: dict[str, Any], expected: str) -> None:
    assert credential_place(Settings.model_validate(given), "llm.openai.api_key") == expected


@pytest.mark.parametrize("setting", CHART_VALUES)
def test_the_chart_has_each_value(setting: str) -> None:
    value = yaml.safe_load(VALUES.read_text())
    for part in CHART_VALUES[setting].split("."):
        value = value[part]
    assert value == ""
    place = credential_place(Settings.model_validate({"queue": {"backend": "kubernetes"}}), setting)
    assert place == f"the chart's value `{CHART_VALUES[setting]}`"
