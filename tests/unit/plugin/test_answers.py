"""What `init` takes from flags, the environment and questions, and the values that follow."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.llm import LLM
from kubectl_agenttask import UsageError
from kubectl_agenttask.__main__ import parser
from kubectl_agenttask.answers import (
    Asker,
    InitInput,
    StoredCredential,
    StoredCredentials,
    collect,
    platform_of,
)
from kubectl_agenttask.app_manifest import Registration, code_of
from kubectl_agenttask.chart_values import chart_values, merged
from kubectl_agenttask.destinations import Destination
from kubectl_agenttask.model_check import ask_model, question

NOBODY = Asker(interactive=False)
TOKENS = {"GITHUB_PERSONAL_ACCESS_TOKEN": "t", "OPENAI_API_KEY": "k"}
GITHUB = ("--platform", "github", "--repo", "acme/a")


def answers(
    *arguments: str,
    environment: dict[str, str] | None = None,
    asker: Asker = NOBODY,
    stored: StoredCredentials = StoredCredentials(),  # noqa: B008 - immutable
) -> InitInput:
    given = parser().parse_args(["init", *arguments])
    found = TOKENS if environment is None else environment
    return collect(given, platform_of(given, asker), asker, stored, found)


def typing_person(*lines: str) -> Asker:
    typed: Iterator[str] = iter(lines)
    return Asker(interactive=True, line=lambda _: next(typed), secret=lambda _: next(typed))


def test_a_person_is_asked_for_what_is_not_given_and_enter_takes_the_default() -> None:
    asker = typing_person(
        "gitlab", "https://gitlab.example.com", "glpat", "", "a/b c/d", "", "", "gpt-5", "sk"
    )
    got = answers(asker=asker, environment={"HOME": "/"})
    assert got.platform is Platform.GITLAB
    assert got.settings.forge(got.platform).api_url == "https://gitlab.example.com/api/v4"
    assert (got.token, got.repositories, got.model_key) == ("glpat", ("a/b", "c/d"), "sk")
    assert (got.llm.provider, got.llm.model_name) == ("openai", "gpt-5")


def test_without_a_person_public_addresses_are_the_default() -> None:
    got = answers(*GITHUB)
    assert got.settings.forge(got.platform).api_url == "https://api.github.com"
    assert got.llm == LLM.model_validate({"openai": {"api_key": "k"}})


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (("--platform", "github"), TOKENS, "--repo is missing"),
        (GITHUB, {"OPENAI_API_KEY": "k"}, "GITHUB_PERSONAL_ACCESS_TOKEN is not set"),
        (GITHUB, {"GITHUB_PERSONAL_ACCESS_TOKEN": "t"}, "OPENAI_API_KEY is not set"),
        (("--platform", "github", "--repo", "https://github.com/a/b"), TOKENS, "write OWNER/NAME"),
        ((*GITHUB, "--provider", "azure"), TOKENS, "choose one of openai"),
        ((*GITHUB, "--api-url", "github.com"), TOKENS, "github.api_url"),
        ((*GITHUB, "--webhook", "agent.example.com"), TOKENS, "write the address of the receiver"),
        ((*GITHUB, "--webhook", "https://a.example/hook"), TOKENS, "the path must be /webhook/github"),
        (
            ("--platform", "gitea", "--repo", "a/b", "--github-app"),
            TOKENS,
            "--github-app: Gitea has no GitHub Apps",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    arguments: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence.replace("*", r"\*")):
        answers(*arguments, environment=environment)


STORED = StoredCredentials(StoredCredential("t", "api.github.com"), StoredCredential("k", "api.openai.com"))


def test_a_stored_token_and_key_are_for_their_hosts() -> None:
    got = answers(*GITHUB, environment={}, stored=STORED)
    assert (got.token, got.model_key) == ("t", "k")
    assert "'t'" not in repr(STORED)
    assert "'k'" not in repr(STORED)


@pytest.mark.parametrize(
    "url", ["https://ghe.example/api/v3", "https://api.github.com:8443", "api.github.com"]
)
def test_a_stored_token_is_not_sent_to_another_host(url: str) -> None:
    with pytest.raises(UsageError, match="GITHUB_PERSONAL_ACCESS_TOKEN is not set"):
        answers(*GITHUB, "--api-url", url, environment={}, stored=STORED)


def test_a_stored_key_is_not_sent_to_another_service() -> None:
    with pytest.raises(UsageError, match="ANTHROPIC_API_KEY is not set"):
        answers(*GITHUB, "--provider", "anthropic", environment={}, stored=STORED)
    own = answers(*GITHUB, "--model-url", "http://vllm.example/v1", environment={}, stored=STORED)
    assert own.model_key == ""


def values(
    *arguments: str,
    addresses: dict[str, str] | None = None,
    app_id: int | None = None,
    environment: dict[str, str] | None = None,
    earlier: dict[str, Any] | None = None,
) -> Any:
    given = answers(*arguments, environment=environment)
    urls = {"forge": given.settings.forge(given.platform).api_url, "model": given.llm.address}
    known = addresses or {}
    destinations = {
        name: Destination(url, known.get(Destination(url).host, "8.8.8.8")) for name, url in urls.items()
    }
    ours = chart_values(given, "bot", {"query": "repo:acme/a"}, destinations, app_id, earlier=earlier or {})
    return merged(earlier or {}, ours)


def test_another_model_or_a_token_instead_of_the_app_leaves_nothing_of_the_earlier_run() -> None:
    vllm = values(*GITHUB, "--model-url", "http://vllm.example/v1", app_id=4711)
    assert values(*GITHUB, earlier=vllm) == values(*GITHUB) | {
        "secrets": values(*GITHUB)["secrets"] | {"github": {"existingSecret": "github-token", "token": ""}},
    }
    ollama = values(*GITHUB, "--provider", "ollama", "--model", "qwen3", earlier=values(*GITHUB))
    assert "model" not in ollama["secrets"], "the key of OpenAI would be sent to it"


def test_a_poll_needs_no_ingress_and_names_the_secrets() -> None:
    assert values(*GITHUB) == {
        "secrets": {"github": {"existingSecret": "github-token"}, "model": {"existingSecret": "model-key"}},
        "receiver": {"enabled": False},
        "ingress": {"enabled": False},
        "polling": {"enabled": True, "schedule": "* * * * *"},
        "config": {
            "github": {"api_url": "https://api.github.com", "account": "bot", "query": "repo:acme/a"},
            "llm": {"provider": "openai", "openai": {"model": "gpt-4o"}},
        },
    }


def test_a_webhook_needs_an_ingress_and_its_secret() -> None:
    found = values(*GITHUB, "--webhook", "https://agent.example.com", "--registry", "registry.example.com")
    assert found["secrets"]["webhook"] == {"existingSecret": "webhook-secret"}
    tls = {"enabled": True, "secretName": "coding-agent-tls"}
    assert found["ingress"] == {"enabled": True, "host": "agent.example.com", "tls": tls}
    assert found["image"] == {"registry": "registry.example.com"}


def test_an_app_replaces_the_token() -> None:
    found = values(*GITHUB, app_id=4711)
    assert found["secrets"]["githubApp"] == {"existingSecret": "github-app"}
    assert found["secrets"]["github"] == {"existingSecret": "", "token": ""}, "the chart refuses both"
    assert found["config"]["github"]["app"] == {"app_id": 4711}


def test_a_private_address_and_another_port_open_the_network_policy() -> None:
    model = ("--provider", "ollama", "--model-url", "http://models.example:11434", "--model", "qwen3")
    found = values(
        *GITHUB, *model, addresses={"models.example": "10.1.2.3", "api.github.com": "140.82.112.6"}
    )
    assert found["networkPolicy"] == {
        "model": {"cidrs": ["0.0.0.0/0", "::/0", "10.1.2.3/32"], "ports": [11434]}
    }
    assert "model" not in found["secrets"]


def test_ours_win_and_theirs_stay() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 4}}) == {"a": {"b": 4, "c": 2}, "d": 3}
    assert merged({"a": {"b": 1}, "d": [3]}, {"a": {"b": None}, "d": {"e": 5}}) == {"d": {"e": 5}}


@pytest.mark.parametrize(
    ("llm", "path", "header"),
    [
        ({"provider": "openai"}, "/v1/responses", "authorization"),
        ({"openai": {"base_url": "https://vllm.example/v1"}}, "/v1/chat/completions", "authorization"),
        ({"provider": "anthropic"}, "/v1/messages", "x-api-key"),
        ({"provider": "google"}, "/v1beta/models/gemini-3.8-flash:generateContent", "x-goog-api-key"),
        ({"provider": "ollama"}, "/v1/chat/completions", "authorization"),
        ({"provider": "lmstudio"}, "/v1/chat/completions", "authorization"),
    ],
)
def test_each_service_is_asked_in_its_own_format(llm: dict[str, Any], path: str, header: str) -> None:
    asked = question(LLM.model_validate(llm), "key")
    assert asked.url.endswith(path)
    assert "key" in asked.headers[header]
    assert "key" not in repr(asked)


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_a_service_that_repeats_the_key_does_not_get_it_shown(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-0123456789"
    said = {"error": {"message": f"no such account: {key}" + "x" * 300}}
    monkeypatch.setattr(httpx2, "post", lambda *_, **__: httpx2.Response(status, json=said))
    found = ask_model(LLM(), key, "OPENAI_API_KEY")
    assert "no such account" in found.text
    assert key not in found.text


def test_the_manifest_asks_for_what_the_programs_need_and_for_checks_early() -> None:
    registration = Registration("https://api.github.com", "agent", "acme", "https://a.example/webhook/github")
    manifest = registration.manifest()
    assert manifest["default_permissions"] == {
        "actions": "read",
        "checks": "write",
        "contents": "write",
        "issues": "write",
        "metadata": "read",
        "pull_requests": "write",
        "statuses": "write",
    }
    assert manifest["hook_attributes"] == {"url": "https://a.example/webhook/github", "active": True}
    assert 'action="https://github.com/organizations/acme/settings/apps/new"' in registration.page()
    polling = Registration("https://ghe.example/api/v3", "agent")
    assert "hook_attributes" not in polling.manifest()
    assert 'action="https://ghe.example/settings/apps/new"' in polling.page()


def test_the_code_is_found_in_the_address_that_a_person_pastes() -> None:
    assert code_of(" https://github.com/settings/apps?code=abc123def456&state= ") == "abc123def456"
    assert code_of("abc123def456") == "abc123def456"
    with pytest.raises(UsageError, match="paste the whole address"):
        code_of("https://github.com/settings/apps")
