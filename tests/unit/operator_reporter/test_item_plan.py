"""How an item contradicts its task, and what is written: the reporter's rules, case by case.

Labels are put on and taken off by the forge's clock, which is hours behind ours: no rule compares the two.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.forge.values import ItemState, LabelEvent
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import (
    ANNOTATION_LABELED_AT,
    ANNOTATION_WITHDRAWN_BEFORE,
    LABEL_REPORTED,
    AgentTask,
    AttemptStatus,
    Condition,
    Status,
    manifest,
)
from coding_agent_core.task.model import Cause, Item, Origin, Phase, RoundTrigger, TaskRequest, Trigger
from coding_agent_operator.reporter.item_plan import (
    ItemPlan,
    LabelContradiction,
    PendingCorrection,
    plan_item,
)

BOT, PROCESSING, DONE, FAILED = "coding agent", "coding agent processing", "coding agent done", "failed"
CODEX = f"{BOT}: codex"
LABELS = Labels(failed_label=FAILED)
T = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
FORGE = T - timedelta(hours=5)
GRACE = timedelta(seconds=60)
US = "coding-agent-bot"
ITEM = Item(
    platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.ISSUE, number=7
)


def at(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def forge(seconds: float) -> datetime:
    return FORGE + timedelta(seconds=seconds)


def on(seconds: float, label: str = BOT, user: str = "alice") -> LabelEvent:
    return LabelEvent(forge(seconds), user, label, added=True)


def off(seconds: float, label: str = BOT, user: str = "alice") -> LabelEvent:
    return LabelEvent(forge(seconds), user, label, added=False)


SWAPPED = (on(0), off(10, user=US))
"""The history of a task whose label the reporter has taken off, the oldest first."""


A_ROUND = RoundTrigger(
    cause="[]", name_part="checks-0123456789", head="a" * 40, number=1, of=3, decided_at=FORGE
)
Run = tuple[AgentTask, datetime | None]
"""The newest run of an item, and since when the item shows its end."""


def newest_run(
    phase: Phase,
    *,
    end_shown: datetime | None = None,
    origin: Origin = Origin.WEBHOOK,
    by_label: bool = True,
    by_round: bool = False,
    cancel_requested: bool = False,
    labels_shown: bool = True,
    attempts: bool = True,
    labeled_at: datetime | None = None,
    answered_until: datetime | None = FORGE + timedelta(seconds=100),
    withdrawn_before: datetime | None = None,
    reported: str | None = None,
) -> Run:
    """A task whose label was put on at 0 and whose work, if it has ended, was over at 100."""
    cause = Cause.LABEL if by_label else Cause.COMMAND
    trigger = Trigger(origin=origin, cause=cause, labeled_at=forge(0), received_at=T)
    if by_round:
        trigger = Trigger(origin=Origin.POLL, cause=Cause.CHECKS, received_at=T, round=A_ROUND)
    body = manifest(TaskRequest(item=ITEM, trigger=trigger), run=1)
    notes = {ANNOTATION_LABELED_AT: labeled_at, ANNOTATION_WITHDRAWN_BEFORE: withdrawn_before}
    if reported is not None:
        body["metadata"]["labels"][LABEL_REPORTED] = reported
    known = body["metadata"].setdefault("annotations", {})
    known |= {name: time.isoformat() for name, time in notes.items() if time}
    body["spec"]["cancel"] = cancel_requested
    succeeded = {Phase.SUCCEEDED: "True", Phase.FAILED: "False", Phase.CANCELLED: "False"}
    conditions = {"Succeeded": succeeded.get(phase, "Unknown"), "LabelsShown": str(labels_shown)}
    first = AttemptStatus(number=1, job="job-1", start_time=T, answered_until=answered_until)
    status = Status(
        phase=phase,
        attempts=(first,) if attempts else (),
        conditions=tuple(
            Condition.model_validate(
                {"type": name, "status": is_, "reason": phase.value, "lastTransitionTime": T}
            )
            for name, is_ in conditions.items()
        ),
    )
    return AgentTask.of(body | {"status": status.to_wire()}), end_shown


def plan(
    task: Run,
    present: set[str],
    *,
    history: Sequence[LabelEvent] = (),
    open_: bool = True,
    now: float = 200,
    pending: PendingCorrection | None = None,
    removal_reported: bool = False,
) -> ItemPlan:
    item = ItemState(frozenset(present), open_, forge(199))
    return plan_item(
        task[0],
        item,
        LABELS,
        history=history[::-1],
        own_login=US.upper(),
        removal_reported=removal_reported,
        pending=pending,
        end_shown=task[1],
        now=at(now),
        grace=GRACE,
    )


NEW: dict[str, Any] = {"labels_shown": False}
REMOVED, CLOSED, AGAIN = (
    LabelContradiction.LABEL_REMOVED,
    LabelContradiction.ITEM_CLOSED,
    LabelContradiction.LABEL_APPLIED_AGAIN,
)
HISTORY = tuple[LabelEvent, ...]
ACTIVE: list[tuple[str, Run, set[str], bool, HISTORY, LabelContradiction | None]] = [
    ("waits with its label", newest_run(Phase.QUEUED, **NEW), {BOT}, True, (), None),
    ("waits without its label", newest_run(Phase.QUEUED, **NEW), {"bug"}, True, (on(0), off(5)), REMOVED),
    ("waits, its label is not in the history", newest_run(Phase.QUEUED, **NEW), set(), True, (), REMOVED),
    (
        "waits, we took its label off",
        newest_run(Phase.QUEUED, **NEW),
        set(),
        True,
        (on(0), off(5, user=US)),
        None,
    ),
    (
        "waits, we took the label of an earlier run off",
        newest_run(Phase.QUEUED, **NEW),
        set(),
        True,
        (on(-9), off(-5, user=US)),
        REMOVED,
    ),
    ("waits, by hand", newest_run(Phase.QUEUED, **NEW, origin=Origin.MANUAL), set(), True, (), None),
    ("waits with the label of a runner", newest_run(Phase.QUEUED, **NEW), {CODEX}, True, (), None),
    ("runs, not swapped yet", newest_run(Phase.RUNNING, **NEW), {BOT}, True, (), None),
    ("runs", newest_run(Phase.RUNNING), {PROCESSING}, True, (), None),
    ("runs, its label gone", newest_run(Phase.RUNNING), {DONE}, True, (), REMOVED),
    ("runs, applied again", newest_run(Phase.RUNNING), {BOT}, True, (), None),
    ("by hand, our label gone", newest_run(Phase.RUNNING, origin=Origin.MANUAL), set(), True, (), REMOVED),
    ("closed", newest_run(Phase.RUNNING), {PROCESSING}, False, (), CLOSED),
    ("closed and unlabelled", newest_run(Phase.RUNNING), set(), False, (), CLOSED),
    ("a round waits", newest_run(Phase.QUEUED, **NEW, by_round=True), {DONE}, True, (), None),
    ("a round starts", newest_run(Phase.RUNNING, **NEW, by_round=True), {DONE}, True, (), None),
    ("a round runs, its label gone", newest_run(Phase.RUNNING, by_round=True), set(), True, (), REMOVED),
    ("a round runs, closed", newest_run(Phase.RUNNING, by_round=True), {PROCESSING}, False, (), CLOSED),
    ("is being cancelled", newest_run(Phase.RUNNING, cancel_requested=True), set(), False, (), None),
]
DONE_RUN, FAILED_NEW = newest_run(Phase.SUCCEEDED), newest_run(Phase.FAILED, **NEW)
SHOWN = newest_run(Phase.SUCCEEDED, end_shown=at(120))
ROUND_DONE = newest_run(Phase.SUCCEEDED, **NEW, by_round=True)
ROUND_SHOWN = newest_run(Phase.SUCCEEDED, **NEW, by_round=True, end_shown=at(120))
NOBODY_SAW_THE_END = newest_run(Phase.FAILED, answered_until=None)
ENDED: list[tuple[str, Run, set[str], bool, HISTORY, LabelContradiction | None]] = [
    ("done", DONE_RUN, {PROCESSING}, True, (), None),
    ("done, all labels gone", DONE_RUN, set(), True, (), None),
    ("done, applied during the work", DONE_RUN, {PROCESSING, BOT}, True, (*SWAPPED, on(99)), None),
    ("done, applied as the work ended", DONE_RUN, {PROCESSING, BOT}, True, (*SWAPPED, on(100)), None),
    ("done, applied after the work", DONE_RUN, {PROCESSING, BOT}, True, (*SWAPPED, on(101)), AGAIN),
    ("done, a runner's label after the work", DONE_RUN, {CODEX}, True, (*SWAPPED, on(101, CODEX)), AGAIN),
    ("done and closed", DONE_RUN, {PROCESSING, BOT}, False, (*SWAPPED, on(101)), None),
    ("done, the history does not show it", DONE_RUN, {BOT}, True, (), AGAIN),
    ("done, the item is older than the history", DONE_RUN, {BOT}, True, SWAPPED, None),
    ("done, both are older than our swap", DONE_RUN, {BOT}, True, (on(0),), None),
    ("nobody saw the end of the work", NOBODY_SAW_THE_END, {BOT}, True, (*SWAPPED, on(50)), AGAIN),
    (
        "swapped and applied again within the second of the label",
        newest_run(Phase.SUCCEEDED, answered_until=forge(-1)),
        {BOT},
        True,
        (on(0), off(0, user=US), on(0)),
        AGAIN,
    ),
    ("never swapped", FAILED_NEW, {BOT}, True, (on(0),), None),
    ("never swapped, the history does not show it", FAILED_NEW, {BOT}, True, (), None),
    ("never swapped, a second later in the history", FAILED_NEW, {BOT}, True, (on(1),), None),
    (
        "never swapped, an earlier run's label",
        FAILED_NEW,
        {BOT},
        True,
        (on(-9), off(0, user=US), on(1)),
        None,
    ),
    ("never swapped, applied again", FAILED_NEW, {BOT}, True, (on(0), off(140), on(150)), AGAIN),
    ("never swapped, with another runner", FAILED_NEW, {BOT, CODEX}, True, (on(0), on(150, CODEX)), AGAIN),
    ("never swapped, both labels at once", FAILED_NEW, {BOT, CODEX}, True, (on(0), on(0, CODEX)), None),
    (
        "by a command, labeled after it",
        newest_run(Phase.FAILED, **NEW, by_label=False, origin=Origin.MANUAL, answered_until=None),
        {BOT},
        True,
        (on(0),),
        AGAIN,
    ),
    (
        "we took off what was applied after the work",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(103)),
        {PROCESSING},
        True,
        (*SWAPPED, on(102), off(103, user=US)),
        AGAIN,
    ),
    (
        "we took off what was applied during the work, and the attempt saw that",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(101)),
        {PROCESSING},
        True,
        (*SWAPPED, on(101), off(101, user=US)),
        None,
    ),
    (
        "the forge's clock was set back after the label",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(190)),
        {PROCESSING},
        True,
        (on(190), off(103, user=US)),
        None,
    ),
    (
        "the forge's clock was set back during the work",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(10), answered_until=forge(-80)),
        {PROCESSING},
        True,
        SWAPPED,
        None,
    ),
    (
        "the forge's clock was set back after the label was applied again during the work",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(160), answered_until=forge(80)),
        {PROCESSING},
        True,
        (*SWAPPED, on(150), off(160, user=US), off(75, DONE, user=US)),
        None,
    ),
    (
        "a person took off what was applied after the work",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(103)),
        {PROCESSING},
        True,
        (*SWAPPED, on(102), off(103)),
        None,
    ),
    (
        "we took off what was applied after the work, and then cancelled by a command",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(103), withdrawn_before=forge(105)),
        {PROCESSING},
        True,
        (*SWAPPED, on(102), off(103, user=US)),
        None,
    ),
    (
        "done, applied after the work, and then cancelled by a command",
        newest_run(Phase.SUCCEEDED, withdrawn_before=forge(153)),
        {BOT},
        True,
        (*SWAPPED, on(150)),
        None,
    ),
    (
        "done, applied after a command that came while the forge's clock was ahead",
        newest_run(Phase.SUCCEEDED, withdrawn_before=forge(260)),
        {BOT},
        True,
        (*SWAPPED, on(150)),
        AGAIN,
    ),
    (
        "done, applied after a change that we read while the forge's clock was ahead",
        newest_run(Phase.SUCCEEDED, labeled_at=forge(260), answered_until=forge(260)),
        {BOT},
        True,
        (*SWAPPED, on(150)),
        AGAIN,
    ),
    (
        "by a command while the forge's clock was ahead, then applied",
        newest_run(Phase.SUCCEEDED, by_label=False, origin=Origin.MANUAL, labeled_at=forge(260)),
        {BOT},
        True,
        (on(150),),
        AGAIN,
    ),
    (
        "never swapped, and the forge's clock was set back before it was applied again",
        FAILED_NEW,
        {BOT},
        True,
        (on(0), off(190), on(50)),
        AGAIN,
    ),
    ("a round is done", ROUND_DONE, {PROCESSING}, True, (), None),
    ("a round is done, applied during its work", ROUND_DONE, {PROCESSING, BOT}, True, (on(99),), AGAIN),
    ("a round is done, applied after its work", ROUND_DONE, {PROCESSING, BOT}, True, (on(101),), AGAIN),
    ("a round is shown, applied before", ROUND_SHOWN, {DONE, BOT}, True, (on(50),), AGAIN),
    ("shown, then applied", SHOWN, {BOT, DONE}, True, (*SWAPPED, on(90)), AGAIN),
    ("shown, a stale look", SHOWN, {BOT, DONE}, True, (on(0),), None),
]
KUBECTL = newest_run(Phase.CANCELLED, answered_until=None)
WITHDRAWN = newest_run(Phase.CANCELLED, answered_until=None, withdrawn_before=forge(50))
WITHDRAWN_NEW = newest_run(Phase.CANCELLED, **NEW, answered_until=None, withdrawn_before=forge(50))
CANCELLED: list[tuple[str, Run, set[str], bool, HISTORY, LabelContradiction | None]] = [
    ("with kubectl, never swapped", newest_run(Phase.CANCELLED, **NEW), {BOT}, True, (on(1),), None),
    ("with kubectl, applied again", KUBECTL, {BOT}, True, (*SWAPPED, on(60)), AGAIN),
    (
        "with kubectl, applied again, which the task knows",
        newest_run(Phase.CANCELLED, labeled_at=forge(60), answered_until=None),
        {BOT},
        True,
        (*SWAPPED, on(60)),
        None,
    ),
    ("withdrawn, its own label", WITHDRAWN_NEW, {BOT}, True, (on(0),), None),
    ("withdrawn, applied before that", WITHDRAWN, {BOT}, True, (*SWAPPED, on(49)), None),
    ("withdrawn, applied in the same second", WITHDRAWN, {BOT}, True, (*SWAPPED, off(50), on(50)), AGAIN),
    ("withdrawn, applied after that", WITHDRAWN, {BOT}, True, (*SWAPPED, on(51)), AGAIN),
    (
        "withdrawn while the forge's clock was ahead, then applied again",
        newest_run(Phase.CANCELLED, answered_until=None, withdrawn_before=forge(131)),
        {BOT},
        True,
        (*SWAPPED, on(120), off(130), on(60)),
        AGAIN,
    ),
    (
        "withdrawn, its own label, before which the forge's clock was set back",
        newest_run(Phase.CANCELLED, **NEW, answered_until=None, withdrawn_before=forge(50)),
        {BOT},
        True,
        (on(80), off(90), on(0)),
        None,
    ),
    (
        "withdrawn, which the task knows, and applied in the same second",
        newest_run(Phase.CANCELLED, labeled_at=forge(50), withdrawn_before=forge(50)),
        {BOT},
        True,
        (on(0), off(50), on(50)),
        AGAIN,
    ),
    ("withdrawn and applied within a second", WITHDRAWN_NEW, {BOT}, True, (on(0), off(50), on(50)), AGAIN),
    ("withdrawn, the item is older than the history", WITHDRAWN_NEW, {BOT}, True, (on(0), off(50)), None),
]
CASES = [*ACTIVE, *ENDED, *CANCELLED]


@pytest.mark.parametrize(
    ("task", "present", "opened", "history", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_contradictions(
    task: Run, present: set[str], opened: bool, history: HISTORY, expected: LabelContradiction | None
) -> None:
    found = plan(task, present, open_=opened, history=history)
    assert (found.pending.contradiction if found.pending else None) == expected
    assert found.correct is None, "not before the grace time"
    if expected is not None:
        pending = PendingCorrection(expected, at(100))
        again = plan(task, present, open_=opened, history=history, pending=pending, now=161)
        assert again.correct is expected
        early = plan(task, present, open_=opened, history=history, pending=pending, now=159)
        assert early.correct is None
        assert early.pending == pending, "the grace time starts at the first reconcile"
        reported = plan(task, present, open_=opened, history=history, removal_reported=True)
        assert reported.correct == (None if expected is AGAIN else expected), "an event has said it"


@pytest.mark.parametrize(("task", "present", "opened", "history"), [c[1:5] for c in (*ENDED, *CANCELLED)])
def test_a_label_is_taken_off_only_if_it_is_known_to_be_old(
    task: Run, present: set[str], opened: bool, history: HISTORY
) -> None:
    found = plan(task, present, open_=opened, history=history)
    triggers = {BOT, CODEX} & present
    if {BOT, CODEX} & set(found.remove):
        assert found.answered_until == forge(199), "this is recorded first"
        assert found.pending is None
        assert not (opened and history) or history[-1].added, (
            "the history says it is off: somebody is at work"
        )
    elif triggers and task[1] is None:
        assert found.pending is not None or (history and not history[-1].added)


def test_a_label_that_a_person_removed_while_we_swapped_it_cancels_as_the_event_says() -> None:
    task, history = newest_run(Phase.RUNNING), (on(0), off(5), on(6, PROCESSING, user=US))
    assert plan(task, {PROCESSING}, history=history).pending is None
    found = plan(task, {PROCESSING}, history=history, removal_reported=True)
    assert found.correct is LabelContradiction.LABEL_REMOVED


WAITS: Any = {"phase": Phase.QUEUED, "labels_shown": False, "attempts": False}


@pytest.mark.parametrize(
    ("task", "present", "opened", "updated", "history", "corrected"),
    [
        pytest.param(newest_run(**WAITS), {BOT}, False, 199, (), CLOSED, id="closed"),
        pytest.param(newest_run(**WAITS), {BOT}, True, 199, (), None, id="open"),
        pytest.param(newest_run(Phase.QUEUED, **NEW), {BOT}, False, 199, (), None, id="has begun"),
        pytest.param(newest_run(**WAITS), {BOT}, False, 0, (), None, id="closed in that second"),
        pytest.param(
            newest_run(**WAITS, labeled_at=forge(300)),
            {BOT},
            False,
            199,
            (),
            None,
            id="an answer that is older than the label",
        ),
        pytest.param(newest_run(**WAITS, by_round=True), {BOT}, False, 199, (), None, id="a round"),
        pytest.param(
            newest_run(**WAITS, cancel_requested=True), {BOT}, False, 199, (), None, id="being cancelled"
        ),
        pytest.param(newest_run(**WAITS), set(), True, 199, (on(0), off(5)), REMOVED, id="removed"),
        pytest.param(
            newest_run(**WAITS), set(), True, 199, (on(0), off(0)), REMOVED, id="removed in that second"
        ),
        pytest.param(newest_run(**WAITS), set(), True, 199, (), None, id="removed, without a history"),
        pytest.param(newest_run(**WAITS), set(), True, 199, (on(0), off(5), on(6)), None, id="applied again"),
        pytest.param(newest_run(**WAITS), set(), True, 199, (on(0), off(5, user=US)), None, id="by us"),
        pytest.param(
            newest_run(**WAITS, labeled_at=forge(9)),
            set(),
            True,
            199,
            (on(0), off(5)),
            None,
            id="a removal before the label",
        ),
        pytest.param(
            newest_run(Phase.QUEUED, **NEW), set(), True, 199, (on(0), off(5)), None, id="removed, has begun"
        ),
    ],
)
def test_a_label_that_is_withdrawn_before_its_task_starts_cancels_it_at_once(
    task: Run,
    present: set[str],
    opened: bool,
    updated: int,
    history: HISTORY,
    corrected: LabelContradiction | None,
) -> None:
    found = plan_item(
        task[0],
        ItemState(frozenset(present), opened, forge(updated)),
        LABELS,
        history=history[::-1],
        own_login=US,
        pending=None,
        end_shown=None,
        now=at(200),
        grace=GRACE,
    )
    assert (found.correct, found.correct_first) == (corrected, corrected is not None)


def test_the_grace_time_starts_again_when_the_contradiction_changes() -> None:
    task = newest_run(Phase.RUNNING)
    pending = PendingCorrection(LabelContradiction.LABEL_REMOVED, at(0))
    assert plan(task, {PROCESSING}, pending=pending).pending is None
    assert plan(task, set(), open_=False, pending=pending).pending == PendingCorrection(
        LabelContradiction.ITEM_CLOSED, at(200)
    )


@pytest.mark.parametrize(
    ("task", "present", "add", "remove", "labels_shown"),
    [
        (newest_run(Phase.QUEUED, **NEW), {BOT}, (), (), False),
        (newest_run(Phase.RUNNING, **NEW), {BOT, "bug"}, (PROCESSING,), (BOT,), True),
        (newest_run(Phase.RUNNING, **NEW, by_round=True), {DONE}, (PROCESSING,), (DONE,), True),
        (newest_run(Phase.RUNNING, **NEW, by_round=True), {BOT}, (PROCESSING,), (), False),
        (newest_run(Phase.RUNNING, **NEW), {BOT, CODEX}, (PROCESSING,), (BOT, CODEX), True),
        (newest_run(Phase.RUNNING, **NEW), {PROCESSING}, (), (), True),  # the write of the condition was lost
        (newest_run(Phase.RUNNING), {PROCESSING}, (), (), False),
        (newest_run(Phase.RUNNING), set(), (), (), False),  # taken off: it must not come back
        (newest_run(Phase.RUNNING, cancel_requested=True, **NEW), {BOT}, (), (), False),
        (newest_run(Phase.SUCCEEDED), {PROCESSING}, (DONE,), (PROCESSING,), False),
        (newest_run(Phase.SUCCEEDED, **NEW), {BOT}, (DONE,), (BOT,), True),
        (newest_run(Phase.SUCCEEDED, **NEW), {CODEX}, (DONE,), (CODEX,), True),
        (newest_run(Phase.QUEUED, **NEW), set(), (), (), False),
        (newest_run(Phase.CANCELLED, **NEW), set(), (), (), True),
        (newest_run(Phase.SUCCEEDED, end_shown=at(190)), set(), (), (), False),  # people's, once shown
    ],
)
def test_label_changes_and_acknowledgement(
    task: Run, present: set[str], add: tuple[str, ...], remove: tuple[str, ...], labels_shown: bool
) -> None:
    found = plan(task, present)
    assert (found.add, found.remove, found.labels_shown) == (add, remove, labels_shown)


def test_a_new_application_stays_while_the_end_is_shown() -> None:
    history = (on(0), off(140), on(150))
    found = plan(newest_run(Phase.SUCCEEDED, **NEW), {PROCESSING, BOT}, history=history)
    assert (found.add, found.remove) == ((DONE,), (PROCESSING,))
    assert not found.labels_shown, "the poll must take it neither for a stale label nor for two"


@pytest.mark.parametrize(
    ("shown", "present", "finished"),
    [(None, {DONE}, False), (at(150), {DONE}, False), (at(100), {DONE}, True), (at(100), {DONE, BOT}, False)],
)
def test_an_end_is_settled_after_the_grace_time_without_a_contradiction(
    shown: datetime | None, present: set[str], finished: bool
) -> None:
    assert plan(newest_run(Phase.SUCCEEDED, end_shown=shown), present).finished is finished


@pytest.mark.parametrize(
    ("present", "withdrawn", "history", "again", "removed"),
    [
        ({"bug"}, None, (), False, ()),
        ({"bug", BOT}, None, (*SWAPPED, on(90)), True, ()),
        ({"bug", BOT}, forge(95), (*SWAPPED, on(90)), False, (BOT,)),
    ],
)
def test_if_an_item_is_read_again_after_its_end_peoples_labels_stay(
    present: set[str],
    withdrawn: datetime | None,
    history: HISTORY,
    again: bool,
    removed: tuple[str, ...],
) -> None:
    """The reporter may have been restarted since then, and a person may have removed the done label."""
    found = plan(
        newest_run(Phase.SUCCEEDED, reported="again", withdrawn_before=withdrawn), present, history=history
    )
    assert (found.add, found.remove) == ((), removed)
    assert (found.pending is not None) == again


def test_a_label_of_our_own_account_asks_for_nothing() -> None:
    ended = newest_run(Phase.SUCCEEDED, end_shown=at(150))
    assert plan(ended, {DONE, BOT}, history=(*SWAPPED, on(160)), now=300).pending is not None
    by_us = (*SWAPPED, on(160, user=US))
    assert plan(ended, {DONE, BOT}, history=by_us, now=300) == ItemPlan(finished=True)
