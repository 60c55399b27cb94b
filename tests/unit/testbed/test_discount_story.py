"""The stories on a node do what the sample needs: each step changes what it says, and the checks agree."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.chart.discount import CODE, DOCSTRING, EXPECTED, FIX, GOT, LINE, STEPS, VERIFY_COMMANDS

SAMPLE = Path(__file__).resolve().parents[3] / "dev" / "testbed" / "samples" / "pricing"


def results(folder: Path) -> tuple[list[int], str]:
    """The exit codes of the commands that verify the work, and what they print."""
    codes, said = [], ""
    for command in VERIFY_COMMANDS:
        _, *arguments = shlex.split(command)
        program = [sys.executable, "-B", *arguments]
        done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        codes.append(int(done.returncode != 0))
        said += done.stdout
    return codes, said


def test_the_fix_breaks_an_example_and_the_next_steps_leave_all_checks_green(tmp_path: Path) -> None:
    folder = tmp_path / "pricing"
    shutil.copytree(SAMPLE, folder)
    assert results(folder)[0] == [1, 0], "the issue is about a red test"
    seen = []
    for step in STEPS:
        file = folder / step.file
        assert step.text not in file.read_text()
        subprocess.run(["sh", "-c", step.command], cwd=folder, check=True, timeout=60)
        assert step.text in file.read_text()
        codes, said = results(folder)
        seen.append(codes)
        if step is FIX:
            assert EXPECTED in said
            assert GOT in said
            assert FIX.text in (folder / CODE).read_text().splitlines()[LINE - 1]
    assert seen == [[0, 1], [0, 0], [0, 0]]
    assert DOCSTRING.text in (folder / CODE).read_text()
