"""The programs that tests start as forks are as a fresh interpreter's, or it is said why they are not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.preloaded import Forked, Nursery, NurseryError
from tests.fixtures.system import until

pytestmark = pytest.mark.needs_linux

TOKEN = {"GITHUB_PERSONAL_ACCESS_TOKEN": "t"}


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def start(nursery: Nursery, folder: Path, *arguments: str, **environment: str) -> Forked:
    plain = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
    return nursery.start(arguments, env=plain, cwd=folder, log=folder / "log")


def test_a_program_has_the_environment_and_the_folder_that_it_is_given(
    nursery: Nursery, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("task_source: nowhere\n")
    assert start(nursery, tmp_path, "--mode", "producer").wait(60) == 78
    assert "task_source" in (tmp_path / "log").read_text(), "the file in its folder"
    (tmp_path / "config.yaml").unlink()
    assert start(nursery, tmp_path, "--mode", "webhook", **TOKEN).wait(60) == 78
    assert "GITHUB_WEBHOOK_SECRET" in (tmp_path / "log").read_text(), "the token was given"
    assert start(nursery, tmp_path, "--mode", "webhook").wait(60) == 78
    assert "GITHUB_PERSONAL_ACCESS_TOKEN" in (tmp_path / "log").read_text(), "nothing of the one before"


def test_a_variable_that_imports_look_up_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    assert start(nursery, tmp_path, "--help", OPENAI_LOG="debug").wait(60) == 1
    assert "imports looked up OPENAI_LOG before the fork" in (tmp_path / "log").read_text()


def test_when_it_dies_so_do_its_programs_and_the_test_is_told(nursery: Nursery, tmp_path: Path) -> None:
    secrets = TOKEN | {"GITHUB_WEBHOOK_SECRET": "s", "OPENAI_API_KEY": "k", "WEBHOOK_SERVER_PORT": "0"}
    program = start(nursery, tmp_path, "--mode", "webhook", **secrets, WEBHOOK_SERVER_HOST="127.0.0.1")
    until(lambda: "listening" in (tmp_path / "log").read_text(), "it runs")
    os.kill(nursery.pid, signal.SIGKILL)
    until(lambda: has_ended(program.pid), "its program ends")
    with pytest.raises(NurseryError, match="status -9"):
        program.poll()
    assert not nursery.alive


def has_ended(pid: int) -> bool:
    """Nobody may be there to collect it: then it stays a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
