"""Modes, and sentences instead of stack traces for what is not configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.preloaded import start_main

ROOT = Path(__file__).parents[3]
SECRET = {"GITHUB_WEBHOOK_SECRET": "s"}
TOKEN = {"GITHUB_PERSONAL_ACCESS_TOKEN": "t"}
KEY = {"OPENAI_API_KEY": "k"}
PORT = {"WEBHOOK_SERVER_PORT": "0", "WEBHOOK_SERVER_HOST": "127.0.0.1"}


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--mode", "webhook"], {**SECRET, **KEY}, "GITHUB_PERSONAL_ACCESS_TOKEN"),
        (["--mode", "webhook"], {**TOKEN, **KEY, **PORT}, "GITHUB_WEBHOOK_SECRET"),
        (["--mode", "webhook"], {**TOKEN, **SECRET, **PORT}, "OPENAI_API_KEY"),
        (["--mode", "webhook"], {**TOKEN, **KEY, **SECRET, "WEBHOOK_ENABLED": "false"}, "WEBHOOK_ENABLED"),
        (
            ["--mode", "webhook"],
            {**SECRET, "USE_RABBITMQ": "true", "WEBHOOK_ENABLED": "no"},
            "WEBHOOK_ENABLED",
        ),
        (["--mode", "consumer"], {**TOKEN, **KEY}, "use_rabbitmq"),
        (["--mode", "producer"], {**TOKEN, "USE_RABBITMQ": "true"}, "github.owner"),
        ([], {**TOKEN, **KEY}, "github.owner"),
        (["--mode", "operator"], {}, "KUBECONFIG"),
        (["--mode", "operator"], {"KUBECONFIG": "absent"}, "KUBECONFIG: there is no file absent"),
        (["--config", "absent.yaml"], {}, "absent.yaml: cannot read the configuration file"),
        ([], {"CONFIG_FILE": "absent.yaml"}, "absent.yaml: cannot read the configuration file"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], expected: str
) -> None:
    log = tmp_path / "log"
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment}
    code = start_main(arguments, env=env, cwd=tmp_path, log=log).wait(150)
    said = log.read_text()
    assert code == 78, said
    assert "Configuration error:" in said
    assert expected in said
    assert "Traceback" not in said


def test_check_names_what_is_replaced_ignored_and_missing_and_starts_nothing(tmp_path: Path) -> None:
    file = ROOT / "tests/fixtures/polling_agent/config.yaml"
    done = run(tmp_path, "--config", str(file), "--mode", "check", GITHUB_MCP_COMMAND="x", **SECRET)
    assert done.returncode == 0, done.stderr
    assert f"warning: {file}, line 57: context_storage.summary_prompt: ignored" in done.stdout
    assert "warning: GITHUB_MCP_COMMAND: ignored" in done.stdout
    for part in ("the poll cannot start here: No token", "attempts cannot start here: llm.openai.api_key"):
        assert part in done.stdout
    assert done.stdout.splitlines()[-1] == f"{file}: 0 errors, 13 warnings"
    assert list(tmp_path.iterdir()) == []


def test_check_names_every_error(tmp_path: Path) -> None:
    text = "webhok: {}\ngithub: {api_url: nonsense, owner: a, owner: b}\nwebhook: {server: {port: x}}\n"
    more = "api_server: {api_key: x}\nllm: {openai: {base_url: models}}\n"
    (tmp_path / "config.yaml").write_text(text + more)
    done = run(tmp_path, "--mode", "check", DEBUG="perhaps")
    assert done.returncode == 78
    errors = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 6, done.stdout
    for part in (
        "webhok",
        "github.api_url",
        "owner is given twice",
        "webhook.server.port",
        "DEBUG",
        "base_url",
    ):
        assert any(part in error for error in errors)
    assert "warning: config.yaml, line 4: api_server: ignored" in done.stdout


def test_one_process_polls_unless_it_is_switched_off(tmp_path: Path) -> None:
    # Nothing listens on this port, so a poll would be logged as ended early.
    text = "github: {api_url: 'http://127.0.0.1:1/api/v3'}\nscheduling: {enabled: %s}\n"
    shown = {}
    for enabled in ("true", "false"):
        (tmp_path / "config.yaml").write_text(text % enabled)
        with subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), "--mode", "webhook"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **TOKEN, **SECRET, **KEY, **PORT},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                lines.append(line)
                if ("Ready for tasks" in line and enabled == "false") or "The poll of" in line:
                    break
            process.terminate()
            shown[enabled] = "".join(lines) + process.communicate(timeout=150)[1]
    assert "The poll of 127.0.0.1:1 ended early" in shown["true"]
    assert "Webhooks only: scheduling.enabled is false" in shown["false"]
    assert "The poll of" not in shown["false"]


def test_help_tells_the_modes(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for mode in ("webhook", "consumer", "producer", "operator"):
        assert mode in done.stdout
