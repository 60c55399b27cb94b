"""Judged runs are kept and listed, also those that failed; the page lists what is kept."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from coding_agent_docs.paths import DOCS, ROOT

from tests.chaos.__main__ import main
from tests.chaos.judging import CLEAN, HISTORY, VERDICT, VIOLATED, judge_folder, write_run
from tests.chaos.promises import KINDS
from tests.chaos.publishing import PAGE, RUNS, SUMS, check_sums, publish, unpack, with_table, write_archive
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
    rows = [line for line in text.splitlines() if line.startswith("| 2")]
    assert [row.split(" | ")[4] for row in rows] == ["2", "1"]
    assert rows[0].endswith("| 5 | 4 | 1 | 1 violations: 1 lost |")
    assert rows[1].endswith("| 3 | 3 | 0 | no violation |")
    [archive] = (docs / RUNS).glob("*.tar.xz")
    folders = unpack(archive, tmp_path / "kept")
    assert folders[0].name == "2026-01-02-1200-kubernetes-github-2-1-faults"
    assert sorted(file.name for file in folders[0].iterdir()) == [
        "history.jsonl.xz",
        "item-octo-demo-issue-9.svg",
        "report.md",
        "run.json",
        "verdict.json",
    ]
    assert with_table(text, docs) == text
    assert [judge_folder(folder) for folder in folders] == [VIOLATED, CLEAN], (
        "as anybody can judge them again"
    )
    assert main(["judge", str(archive)]) == VIOLATED


def test_the_newest_commits_runs_come_first_and_of_earlier_ones_those_with_violations(
    tmp_path: Path, docs: Path
) -> None:
    runs = ((1, "aaaa", right()), (2, "aaaa", wrong()), (3, "bbbb", right()), (4, "bbbb", wrong()))
    for seed, commit, tape in runs:
        setup = replace(setup_of(tape), seed=seed, description={"commit": commit})
        write_run(tmp_path / str(seed), setup, tape.lines)
        judge_folder(tmp_path / str(seed))
        publish(tmp_path / str(seed), docs)
    assert sorted(file.name for file in (docs / RUNS).iterdir()) == [SUMS, "aaaa.tar.xz", "bbbb.tar.xz"]
    newest, earlier = (docs / PAGE).read_text().split("Runs of earlier commits")
    assert (newest.count("`bbbb`"), newest.count("`aaaa`")) == (2, 0)
    assert earlier.startswith(" without a violation: 1. With violations: 1.\n")
    rows = [line for line in earlier.splitlines() if line.startswith("| 2")]
    assert [(row.split(" | ")[4], "`aaaa`" in row) for row in rows] == [("2", True)]


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


def test_the_check_sums_are_those_of_the_archives_and_of_the_histories_in_them(tmp_path: Path) -> None:
    assert (DOCS / RUNS / SUMS).read_text() == check_sums(DOCS)
    judged_again = 0
    for archive in (DOCS / RUNS).glob("*.tar.xz"):
        for folder in unpack(archive, tmp_path / archive.name):
            if (folder / HISTORY).exists():
                verdict = json.loads((folder / VERDICT).read_text())
                digest = hashlib.sha256((folder / HISTORY).read_bytes()).hexdigest()
                assert verdict["history_sha256"] == digest, folder.name
                judged_again += 1
    assert judged_again >= 2


def test_an_archive_writes_nothing_outside(tmp_path: Path) -> None:
    write_archive(tmp_path / "bad.tar.xz", {"../outside": b""})
    with pytest.raises(ValueError, match="outside"):
        unpack(tmp_path / "bad.tar.xz", tmp_path / "kept")
    assert not (tmp_path / "outside").exists()


def test_the_page_names_every_kind_of_violation() -> None:
    promised = TEXT.split("## How it is tried")[0]
    assert set(re.findall(r"`([a-z ]+)`", promised)) - {"main"} == set(KINDS)


def test_the_tests_that_the_page_names_exist() -> None:
    named = [(found["file"], found["test"]) for found in SHOWN.finditer(TEXT)]
    assert len(named) > 15
    for file, test in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert test is None or f"def {test}(" in text, f"{file}::{test}"
