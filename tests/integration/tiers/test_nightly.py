"""What `make nightly` says of tiers: the real pytest, with planted tests; and what its issues are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from coding_agent_testbed.tiers import nightly
from coding_agent_testbed.tiers.nightly import Tier, run, tiers
from coding_agent_testbed.tiers.red_issues import LABEL, MOST_ISSUES, report, title
from coding_agent_testbed.tiers.reports import Outcome, Red, table

from tests.fixtures.system import ROOT

PLANTED = """
import pytest
def test_green(): pass
@pytest.mark.skip
def test_skipped(): pass
class TestClass:
    @pytest.mark.parametrize("name", ["a.b"])
    def test_red(self, name): assert 1 == 2, "one is\\nnot two"
@pytest.fixture
def broken(): raise OSError("no server")
def test_set_up(broken): pass
"""


def run_in(folder: Path, chosen: dict[str, Tier]) -> list[Outcome]:
    """Run tiers in a folder, as `make nightly` does in the checkout."""

    def call(command: Sequence[str]) -> int:
        return subprocess.run(command, cwd=folder, timeout=100, check=False).returncode

    return run(chosen, folder / "reports", call)


def test_what_only_the_night_runs_can_be_collected() -> None:
    """With workers, an error then has no message but xdist's own."""
    command = (sys.executable, "-m", "pytest", "-n", "0", "--collect-only", "-q", "tests/sweep", "tests/e2e")
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr


def test_each_tier_runs_to_its_end_and_its_red_tests_are_named(tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "test_planted.py").write_text(PLANTED)
    (tmp_path / "test_not_python.py").write_text("def (")
    (tmp_path / "test_green.py").write_text("def test_green(): pass")
    outcomes = run_in(
        tmp_path,
        {
            "first": Tier(("-n", "2", "planted")),
            "broken": Tier(("test_not_python.py",)),
            "absent": Tier(("no-such-folder",)),
            "program": Tier(("-c", "raise SystemExit(3)"), pytest=False),
            "last": Tier(("test_green.py",)),
        },
    )
    first, broken, absent, program, last = outcomes
    assert (first.passed, first.red) == (
        1,
        (
            Red("planted/test_planted.py::TestClass::test_red[a.b]", "AssertionError: one is"),
            Red("planted/test_planted.py::test_set_up", 'failed on setup with "OSError: no server"'),
        ),
    )
    assert [red.test for red in broken.red] == ["test_not_python.py"]
    assert absent.red
    assert program.red[0].line.startswith("exit status 3: ")
    assert (last.passed, last.red) == (1, ())
    shown = table(outcomes)
    assert [line.split()[0] for line in shown.splitlines()[:6]] == ["tier", *(one.tier for one in outcomes)]
    assert "first: planted/test_planted.py::TestClass::test_red[a.b]\n    AssertionError: one is" in shown


def test_one_red_tier_makes_the_night_red(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(status: int) -> int:
        monkeypatch.setattr(
            nightly,
            "run",
            lambda *_: [Outcome("unit", 1, 5, ()), Outcome("e2e", 1, 4, (Red("a", "b"),) * status)],
        )
        return nightly.main([])

    assert of(0) == 0
    assert of(1) == 1


def test_an_unknown_tier_is_an_error_that_names_the_tiers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        nightly.main(["unti"])
    assert "no such tier: unti; the tiers are unit, long, e2e, alone, sweep, chaos" in capsys.readouterr().err


def test_what_the_tiers_name_is_there() -> None:
    named = {
        word.removeprefix("--ignore=")
        for tier in tiers(1, ROOT).values()
        for word in tier.arguments
        if word.removeprefix("--ignore=").startswith("tests/")
    }
    assert "tests/security/test_node.py" in named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_each_red_test_has_one_issue() -> None:
    reds = [Red(f"tests/test_it.py::test_{number}", "@somebody said no") for number in range(MOST_ISSUES + 3)]
    asked: list[tuple[str, ...]] = []

    def gh(*arguments: str) -> str:
        asked.append(arguments)
        return (
            json.dumps([{"number": 7, "title": title(reds[0])}]) if arguments[:2] == ("issue", "list") else ""
        )

    report(reds, "https://forge.example/run/1", gh)
    body = "    @somebody said no\n\nhttps://forge.example/run/1"
    assert asked[2] == ("issue", "comment", "7", "--body", body)
    opened = asked[3:]
    assert opened[0] == ("issue", "create", "--label", LABEL, "--title", title(reds[1]), "--body", body)
    assert len(opened) == MOST_ISSUES
