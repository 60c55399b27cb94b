"""S22: per-user settings are merged into a copy; the service being down costs a warning, never a task."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import httpx
import pytest
from coding_agent_consumer.attempt import merge, settings_for, with_task_options
from coding_agent_core.platforms import Platform
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings import Settings, load_settings
from coding_agent_user_config.__main__ import ApiKey, create_app

KEY = "service-key"


@pytest.fixture
def ours() -> Settings:
    return load_settings(
        Path("/dev/null"),
        {"USE_USER_CONFIG_API": "true", "USER_CONFIG_API_KEY": KEY, "OPENAI_API_KEY": "our-key"},
    )


def service(tmp_path: Path) -> httpx.ASGITransport:
    return httpx.ASGITransport(create_app(tmp_path, ApiKey(KEY)))


async def test_a_persons_settings_come_over_a_copy(ours: Settings, tmp_path: Path) -> None:
    (tmp_path / "github").mkdir()
    (tmp_path / "default.yaml").write_text("max_llm_process_num: 50\nsystem_prompt: Be brief.\n")
    (tmp_path / "github" / "alice.yaml").write_text(
        "llm: {openai: {model: big}}\nsystem_prompt: Rust only.\n"
    )
    before = ours.model_dump_json()
    alice = await settings_for(ours, Platform.GITHUB, "Alice", transport=service(tmp_path))
    bob = await settings_for(ours, Platform.GITHUB, "bob", transport=service(tmp_path))
    assert (alice.llm.openai.model, alice.system_prompt, alice.max_llm_process_num) == (
        "big",
        "Rust only.",
        50,
    )
    assert (bob.llm.openai.model, bob.system_prompt) == (ours.llm.openai.model, "Be brief.")
    assert ours.model_dump_json() == before, "one person's settings never leak into ours"
    assert Secrets(alice.llm.openai.api_key).current() == ["our-key"]


def test_our_key_is_not_sent_to_somebody_elses_server(ours: Settings) -> None:
    theirs = merge(ours, {"llm": {"openai": {"base_url": "https://elsewhere.example/v1"}}})
    assert not theirs.llm.openai.api_key.configured
    with_key = merge(
        ours, {"llm": {"openai": {"base_url": "https://elsewhere.example/v1", "api_key": "own"}}}
    )
    assert Secrets(with_key.llm.openai.api_key).current() == ["own"]


def test_settings_of_the_polling_agent_load_but_cannot_name_our_variables(
    ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SECRET", "ours")
    theirs = merge(
        ours,
        {
            "llm": {
                "function_calling": True,
                "openai": {"base_url": "https://elsewhere.example/v1", "api_key_env": "OUR_SECRET"},
            }
        },
    )
    assert theirs.llm.openai.base_url == "https://elsewhere.example/v1"
    assert not theirs.llm.openai.api_key.configured


def test_only_what_is_theirs_can_be_set(ours: Settings) -> None:
    merged = merge(ours, {"github": {"personal_access_token": "x"}, "consumer": {"max_attempts": 99}})
    assert merged.github == ours.github
    assert merged.consumer == ours.consumer


def answer(status: int, body: object) -> httpx.MockTransport:
    return httpx.MockTransport(lambda _: httpx.Response(status, text=json.dumps(body)))


def broken(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize(
    "transport",
    [
        httpx.MockTransport(broken),
        answer(500, {}),
        answer(401, {}),
        answer(200, []),
        answer(200, {"status": "success"}),
        answer(200, {"data": {"llm": {"openai": {"unknown_key": 1}}}}),
        answer(200, {"data": {"llm": 7}}),
        httpx.MockTransport(lambda _: httpx.Response(200, text="not json")),
    ],
)
async def test_whatever_the_service_does_the_defaults_hold_with_a_warning(
    ours: Settings, transport: httpx.MockTransport, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert await settings_for(ours, Platform.GITLAB, "carol", transport=transport) == ours
    assert "carol" in caplog.text
    assert KEY not in caplog.text


async def test_no_settings_stored_is_no_warning(
    ours: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await settings_for(ours, Platform.GITHUB, "dave", transport=service(tmp_path)) == ours
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_instructions_of_the_user_and_of_the_task_are_added_to_ours() -> None:
    settings = merge(Settings(instructions="Ours."), {"instructions": "Alice's."})
    settings = with_task_options(settings, model="small", instructions="The task's.")
    assert settings.instructions == "Ours.\n\nAlice's.\n\nThe task's."
    assert settings.llm.openai.model == "small"
    assert with_task_options(settings, model=None, instructions=None) == settings
