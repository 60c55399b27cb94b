"""What `make test` does with a test that fails: the real pytest and xdist, with planted tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from coding_agent_testbed.tiers.failures import without_group
from coding_agent_testbed.tiers.second_try import FLAKES

GREEN = "def test_green(): pass\n"
RED = "def test_red(): assert False\n"
ONCE = """
import pathlib, pytest
@pytest.mark.xdist_group("servers")
@pytest.mark.parametrize("name", ["a@b c"])
def test_once(name):
    mark = pathlib.Path("was-here")
    if not mark.exists():
        mark.touch()
        {failure}
"""
FLAKY = "test_planted.py::test_once[a@b c]"
SIX = "import pytest\n@pytest.mark.parametrize('number', range(6))\ndef test_red(number): assert False\n"


def run(folder: Path, planted: str, *options: str) -> tuple[int, str, str]:
    """Exit status, what was printed, and the list of flaky tests."""
    (folder / "test_green.py").write_text(GREEN)
    (folder / "test_planted.py").write_text(planted)
    second_try = [sys.executable, "-m", "coding_agent_testbed.tiers.second_try"]
    done = subprocess.run(
        [*second_try, "-n", "2", "--dist", "loadgroup", "-p", "no:cacheprovider", *(options or (".",))],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    flakes = folder / FLAKES
    return done.returncode, done.stdout, flakes.read_text() if flakes.exists() else ""


@pytest.mark.parametrize(
    "failure",
    ["assert False", "import os; os._exit(1)"],
    ids=["fails", "ends its worker"],
)
def test_what_passes_alone_is_green_and_listed(tmp_path: Path, failure: str) -> None:
    status, printed, flakes = run(tmp_path, ONCE.format(failure=failure))
    assert status == 0, printed
    assert f"FLAKY {FLAKY}" in printed
    assert "1 passed" in printed.splitlines()[-1]
    [(_, _, test)] = [line.split("\t") for line in flakes.splitlines()]
    assert test == FLAKY


@pytest.mark.parametrize(
    ("planted", "options", "status", "tried_again"),
    [
        pytest.param(GREEN, (), 0, False, id="all pass"),
        pytest.param(RED, (), 1, True, id="fails twice"),
        pytest.param("import os\ndef test_red(): os._exit(1)\n", (), 1, True, id="ends its worker twice"),
        pytest.param(SIX, (), 1, False, id="six fail"),
        pytest.param("import surely_not_installed\n", (), 1, False, id="an error of collection"),
        pytest.param(GREEN, ("--no-such-option", "."), 4, False, id="usage"),
        pytest.param(GREEN, ("-k", "nothing", "."), 5, False, id="nothing collected"),
    ],
)
def test_what_stays_red(
    tmp_path: Path, planted: str, options: tuple[str, ...], status: int, tried_again: bool
) -> None:
    found, printed, flakes = run(tmp_path, planted, *options)
    assert found == status, printed
    assert ("Second try of" in printed) == tried_again
    assert flakes == ""


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("test_it.py::test_it", "test_it.py::test_it"),
        ("test_it.py::test_it@control-plane", "test_it.py::test_it"),
        ("test_it.py::test_it[a@b]", "test_it.py::test_it[a@b]"),
        ("test_it.py::test_it[a@b]@control-plane", "test_it.py::test_it[a@b]"),
    ],
)
def test_the_id_without_the_group(reported: str, expected: str) -> None:
    assert without_group(reported) == expected
