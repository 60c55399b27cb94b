"""docs/security.md names a test for each promise, and the tests exist."""

import re
from pathlib import Path

from coding_agent_core.task import agenttask, commands
from coding_agent_operator.jobs import job_builder

from tests.unit.docs.test_architecture import defined

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(?P<path>tests/[\w/]+\.py)::(?P<name>\w+)`")
NO_PROMISE = {
    "The model's service reads the code",
    "A stolen webhook secret",
    "A stolen forge token",
    "Somebody with access to the namespace",
}
"""Rows that say what an attacker could do."""


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    section = TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_each_promise_names_its_tests() -> None:
    promised = {str(re.match(r"\*\*(.+?)\*\*", threat)[1]) for threat, _ in rows("Threats")}  # type: ignore[index]
    shown = {promise for promise, tests in rows("Which test shows it") if NAMED.search(tests)}
    assert shown == promised - NO_PROMISE
    assert promised >= NO_PROMISE


def test_each_named_test_exists() -> None:
    named = {(found["path"], found["name"]) for found in NAMED.finditer(TEXT)}
    assert len(named) > 20
    missing = [
        (path, name)
        for path, name in sorted(named)
        if not (ROOT / path).is_file() or name not in defined(ROOT / path)
    ]
    assert missing == []


def test_it_says_of_each_label_and_annotation_what_a_thief_reaches_with_it() -> None:
    table = TEXT.partition("## What a thief of an account reaches")[2].partition("\n## ")[0]
    for module in (agenttask, commands, job_builder):
        for name, value in vars(module).items():
            if name.startswith(("LABEL_", "ANNOTATION_")):
                assert f"`{value.removeprefix('coding-agent.dev/')}`" in table, value
