"""What the settings become in Squid's configuration; tests/integration/egress shows what Squid does."""

import re
from io import StringIO
from pathlib import Path

import pytest
import yaml
from coding_agent_core.errors import SettingsError
from coding_agent_core.settings.model import Settings
from coding_agent_core.task.egress import (
    Role,
    is_valid,
    job_of,
    password,
    profile_of,
    user_name,
    variables,
)
from coding_agent_egress.__main__ import Denials, load_settings
from coding_agent_egress.identify import answer_lines
from coding_agent_egress.squid import EgressSettings, ProxyFiles, ProxyTarget, agent_targets, configuration
from pydantic import ValidationError

FORGE = "personal_access_token: t"
ROLE = "arn:aws:iam::123456789012:role/transcripts"
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
        (
            f"context_storage: {{s3: {{bucket: logs, region: eu, identity: {{role_arn: '{ROLE}'}}}}}}",
            "s3.eu.amazonaws.com:443 sts.eu.amazonaws.com:443",
        ),
        ("llm: {provider: ollama, ollama: {endpoint: 'http://[fd00::5]:11434'}}", "[fd00::5]:11434"),
        ("llm: {provider: google}", "generativelanguage.googleapis.com:443"),
        ("llm: {provider: anthropic, openai: {api_key: k}}", "api.anthropic.com:443 api.openai.com:443"),
    ],
)
def test_the_agent_reaches_what_the_settings_name(sections: str, more: str) -> None:
    default = {} if sections.startswith("llm") else {"llm": {"openai": {"base_url": "https://model.test/v1"}}}
    found = agent_targets(EgressSettings.model_validate({**default, **yaml.safe_load(sections)}))
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
    settings = EgressSettings.model_validate(
        {"egress": {"allow": ["a.test"], "repositories": {"o/r": ["b.test:81"]}}}
    )
    lines = configuration(settings, ProxyFiles(3128, 3130, Path("/x"))).splitlines()
    resolving = [
        line.split()
        for line in lines
        if line.startswith("http_access") and line.endswith((" public", "never"))
    ]
    assert len(resolving) == 3
    assert all(line[3].startswith("hosts_") for line in resolving)
    assert lines[-1] == "http_access deny not_listed"
    assert next(line for line in lines if line.startswith("http_access")) == "http_access deny !identified"


@pytest.mark.parametrize(
    ("result", "status", "counted"),
    [
        ("TCP_DENIED", 403, {"packages.example.com": 1}),
        # A client that hung up as soon as it was refused, as curl and git do.
        ("TCP_DENIED_ABORTED", 403, {"packages.example.com": 1}),
        ("TCP_DENIED", 407, {}),  # no valid identity
        ("TCP_MISS", 403, {}),  # the server's own answer
    ],
)
def test_what_the_proxy_refused_counts(result: str, status: int, counted: dict[str, int]) -> None:
    denials = Denials()
    entry = {"user": "job-1.workspace", "host": "packages.example.com", "port": "443"}
    denials.take({**entry, "result": result, "status": status})
    assert denials.of("job-1") == counted


def test_the_variables_of_a_container() -> None:
    found = variables("[fd00::1]:3128", "web-1.agent", "key")
    url = f"http://web-1.agent:{password('web-1.agent', 'key')}@[fd00::1]:3128"
    assert found == {
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url),
        **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"),
        "NODE_USE_ENV_PROXY": "1",
    }


def test_the_helper_answers_each_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("an old key\nkey")
    good = password("web-1.agent", "an old key")
    answers = StringIO()
    answer_lines(
        keys,
        StringIO(
            f"web%2D1.agent {good}\nweb-2.agent {good}\nweb-1.agent\n\nroot {password('root', 'key')}\n"
        ),
        answers,
    )
    assert answers.getvalue().split() == ["OK", "ERR", "ERR", "ERR", "ERR"]


def test_a_name_says_attempt_container_and_profile() -> None:
    profile = profile_of("Owner/Repo")
    assert profile == profile_of("owner/repo")
    for name, job in {
        user_name("web-12-ab12-1", Role.AGENT): "web-12-ab12-1",
        user_name("web-12-ab12-1", Role.WORKSPACE, profile): "web-12-ab12-1",
        "my.agent-1.workspace": "my.agent-1",
        **dict.fromkeys(("web-1", ".agent", "-", "web-1.other")),
    }.items():
        assert job_of(name) == job


def test_a_password_is_for_one_user_and_key() -> None:
    given = password("web-1.agent", "key")
    assert is_valid("web-1.agent", given, ["other", "key"])
    assert not is_valid("web-1.agent", given, ["other"])
    assert not is_valid("web-1.workspace", given, ["key"])
    assert not is_valid("web-1.agent", "é", ["key"])
    assert not is_valid("web-1.agent", "", [])


def test_hosts_of_the_list() -> None:
    for good in ("a.example.com", "*.Example.com", "a.example.com:8443", "localhost", "x_y.test"):
        assert Settings.model_validate({"egress": {"allow": [good]}}).egress.allow == (good.lower(),)
    for wrong in (
        *("https://a.test", "a.test/path", "*", "*.", "a*.test", "a.*.test", "a..test", "a.test:0", ""),
        *("a.test:70000", "10.0.0.1", "1.2.3.4:80", "0x7f.1", "::1", "a b", "a.test\nhttp_access allow all"),
    ):
        with pytest.raises(ValidationError, match=r"is not a host|is an address"):
            Settings.model_validate({"egress": {"private": [wrong]}})


def test_the_profile_of_a_repository() -> None:
    egress = EgressSettings.model_validate(
        {"egress": {"repositories": {"O/R": ["a.test"], "forge.example.com/o/s": ["b.test"]}}}
    ).egress
    assert egress.profile("any.example.com", "o/R") == profile_of("o/r")
    assert egress.profile("Forge.example.com", "o/s") == profile_of("forge.example.com/o/s")
    assert egress.profile("other.example.com", "o/s") is None


def test_mistakes_in_settings_of_other_programs_do_not_stop_the_proxy(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    # `bot_name` and `project_id` are the polling agent's, which the other programs translate too.
    file.write_text(
        "gitlab: {bot_name: bot, project_id: shop, personal_access_token: t}\n"
        "egress: {allow: [pypi.org]}\noperator: {nonsense: 1}\nwebhook: []\n"
    )
    found = load_settings(file)
    assert found.egress.allow == ("pypi.org",)
    assert {target.host for target in agent_targets(found)} >= {"gitlab.com"}


def test_mistakes_in_the_proxys_own_settings_are_named_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("egress:\n  allow: [pypi.org]\n  alow: [files.example.com]\n")
    with pytest.raises(SettingsError, match=r"line 3: egress\.alow: unknown setting; did you mean `allow`\?"):
        load_settings(file)
