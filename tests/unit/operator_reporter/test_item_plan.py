"""What the reporter shows on an item, and when it reads the item's history."""

from datetime import timedelta

import pytest
from coding_agent_core.forge.values import ItemState
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import ANNOTATION_ANSWERED, ANNOTATION_RESCAN, AgentTask
from coding_agent_core.task.item_history import ItemAction, ItemEvent, ItemHistory, Position
from coding_agent_core.task.labels import Decision
from coding_agent_operator.reporter.item_plan import (
    Correction,
    correction_of,
    is_behind,
    must_read_history,
    plan_item,
)

from tests.unit.core_task.test_runs import A_ROUND, T0, T1, T2, task

LABELS = Labels()
BOT, PROCESSING, DONE = LABELS.bot_label, LABELS.processing_label, LABELS.done_label
GRACE = timedelta(seconds=60)
SEEN = {ANNOTATION_ANSWERED: "1"}
ASKED = SEEN | {ANNOTATION_RESCAN: f'{{"labels":true,"event_at":"{T1.isoformat()}"}}'}


def item(*labels: str, open_: bool = True) -> ItemState:
    return ItemState(frozenset(labels), open_)


@pytest.mark.parametrize(
    ("run", "seen", "unsure", "reads"),
    [
        (task(annotations=SEEN), item(BOT), False, False),
        (task(annotations=SEEN), item(BOT), True, True),
        (task(), item(BOT), False, True),  # nobody has looked
        (task(annotations=ASKED), item(BOT), False, True),
        (task(annotations=SEEN), item(), False, True),
        (task(annotations=SEEN, by=A_ROUND), item(), False, False),
        (task(annotations=SEEN), item(BOT, open_=False), False, True),
        (task(annotations=SEEN, Succeeded="True"), item(), False, True),
    ],
)
def test_the_history_is_read_if_it_can_change_anything(
    run: AgentTask, seen: ItemState, unsure: bool, reads: bool
) -> None:
    assert must_read_history([run], seen, LABELS, unsure=unsure) is reads


@pytest.mark.parametrize(
    ("events", "behind"),
    [([], True), ([T0], True), ([T1], False), ([T2, T0], False)],
)
def test_a_history_is_behind_if_it_shows_nothing_as_new_as_the_webhook(
    events: list[object], behind: bool
) -> None:
    found = [ItemEvent(n, ItemAction.LABELED, BOT, "alice", at) for n, at in enumerate(events, 1)]  # type: ignore[arg-type]
    history = ItemHistory(found, frozenset({BOT}), True, LABELS.triggers, LABELS.active, "bot")
    assert is_behind(history, [task(annotations=ASKED)]) is behind
    assert not is_behind(history, [task(annotations=SEEN)])


@pytest.mark.parametrize(
    ("run", "seen", "unsure", "add", "remove"),
    [
        (task(annotations=SEEN), item(BOT), False, (), ()),
        (task(annotations=SEEN, Succeeded="True"), item(BOT, PROCESSING), False, (DONE,), (BOT, PROCESSING)),
        # The label may ask for the next run.
        (task(annotations=SEEN, Succeeded="True"), item(BOT, PROCESSING), True, (DONE,), (PROCESSING,)),
        (task(by=A_ROUND, Succeeded="True"), item(BOT, PROCESSING), False, (DONE,), (PROCESSING,)),
        # A label that a person removed must not come back.
        (task(annotations=SEEN, cancel=True), item(), False, (), ()),
        (task(annotations=SEEN), item(DONE), True, (), ()),
    ],
)
def test_the_labels_that_are_shown(
    run: AgentTask, seen: ItemState, unsure: bool, add: tuple[str, ...], remove: tuple[str, ...]
) -> None:
    plan = plan_item(run, seen, LABELS, unsure=unsure, end_shown=None, now=T1, grace=GRACE)
    assert (plan.add, sorted(plan.remove)) == (add, sorted(remove))


@pytest.mark.parametrize(
    ("shown_for", "unsure", "finished"),
    [(None, False, False), (59, False, False), (60, False, True), (60, True, False)],
)
def test_a_task_is_finished_once_its_end_was_shown_for_the_grace_time(
    shown_for: int | None, unsure: bool, finished: bool
) -> None:
    end_shown = None if shown_for is None else T1 - timedelta(seconds=shown_for)
    run = task(annotations=SEEN, Succeeded="True")
    plan = plan_item(run, item(DONE), LABELS, unsure=unsure, end_shown=end_shown, now=T1, grace=GRACE)
    assert plan.finished is finished


def test_once_the_end_was_shown_people_change_the_labels() -> None:
    run = task(annotations=SEEN, Succeeded="True")
    plan = plan_item(run, item(BOT), LABELS, unsure=False, end_shown=T0, now=T1, grace=GRACE)
    assert (plan.add, plan.remove) == ((), ())


APPLIED = ItemEvent(3, ItemAction.LABELED, BOT, "alice", T0)
POSITION = Position((3,))


@pytest.mark.parametrize(
    ("decision", "open_", "correction"),
    [
        (Decision(POSITION), True, None),
        (Decision(POSITION, confirm=(("r1", POSITION),)), True, None),
        (Decision(POSITION, withdraw=(("r1", POSITION),)), True, Correction.LABEL_REMOVED),
        (Decision(POSITION, withdraw=(("r1", POSITION),)), False, Correction.ITEM_CLOSED),
        (Decision(POSITION, duplicate="r1"), True, Correction.DUPLICATE),
        (Decision(POSITION, create=APPLIED), True, Correction.LABEL_APPLIED),
    ],
)
def test_what_a_decision_is_called_for_people(
    decision: Decision, open_: bool, correction: Correction | None
) -> None:
    assert correction_of(decision, item(open_=open_)) is correction
