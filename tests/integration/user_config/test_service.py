"""The service as compose and the chart run it: its own process, a read-only folder, a mounted key."""

import re
import signal
from pathlib import Path

from coding_agent_consumer.per_user import with_personal
from coding_agent_core.settings.model import Settings

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


def test_without_a_key_it_says_what_to_set(start_user_config: StartUserConfig, tmp_path: Path) -> None:
    service = start_user_config(tmp_path, USER_CONFIG_API_KEY_FILE="/nowhere/key")
    assert service.process.wait(60) == 78
    assert "Configuration error" in service.text()
    assert "Traceback" not in service.text()
