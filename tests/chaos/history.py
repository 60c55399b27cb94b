"""What happened in one run of a system, from the records of others: the forge and the API server.

It imports nothing of the product, so that an error in the product's own types cannot hide itself. A record
is a JSON object on a line of its own:

    {"record": "forge", "host": "github.test", …an event of the forge's log…}
    {"record": "delivery", "at": …, "host": …, "repository": …, "kind": …, "number": …, "event": "labeled",
     "label": …, "status": 200}
    {"record": "audit", …an event of the API server's audit log, with bodies…}
    {"record": "fault", "id": 3, "kind": "kill operator", "start": …, "asked": …, "end": …, "hit": true,
     "effect": "1 of 1 processes ended"}
    {"record": "missed fault", "id": 4, "kind": "kill agent", "at": …, "why": …}
    {"record": "act", "at": …, "kind": "relabel within a second", "step": 0, "skipped": "", …}
    {"record": "mergeability", "at": …, "host": …, "repository": …, "number": …, "head": …, "base": …,
     "merges": false}
    {"record": "model", "at": …, "title": "item-7 works for 3 s", "script": "works", "position": 0,
     "status": 200}

A fault's `asked` is when its end was asked for, and `end` when the broken part served again. `effect` is what
it has changed, as a count; `hit` is false if that is nothing. A missed fault had nothing to break. An act's
`skipped` says why the forge's state did not allow it. A model's record is a request of an attempt for an
answer, with the title of the item that it works on. Times are ISO 8601 by one clock, that of the machine
which recorded them.

What a system makes of an item is its own: a `Reader` finds the runs in the records, and `readers.py` has
those of this project. docs/testing-another-system.md shows one for another system.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

ENDED = frozenset({"Succeeded", "Failed", "Cancelled"})
"""The phases of a run that is over."""
CONTROL_PLANE = ("API server", "etcd")
"""What the kinds of faults are called after which the audit log may lack what had happened."""
Record = Mapping[str, Any]


class ItemKey(NamedTuple):
    """An issue (`issue`) or a pull or merge request (`change`) of a forge."""

    host: str
    repository: str
    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.host}/{self.repository} {self.kind} {self.number}"


CLOCK_AHEAD, CLOCK_BEHIND = "forge's clock 90 s ahead", "forge's clock 90 s behind"
_AHEAD = timedelta(seconds=90)


@dataclass(frozen=True)
class Act:
    """Something that a person or the bot did on the forge; the fields are those of the forge's event log.

    Attributes:
        item: `None` for pushes and checks.
        repository: with its host.
        branch: of a push, and that of a change that was opened.
        base: the branch into which a change that was opened is to be merged.
        before: the branch's commit before a push.
        commit: the newest one after a push; the commit of a check.
        reviewer: of whom a review was requested.
        forced: whether a push left commits of the branch behind.
    """

    at: datetime
    event: str
    actor: str
    repository: tuple[str, str]
    item: ItemKey | None = None
    label: str = ""
    comment: int = 0
    body: str = ""
    branch: str = ""
    commit: str = ""
    thread: int = 0
    review: int = 0
    state: str = ""
    check: str = ""
    title: str = ""
    base: str = ""
    before: str = ""
    reviewer: str = ""
    forced: bool = False


@dataclass(frozen=True)
class Delivery:
    """A webhook's request and its answer.

    Attributes:
        at: when it was answered.
        status: 0: it was not answered.
    """

    at: datetime
    item: ItemKey
    event: str
    label: str
    status: int


@dataclass(frozen=True)
class Pod:
    """A pod of an attempt.

    Attributes:
        ended: when its containers had ended or it was gone; `None`: it was there at the end of the history.
        attempt: the number of the attempt; 0: not known.
        checks: it is no attempt: it checks the work of one.
        succeeded: whether its containers ended without an error; `None`: nothing says so.
    """

    name: str
    task: str
    started: datetime
    ended: datetime | None = None
    attempt: int = 0
    checks: bool = False
    succeeded: bool | None = None


@dataclass(frozen=True)
class Job:
    """A Job of an attempt."""

    name: str
    task: str
    created: datetime
    attempt: int


@dataclass(frozen=True)
class Attempt:
    """An attempt as the run's status shows it at the end.

    Attributes:
        outcome: empty while it works.
        counted: whether it counts toward the run's limit of attempts.
        tokens: what it used; `None`: nothing says so.
    """

    number: int
    started: datetime
    outcome: str = ""
    reason: str = ""
    counted: bool = True
    tokens: int | None = None


@dataclass(frozen=True)
class Result:
    """What a run says that it has done; empty where it says nothing."""

    branch: str = ""
    change_url: str = ""
    commit: str = ""


@dataclass(frozen=True)
class ModelRequest:
    """A request for an answer of the model.

    Attributes:
        title: of the item on which the attempt works, as far as the request shows it.
    """

    at: datetime
    title: str
    status: int


@dataclass(frozen=True)
class Round:
    """What a run answers that nobody asked for by a label: a review, failed checks or a conflict.

    Attributes:
        kind: `review`, `checks` or `conflict`.
        head: the change's commit from which it started.
        ids: of a review, its remarks: `t` and the number of a comment in a thread, `r` of a review, `c` of
            any other comment. Of checks, their names; of a conflict, the base's commit. Empty if not known.
        end: how it ended; empty if nothing says so. `superseded` and `no progress` mean that it did not work.
    """

    kind: str
    head: str
    ids: frozenset[str] = frozenset()
    end: str = ""


@dataclass(frozen=True)
class Mergeability:
    """Whether two commits merge: the head of a change, and that of its base."""

    at: datetime
    item: ItemKey
    head: str
    base: str
    merges: bool


@dataclass(frozen=True)
class Run:
    """A task of an item.

    Only the first four fields are known of every system. The others are empty or `None` where the records do
    not show them, and then nothing is judged by them.

    Attributes:
        number: of the run, from 1.
        round: `None`: somebody asked for the run.
        phases: when it entered which phase; those of `ENDED`, `Queued`, `Starting` and `Running` matter.
        spent: how much its attempts had cost by then, all together.
        stored: the earliest time at which others may have seen each phase, in the order of `phases`.
        user: the login of the person who asked for it, as the run says.
        platform: `github`, `gitlab` or `gitea`, as the run says.
        max_attempts: attempts that may count; 0: not known.
        attempts: as the run's status shows them.
        reason: why it ended, in one word.
        suspended: from when to when it was suspended.
        deleted: when its object was deleted.
        altered: when something of its spec was changed that may not change.
        duplicate_of: the name of the run that answers its request.
        identifier: as its comment names it.
        rescans: when a request to read its item's labels again was stored on it.
    """

    item: ItemKey
    name: str
    number: int
    created: datetime
    phases: tuple[tuple[datetime, str], ...] = ()
    pods: tuple[Pod, ...] = ()
    spent: tuple[tuple[datetime, Decimal], ...] = ()
    round: Round | None = None
    stored: tuple[datetime, ...] = ()
    user: str = ""
    platform: str = ""
    max_attempts: int = 0
    attempts: tuple[Attempt, ...] | None = None
    jobs: tuple[Job, ...] = ()
    reason: str = ""
    result: Result | None = None
    suspended: tuple[tuple[datetime, datetime | None], ...] = ()
    deleted: datetime | None = None
    altered: datetime | None = None
    duplicate_of: str = ""
    identifier: str = ""
    rescans: tuple[datetime, ...] = ()

    @property
    def phase(self) -> str:
        return self.phases[-1][1] if self.phases else "Queued"

    @property
    def ended(self) -> datetime | None:
        """When it had ended; `None`: it has not."""
        return next((at for at, phase in self.phases if phase in ENDED), None)


@dataclass(frozen=True)
class Fault:
    """Something that was broken on purpose.

    Attributes:
        asked: when its end was asked for.
        end: when the broken part served again.
        hit: whether it has changed anything; `None`: nobody counted.
        effect: what it has changed, as a count.
    """

    id: int
    kind: str
    start: datetime
    asked: datetime
    end: datetime
    hit: bool | None = None
    effect: str = ""

    @property
    def felt_until(self) -> datetime:
        """When the system can no longer notice the fault."""
        return self.end + _AHEAD if self.kind == CLOCK_AHEAD else self.end

    def sets_back(self, at: datetime) -> bool:
        """Whether what people do at a time looks older than what they did before, by the forge's clock.

        It does so while the clock is behind, and for as long after it was ahead. Nobody can tell the webhooks
        of such acts from old ones.
        """
        begins = {CLOCK_AHEAD: self.asked, CLOCK_BEHIND: self.start}.get(self.kind)
        return begins is not None and begins <= at <= self.felt_until


@dataclass(frozen=True)
class MissedFault:
    """A fault that had nothing to break, such as an attempt's pod while no attempt worked."""

    id: int
    kind: str
    why: str


@dataclass(frozen=True)
class Operation:
    """What people were to do.

    Attributes:
        kind: as `people.py` calls it.
        step: of an operation in several steps, from 0.
        skipped: why the forge's state did not allow it; empty: it was done.
    """

    at: datetime
    kind: str
    step: int
    skipped: str


class Shown(NamedTuple):
    """What the bot's comment says of a run.

    Attributes:
        identifier: of the run; empty: the comment shows none, only rounds.
        statuses: the names and commits of the commit statuses that were set for the run.
    """

    phase: str
    number: int
    identifier: str = ""
    change_url: str = ""
    branch: str = ""
    statuses: tuple[tuple[str, str], ...] = ()


Reader = Callable[[Sequence[Record]], Iterable[Run]]
"""Finds the runs in all records of a run of `make chaos`, in any order."""


@dataclass(frozen=True)
class History:
    """All of it, in the order of time.

    Attributes:
        runs: by item, in the order of their numbers.
        has_pods: whether the records show pods: not without Kubernetes.
        strays: pods and Jobs that belong to no run.
        undeleted: pods and Jobs that are being deleted although nobody has asked for it, and since when.
    """

    acts: tuple[Act, ...]
    deliveries: tuple[Delivery, ...]
    runs: Mapping[ItemKey, tuple[Run, ...]]
    faults: tuple[Fault, ...]
    end: datetime
    has_pods: bool = True
    operations: tuple[Operation, ...] = ()
    missed_faults: tuple[MissedFault, ...] = ()
    mergeability: tuple[Mergeability, ...] = ()
    model: tuple[ModelRequest, ...] = ()
    strays: tuple[Pod | Job, ...] = ()
    undeleted: tuple[tuple[datetime, str], ...] = ()

    @property
    def has_model(self) -> bool:
        return bool(self.model)


def read_history(lines: Iterable[str], reader: Reader, *, end: datetime) -> History:
    """The history in these records.

    Args:
        reader: of the system that was tried.
        end: when the records were taken.

    Raises:
        ValueError: a line is not a record.
    """
    acts: list[Act] = []
    deliveries: list[Delivery] = []
    faults: list[Fault] = []
    missed: list[MissedFault] = []
    operations: list[Operation] = []
    mergeability: list[Mergeability] = []
    model: list[ModelRequest] = []
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            match record["record"]:
                case "forge":
                    acts.append(_act(record))
                case "delivery":
                    deliveries.append(_delivery(record))
                case "fault":
                    faults.append(_fault(record))
                case "missed fault":
                    missed.append(MissedFault(record["id"], record["kind"], record["why"]))
                case "act":
                    operations.append(
                        Operation(
                            time_of(record["at"]), record["kind"], record["step"], record.get("skipped") or ""
                        )
                    )
                case "mergeability":
                    mergeability.append(_mergeability(record))
                case "model":
                    model.append(ModelRequest(time_of(record["at"]), record["title"], record["status"]))
                case "audit":
                    pass
                case other:
                    raise ValueError(f"no record is called {other!r}")
            records.append(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} is not a record: {error!r}") from error
    by_item: dict[ItemKey, list[Run]] = {}
    for run in sorted(reader(records), key=lambda run: (run.number, run.created)):
        by_item.setdefault(run.item, []).append(run)
    return History(
        tuple(sorted(acts, key=lambda act: act.at)),
        tuple(sorted(deliveries, key=lambda delivery: delivery.at)),
        {item: tuple(found) for item, found in by_item.items()},
        tuple(sorted(faults, key=lambda fault: fault.start)),
        end,
        has_pods=any(record["record"] == "audit" for record in records),
        operations=tuple(sorted(operations, key=lambda operation: operation.at)),
        missed_faults=tuple(sorted(missed, key=lambda fault: fault.id)),
        mergeability=tuple(sorted(mergeability, key=lambda one: one.at)),
        model=tuple(sorted(model, key=lambda one: one.at)),
    )


def _act(record: Mapping[str, Any]) -> Act:
    item = None
    if record.get("number") is not None:
        item = ItemKey(record["host"], record["repository"], record["kind"], record["number"])
    return Act(
        time_of(record["at"]),
        record["event"],
        record["actor"],
        (record["host"], record["repository"]),
        item,
        record.get("label") or "",
        record.get("comment") or 0,
        record.get("body") or "",
        record.get("branch") or "",
        record.get("commit") or record.get("after") or "",
        record.get("thread") or 0,
        record.get("review") or 0,
        record.get("state") or "",
        record.get("check") or "",
        record.get("title") or "",
        record.get("base") or "",
        record.get("before") or "",
        record.get("reviewer") or "",
        record.get("forced") or False,
    )


def _mergeability(record: Record) -> Mergeability:
    item = ItemKey(record["host"], record["repository"], "change", record["number"])
    return Mergeability(time_of(record["at"]), item, record["head"], record["base"], record["merges"])


def _delivery(record: Mapping[str, Any]) -> Delivery:
    item = ItemKey(record["host"], record["repository"], record["kind"], record["number"])
    return Delivery(time_of(record["at"]), item, record["event"], record.get("label", ""), record["status"])


def _fault(record: Record) -> Fault:
    start, end = time_of(record["start"]), time_of(record["end"])
    asked = time_of(record.get("asked") or record["end"])
    effect = record.get("effect") or ""
    return Fault(record["id"], record["kind"], start, asked, end, record.get("hit"), effect)


def time_of(text: str) -> datetime:
    """A time of a record.

    Raises:
        ValueError: it is not ISO 8601, or has no time zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
