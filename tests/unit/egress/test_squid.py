"""What the settings become in Squid's configuration; tests/integration/egress shows what Squid does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from coding_agent_core.settings.model import Settings
from coding_agent_egress.squid import Place, ProxyTarget, agent_targets, configuration

POOL = "projects/4242/locations/global/workloadIdentityPools/cluster/providers/kubernetes"


def targets(**sections: Any) -> set[tuple[str, int | None]]:
    return {(target.host, target.port) for target in agent_targets(Settings.model_validate(sections))}


def test_the_agent_reaches_what_the_settings_name() -> None:
    openai = {"llm": {"openai": {"base_url": "https://model.example.com/v1"}}}
    model = ("model.example.com", 443)
    assert targets(**openai) == {model}, "a forge without a token is not in use"
    token = {"personal_access_token": "t"}
    assert targets(**openai, github=token) == {model, ("api.github.com", 443), ("github.com", 443)}
    own = {**token, "api_url": "http://forge.example.com:3000/api/v4"}
    assert targets(**openai, gitlab=own) >= {("forge.example.com", 3000)}
    assert targets(llm={"provider": "ollama", "ollama": {"endpoint": "http://[fd00::5]:11434"}}) == {
        ("[fd00::5]", 11434)
    }
    assert targets(llm={"provider": "anthropic"}) == {("api.anthropic.com", 443)}
    assert targets(llm={"provider": "google"}) == {("generativelanguage.googleapis.com", 443)}
    further = {"llm": {"provider": "anthropic", "openai": {"api_key": "k"}}}
    second = [{"format": "anthropic", "base_url": "https://second.example.com"}]
    assert targets(**further, gateway={"fallbacks": second}) == {
        ("api.anthropic.com", 443),
        ("api.openai.com", 443),
        ("second.example.com", 443),
    }
    identity = {"cloud": "google", "provider": POOL, "service_account": "models@p.iam.gserviceaccount.com"}
    assert targets(**openai, gateway={"identity": identity}) == {
        model,
        ("sts.googleapis.com", 443),
        ("iamcredentials.googleapis.com", 443),
    }
    servers = [
        {"mcp_server_name": "a", "url": "https://mcp.example.com/x"},
        {"mcp_server_name": "b", "command": ["x"]},
    ]
    assert targets(**openai, mcp_servers=servers) == {model, ("mcp.example.com", 443)}
    people = {"enabled": True, "url": "http://people:8080"}
    assert targets(**openai, user_config_api=people) == {model, ("people", 8080)}


@pytest.mark.parametrize(
    ("s3", "host"),
    [
        ({"endpoint_url": "https://s3.example.com"}, "s3.example.com"),
        ({"region": "eu-west-1"}, "s3.eu-west-1.amazonaws.com"),
        ({"path_style": False}, "logs.s3.us-east-1.amazonaws.com"),
    ],
)
def test_the_agent_reaches_the_bucket(s3: dict[str, Any], host: str) -> None:
    assert (host, 443) in targets(context_storage={"s3": {"bucket": "logs", **s3}})


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("a.test", "a.test", True),
        ("a.test", "xa.test", False),
        ("a.test", "a.test.evil.test", False),
        ("a.test", "axtest", False),
        ("*.a.test", "b.a.test", True),
        ("*.a.test", "c.b.a.test", True),
        ("*.a.test", "a.test", False),
        ("*.a.test", ".a.test", False),
        ("*.a.test", "evila.test", False),
    ],
)
def test_what_a_pattern_matches(pattern: str, host: str, matches: bool) -> None:
    assert bool(re.search(ProxyTarget.of(pattern).regex, host)) is matches


def test_a_name_is_resolved_after_it_was_found_in_the_list() -> None:
    """`dst` asks a name server: it must stand last in a line, behind the list of hosts."""
    settings = Settings.model_validate(
        {"egress": {"allow": ["a.test"], "repositories": {"o/r": ["b.test:81"]}}}
    )
    lines = configuration(settings, Place(3128, 3130, Path("/x"))).splitlines()
    resolving = [
        line.split()
        for line in lines
        if line.startswith("http_access") and line.endswith((" public", "never"))
    ]
    assert len(resolving) == 3
    assert all(line[3].startswith("hosts_") for line in resolving)
    assert lines[-1] == "http_access deny not_listed"
    assert next(line for line in lines if line.startswith("http_access")) == "http_access deny !identified"
