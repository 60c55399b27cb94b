"""The judge finds each planted wrong history, and nothing in a right one."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import history as history_module
from tests.chaos import judge as judge_module
from tests.chaos.history import read_history
from tests.chaos.judge import Promises, Verdict, judge

START = datetime(2026, 1, 2, 12, tzinfo=UTC)
BOT, ADA = "coding-agent-bot", "ada"
ASKS, WORKS, DONE = "coding agent", "coding agent processing", "coding agent done"
PROMISES = Promises(
    members=frozenset({ADA}), global_limit=2, repository_limit=2, start=10, stop=10, grace=20, settle=30
)


@dataclass
class Tape:
    """Records a history; `at` is in seconds from its start."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    minutes: float = 10.0

    def forge(self, at: float, event: str, actor: str = ADA, number: int | None = 7, **more: Any) -> None:
        place: dict[str, Any] = {"repository": "octo/demo", "host": "github.test"}
        if number is not None:
            place |= {"kind": "issue", "number": number}
        self._add("forge", at=_at(at), event=event, actor=actor, **(place | more))

    def says(self, at: float, phase: str, run: int = 1, *, number: int = 7, comment: int = 70) -> None:
        """The bot's comment says it."""
        state = json.dumps({"uuid": f"u{number}-{run}", "run": run, "phase": phase})
        body = f"**Coding agent**\n\n<!-- coding-agent:status {state} -->"
        known = any(line.get("comment") == comment for line in self.lines)
        event = "comment_edited" if known else "commented"
        self.forge(at, event, BOT, number, comment=comment, body=body)

    def delivery(self, at: float, status: int = 200, number: int = 7, label: str = ASKS) -> None:
        place = {"repository": "octo/demo", "host": "github.test", "kind": "issue", "number": number}
        self._add("delivery", at=_at(at), event="labeled", label=label, status=status, **place)

    def task(self, at: float, run: int = 1, *, number: int = 7, name: str = "") -> str:
        """The API server stores an AgentTask."""
        name = name or f"demo-issue-{number}-{run}"
        source = {"host": "github.test", "repository": "octo/demo", "kind": "issue", "number": number}
        body = {"metadata": {"name": name}, "spec": {"source": source, "run": run}}
        self._audit(at, "agenttasks", "create", name, body)
        return name

    def phase(self, at: float, name: str, phase: str) -> None:
        self._audit(at, "agenttasks", "patch", name, {"status": {"phase": phase}}, subresource="status")

    def pod(self, start: float, end: float | None, task: str, name: str = "") -> None:
        name = name or f"{task}-1"
        labels = {"coding-agent.dev/task": task}
        self._audit(start, "pods", "create", name, {"metadata": {"name": name, "labels": labels}})
        if end is not None:
            status = {"status": {"phase": "Succeeded"}}
            self._audit(end, "pods", "patch", name, status, subresource="status")

    def fault(self, start: float, end: float) -> None:
        self._add("fault", id=1, kind="kill operator", start=_at(start), end=_at(end))

    def push(self, at: float, number: int = 7, actor: str = BOT) -> None:
        self.forge(at, "pushed", actor, None, branch=f"coding-agent/issue-{number}")

    def label(self, at: float, name: str, actor: str = BOT, number: int = 7) -> None:
        self.forge(at, "labeled", actor, number, label=name)

    def unlabel(self, at: float, name: str, actor: str = BOT, number: int = 7) -> None:
        self.forge(at, "unlabeled", actor, number, label=name)

    def begins(self, at: float, run: int = 1, number: int = 7) -> str:
        """The run is created and begins to work within 2 s."""
        name = self.task(at, run, number=number)
        self.phase(at + 0.2, name, "Queued")
        self.says(at + 0.5, "Queued", run, number=number, comment=10 * number)
        self.phase(at + 1, name, "Running")
        self.label(at + 1.4, WORKS, number=number)
        self.unlabel(at + 1.5, ASKS, number=number)
        self.says(at + 1.6, "Running", run, number=number, comment=10 * number)
        return name

    def ends(self, at: float, name: str, run: int = 1, number: int = 7, phase: str = "Succeeded") -> None:
        """The run ends, and the item shows it within 1 s."""
        self.phase(at, name, phase)
        self.says(at + 0.5, phase, run, number=number, comment=10 * number)
        if phase == "Succeeded":
            self.label(at + 0.6, DONE, number=number)
        self.unlabel(at + 0.7, WORKS, number=number)

    def whole(self, at: float, run: int = 1, number: int = 7, work: float = 20) -> str:
        """A person applies the label, and a run does the work."""
        self.label(at, ASKS, ADA, number)
        self.delivery(at + 1, number=number)
        name = self.begins(at + 0.8, run, number)
        self.pod(at + 2, at + work, name)
        self.push(at + work - 1, number)
        self.ends(at + work + 1, name, run, number)
        return name

    def verdict(self) -> Verdict:
        lines = map(json.dumps, self.lines)
        history = read_history(lines, bot=BOT, end=START + timedelta(minutes=self.minutes))
        return judge(history, PROMISES)

    def _audit(
        self, at: float, resource: str, verb: str, name: str, body: dict[str, Any], subresource: str = ""
    ) -> None:
        self._add(
            "audit",
            stage="ResponseComplete",
            stageTimestamp=_at(at),
            verb=verb,
            objectRef={"resource": resource, "name": name, "subresource": subresource},
            responseStatus={"code": 200},
            responseObject=body,
        )

    def _add(self, record: str, **fields: Any) -> None:
        self.lines.append({"record": record, **fields})


def _at(seconds: float) -> str:
    return (START + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def right() -> Tape:
    """Two items: one is labeled twice, the other one's label is taken off while it works."""
    tape = Tape()
    tape.label(1, "bug", ADA)
    tape.whole(10)
    tape.unlabel(60, DONE, ADA)
    tape.whole(61, run=2)
    tape.label(12, ASKS, ADA, 8)
    tape.delivery(13, number=8)
    name = tape.begins(12.5, number=8)
    tape.pod(14, 33, name)
    tape.unlabel(30, WORKS, ADA, 8)
    tape.push(31, 8)
    tape.phase(34, name, "Cancelled")
    tape.says(34.5, "Cancelled", number=8, comment=80)
    return tape


def test_a_right_history_has_no_violations() -> None:
    verdict = right().verdict()
    assert not verdict.violations, verdict.text()
    assert (verdict.applications, verdict.runs) == (3, 3)
    assert not verdict.unknown


def _lost(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.delivery(101, 503, 9)


def _lost_after_an_end(tape: Tape) -> None:
    tape.label(120, ASKS, ADA)


def _lost_relabel_within_seconds(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.unlabel(101, ASKS, ADA, 9)
    name = tape.task(100.5, number=9)
    tape.phase(102, name, "Cancelled")
    tape.says(102, "Cancelled", number=9, comment=90)
    tape.label(103, ASKS, ADA, 9)


def _stuck_queued(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.task(101, number=9)
    tape.phase(101, name, "Queued")
    tape.says(102, "Queued", number=9, comment=90)


def _stuck_running(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.begins(101, number=9)


def _doubled(tape: Tape) -> None:
    name = tape.task(200, run=3)
    tape.phase(201, name, "Running")
    tape.ends(210, name, 3)


def _doubled_by_a_redelivery(tape: Tape) -> None:
    tape.delivery(90)
    name = tape.begins(90, run=3)
    tape.pod(91, 95, name)
    tape.ends(96, name, 3)


def _same_number_twice(tape: Tape) -> None:
    tape.label(200, ASKS, ADA)
    name = tape.task(201, run=2, name="demo-issue-7-2-other")
    tape.phase(202, name, "Running")
    tape.ends(210, name, 2)


def _late(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(150, number=9)
    tape.ends(160, name, number=9)


def _late_after_a_fault(tape: Tape) -> None:
    tape.fault(95, 105)
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(150, number=9)
    tape.ends(160, name, number=9)


def _overlap(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    first = tape.begins(101, number=9)
    tape.pod(102, 140, first)
    tape.ends(130, first, number=9)
    tape.label(131, ASKS, ADA, 9)
    second = tape.begins(132, run=2, number=9)
    tape.pod(133, 150, second)
    tape.ends(151, second, run=2, number=9)


def _overlap_for_good(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    first = tape.begins(101, number=9)
    tape.pod(102, None, first)
    tape.ends(130, first, number=9)
    tape.label(131, ASKS, ADA, 9)
    second = tape.begins(132, run=2, number=9)
    tape.pod(133, 150, second)
    tape.ends(151, second, run=2, number=9)


def _three_at_a_limit_of_two(tape: Tape) -> None:
    for number in (21, 22, 23):
        tape.whole(200 + number / 10, number=number)


def _a_pod_of_an_ended_task_counts(tape: Tape) -> None:
    first = tape.whole(200, number=21)
    tape.pod(210, 260, first, "left-over")
    for number in (22, 23):
        tape.whole(230 + number / 10, number=number)


def _pushed_after_the_label_went(tape: Tape) -> None:
    tape.push(41, 8)


def _pushed_after_a_close(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, 118, name)
    tape.forge(105, "closed", number=9)
    tape.push(116, 9)
    tape.ends(119, name, number=9, phase="Cancelled")


def _pushed_after_a_cancel(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, 118, name)
    tape.forge(105, "commented", number=9, comment=1, body="/cancel")
    tape.push(116, 9)
    tape.ends(119, name, number=9, phase="Cancelled")


def _a_pod_outlives_its_label(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(101, number=9)
    tape.pod(102, 140, name)
    tape.unlabel(105, WORKS, ADA, 9)
    tape.phase(141, name, "Cancelled")
    tape.says(142, "Cancelled", number=9, comment=90)


def _a_pod_starts_after_the_label_went(tape: Tape) -> None:
    name = "demo-issue-8-1"
    tape.pod(45, 50, name, f"{name}-2")


def _two_comments(tape: Tape) -> None:
    tape.says(90, "Succeeded", 2, comment=71)


def _two_changes(tape: Tape) -> None:
    for at, number in ((28, 31), (79, 32)):
        more = {"kind": "change", "branch": f"coding-agent/issue-7-r{number}"}
        tape.forge(at, "opened", BOT, number, **more)


def _the_comment_says_something_else(tape: Tape) -> None:
    tape.says(90, "Running", 2)


def _no_comment(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    name = tape.task(101, number=9)
    tape.phase(102, name, "Running")
    tape.phase(110, name, "Succeeded")
    tape.label(111, DONE, number=9)


def _processing_stays(tape: Tape) -> None:
    tape.label(95, WORKS)


def _no_done_label(tape: Tape) -> None:
    tape.unlabel(95, DONE)


def _done_after_a_cancel(tape: Tape) -> None:
    tape.label(36, DONE, number=8)


def _unstored(tape: Tape) -> None:
    tape.label(100, ASKS, ADA, 9)
    tape.delivery(101, number=9)
    name = tape.begins(105, number=9)
    tape.ends(110, name, number=9)


def _written_after_a_merge(tape: Tape) -> None:
    tape.forge(300, "merged")
    tape.says(400, "Succeeded", 2)


PLANTED: list[tuple[Callable[[Tape], None], str]] = [
    (_lost, "lost"),
    (_lost_after_an_end, "lost"),
    (_lost_relabel_within_seconds, "lost"),
    (_stuck_queued, "stuck"),
    (_stuck_running, "stuck"),
    (_doubled, "doubled"),
    (_doubled_by_a_redelivery, "doubled"),
    (_same_number_twice, "doubled"),
    (_late, "late"),
    (_late_after_a_fault, "late"),
    (_overlap, "overlap"),
    (_overlap_for_good, "overlap"),
    (_three_at_a_limit_of_two, "limit"),
    (_a_pod_of_an_ended_task_counts, "limit"),
    (_pushed_after_the_label_went, "pushed late"),
    (_pushed_after_a_close, "pushed late"),
    (_pushed_after_a_cancel, "pushed late"),
    (_a_pod_outlives_its_label, "stopped late"),
    (_a_pod_starts_after_the_label_went, "stopped late"),
    (_two_comments, "comments"),
    (_two_changes, "changes"),
    (_the_comment_says_something_else, "disagreement"),
    (_no_comment, "disagreement"),
    (_processing_stays, "disagreement"),
    (_no_done_label, "disagreement"),
    (_done_after_a_cancel, "disagreement"),
    (_unstored, "unstored"),
    (_written_after_a_merge, "written after the end"),
]


@pytest.mark.parametrize(("plant", "kind"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_history_is_found(plant: Callable[[Tape], None], kind: str) -> None:
    tape = right()
    plant(tape)
    verdict = tape.verdict()
    assert verdict.kinds[kind], verdict.text()


def _labels_in_the_last_seconds(tape: Tape) -> None:
    tape.label(590, ASKS, ADA, 9)


def _late_because_of_a_fault(tape: Tape) -> None:
    tape.fault(95, 145)
    tape.label(100, ASKS, ADA, 9)
    name = tape.begins(150, number=9)
    tape.ends(160, name, number=9)


def _a_label_in_the_second_of_the_end(tape: Tape) -> None:
    tape.unlabel(82.6, DONE, ADA)
    tape.label(82.9, ASKS, ADA)


def _a_strangers_cancel(tape: Tape) -> None:
    tape.forge(25, "commented", "eve", comment=1, body="/cancel")


def _a_command_that_counts(tape: Tape) -> None:
    tape.forge(100, "commented", comment=2, body="/retry")
    name = tape.begins(101, run=3)
    tape.ends(110, name, 3)


@pytest.mark.parametrize(
    "add",
    [
        _labels_in_the_last_seconds,
        _late_because_of_a_fault,
        _a_label_in_the_second_of_the_end,
        _a_strangers_cancel,
        _a_command_that_counts,
    ],
)
def test_what_is_allowed_is_no_violation(add: Callable[[Tape], None]) -> None:
    tape = right()
    add(tape)
    verdict = tape.verdict()
    assert not verdict.violations, verdict.text()


def test_without_kubernetes_the_comments_show_the_runs() -> None:
    tape = right()
    tape.lines = [line for line in tape.lines if line["record"] != "audit"]
    verdict = tape.verdict()
    assert not verdict.violations, verdict.text()
    assert verdict.runs == 3
    tape.says(300, "Running", 3)
    tape.says(320, "Succeeded", 3)
    assert tape.verdict().kinds["doubled"] == 1


def test_what_is_not_known_is_listed_apart() -> None:
    tape = right()
    tape.label(590, ASKS, ADA, 9)
    tape.delivery(595, 0, 9)
    assert len(tape.verdict().unknown) == 2


def test_a_line_that_is_no_record_is_named() -> None:
    with pytest.raises(ValueError, match=r"line 2 is no record: .*surprise"):
        read_history(
            [
                '{"record": "fault", "id": 1, "kind": "k", "start": "2026-01-02T12:00:00Z", '
                '"end": "2026-01-02T12:00:00Z"}',
                '{"record": "surprise"}',
            ],
            bot=BOT,
            end=START,
        )


def test_the_judge_imports_nothing_of_the_product() -> None:
    for module in (history_module, judge_module):
        tree = ast.parse(Path(module.__file__ or "").read_text())
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or name == "tests.chaos.history", name
