"""Modes, and sentences instead of stack traces for what is not configured."""

import json
import os
import select
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from coding_agent_core.platforms.registry import HOSTS
from coding_agent_testbed.until import until

from main import main
from tests.fixtures.preloaded import start_main
from tests.fixtures.system import Program

ROOT = Path(__file__).parents[3]
SECRET = {"GITHUB_WEBHOOK_SECRET": "s"}
TOKEN = {"GITHUB_PERSONAL_ACCESS_TOKEN": "t"}
KEY = {"OPENAI_API_KEY": "k"}
PORT = {"WEBHOOK_SERVER_PORT": "0", "WEBHOOK_SERVER_HOST": "127.0.0.1"}
RABBITMQ = {"USE_RABBITMQ": "true"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the tests' own logging stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("main.configure", lambda _: None)
    monkeypatch.setattr("main.HOSTS", dict(HOSTS))
    return tmp_path


def run(*arguments: str, **environment: str) -> int:
    with patch.dict(os.environ, {"PATH": os.environ["PATH"], **environment}, clear=True):
        return main(list(arguments))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ("--mode webhook", {**SECRET, **KEY}, "GITHUB_PERSONAL_ACCESS_TOKEN"),
        ("--mode webhook", {**TOKEN, **KEY, **PORT}, "GITHUB_WEBHOOK_SECRET"),
        ("--mode webhook", {**TOKEN, **SECRET, **PORT}, "OPENAI_API_KEY"),
        ("--mode webhook", {**TOKEN, **KEY, **SECRET, "WEBHOOK_ENABLED": "false"}, "WEBHOOK_ENABLED"),
        ("--mode webhook", {**SECRET, **RABBITMQ, "WEBHOOK_ENABLED": "no"}, "WEBHOOK_ENABLED"),
        ("--mode consumer", {**TOKEN, **KEY}, "use_rabbitmq"),
        ("--mode producer", {**TOKEN, **RABBITMQ}, "github.owner"),
        ("", {**TOKEN, **KEY}, "github.owner"),
        ("--mode operator", {}, "KUBECONFIG"),
        ("--mode operator", {"KUBECONFIG": "absent"}, "KUBECONFIG: there is no file absent"),
        ("--config absent.yaml", {}, "absent.yaml: cannot read the configuration file"),
        ("", {"CONFIG_FILE": "absent.yaml"}, "absent.yaml: cannot read the configuration file"),
    ],
)
def test_what_is_missing_is_named(
    arguments: str, environment: dict[str, str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments.split(), **environment) == 78
    said = capsys.readouterr().err
    assert "Configuration error:" in said
    assert expected in said


def test_check_names_what_is_replaced_ignored_and_missing_and_starts_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ROOT / "tests/fixtures/polling_agent/config.yaml"
    assert run("--config", str(file), "--mode", "check", GITHUB_MCP_COMMAND="x", **SECRET) == 0
    said = capsys.readouterr().out
    assert f"warning: {file}, line 57: context_storage.summary_prompt: ignored" in said
    assert "warning: GITHUB_MCP_COMMAND: ignored" in said
    for part in ("the poll cannot start here: No token", "attempts cannot start here: llm.openai.api_key"):
        assert part in said
    assert said.splitlines()[-1] == f"{file}: 0 errors, 13 warnings"
    assert list(folder.iterdir()) == []


def test_check_names_every_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "webhok: {}\ngithub: {api_url: nonsense, owner: a, owner: b}\nwebhook: {server: {port: x}}\n"
    more = "api_server: {api_key: x}\nllm: {openai: {base_url: models}}\n"
    (folder / "config.yaml").write_text(text + more)
    assert run("--mode", "check", DEBUG="perhaps") == 78
    said = capsys.readouterr().out
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 6, said
    named = ("webhok", "github.api_url", "owner is given twice", "webhook.server.port", "DEBUG", "base_url")
    for part in named:
        assert any(part in error for error in errors)
    assert "warning: config.yaml, line 4: api_server: ignored" in said


@pytest.mark.parametrize("enabled", [True, False])
def test_one_process_polls_unless_it_is_switched_off(tmp_path: Path, enabled: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as forge:
        forge.setblocking(False)
        url = f"http://127.0.0.1:{forge.getsockname()[1]}/api/v3"
        config = {"github": {"api_url": url}, "scheduling": {"enabled": enabled}}
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **TOKEN, **SECRET, **KEY, **PORT}
        log = tmp_path / "log"
        program = Program(start_main(["--mode", "webhook"], env=env, cwd=tmp_path, log=log), log)
        program.ready()
        if enabled:
            until("the forge is polled", lambda: select.select([forge], [], [], 0)[0])
        # Its first poll waits for an answer, for as long as a stop gives it.
        program.kill() if enabled else program.terminate()
    assert ("Webhooks only: scheduling.enabled is false" in program.text()) is not enabled


def test_the_program_itself_tells_its_modes(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "main.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=True)
    for mode in ("webhook", "consumer", "producer", "operator"):
        assert mode in done.stdout
