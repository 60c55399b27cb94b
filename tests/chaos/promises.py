"""What a system promises, as a run was configured, and what a violation of it is. Only data and times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from tests.chaos.history import Act, History, ItemKey

CLOSING = ("closed", "merged")
"""What ends an item."""


@dataclass(frozen=True)
class RoundPromises:
    """What the system promises about the rounds on its changes; times in seconds.

    Attributes:
        reviews, checks, conflicts: rounds of each kind until a person acts.
        reruns: how often the system lets one check of one commit run again.
        quiet: from the last remark, or the end of the last check, until a round may start.
        start: from then, or from the end of the change's last run, until the round is there.
    """

    reviews: int = 5
    checks: int = 3
    conflicts: int = 2
    reruns: int = 2
    quiet: float = 60.0
    start: float = 90.0

    def limit(self, kind: str) -> int:
        """How many rounds of a kind there may be."""
        return {"review": self.reviews, "checks": self.checks, "conflict": self.conflicts}[kind]


@dataclass(frozen=True)
class Promises:
    """What the system promises, as it was configured; times in seconds.

    Attributes:
        triggers: the labels that ask for a task.
        failed: the label of an item whose run failed; empty: there is none.
        platform: the forge, as tasks name it; empty: they do not.
        base: the branch into which changes are to be merged.
        branch: to which the bot pushes for an issue; `-r` and more may follow.
        status: the commit status in which the bot shows its own work; it is none of the checks.
        members: logins of the people whose commands count.
        global_limit, repository_limit: attempts at a time; `None`: no limit.
        repository_budget: money that all runs of a repository may cost together; `None`: no budget.
        answer_cost: the most that the model's answers cost that are under way as a budget is used up.
        start: from an application to its run, while nothing is broken; after a fault, from the fault's end.
        poll: how much later a run may come whose label no webhook has brought: with the next poll.
        stop: from a withdrawal until nothing is pushed any more.
        grace: how much longer a pod may then take to end.
        show: how much longer the comment and the labels may then take to show it.
        settle: how long before the end of the history the last act must lie, to be judged as finished.
        patience: by how much faults put a time off at most.
        fails_without_attempt: reasons for which a run may fail before it has an attempt.
        not_promised: kinds of violations that are none, for a system that promises less than this one.
        rounds: on the changes of the bot; `None`: there are none.
    """

    bot: str = "coding-agent-bot"
    triggers: frozenset[str] = frozenset({"coding agent"})
    processing: str = "coding agent processing"
    done: str = "coding agent done"
    failed: str = ""
    platform: str = ""
    base: str = "main"
    branch: str = "coding-agent/issue-{number}"
    status: str = "coding-agent"
    members: frozenset[str] = frozenset()
    global_limit: int | None = None
    repository_limit: int | None = None
    repository_budget: Decimal | None = None
    answer_cost: Decimal = Decimal(0)
    start: float = 30.0
    poll: float = 0.0
    stop: float = 10.0
    grace: float = 30.0
    show: float = 30.0
    settle: float = 60.0
    patience: float = 300.0
    fails_without_attempt: frozenset[str] = frozenset()
    not_promised: frozenset[str] = frozenset()
    rounds: RoundPromises | None = None


KINDS = (
    "lost",
    "doubled",
    "stuck",
    "resumed",
    "late",
    "unstored",
    "cause",
    "life cycle",
    "work",
    "rights",
    "overlap",
    "limit",
    "budget",
    "pushed late",
    "stopped late",
    "written after the end",
    "comments",
    "changes",
    "disagreement",
    "bound",
    "reaction",
    "answers",
    "round after the end",
)
"""What can be violated."""


@dataclass(frozen=True)
class Violation:
    """A promise that does not hold.

    Attributes:
        kind: one of `KINDS`.
    """

    kind: str
    item: ItemKey | None
    at: datetime
    text: str

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S.%f} {self.kind}: {self.item or 'all items'}: {self.text}"


def command_of(act: Act) -> str:
    """The first line of a comment, where a command is."""
    return (act.body.strip().splitlines() or [""])[0].strip()


def is_branch_of(branch: str, key: ItemKey, promises: Promises) -> bool:
    """Whether the bot's work for the issue goes to this branch."""
    name = promises.branch.format(number=key.number)
    return key.kind == "issue" and (branch == name or branch.startswith(f"{name}-r"))


def is_old(at: datetime, history: History, promises: Promises) -> bool:
    """Whether a moment lies long enough before the end of the history to be judged as finished."""
    return at + timedelta(seconds=promises.settle) <= history.end


def delayed(at: datetime, seconds: float, history: History, promises: Promises, *, of: str = "") -> datetime:
    """The time `seconds` after `at`; a fault that touches that time puts it off to as long after its end.

    Args:
        of: a word that the kinds of the faults have which do so; by default, all do.
    """
    due = at + timedelta(seconds=seconds)
    latest = due + timedelta(seconds=promises.patience)
    for fault in history.faults:
        if of in fault.kind and fault.start <= due and fault.felt_until >= at:
            due = min(latest, max(due, fault.felt_until + timedelta(seconds=seconds)))
    return due
