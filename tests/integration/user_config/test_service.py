"""The service as compose and the chart run it: its own process, a read-only folder, a mounted key."""

import re
import signal
from pathlib import Path

import pytest
from coding_agent_consumer.attempt.per_user import settings_for, with_personal
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.model import Settings
from coding_agent_testbed.until import until

from tests.fixtures.company_proxy import serve
from tests.fixtures.user_config import StartUserConfig


def test_edits_of_settings_and_of_the_key_count_at_once(
    start_user_config: StartUserConfig, tmp_path: Path
) -> None:
    folder, key = tmp_path / "users", tmp_path / "key"
    (folder / "github").mkdir(parents=True)
    (folder / "default.yaml").write_text("llm: {openai: {model: small}}\n")
    key.write_text("first\n")
    service = start_user_config(folder, USER_CONFIG_API_KEY_FILE=str(key))
    assert service.get("/config/github/alice", "first").json()["data"]["llm"]["openai"]["model"] == "small"

    (folder / "github" / "alice.yaml").write_text("llm: {openai: {model: large}}\n")
    answer = service.get("/config/github/Alice", "first").json()
    with_personal(Settings(), answer["data"])  # what it serves is what the agent understands
    assert answer["data"]["llm"]["openai"]["model"] == "large"

    key.write_text("second\n")
    assert service.get("/config/github/alice", "second").status_code == 200
    assert service.get("/config/github/alice", "first").status_code == 401
    key.unlink()
    assert service.get("/config/github/alice", "second").status_code == 503
    assert service.get("/health").json() == {"status": "healthy"}
    assert not re.search("first|second", service.text()), "no key is logged"

    service.process.send_signal(signal.SIGTERM)
    service.process.wait(60)
    assert "Traceback" not in service.text()


async def test_an_attempt_reaches_it_through_the_companys_proxy_unless_no_proxy_names_it(
    start_user_config: StartUserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the proxy knows `settings.example.com`. Another name of this machine is reached directly."""
    folder, proxy_folder = tmp_path / "users", tmp_path / "proxy"
    folder.mkdir()
    proxy_folder.mkdir()
    (folder / "default.yaml").write_text("system_prompt: Be brief.\n")
    service = start_user_config(folder, USER_CONFIG_API_KEY="key")
    with serve(proxy_folder, {"settings.example.com": "127.0.0.1"}) as proxy:
        for name, value in {**proxy.variables, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        for host in ("127.0.0.1", "settings.example.com"):
            assert proxy.asked() == set()
            url = service.url().replace("127.0.0.1", host)
            section = {"enabled": True, "url": url, "api_key": "key"}
            ours = Settings.model_validate({"user_config_api": section})
            found = await settings_for(ours, Platform.GITHUB, "alice")
            assert found.system_prompt == "Be brief.", service.text()
        until("only the second went through it", lambda: proxy.asked() == {"GET:settings.example.com"})


def test_without_a_key_it_says_what_to_set(start_user_config: StartUserConfig, tmp_path: Path) -> None:
    service = start_user_config(tmp_path, USER_CONFIG_API_KEY_FILE="/nowhere/key")
    assert service.process.wait(60) == 78
    assert "Configuration error" in service.text()
    assert "Traceback" not in service.text()
