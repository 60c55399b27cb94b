"""Histories that tests write: each method adds what one thing that happens leaves in the records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.chaos.history import History, read_history
from tests.chaos.judge import Verdict, judge
from tests.chaos.promises import Promises
from tests.chaos.readers import agent_task_runs, comment_runs, strays, undeleted

START = datetime(2026, 1, 2, 12, tzinfo=UTC)
BOT, ADA = "coding-agent-bot", "ada"
ASKS, WORKS, DONE = "coding agent", "coding agent processing", "coding agent done"
PROMISES = Promises(
    members=frozenset({ADA}),
    global_limit=2,
    repository_limit=2,
    repository_budget=Decimal("1.00"),
    answer_cost=Decimal("0.10"),
    start=10,
    stop=10,
    grace=20,
    settle=30,
)


@dataclass
class Tape:
    """Records a history; `at` is in seconds from its start.

    Attributes:
        began: when each run began, by its name.
        suffix: of the branches to which the bot pushes from now on.
    """

    lines: list[dict[str, Any]] = field(default_factory=list)
    minutes: float = 10.0
    began: dict[str, float] = field(default_factory=dict)
    suffix: str = ""

    @property
    def has_audit(self) -> bool:
        """Whether the API server was asked for anything."""
        return any(line["record"] == "audit" for line in self.lines)

    @property
    def end(self) -> datetime:
        """When the records were taken."""
        return START + timedelta(minutes=self.minutes)

    def forge(self, at: float, event: str, actor: str = ADA, number: int | None = 7, **more: Any) -> None:
        place: dict[str, Any] = {"repository": "octo/demo", "host": "github.test"}
        if number is not None:
            place |= {"kind": "issue", "number": number}
        self.add("forge", at=at_(at), event=event, actor=actor, **(place | more))

    def says(
        self,
        at: float,
        phase: str,
        run: int = 1,
        *,
        number: int = 7,
        comment: int = 70,
        uuid: str = "",
    ) -> None:
        """The bot's comment says it."""
        state = json.dumps({"uuid": uuid or f"u{number}-{run}", "run": run, "phase": phase})
        body = f"**Coding agent**\n\n<!-- coding-agent:status {state} -->"
        known = any(line.get("comment") == comment for line in self.lines)
        event = "comment_edited" if known else "commented"
        self.forge(at, event, BOT, number, comment=comment, body=body)

    def delivery(self, at: float, status: int = 200, number: int = 7, label: str = ASKS) -> None:
        place = {"repository": "octo/demo", "host": "github.test", "kind": "issue", "number": number}
        self.add("delivery", at=at_(at), event="labeled", label=label, status=status, **place)

    def task(self, at: float, run: int = 1, *, number: int = 7, name: str = "") -> str:
        """The API server stores an AgentTask."""
        name = name or f"demo-issue-{number}-{run}"
        source = {"host": "github.test", "repository": "octo/demo", "kind": "issue", "number": number}
        body = {"metadata": {"name": name}, "spec": {"source": source, "run": run}}
        self.audit(at, "agenttasks", "create", name, body)
        return name

    def rescan(self, at: float, name: str, what: str) -> None:
        """A program asks the reporter to read the task's `labels` or `changes` again."""
        asked = {"metadata": {"annotations": {"coding-agent.dev/rescan": json.dumps({what: True})}}}
        self.audit(at, "agenttasks", "patch", name, asked, requestObject=asked)

    def phase(self, at: float, name: str, phase: str) -> None:
        self.audit(at, "agenttasks", "patch", name, {"status": {"phase": phase}}, subresource="status")

    def spends(self, at: float, name: str, *amounts: str) -> None:
        """The attempts of a task have cost so much by then."""
        attempts = [{"usage": {"cost": {"amount": amount, "currency": "USD"}}} for amount in amounts]
        self.audit(at, "agenttasks", "patch", name, {"status": {"attempts": attempts}}, subresource="status")

    def pod(self, start: float, end: float | None, task: str, name: str = "") -> None:
        name = name or f"{task}-1"
        labels = {"coding-agent.dev/task": task}
        self.audit(start, "pods", "create", name, {"metadata": {"name": name, "labels": labels}})
        if end is not None:
            status = {"status": {"phase": "Succeeded"}}
            self.audit(end, "pods", "patch", name, status, subresource="status")

    def fault(
        self,
        start: float,
        end: float,
        *,
        asked: float | None = None,
        number: int = 1,
        effect: str = "",
        kind: str = "kill operator",
    ) -> None:
        """A part is broken; `asked`: until its repair was asked for; `effect`: what was counted."""
        asked = end if asked is None else asked
        times = {"start": at_(start), "asked": at_(asked), "end": at_(end)}
        counted = {"hit": not effect.startswith("0"), "effect": effect} if effect else {}
        self.add("fault", id=number, kind=kind, **times, **counted)

    def operation(self, at: float, kind: str, step: int, skipped: str) -> None:
        """People did it, or could not."""
        self.add("act", at=at_(at), kind=kind, step=step, skipped=skipped)

    def push(self, at: float, number: int = 7, actor: str = BOT) -> None:
        self.forge(at, "pushed", actor, None, branch=self.branch(number))

    def branch(self, number: int) -> str:
        """The branch for an issue."""
        return f"coding-agent/issue-{number}{self.suffix}"

    def opens_change(self, at: float, number: int) -> None:
        """The bot opens the change of an issue, unless it has one."""
        branch = self.branch(number)
        known = [line for line in self.lines if line.get("event") == "opened"]
        if branch not in [line.get("branch") for line in known]:
            more = {"branch": branch, "base": "main", "title": "It", "body": f"Closes #{number}\n"}
            self.forge(at, "opened", BOT, 1000 + number, kind="change", **more)

    def label(self, at: float, name: str, actor: str = BOT, number: int = 7) -> None:
        """Somebody adds a label; the bot only adds one that is not there."""
        if actor != BOT or not self.has_label(at, name, number):
            self.forge(at, "labeled", actor, number, label=name)

    def unlabel(self, at: float, name: str, actor: str = BOT, number: int = 7) -> None:
        """Somebody removes a label; the bot only removes one that is there."""
        if actor != BOT or self.has_label(at, name, number):
            self.forge(at, "unlabeled", actor, number, label=name)

    def has_label(self, at: float, name: str, number: int) -> bool:
        """Whether an item shows a label at a time."""
        acts = [line for line in self.lines if (line.get("label"), line.get("number")) == (name, number)]
        before = [line for line in acts if line["record"] == "forge" and line["at"] <= at_(at)]
        return bool(before) and max(before, key=lambda line: str(line["at"]))["event"] == "labeled"

    def begins(self, at: float, run: int = 1, number: int = 7) -> str:
        """The run is created and begins to work within 2 s."""
        name = self.task(at, run, number=number)
        self.began[name] = at
        self.phase(at + 0.2, name, "Queued")
        self.says(at + 0.5, "Queued", run, number=number, comment=10 * number)
        self.phase(at + 1, name, "Running")
        self.says(at + 1.3, "Running", run, number=number, comment=10 * number)
        self.label(at + 1.4, WORKS, number=number)
        self.unlabel(at + 1.5, ASKS, number=number)
        return name

    def ends(self, at: float, name: str, run: int = 1, number: int = 7, phase: str = "Succeeded") -> None:
        """The run ends, and the item shows it within 1 s.

        A run that succeeds has had an attempt, which has pushed and opened a change.
        """
        if phase == "Succeeded":
            self.works(self.began.get(name, at - 1) + 1.1, at - 0.2, name, number)
        elif name in self.began:
            self.attempt(self.began[name] + 1.1, at - 0.2, name)
        self.phase(at, name, phase)
        self.says(at + 0.5, phase, run, number=number, comment=10 * number)
        if phase == "Succeeded":
            self.label(at + 0.6, DONE, number=number)
        self.unlabel(at + 0.7, WORKS, number=number)

    def works(self, start: float, end: float, name: str, number: int) -> None:
        """An attempt does the work of a run."""
        self.attempt(start, end, name)
        self.push(end - 0.1, number)
        self.opens_change(end - 0.05, number)

    def attempt(self, start: float, end: float, name: str) -> None:
        """A run has an attempt, unless it has one already."""
        if not any(line.get("objectRef", {}).get("name") == f"{name}-1" for line in self.lines):
            self.pod(start, end, name)

    def whole(self, at: float, run: int = 1, number: int = 7, work: float = 20) -> str:
        """A person applies the label, and a run does the work."""
        self.label(at, ASKS, ADA, number)
        self.delivery(at + 1, number=number)
        name = self.begins(at + 0.8, run, number)
        self.pod(at + 2, at + work, name)
        self.ends(at + work + 0.2, name, run, number)
        return name

    def history(self) -> History:
        """As it is read."""
        reader = agent_task_runs if self.has_audit else comment_runs(BOT)
        lines = map(json.dumps, self.lines)
        history = read_history(lines, reader, end=self.end)
        runs = [run for found in history.runs.values() for run in found]
        return replace(history, strays=strays(self.lines, runs), undeleted=tuple(undeleted(self.lines)))

    def verdict(self, promises: Promises = PROMISES) -> Verdict:
        """What the judge says."""
        return judge(self.history(), promises)

    def audit(
        self,
        at: float,
        resource: str,
        verb: str,
        name: str,
        body: dict[str, Any],
        subresource: str = "",
        **more: Any,
    ) -> None:
        """The API server has answered a write."""
        self.add(
            "audit",
            stage="ResponseComplete",
            stageTimestamp=at_(at),
            verb=verb,
            objectRef={"resource": resource, "name": name, "subresource": subresource},
            responseStatus={"code": 200},
            responseObject=body,
            **more,
        )

    def add(self, record: str, **fields: Any) -> None:
        """A record."""
        self.lines.append({"record": record, **fields})


def moment(seconds: float) -> datetime:
    """So many seconds after the start."""
    return START + timedelta(seconds=seconds)


def at_(seconds: float) -> str:
    """The same as a record has it."""
    return moment(seconds).isoformat(timespec="microseconds")


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
