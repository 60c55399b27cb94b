"""The verdict on an item that a person closed, and on a label that was applied again while a run worked."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from coding_agent_core.reporting.comment import State
from coding_agent_core.task.model import Phase
from coding_agent_testbed.forge import Kind
from coding_agent_testbed.forge.eventlog import ForgeEvent

from tests.integration.label_races.judge import BOT, DONE, PROCESSING, SeenRun, Shown, problems

BEGAN = datetime(2026, 11, 30, 10, 50, 10, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def history(*acts: tuple[float, str]) -> list[ForgeEvent]:
    return [
        ForgeEvent(
            id=number,
            at=at(seconds),
            event=event,
            repository="acme/pricing",
            actor="alice",
            kind=Kind.ISSUE,
            number=32,
            label=None if event == "closed" else BOT,
        )
        for number, (seconds, event) in enumerate(acts)
    ]


LABELED_AGAIN = history((3, "labeled"), (7, "unlabeled"), (9.5, "labeled"), (10, "closed"))


def verdict(runs: Sequence[SeenRun], *labels: str) -> list[str]:
    newest = runs[-1].phase if runs else None
    state = State(uuid="r", phase=newest) if newest is not None else None
    shown = Shown(open=False, labels=frozenset(labels), state=state, comments=len(runs[-1:]))
    return problems(LABELED_AGAIN, list, runs, shown, free=False, rounds_wanted=0)


@pytest.mark.parametrize("ended", [9.0, 9.6, 10.2])
def test_a_label_that_no_run_took_up_before_the_closing_stays(ended: float) -> None:
    withdrawn = SeenRun("r1", Phase.CANCELLED, shown_at=at(6), ended_at=at(ended))
    assert verdict([withdrawn], BOT) == []
    assert verdict([], BOT) == []
    [line] = verdict([withdrawn], PROCESSING)
    assert "closed by a person" in line


def test_a_run_that_the_closing_ended_leaves_no_label() -> None:
    closed = SeenRun("r1", Phase.CANCELLED, shown_at=at(6), closed=True, ended_at=at(11))
    assert verdict([closed]) == []
    [line] = verdict([closed], BOT)
    assert "closed by a person" in line


def test_a_run_that_took_up_the_label_leaves_none() -> None:
    taken_up = SeenRun("r2", Phase.FAILED, shown_at=at(9.8), ended_at=at(11))
    assert any("closed by a person" in line for line in verdict([taken_up], BOT))


def succeeded(name: str, shown: float, ended: float) -> SeenRun:
    return SeenRun(name, Phase.SUCCEEDED, at(shown), worked_until=at(ended), ended_at=at(ended))


@pytest.mark.parametrize(
    ("second", "lines"),
    [
        pytest.param(None, 0, id="the first run answers the label"),
        pytest.param(succeeded("r2", 11, 14), 0, id="again"),
        pytest.param(succeeded("r2", 9, 14), 1, id="at the same time"),
    ],
)
def test_a_label_applied_again_may_have_a_run_after_the_one_that_was_withdrawn(
    second: SeenRun | None, lines: int
) -> None:
    withdrawn = succeeded("r1", 5, 10)
    runs = [withdrawn, second] if second is not None else [withdrawn]
    assert len(stays(runs)) == lines


def test_a_label_has_no_two_runs_of_its_own() -> None:
    [line] = stays([succeeded("r2", 10.5, 11), succeeded("r3", 12, 13)])
    assert "not one" in line


def stays(runs: Sequence[SeenRun]) -> list[str]:
    shown = Shown(True, frozenset({DONE}), State(uuid="r", phase=Phase.SUCCEEDED), 1)
    return problems(LABELED_AGAIN[:-1], list, runs, shown, free=True, rounds_wanted=1)
