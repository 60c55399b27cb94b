"""`make stress` runs a test ten times, beside processes that compute."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from coding_agent_testbed.tiers.stress import changed_tests, run

ONE_IN_TEN = """
import os, pathlib
def test_sometimes(tmp_path_factory):
    try:
        os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    assert False, "the first of ten"
"""


def test_what_fails_once_in_ten_runs_is_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_planted.py").write_text(ONE_IN_TEN.format(mark=str(tmp_path / "mark")))
    monkeypatch.chdir(tmp_path)
    assert run(["test_planted.py"], busy=1) == 1
    printed = capfd.readouterr().out
    assert "1 failed, 9 passed" in printed
    assert "RED 1 times: test_planted.py::test_sometimes" in printed


def test_when_the_time_is_over_it_says_so_and_what_was_red_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_planted.py").write_text("import time\ndef test_slow(): time.sleep(60)\n")
    monkeypatch.chdir(tmp_path)
    assert run(["test_planted.py"], seconds=8, busy=1) == 0
    assert "Not all 10 runs of each test ended within 8 s." in capfd.readouterr().out


def test_by_default_it_takes_the_tests_that_differ_from_the_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, timeout=60)

    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("test_same.py", "test_changed.py", "test_removed.py"):
        (tests / name).write_text("")
    git("add", ".")
    git("commit", "-qm", "Start")
    with pytest.raises(SystemExit, match="There is no origin/main"):
        changed_tests()
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    (tests / "test_changed.py").write_text("x = 1\n")
    git("rm", "-q", "tests/test_removed.py")
    git("commit", "-qam", "Change")
    (tests / "test_new.py").write_text("")
    (tests / "steps.py").write_text("")
    assert changed_tests() == ["tests/test_changed.py", "tests/test_new.py"]
