"""The service as compose and the chart run it: its own process, a read-only folder, a mounted key."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from coding_agent_core.settings import Settings

from tests.fixtures.system import until

_UP = re.compile(r"Uvicorn running on http://127\.0\.0\.1:(\d+)")
Start = Callable[..., "Service"]


class Service:
    """The process, with its log."""

    def __init__(self, folder: Path, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        arguments = ["--directory", str(folder), "--port", "0"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "coding_agent_user_config", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], **environment},
            )

    def text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str, key: str = "") -> httpx.Response:
        found = until(lambda: _UP.search(self.text()) or self.process.poll() is not None, "the service is up")
        assert isinstance(found, re.Match), self.text()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.get(f"http://127.0.0.1:{found[1]}{path}", headers=headers, timeout=10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Service] = []

    def begin(folder: Path, **environment: str) -> Service:
        service = Service(folder, tmp_path / f"service-{len(started)}.log", environment)
        started.append(service)
        return service

    yield begin
    for service in started:
        service.process.kill()
        service.process.wait(10)


def test_edits_of_settings_and_of_the_key_count_at_once(start: Start, tmp_path: Path) -> None:
    folder, key = tmp_path / "users", tmp_path / "key"
    (folder / "github").mkdir(parents=True)
    (folder / "default.yaml").write_text("llm: {openai: {model: small}}\n")
    key.write_text("first\n")
    service = start(folder, USER_CONFIG_API_KEY_FILE=str(key))
    assert service.get("/config/github/alice", "first").json()["data"]["llm"]["openai"]["model"] == "small"

    (folder / "github" / "alice.yaml").write_text("llm: {openai: {model: large}}\n")
    answer = service.get("/config/github/Alice", "first").json()
    Settings.model_validate(answer["data"])  # what it serves is what the agent understands
    assert answer["data"]["llm"]["openai"]["model"] == "large"

    key.write_text("second\n")
    assert service.get("/config/github/alice", "second").status_code == 200
    assert service.get("/config/github/alice", "first").status_code == 401
    key.unlink()
    assert service.get("/config/github/alice", "second").status_code == 503
    assert service.get("/health").json() == {"status": "healthy"}
    assert not re.search("first|second", service.text()), "no key is logged"

    service.process.send_signal(signal.SIGTERM)
    service.process.wait(10)
    assert "Traceback" not in service.text()


@pytest.mark.parametrize(
    "environment", [{}, {"USER_CONFIG_API_KEY_FILE": "/nowhere/key"}], ids=["none", "absent"]
)
def test_without_a_key_it_says_what_to_set(start: Start, tmp_path: Path, environment: dict[str, str]) -> None:
    service = start(tmp_path, **environment)
    assert service.process.wait(30) == 78
    assert "Configuration error" in service.text()
    assert "Traceback" not in service.text()
