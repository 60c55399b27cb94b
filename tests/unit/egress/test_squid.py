"""What the settings become in Squid's configuration; tests/integration/egress shows what Squid does."""

import re
from pathlib import Path

import pytest
import yaml
from coding_agent_core.settings.model import Settings
from coding_agent_egress.squid import Place, ProxyTarget, agent_targets, configuration

FORGE = "personal_access_token: t"
POOL = "projects/4242/locations/global/workloadIdentityPools/cluster/providers/kubernetes"
ACCOUNT = "service_account: models@p.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    ("sections", "more"),
    [
        ("{}", ""),  # a forge without a token is not in use
        (f"github: {{{FORGE}}}", "api.github.com:443 github.com:443"),
        (f"gitlab: {{{FORGE}, api_url: 'http://a.test:3000/api/v4'}}", "a.test:3000"),
        ("gateway: {fallbacks: [{format: anthropic, base_url: 'https://b.test'}]}", "b.test:443"),
        (
            f"gateway: {{identity: {{cloud: google, provider: {POOL}, {ACCOUNT}}}}}",
            "sts.googleapis.com:443 iamcredentials.googleapis.com:443",
        ),
        ("mcp_servers: [{mcp_server_name: a, url: 'https://a.test/x'}]", "a.test:443"),
        ("mcp_servers: [{mcp_server_name: b, command: [x]}]", ""),
        ("user_config_api: {enabled: true, url: 'http://people:8080'}", "people:8080"),
        ("context_storage: {s3: {bucket: logs, endpoint_url: 'https://s3.test'}}", "s3.test:443"),
        ("context_storage: {s3: {bucket: logs, region: eu}}", "s3.eu.amazonaws.com:443"),
        ("context_storage: {s3: {bucket: logs, path_style: false}}", "logs.s3.us-east-1.amazonaws.com:443"),
        ("llm: {provider: ollama, ollama: {endpoint: 'http://[fd00::5]:11434'}}", "[fd00::5]:11434"),
        ("llm: {provider: google}", "generativelanguage.googleapis.com:443"),
        ("llm: {provider: anthropic, openai: {api_key: k}}", "api.anthropic.com:443 api.openai.com:443"),
    ],
)
def test_the_agent_reaches_what_the_settings_name(sections: str, more: str) -> None:
    default = {} if sections.startswith("llm") else {"llm": {"openai": {"base_url": "https://model.test/v1"}}}
    found = agent_targets(Settings.model_validate({**default, **yaml.safe_load(sections)}))
    expected = {*more.split(), *(["model.test:443"] if default else [])}
    assert {f"{target.host}:{target.port}" for target in found} == expected


def test_what_a_pattern_matches() -> None:
    hosts = [
        "a.test",
        "b.a.test",
        "c.b.a.test",
        "xa.test",
        "a.test.evil.test",
        "axtest",
        ".a.test",
        "evila.test",
    ]
    for pattern, matched in (("a.test", hosts[:1]), ("*.a.test", hosts[1:3])):
        assert [host for host in hosts if re.search(ProxyTarget.of(pattern).regex, host)] == matched


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
