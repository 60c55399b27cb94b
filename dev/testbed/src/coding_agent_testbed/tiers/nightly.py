"""Run the tiers that do not decide whether a change lands: ``python -m coding_agent_testbed.tiers.nightly``.

Each tier runs to its end, whatever the one before it said. Then one table says what came of them. Nothing is
tried a second time: at night a test that is red by chance shall be seen.
"""

from __future__ import annotations

import argparse
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coding_agent_testbed.tiers.reports import JUNIT, Outcome, outcome, table, write_junit

REPORTS = Path(".cache/reports/nightly")
MOST_SECONDS = 3 * 3600
"""For one tier. The longest takes half an hour."""
TIMED_OUT = 124
"""What `timeout` of coreutils says then."""
GROUPED = ("-n", "2", "--dist", "loadgroup")
"""As many workers as cores: these tests load a machine by themselves."""
LONG = ("tests/integration", "tests/security", "tests/fuzz")
ALONE = (
    "tests/sweep/chart/test_chart_under_load.py",
    "tests/sweep/testbed/test_cluster_lifecycle.py",
    "tests/sweep/runners/test_runners_on_a_node.py",
)
"""Load on a node, how quickly a cluster starts, and nine CLI agents at a time: not beside other tests."""


@dataclass(frozen=True)
class Tier:
    """What a tier runs.

    Attributes:
        arguments: Python's, without those that every run of pytest gets.
        pytest: whether it is pytest, which writes its JUnit file itself.
    """

    arguments: tuple[str, ...]
    pytest: bool = True


def tiers(seed: int, root: Path = Path()) -> dict[str, Tier]:
    """The tiers, by their names and in their order.

    Args:
        seed: for all that is drawn at random: it stands in the commands that are printed.
        root: the checkout, in which the trials on a node are looked for.
    """
    on_a_node = sorted(str(file.relative_to(root)) for file in root.glob("tests/security/test_*node.py"))
    return {
        "unit": Tier(
            ("-q", "-n", "4", "--hypothesis-profile=random", f"--hypothesis-seed={seed}", "tests/unit")
        ),
        "long": Tier((*GROUPED, "-m", "long and not needs_node", *LONG)),
        "e2e": Tier(("tests/e2e",)),
        "alone": Tier(ALONE),
        "sweep": Tier((*GROUPED, *(f"--ignore={file}" for file in ALONE), "tests/sweep", *on_a_node)),
        "chaos": Tier(("-m", "tests.chaos", "run", "--minutes", "3", "--seed", str(seed)), pytest=False),
    }


def run(
    chosen: Mapping[str, Tier], reports: Path, call: Callable[[Sequence[str]], int] | None = None
) -> list[Outcome]:
    """Run tiers one after the other, each to its end.

    Args:
        chosen: the tiers by their names.
        reports: the folder for JUnit files; older ones of these tiers are removed.
        call: runs a command and says its exit status.
    """
    reports.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name, tier in chosen.items():
        file = reports / f"{name}{JUNIT}"
        file.unlink(missing_ok=True)
        command = [sys.executable, *_arguments(tier, file)]
        print(f"\n== {name}: {shlex.join(command)}", flush=True)
        began = time.monotonic()
        status = (call or _call)(command)
        seconds = time.monotonic() - began
        if not tier.pytest:
            write_junit(file, name, seconds, f"exit status {status}: {shlex.join(command)}" if status else "")
        outcomes.append(outcome(name, file, status, seconds))
    return outcomes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is named, or all; 0 if all was green, 1 if not."""
    seed = secrets.randbelow(2**31)
    every = tiers(seed)
    parser = argparse.ArgumentParser(prog="python -m coding_agent_testbed.tiers.nightly", description=__doc__)
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=f"of: {', '.join(every)} (default: all)")
    wanted = parser.parse_args(arguments).tiers or list(every)
    if unknown := [name for name in wanted if name not in every]:
        parser.error(f"no such tier: {', '.join(unknown)}; the tiers are {', '.join(every)}")
    outcomes = run({name: every[name] for name in wanted}, REPORTS)
    print(f"\n{table(outcomes)}\n\nJUnit files: {REPORTS}", flush=True)
    return int(any(one.red for one in outcomes))


def _arguments(tier: Tier, junit: Path) -> tuple[str, ...]:
    if not tier.pytest:
        return tier.arguments
    report = ("-o", "junit_family=xunit1", f"--junitxml={junit}")
    return ("-m", "pytest", "--durations=15", "--durations-min=5", *report, *tier.arguments)


def _call(command: Sequence[str]) -> int:
    try:
        return subprocess.run(command, check=False, timeout=MOST_SECONDS).returncode
    except subprocess.TimeoutExpired:
        print(f"Ended after {MOST_SECONDS} s.", flush=True)
        return TIMED_OUT


if __name__ == "__main__":
    sys.exit(main())
