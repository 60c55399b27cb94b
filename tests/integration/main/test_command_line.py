"""S14: modes, and sentences instead of stack traces for what is not configured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        timeout=60,
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
    done = run(tmp_path, *arguments, **environment)
    assert done.returncode == 78, done.stderr
    assert "Configuration error:" in done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" not in done.stdout


def test_help_tells_the_modes(tmp_path: Path) -> None:
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    for mode in ("webhook", "consumer", "producer", "operator"):
        assert mode in done.stdout
