"""Defects that are planted in the product, one at a time, to prove that the judge of `make chaos` finds them.

Each has a schedule of its own: as few acts and faults as show it within one or two minutes. Without the
defect, the same schedule breaks no promise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from tests.chaos.nemesis import PlannedFault
from tests.chaos.people import KINDS, Act
from tests.chaos.running import Schedule
from tests.mutants import Defect

SEED = 1
"""What a fault draws follows from it and from the fault's id, which no other fault of the table has."""
_REPOSITORY = "acme/pricing"
_WORKS = re.compile(r"works for (\d+) s")
_GAP_SECONDS = 20.0
"""Between the end of one schedule's work, which begins some seconds late, and the next schedule of a run."""


@dataclass(frozen=True)
class Planted(Defect):
    """A defect, and the run that shows it.

    Attributes:
        mode: the world that shows it; the one without Kubernetes costs less.
        violations: the kinds of violations that the judge must find.
        program: whose image has the defect on Kubernetes.
    """

    mode: str
    violations: frozenset[str]
    schedule: Schedule
    forge: str = "github"
    program: str = "receiver"


def _act(at: float, kind: str, item: int = 1, *, works: int = 3) -> Act:
    """What alice does; `works` is how many seconds the work for a new item takes."""
    row = KINDS[kind]
    text = f"item-{item} works for {works} s" if row.opens else row.text
    return Act(at, kind, 0, f"item-{item}", _REPOSITORY, "alice", text)


def _label(*items: int, works: int, after: float = 0.0) -> list[Act]:
    """Items that are opened with the label, one shortly after the other."""
    return [
        _act(after + 0.3 * place, "open with the label", item, works=works)
        for place, item in enumerate(items)
    ]


def _relabel(at: float, item: int, after: float) -> list[Act]:
    return [_act(at, "unlabel", item), _act(at + after, "label", item)]


def _schedule(acts: Sequence[Act], *faults: PlannedFault) -> Schedule:
    return Schedule(sorted(acts, key=lambda act: act.at), faults)


PLANTED = {
    "drop before store": Planted(
        "core/src/coding_agent_core/queues/rabbitmq/publisher.py",
        "await self._io.run(self._publish_task(task, waiting, wait=polled))",
        "pass",
        "rabbitmq",
        frozenset({"lost"}),
        _schedule(_label(1, 2, works=2)),
    ),
    "ack before store": Planted(
        "receiver/src/coding_agent_receiver/app.py",
        "submission = await self.sink.submit(request)",
        "asyncio.ensure_future(self.sink.submit(request)); return replies.success('later')",
        "kubernetes",
        frozenset({"unstored"}),
        _schedule(
            [_act(4.0 + item, "open with the label", item) for item in (1, 2)],
            PlannedFault(1, "API server is slow", 0.0, 12.0),
        ),
    ),
    "name by delivery id": Planted(
        "core/src/coding_agent_core/task/agenttask.py",
        '"name": task_name(item, run, round_part=trigger.name_part),',
        '"name": f"{task_name(item, run)}-{(trigger.delivery_id or str(run))[:8]}",',
        "kubernetes",
        frozenset({"doubled"}),
        _schedule(
            [_act(2.0 + 3 * item, "open with the label", item) for item in (1, 2, 3)],
            PlannedFault(2, "deliveries come twice with other ids", 0.0, 14.0),
        ),
    ),
    "poll without dedupe": Planted(
        "forges/src/coding_agent_forges/rest/forge.py",
        "origin=Origin.POLL,",
        "origin=Origin.MANUAL,",
        "rabbitmq",
        frozenset({"doubled"}),
        # A poll finds the label of the fifth item while it waits for a place. Its message comes to that place
        # after the item's run: a consumer that meets an item at work drops what a poll found.
        _schedule(
            [*_label(1, 2, 3, works=80), *_label(4, works=30, after=1.0), *_label(5, works=2, after=1.3)]
        ),
    ),
    "no fence": Planted(
        "consumer/src/coding_agent_consumer/queue/claim_checks.py",
        "if not claim.lost.is_set():",
        "if False:",
        "rabbitmq",
        frozenset({"resumed"}),
        # The broker gives the task to the other consumer within 30 s, and the first one reports its end.
        _schedule(_label(1, works=60), PlannedFault(4, "cut consumer from broker", 10.0, 80.0)),
    ),
    "forgotten lock": Planted(
        "core/src/coding_agent_core/queues/rabbitmq/consumer.py",
        "held = await self._while_claimed(claim, lambda connection: connection.lock(claim.lock, patience))",
        "held = True",
        "rabbitmq",
        frozenset({"overlap"}),
        _schedule([*_label(1, 2, works=25), *_relabel(12.0, 1, 0.2), *_relabel(13.0, 2, 0.2)]),
    ),
    "push without a check": Planted(
        "consumer/src/coding_agent_consumer/queue/task_handler.py",
        "reason = await task.check(hands_off)",
        "reason = None",
        "rabbitmq",
        frozenset({"pushed late"}),
        _schedule([*_label(1, 2, works=35), _act(10.0, "unlabel", 1), _act(11.0, "close", 2)]),
    ),
    "event eaten": Planted(
        "core/src/coding_agent_core/queues/rabbitmq/consumer.py",
        "if self.tracker.is_settled(task):",
        "if self.tracker.is_settled(task) or delivery.redelivered:",
        "rabbitmq",
        frozenset({"stuck"}),
        # Four items take all places, so the killed consumer works on two of them.
        _schedule(_label(1, 2, 3, 4, works=30), PlannedFault(3, "kill consumer", 14.0, 5.0)),
    ),
    "limit off by one": Planted(
        "operator/src/coding_agent_operator/scheduling/fair_share.py",
        "running[place] >= tasks[queue[-1][1]].repository_limit",
        "running[place] > tasks[queue[-1][1]].repository_limit",
        "kubernetes",
        frozenset({"limit"}),
        _schedule(_label(1, 2, 3, works=15)),
        program="operator",
    ),
    "relabel within the second": Planted(
        "core/src/coding_agent_core/task/model.py",
        "if self.at is None or self.cause is not WithdrawalCause.CLOSED:",
        "if self.at is None:",
        "kubernetes",
        frozenset({"lost"}),
        _schedule([*_label(1, 2, works=40), *_relabel(15.05, 1, 0.8), *_relabel(18.05, 2, 0.8)]),
    ),
    "command ignored": Planted(
        "consumer/src/coding_agent_consumer/queue/notices.py",
        "await self._execute(notice, forge)",
        "pass",
        "rabbitmq",
        frozenset({"pushed late"}),
        _schedule([*_label(1, works=35), _act(10.0, "/cancel", 1)]),
    ),
    "comment twice": Planted(
        "forges/src/coding_agent_forges/rest/comments.py",
        "repeat=Repeat.UNLESS_PROCESSED,",
        "repeat=Repeat.SAFE,",
        "rabbitmq",
        frozenset({"comments"}),
        _schedule(
            [_act(1.0, "open with the label", 1)],
            PlannedFault(5, "forge loses the answers of writes", 0.0, 15.0),
        ),
    ),
}
"""By name."""


def chosen(name: str) -> Mapping[str, Planted]:
    """The defect of this name, or those of this mode, or `all`."""
    return {key: one for key, one in PLANTED.items() if name in ("all", key, one.mode)}


def one_after_another(schedules: Iterable[Schedule]) -> Schedule:
    """All schedules in one run, with items of their own, in the same fractions of a second as alone."""
    acts: list[Act] = []
    faults: list[PlannedFault] = []
    begin = 0.0
    for place, schedule in enumerate(schedules):
        for act in schedule.acts:
            item = f"item-{10 * place + int(act.item.removeprefix('item-'))}"
            text = act.text.replace(act.item, item)
            acts.append(replace(act, at=act.at + begin, item=item, text=text))
        faults += [replace(fault, at=fault.at + begin) for fault in schedule.faults]
        works = [act.at + int(found[1]) for act in schedule.acts if (found := _WORKS.search(act.text))]
        begin = ceil(begin + max([schedule.seconds, *works])) + _GAP_SECONDS
    return Schedule(acts, faults)
