"""A command that prints nothing for a long time is accompanied by lines that say what it does."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "dev" / "progress.sh"


def test_lines_come_at_the_start_meanwhile_and_at_the_end(tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    running = subprocess.Popen(
        [SCRIPT, "Installing parts", "cat", go],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PROGRESS_SECONDS": "0.1"},
    )
    assert running.stderr is not None
    assert running.stdout is not None
    try:
        assert running.stderr.readline() == "Installing parts\n"
        # The command waits until somebody writes to the pipe, so these lines come while it runs.
        assert " s so far" in running.stderr.readline()
        assert " s so far" in running.stderr.readline()
        go.write_text("its own output")
        assert running.stdout.read() == "its own output"
        assert "Installing parts: done after" in running.stderr.read()
        assert running.wait(60) == 0
    finally:
        running.kill()


def test_the_status_is_the_commands(tmp_path: Path) -> None:
    ended = subprocess.run(
        [SCRIPT, "Failing", "sh", "-c", "exit 7"], stderr=subprocess.PIPE, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (7, b"Failing\n")
