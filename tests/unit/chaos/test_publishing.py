"""Judged runs are kept and listed, also those that failed; the page lists what is kept."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from coding_agent_docs.paths import DOCS, ROOT

from tests.chaos.__main__ import main
from tests.chaos.judging import VIOLATED, judge_folder, write_run
from tests.chaos.promises import KINDS
from tests.chaos.publishing import PAGE, publish, with_table
from tests.unit.chaos.tape import right
from tests.unit.chaos.test_report import setup_of, wrong

TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
SHOWN = re.compile(r"`(?P<file>tests/[\w/]+\.py)(?:::(?P<test>\w+))?`")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of documents with an empty page."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / PAGE).write_text("# Reliability\n\n<!-- runs -->\nold\n<!-- end -->\n\nMore.\n")
    return folder


def test_runs_are_listed_and_a_failed_one_stays(tmp_path: Path, docs: Path) -> None:
    for name, tape, seed in (("clean", right(), 1), ("failed", wrong(), 2)):
        write_run(tmp_path / name, replace(setup_of(tape), seed=seed), tape.lines)
        judge_folder(tmp_path / name)
        publish(tmp_path / name, docs)
    text = (docs / PAGE).read_text()
    assert text.startswith("# Reliability\n\n<!-- runs -->\n\n| run |")
    assert text.endswith("\n\n<!-- end -->\n\nMore.\n")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.split(" | ")[3] for row in rows] == ["2", "1"]
    assert rows[0].endswith("| 5 | 4 | 1 | 1 violations: 1 lost |")
    assert rows[1].endswith("| 3 | 3 | 0 | no violation |")
    kept = docs / "reliability-runs" / "2026-01-02-1200-kubernetes-github-2-1-faults"
    assert sorted(file.name for file in kept.iterdir()) == [
        "history.jsonl.xz",
        "item-octo-demo-issue-9.svg",
        "report.md",
        "run.json",
        "verdict.json",
    ]
    assert with_table(text, docs) == text


def test_a_run_is_published_once_and_only_when_it_was_judged(tmp_path: Path, docs: Path) -> None:
    write_run(tmp_path / "out", setup_of(right()), right().lines)
    with pytest.raises(FileNotFoundError, match=r"has no verdict\.json, report\.md: judge it first"):
        publish(tmp_path / "out", docs)
    judge_folder(tmp_path / "out")
    publish(tmp_path / "out", docs)
    with pytest.raises(FileExistsError):
        publish(tmp_path / "out", docs)


def test_the_command_line_judges_and_publishes(tmp_path: Path, docs: Path) -> None:
    write_run(tmp_path / "out", setup_of(wrong()), wrong().lines)
    assert main(["judge", str(tmp_path / "out")]) == VIOLATED
    assert main(["publish", str(tmp_path / "out"), "--docs", str(docs)]) == 0
    assert "| 1 violations: 1 lost |" in (docs / PAGE).read_text()


def test_a_page_without_a_place_for_the_table_is_refused(docs: Path) -> None:
    with pytest.raises(ValueError, match="has no <!-- runs -->"):
        with_table("# Reliability\n", docs)


def test_the_page_lists_the_runs_that_are_kept() -> None:
    assert with_table(TEXT, DOCS) == TEXT, "publish a run, do not edit the table"


def test_the_page_names_every_kind_of_violation() -> None:
    promised = TEXT.split("## How it is tried")[0]
    assert set(re.findall(r"`([a-z ]+)`", promised)) - {"main"} == set(KINDS)


def test_the_tests_that_the_page_names_exist() -> None:
    named = [(found["file"], found["test"]) for found in SHOWN.finditer(TEXT)]
    assert len(named) > 15
    for file, test in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert test is None or f"def {test}(" in text, f"{file}::{test}"
