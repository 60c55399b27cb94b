"""What a tier's run came to, read from its JUnit file, and the table of a night.

The files are pytest's with ``-o junit_family=xunit1``: that format has each test's file, and so its id
(https://docs.pytest.org/en/stable/how-to/output.html#creating-junitxml-format-files).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

JUNIT = ".xml"
"""How the name of a tier's JUnit file ends; before that is the name of the tier."""
MOST_CHARACTERS = 160
"""Of a red test's line."""


@dataclass(frozen=True)
class Red:
    """A test that failed, and the line that pytest's own summary has of it."""

    test: str
    line: str


@dataclass(frozen=True)
class Outcome:
    """What a tier's run came to; `passed` is none if the run wrote no JUnit file that can be read."""

    tier: str
    seconds: float
    passed: int | None
    red: tuple[Red, ...]


def outcome(tier: str, file: Path, status: int, seconds: float) -> Outcome:
    """Read a tier's JUnit file.

    Args:
        tier: the tier's name.
        file: what the run wrote, or did not.
        status: the run's exit status: with one other than 0, the tier is red whatever the file says.
        seconds: how long the run took.
    """
    try:
        cases = list(ET.parse(file).iter("testcase"))
    except (OSError, ET.ParseError):
        return Outcome(tier, seconds, None, (Red(tier, f"wrote no report: exit status {status}"),))
    red = []
    passed = 0
    for case in cases:
        failures = [part for part in case if part.tag in ("failure", "error")]
        if failures:
            red.append(Red(_test_id(case), _line(failures[0])))
        elif case.find("skipped") is None:
            passed += 1
    if status and not red:
        red.append(Red(tier, f"ended with exit status {status}, and no test failed"))
    return Outcome(tier, seconds, passed, tuple(dict.fromkeys(red)))


def write_junit(file: Path, tier: str, seconds: float, failure: str) -> None:
    """Write the JUnit file of a tier that is one program and no pytest.

    Args:
        file: where to.
        tier: the one test's name.
        seconds: how long it took.
        failure: why it failed, or nothing.
    """
    suite = ET.Element("testsuite", name=tier, tests="1", failures=str(int(bool(failure))))
    case = ET.SubElement(suite, "testcase", name=tier, time=f"{seconds:.3f}")
    if failure:
        ET.SubElement(case, "failure", message=failure)
    ET.ElementTree(suite).write(file, encoding="unicode", xml_declaration=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """Each tier with its minutes, passed and red tests; below it the red tests with their lines."""
    rows = [("tier", "minutes", "passed", "red")]
    for one in outcomes:
        passed = "?" if one.passed is None else str(one.passed)
        rows.append((one.tier, f"{one.seconds / 60:.1f}", passed, str(len(one.red))))
    lines = [f"{tier:<10}{minutes:>9}{passed:>9}{red:>6}" for tier, minutes, passed, red in rows]
    for one in outcomes:
        lines += [f"\n{one.tier}: {red.test}\n    {red.line}" for red in one.red]
    return "\n".join(lines)


def _test_id(case: ET.Element) -> str:
    """The id with which pytest runs the test again; for what could not be collected, its file."""
    name = case.get("name", "")
    file, classname = case.get("file"), case.get("classname", "")
    if file is None:
        return ".".join(part for part in (classname, name) if part)
    if not classname:  # it could not be collected
        return file
    # xunit1 names a test's class after its module, with dots.
    module = file.removesuffix(".py").replace("/", ".")
    classes = classname.removeprefix(module).strip(".")
    return "::".join(part for part in (file, *classes.split("."), name) if part)


def _line(failure: ET.Element) -> str:
    """What says best why a test failed: the first line of pytest's message, or the last of the traceback."""
    said = (failure.get("message") or failure.text or "").strip()
    lines = said.splitlines() or [""]
    return lines[0 if failure.get("message") else -1].strip()[:MOST_CHARACTERS]
