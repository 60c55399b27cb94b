"""The report, the timelines, and the judgment of a folder."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.chaos.history import ItemKey
from tests.chaos.judging import (
    BROKEN,
    CLEAN,
    HISTORY,
    VIOLATED,
    UnreadableRunError,
    judge_folder,
    read_setup,
    write_run,
)
from tests.chaos.report import Setup, figures, operations, recoveries
from tests.chaos.timeline import as_svg, as_text, timeline
from tests.unit.chaos.tape import ADA, ASKS, PROMISES, WORKS, Tape, moment, right

ITEM = ItemKey("github.test", "octo/demo", "issue", 9)


def setup_of(tape: Tape, *, mode: str = "kubernetes", broken: str = "") -> Setup:
    """How the tape's run was set up."""
    return Setup(
        seed=7,
        seconds=180,
        mode=mode,
        forge="github",
        applications=4,
        faults=1,
        started=moment(0),
        ended=tape.end,
        promises=PROMISES,
        description={"machine": "2 cores", "commit": "abc123"},
        broken=broken,
    )


def wrong() -> Tape:
    """A right history, and item 9 whose second label is lost while the operator is dead."""
    tape = right()
    tape.fault(99, 130, asked=125)
    tape.label(100, ASKS, ADA, 9)
    tape.delivery(101, number=9)
    name = tape.task(100.5, number=9)
    tape.phase(100.7, name, "Queued")
    tape.says(101, "Queued", number=9, comment=90)
    tape.pod(136, 140, name)
    tape.phase(136.5, name, "Running")
    tape.says(136.8, "Running", number=9, comment=90)
    tape.label(137, WORKS, number=9)
    tape.unlabel(137.1, ASKS, number=9)
    tape.ends(141, name, number=9)
    tape.forge(150, "commented", "eve", 9, comment=1, body="<b>Really</b> & truly\nyes")
    tape.label(160, ASKS, ADA, 9)
    tape.delivery(161, 0, 9)
    for step, skipped in ((0, ""), (1, ""), (0, "the item is closed")):
        tape.operation(100, "relabel within a second", step, skipped)
    return tape


def test_a_right_run_is_clean_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = right()
    write_run(tmp_path, setup_of(tape), tape.lines)
    assert judge_folder(tmp_path) == CLEAN
    report = (tmp_path / "report.md").read_text()
    assert "| outcome | no violation |" in report
    assert "Nothing was broken in this run" in report
    assert "| expected | 3 |" in report
    assert not list(tmp_path.glob("*.svg"))
    assert "no violation" in capsys.readouterr().out


def test_a_violated_item_has_its_timeline_as_text_and_as_a_picture(tmp_path: Path) -> None:
    tape = wrong()
    write_run(tmp_path, setup_of(tape), tape.lines)
    assert judge_folder(tmp_path) == VIOLATED
    report = (tmp_path / "report.md").read_text()
    assert "| outcome | 1 violations: 1 lost |" in report
    assert "| lost | 1 |" in report
    assert "![What happened to it](item-octo-demo-issue-9.svg)" in report
    assert "violations         lost: the label stays, and no run ended after it" in report
    assert "| relabel within a second | 1 | 1 |" in report
    ElementTree.parse(tmp_path / "item-octo-demo-issue-9.svg")
    stored = json.loads((tmp_path / "verdict.json").read_text())
    assert stored["figures"]["lost"] == 1
    assert stored["history_sha256"] in report


def test_faults_that_hit_nothing_are_told_apart(tmp_path: Path) -> None:
    tape = right()
    tape.fault(20, 30)
    tape.fault(40, 50, number=2, effect="0 of 3 requests came")
    tape.fault(60, 70, number=3, effect="17 packets dropped")
    tape.add("missed fault", id=4, kind="kill agent", at=moment(80).isoformat(), why="no attempt works")
    write_run(tmp_path, setup_of(tape), tape.lines)
    judge_folder(tmp_path)
    report = (tmp_path / "report.md").read_text()
    [by_kind] = [line for line in report.splitlines() if line.startswith("| kill operator |")]
    assert (by_kind.split(" | ")[1], by_kind.split(" | ")[-1]) == ("3", "1 |")
    each = {line.split(" | ")[0]: line for line in report.splitlines() if "| kill " in line}
    assert each["| 1"].endswith("|  |")
    assert each["| 2"].endswith("| nothing: 0 of 3 requests came |")
    assert each["| 3"].endswith("| 17 packets dropped |")
    assert each["| 4"].endswith("| nothing to break: no attempt works |")


def test_a_folder_is_judged_again_with_the_same_result(tmp_path: Path) -> None:
    tape, texts = wrong(), []
    setup = setup_of(tape)
    for name in ("one", "two"):
        write_run(tmp_path / name, setup, tape.lines)
        judge_folder(tmp_path / name)
        judge_folder(tmp_path / name)
        texts.append((tmp_path / name / "report.md").read_text())
    assert texts[0] == texts[1]
    assert read_setup(tmp_path / "one") == setup


def test_without_kubernetes_the_comments_are_read(tmp_path: Path) -> None:
    tape = right()
    write_run(
        tmp_path,
        setup_of(tape, mode="rabbitmq"),
        [line for line in tape.lines if line["record"] != "audit"],
    )
    assert judge_folder(tmp_path) == CLEAN
    assert "| observed | 3 |" in (tmp_path / "report.md").read_text()


def test_a_broken_test_bed_is_neither_clean_nor_violated(tmp_path: Path) -> None:
    tape = wrong()
    write_run(tmp_path, setup_of(tape, broken="fault 3, kill etcd, did not end"), tape.lines)
    assert judge_folder(tmp_path) == BROKEN
    assert "says nothing: the test bed broke (fault 3" in (tmp_path / "report.md").read_text()


def test_a_folder_that_cannot_be_read_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRunError, match=r"has no run\.json: it is not the folder of a run"):
        judge_folder(tmp_path)
    write_run(tmp_path, setup_of(right()), [])
    (tmp_path / HISTORY).unlink()
    with pytest.raises(UnreadableRunError, match=r"has no history\.jsonl\.xz, so it cannot be judged again"):
        judge_folder(tmp_path)
    with lzma.open(tmp_path / HISTORY, "wt") as file:
        file.write('{"record": "surprise"}\n')
    with pytest.raises(UnreadableRunError, match="line 1 is not a record"):
        judge_folder(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UnreadableRunError, match=r"run\.json does not have the fields seed"):
        judge_folder(tmp_path)


def test_recovery_is_the_time_from_the_end_of_a_fault_to_progress_of_work_that_waited() -> None:
    tape = wrong()
    tape.fault(300, 310, number=2)
    before, idle = recoveries(tape.history(), PROMISES)
    assert (before.repair, before.waited) == (5.0, 1)
    assert before.progress == pytest.approx(6.0), "the pod of item 9 starts at 136 s"
    assert (idle.progress, idle.waited) == (None, 0)


def test_the_figures_count_operations_runs_and_violations() -> None:
    tape = wrong()
    counted = figures(tape.history(), tape.verdict())
    assert {name: counted[name] for name in ("expected", "observed", "ended", "lost", "unknown")} == {
        "expected": 5,
        "observed": 4,
        "ended": 4,
        "lost": 1,
        "unknown": 1,
    }
    assert operations(tape.history()) == {"relabel within a second": (1, 1)}


def test_the_timeline_merges_all_records_of_an_item_and_the_faults_of_its_time() -> None:
    tape = wrong()
    tape.fault(500, 510, number=2)
    history = tape.history()
    entries = timeline(ITEM, history, PROMISES, tape.verdict().violations)
    assert {entry.lane for entry in entries} == {
        "people",
        "deliveries",
        "tasks",
        "pods",
        "pushes",
        "comment and labels",
        "violations",
        "faults",
    }
    assert [entry.text for entry in entries if entry.lane == "faults"] == ["1 kill operator"]
    text = as_text(entries)
    assert "12:01:39.000 faults             1 kill operator …" in text
    assert "12:02:10.000 faults             … 1 kill operator ends" in text
    assert "12:02:41.000 deliveries         labeled coding agent: no answer" in text
    assert "people             eve commented <b>Really</b> & truly" in text
    picture = ElementTree.fromstring(as_svg(entries, "an <item>"))
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"people", "tasks", "an <item>", "eve commented <b>Really</b> & truly"} <= set(texts)


def test_a_limit_shows_the_pods_of_all_items() -> None:
    tape = right()
    for number in (21, 22, 23):
        tape.whole(200 + number / 10, number=number)
    verdict, history = tape.verdict(), tape.history()
    [violation] = [one for one in verdict.violations if one.kind == "limit"][:1]
    assert violation.item is not None
    shown = timeline(violation.item, history, PROMISES, verdict.violations)
    assert {f"demo-issue-{number}-1-1" for number in (21, 22, 23)} <= {
        entry.text for entry in shown if entry.lane == "pods"
    }
