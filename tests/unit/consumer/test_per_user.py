"""A person's settings over a copy of ours: what they may set, and a service that does not answer."""

import logging
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coding_agent_consumer.agent.model_spec import with_task_options
from coding_agent_consumer.attempt.per_user import PersonalSettings, settings_for, with_personal
from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.runtime.retry import Clock
from coding_agent_core.settings.llm import LLM
from coding_agent_core.settings.load import load_settings
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.runners import RunnerName
from coding_agent_user_config.__main__ import ApiKey, user_config_app

from tests.unit.consumer.making import ITEM as OF_O

KEY = "service-key"
ITEM = OF_O.model_copy(update={"repository": "Acme/Shop"})


@pytest.fixture
def ours() -> Settings:
    return load_settings(
        Path("/dev/null"),
        {"USE_USER_CONFIG_API": "true", "USER_CONFIG_API_KEY": KEY, "OPENAI_API_KEY": "our-key"},
    )


def service(tmp_path: Path) -> httpx2.ASGITransport:
    return httpx2.ASGITransport(user_config_app(tmp_path, ApiKey(KEY)))


async def test_a_persons_settings_come_over_a_copy(ours: Settings, tmp_path: Path) -> None:
    (tmp_path / "github").mkdir()
    (tmp_path / "default.yaml").write_text("max_llm_process_num: 50\nsystem_prompt: Be brief.\n")
    (tmp_path / "github" / "alice.yaml").write_text(
        "llm: {openai: {model: big}}\nsystem_prompt: Rust only.\n"
    )
    before = ours.model_dump_json()
    alice = await settings_for(ours, Platform.GITHUB, "Alice", transport=service(tmp_path))
    bob = await settings_for(ours, Platform.GITHUB, "bob", transport=service(tmp_path))
    assert (alice.llm.openai.model, alice.system_prompt) == ("big", "Rust only.")
    assert (bob.llm.openai.model, bob.system_prompt) == (ours.llm.openai.model, "Be brief.")
    assert alice.max_llm_process_num == bob.max_llm_process_num == 50
    assert ours.model_dump_json() == before, "one person's settings never leak into ours"
    assert Secrets(alice.llm.openai.api_key).current() == ["our-key"]


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ({"openai": {"model": "big"}}, True),
        ({"provider": "openai"}, True),
        ({"provider": "anthropic"}, False),
        ({"openai": {"base_url": "https://elsewhere.example/v1"}}, False),
        ({"openai": {"api_key": "their-key"}}, False),
    ],
)
def test_the_installations_identity_opens_no_provider_of_a_person(own: dict[str, Any], kept: bool) -> None:
    identity = {"cloud": "azure", "tenant_id": "t", "client_id": "c"}
    theirs = with_personal(Settings.model_validate({"gateway": {"identity": identity}}), {"llm": own})
    assert (theirs.gateway.identity is not None) is kept


ELSEWHERE = {"base_url": "https://elsewhere.example/v1"}


@pytest.mark.parametrize(
    ("openai", "keys"),
    [
        (ELSEWHERE, []),
        (ELSEWHERE | {"api_key": "own"}, ["own"]),
        (ELSEWHERE | {"api_key_env": "OUR_SECRET"}, []),  # a setting of the polling agent
        ({"base_url": "https://API.openai.com:443/v1/"}, ["our-key"]),
        ({"api_key": "own"}, ["own"]),
    ],
)
def test_our_key_goes_to_our_address_alone(
    ours: Settings, openai: dict[str, str], keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_SECRET", "ours")
    theirs = with_personal(ours, {"llm": {"function_calling": True, "openai": openai}}).llm.openai
    assert Secrets(theirs.api_key).current() == keys
    assert (theirs.base_url == ELSEWHERE["base_url"]) is ("elsewhere" in str(openai))


def test_every_key_that_a_person_may_set_is_used(ours: Settings) -> None:
    service = {"model": "m", "max_token": 10, "context_length": 100}
    llm = {
        "provider": "ollama",
        "openai": {**service, "base_url": "http://a.example/v1", "api_key": "own"},
        "ollama": {**service, "endpoint": "http://b.example"},
        "lmstudio": {**service, "base_url": "http://c.example/v1"},
    }
    data = {"llm": llm, "system_prompt": "Be.", "instructions": "Do.", "max_llm_process_num": 7}
    expected = ours.model_copy(update=data | {"llm": LLM.model_validate(llm)})
    assert with_personal(ours, data) == expected
    assert set(PersonalSettings.model_fields) == set(data)


def test_a_limit_can_only_be_lowered_and_an_empty_value_is_not_set(ours: Settings) -> None:
    assert with_personal(ours, {"max_llm_process_num": 5000}).max_llm_process_num == 1000
    empty = {"system_prompt": None, "llm": {"provider": None, "openai": None, "ollama": {"model": None}}}
    assert with_personal(ours, empty) == ours


FILE = "/var/run/secrets/token"
TEXT, URL = "llm.openai.api_key: must be text", "llm.openai.base_url: is not an http(s) URL"
OTHERS = {"github": {"personal_access_token": "x"}, "consumer": {"max_attempts": 99}, "mcp_servers": [{}]}
MESSAGES = [
    *(({key: value}, f"{key}: this cannot be set for one person") for key, value in OTHERS.items()),
    ({"user_config_api": {"url": "https://x.example"}}, "user_config_api: this cannot"),
    ({"llm": {"prices": {}}}, "llm.prices: this cannot"),
    ({"llm": {"openai": {"headers": {}}}}, "llm.openai.headers: this cannot"),
    ({"llm": 7}, "llm: must be a mapping"),
    *(({"llm": {"openai": {"api_key": key}}}, TEXT) for key in ({}, {"files": [FILE]}, ["hidden"])),
    ({"llm": {"openai": {"api_key": ""}}}, "llm.openai.api_key: "),
    ({"llm": {"openai": {"api_key": "hid\nden"}}}, "llm.openai.api_key: must be one line"),
    *(({"llm": {"openai": {"base_url": url}}}, URL) for url in ("hidden", "javascript:hidden")),
    ({"llm": {"openai": {"base_url": "https://a:hidden@x.example"}}}, "base_url: must have no user"),
    ({"llm": {"ollama": {"endpoint": "http://x.example?hidden"}}}, "llm.ollama.endpoint: must have no"),
    *(({"max_llm_process_num": number}, "max_llm_process_num: ") for number in (0, "hidden")),
    ({f"a\nb{'c' * 200}": 1}, "a b" + "c" * 77 + "…: this cannot"),
    ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1}, "c: this cannot be set for one person; and 2 more"),
]


@pytest.mark.parametrize(("data", "message"), MESSAGES)
def test_everything_else_is_refused_by_its_key_without_its_value(
    ours: Settings, data: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        with_personal(ours, data)
    assert message in str(refused.value)
    for value in ("hidden", FILE, "our-key"):
        assert value not in str(refused.value)


class Waits(list[float]):
    """Records the seconds of each wait; its clock does not wait."""

    def clock(self) -> Clock:
        async def sleep(seconds: float) -> None:
            self.append(seconds)

        return Clock(monotonic=lambda: sum(self), sleep=sleep)


def answer(status: int, text: str) -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda _: httpx2.Response(status, text=text))


async def test_what_is_refused_ends_the_task_and_names_the_person(ours: Settings) -> None:
    transport = answer(200, '{"data": {"llm": {"openai": {"unknown_key": 1}}}}')
    with pytest.raises(SettingsError, match=r"settings of carol cannot be used: llm\.openai\.unknown_key: "):
        await settings_for(ours, Platform.GITLAB, "carol", transport=transport)


def broken(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


@pytest.mark.parametrize(
    ("transport", "retries"),
    [
        (httpx2.MockTransport(broken), 4),
        *((answer(status, "{}"), 4) for status in (500, 429)),
        (answer(401, "{}"), 0),
        *((answer(200, text), 0) for text in ("[]", '{"status": "success"}', '{"data": 7}', "not json")),
        (answer(200, '{"data": ' + "[" * 100_000), 0),
    ],
)
async def test_a_service_that_does_not_answer_as_agreed_costs_a_warning(
    ours: Settings, transport: httpx2.MockTransport, retries: int, caplog: pytest.LogCaptureFixture
) -> None:
    waits = Waits()
    with caplog.at_level(logging.INFO):
        settings = await settings_for(
            ours, Platform.GITLAB, "carol", transport=transport, clock=waits.clock()
        )
    assert settings == ours
    assert len(waits) == retries
    assert sum(waits) < 20
    [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "carol" in warning.getMessage()
    assert KEY not in caplog.text


async def test_a_service_that_is_reached_late_is_asked_again(
    ours: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The first connections of a new pod: the network may not know its policies yet."""
    answers: list[httpx2.Response | Exception] = [
        *(httpx2.ConnectTimeout("late"), httpx2.Response(503)),
        httpx2.Response(200, json={"data": {"system_prompt": "Rust only."}}),
    ]

    def late(_: httpx2.Request) -> httpx2.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx2.MockTransport(late)
    settings = await settings_for(ours, Platform.GITLAB, "carol", transport=transport, clock=Waits().clock())
    assert settings.system_prompt == "Rust only."
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_no_settings_stored_is_no_warning(
    ours: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await settings_for(ours, Platform.GITHUB, "dave", transport=service(tmp_path)) == ours
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_instructions_of_the_user_and_of_the_task_are_added_to_ours() -> None:
    settings = with_personal(Settings(instructions="Ours."), {"instructions": "Alice's."})
    settings = with_task_options(settings, ITEM, model="small", instructions="The task's.")
    assert settings.instructions == "Ours.\n\nAlice's.\n\nThe task's."
    assert settings.llm.openai.model == "small"
    assert with_task_options(settings, ITEM) == settings


def test_the_task_then_the_repository_then_the_installation_name_the_coding_agent() -> None:
    ours = Settings.model_validate(
        {
            "consumer": {"runner": "codex", "runners": {"acme/shop": "claude-code", "acme/other": "gemini"}},
            "llm": {"anthropic": {"api_key": "k"}, "google": {"api_key": "k"}},
        }
    )
    assert with_task_options(ours, ITEM, runner=RunnerName.OPENCODE).consumer.runner == "opencode"
    assert with_task_options(ours, ITEM).consumer.runner == "claude-code"
    elsewhere = ITEM.model_copy(update={"repository": "acme/third"})
    assert with_task_options(ours, elsewhere).consumer.runner == "codex"
