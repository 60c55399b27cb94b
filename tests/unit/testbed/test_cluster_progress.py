"""Somebody who starts a long build without a terminal sees that it works."""

import io
from pathlib import Path

import pytest
from coding_agent_testbed.cluster import progress
from coding_agent_testbed.until import until
from rich.console import Console


def test_a_step_without_a_terminal_says_what_starts_and_that_it_lasts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=shown, width=200, highlight=False))
    monkeypatch.setattr(progress, "_EVERY_S", 0.01)
    (tmp_path / "part").write_bytes(b"0" * 2**21)
    with progress.step("build something", tmp_path):
        assert shown.getvalue().startswith("… build something\n")
        until("the step says how far it is", lambda: "so far" in shown.getvalue())
    lines = shown.getvalue().splitlines()
    assert lines[1].endswith(" s, 2 MB so far")
    assert lines[-1].startswith("✓ build something")


def test_a_step_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=shown, width=200, highlight=False))
    with pytest.raises(OSError, match="full"), progress.step("build something"):
        raise OSError("full")
    assert shown.getvalue().splitlines()[-1].startswith("✗ build something")
