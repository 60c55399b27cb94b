"""The comment on an item never goes back to an earlier run that is being stopped."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from coding_agent_core.forge.values import ItemState
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.reporting.comment import Links, read_state
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory
from coding_agent_core.task.model import Item, Origin, TaskRequest, Trigger
from coding_agent_operator.reporter.reconcile_item import reconcile
from coding_agent_operator.reporter.report import TaskMemory

from tests.unit.consumer_rounds.test_looks import RED, FakeForge
from tests.unit.core_rounds.making import NOON
from tests.unit.operator.making import ended
from tests.unit.operator_reporter.test_round_scans import looks

ISSUE = RED.item.model_copy(update={"kind": ItemKind.ISSUE, "number": 7})
WORKS, STOPS, OVER = "works", "is being stopped", "over"


def run_of(number: int, state: str) -> AgentTask:
    request = TaskRequest(item=ISSUE, trigger=Trigger(origin=Origin.WEBHOOK, received_at=NOON))
    body = manifest(request, run=number, timeout_seconds=600, max_attempts=3)
    created = NOON + timedelta(minutes=number)
    body["metadata"] |= {"uid": f"uid-{number}", "resourceVersion": "1"}
    body["metadata"] |= {"creationTimestamp": created.isoformat()}
    if state is not WORKS:
        body["spec"]["cancel"] = True
    body["status"] = ended("False", "Cancelled").to_wire() if state is OVER else {"phase": "Running"}
    return AgentTask.of(body)


class Stored:
    """The runs of the issue, by number."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}

    async def runs(self, _: Item) -> tuple[AgentTask, ...]:
        return tuple(run_of(number, state) for number, state in self.states.items())

    async def set_conditions(self, read: AgentTask, *_: object) -> AgentTask:
        return read

    async def patch(self, read: AgentTask, _: object) -> AgentTask:
        return read


class LabeledForge(FakeForge):
    async def read_state(self, item: Item) -> ItemState:
        return ItemState(frozenset({"coding agent processing"}), open=True)

    async def item_history(self, *_: object) -> ItemHistory:
        names = frozenset({"coding agent"}), frozenset({"coding agent", "coding agent processing"})
        applied = ItemEvent(1, ItemAction.LABELED, "coding agent processing", "alice", NOON)
        return ItemHistory([applied], frozenset({"coding agent processing"}), True, *names, "bot")

    async def remove_label(self, *_: object) -> bool:
        return True


STEPS: list[Mapping[int, str]] = [
    {1: WORKS},
    {1: STOPS},
    {1: STOPS, 2: WORKS},
    {1: STOPS, 2: OVER},
    {1: OVER, 2: OVER},
]
"""A run is stopped; a label asks for another run, which waits, and is taken back before it can begin."""


def schedules() -> Iterable[tuple[tuple[int, ...], ...]]:
    """In which order the runs are reconciled after each step, if at all."""
    return itertools.product(*([(), *itertools.permutations(step)] for step in STEPS))


@pytest.mark.parametrize("restarts", [True, False], ids=["the reporter restarts", "the reporter remembers"])
async def test_the_comment_does_not_go_back_to_a_run_that_is_being_stopped(restarts: bool) -> None:
    for schedule in schedules():
        forge, stored, memories = LabeledForge(), Stored(), dict[int, TaskMemory]()
        parts: dict[str, Any] = {"tasks": stored}
        context = replace(looks(forge).context, links=Links("https://github.com", "coding-agent/"), **parts)
        shown = 0
        for step, numbers in zip(STEPS, schedule, strict=True):
            stored.states = dict(step)
            for number in numbers:
                if restarts:
                    memories.clear()
                memory = memories.setdefault(number, TaskMemory(f"uid-{number}"))
                await reconcile(context, run_of(number, step[number]), memory)
                body = forge.comments.get((ISSUE.kind, ISSUE.number))
                state = read_state(body) if body is not None else None
                now = state.run if state is not None else 0
                assert now >= shown, schedule
                shown = now
