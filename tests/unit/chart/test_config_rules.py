"""The chart's schema refuses what the programs refuse, as far as a schema can say it, and nothing else."""

from typing import Any

import pytest
from coding_agent_core.settings.model import Settings
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from charts import schema

VALIDATOR = Draft202012Validator(schema.values_schema())
MONEY, TOKENS = {"amount": "5.00", "currency": "USD"}, {"tokens": 1000}
SHARED = {"queue": {"backend": "kubernetes"}}


def template(**spec: Any) -> dict[str, Any]:
    return {"operator": {"job": {"pod_template": {"spec": spec}}}}


REFUSED: list[dict[str, Any]] = [
    {"budgets": {"task": {"amount": "5.00"}}},
    {"budgets": {"task": {"currency": "USD"}}},
    {"budgets": {"task": {}}},
    {"budgets": {"task": MONEY | TOKENS}},
    {"budgets": {"task": {"amount": "5.00", "currency": "usd"}}},
    {"budgets": {"task": MONEY, "repository": TOKENS}},
    {"budgets": {"task": TOKENS, "repositories": {"acme/shop": MONEY}}},
    {"github": {"api_url": "github.example.com/api/v3"}},
    {"github": {"api_url": "ftp://github.example.com"}},
    {"github": {"api_url": "https://"}},
    {"github": {"api_url": "https://user:word@github.example.com"}},
    {"github": {"api_url": "https://github.example.com\\@other"}},
    {"llm": {"openai": {"base_url": "gateway.example.com/v1"}}},
    {"llm": {"openai": {"base_url": ""}}},
    {"mcp_servers": [{"mcp_server_name": "docs", "url": "docs.example.com"}]},
    template(hostNetwork=True),
    template(hostPID=False),
    template(serviceAccountName="admin"),
    template(securityContext={"runAsUser": 0}),
    {"operator": {"job": {"pod_template": {"status": {}}}}},
    {"operator": {"job": {"pod_template": {"metadata": {"name": "x"}}}}},
]
ACCEPTED: list[dict[str, Any]] = [
    {"budgets": {"task": MONEY}},
    {"budgets": {"task": {"amount": 5, "currency": "USD"}}},
    {"budgets": {"task": {**TOKENS, "amount": None, "currency": None}}},
    SHARED | {"budgets": {"task": MONEY, "repository": MONEY, "repositories": {"acme/shop": MONEY}}},
    SHARED | {"budgets": {"task": TOKENS, "namespace": TOKENS}},
    {"budgets": {"task": None}},
    {"github": {"api_url": "HTTPS://github.example.com:8443/api/v3?x=a@b"}},
    {"github": {"api_url": "http://[::1]:3000"}},
    {"llm": {"lmstudio": {"base_url": "10.0.0.7:1234"}}},
    template(securityContext={"fsGroup": 1000}, nodeSelector={"a": "b"}),
    {"operator": {"job": {"pod_template": {"metadata": {"labels": {"a": "b"}}}}}},
]
OF_THE_CHART = ("queue",)
"""Sections of the table that the chart sets itself."""


def refused_by_settings(config: dict[str, Any]) -> bool:
    try:
        Settings.model_validate(config)
    except ValidationError:
        return True
    return False


def refused_by_chart(config: dict[str, Any]) -> bool:
    given = {key: value for key, value in config.items() if key not in OF_THE_CHART}
    return not VALIDATOR.is_valid({"config": given})


@pytest.mark.parametrize("config", REFUSED, ids=str)
def test_what_the_programs_refuse_the_chart_refuses(config: dict[str, Any]) -> None:
    assert refused_by_settings(config)
    assert refused_by_chart(config)


@pytest.mark.parametrize("config", ACCEPTED, ids=str)
def test_what_the_programs_take_the_chart_takes(config: dict[str, Any]) -> None:
    assert not refused_by_settings(config)
    assert not refused_by_chart(config)


@pytest.mark.parametrize(
    "config",
    [
        {"github": {"api_url": "${FORGE_URL}"}},
        {"github": {"api_url": "https://${HOST:-github.example.com}/api/v3"}},
        {"budgets": {"task": {"amount": "5.00", "currency": "${CURRENCY}"}}},
    ],
)
def test_the_chart_takes_a_variable_in_place_of_a_value(config: dict[str, Any]) -> None:
    assert not refused_by_chart(config)
