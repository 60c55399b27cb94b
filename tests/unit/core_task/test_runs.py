"""What admission is told about an item's AgentTasks, and what is written on them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.admission import (
    SUBMITTED_WITHIN,
    Duplicate,
    StoredLook,
    admit,
    announcement,
    answered,
    cancellation,
    is_fresh,
    latest_of,
    may_delete_first,
    must_look,
    note,
    runs_of,
    stored_look,
)
from coding_agent_core.task.agenttask import (
    AGAIN,
    ANNOTATION_DELIVERIES,
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_LABEL_REMOVED_BY,
    ANNOTATION_LABELED_AT,
    ANNOTATION_LOOK,
    ANNOTATION_WITHDRAWN_BEFORE,
    LABEL_REPORTED,
    LOOK,
    AgentTask,
    manifest,
)
from coding_agent_core.task.model import (
    FRESH,
    Cause,
    Item,
    Origin,
    RoundTrigger,
    TaskRequest,
    Trigger,
    WithdrawalCause,
)

from tests.fixtures.deliveries import issue

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
T1, T2, T3 = (T0 + timedelta(minutes=minutes) for minutes in (1, 2, 3))


def item(number: int = 7) -> Item:
    return issue(number)


def trigger(labeled_at: datetime | None = None, delivery: str | None = None) -> Trigger:
    return Trigger(origin=Origin.WEBHOOK, delivery_id=delivery, labeled_at=labeled_at, received_at=T0)


def announced(now: datetime) -> dict[str, str]:
    annotations: dict[str, str] = announcement(now)["metadata"]["annotations"]
    return annotations


def task(
    run: int = 1,
    *,
    of: Item | None = None,
    by: Trigger | None = None,
    cancel: bool = False,
    annotations: dict[str, str] | None = None,
    deleting: bool = False,
    reported: str | None = None,
    spec: dict[str, Any] | None = None,
    created: datetime = T0,
    **conditions: str,
) -> AgentTask:
    request = TaskRequest(item=of or item(), trigger=by or trigger())
    body = manifest(request, run=run, timeout_seconds=60, max_attempts=3)
    body["metadata"] |= {"creationTimestamp": created.isoformat(), "resourceVersion": f"{run}0"}
    body["metadata"].setdefault("annotations", {}).update(annotations or {})
    if reported is not None:
        body["metadata"]["labels"][LABEL_REPORTED] = reported
    if deleting:
        body["metadata"]["deletionTimestamp"] = "2026-11-25T12:05:00Z"
    body["spec"]["cancel"] = cancel
    body["spec"] |= spec or {}
    body["status"] = {
        "conditions": [
            {"type": name, "status": is_, "reason": "Because", "lastTransitionTime": created.isoformat()}
            for name, is_ in conditions.items()
        ]
    }
    return AgentTask.of(body)


SPEC = manifest(TaskRequest(item=item(), trigger=trigger()), run=1)["spec"]


@pytest.mark.parametrize(
    ("of", "terminal", "cancel", "labels_shown"),
    [
        (task(), False, False, False),
        (task(Succeeded="True"), True, False, False),
        (task(Succeeded="False"), True, False, False),
        (task(Succeeded="False", LabelsShown="True"), True, False, True),
        (task(cancel=True), False, True, False),
        (task(deleting=True), True, False, False),
    ],
)
def test_conditions_are_the_truth(of: AgentTask, terminal: bool, cancel: bool, labels_shown: bool) -> None:
    facts = latest_of([of])
    assert facts is not None
    assert (facts.terminal, facts.cancel_requested, facts.labels_shown) == (terminal, cancel, labels_shown)


def test_the_newest_run_is_the_one_of_the_highest_number_whatever_the_order() -> None:
    facts = latest_of([task(10), task(9, Succeeded="True"), task(2)])
    assert facts is not None
    assert (facts.run, facts.name[-4:]) == (10, "-r10")


def test_deliveries_of_all_runs_are_known() -> None:
    runs = [
        task(1, by=trigger(delivery="a"), annotations={ANNOTATION_DELIVERIES: "b,c"}, Succeeded="True"),
        task(2, by=trigger(delivery="d")),
    ]
    facts = latest_of(runs)
    assert facts is not None
    assert facts.delivery_ids == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("first", "annotation", "known"),
    [(None, None, None), (T1, None, T1), (T1, T2.isoformat(), T2), (T1, "edited by hand", T1)],
)
def test_the_newest_labeling_counts(
    first: datetime | None, annotation: str | None, known: datetime | None
) -> None:
    annotations = {ANNOTATION_LABELED_AT: annotation} if annotation else {}
    facts = latest_of([task(by=trigger(first), annotations=annotations)])
    assert facts is not None
    assert facts.labeled_at == known


def test_a_newer_run_does_not_make_the_clock_go_back() -> None:
    facts = latest_of([task(1, by=trigger(T3), cancel=True), task(2)])
    assert facts is not None
    assert facts.labeled_at == T3


def test_others_with_the_same_hash_and_what_cannot_be_read_are_not_the_items() -> None:
    unreadable = task(3, spec={"source": "of another release"})
    unknown = task(4, spec={"source": SPEC["source"] | {"platform": "gerrit"}})
    runs = runs_of(item(), [task(2), task(1, of=item(8)), unreadable, unknown, task(1)])
    assert [run.spec.run for run in runs] == [1, 2]


def test_what_was_withdrawn_with_a_later_run_counts_while_an_older_one_is_being_stopped() -> None:
    first, second = ({ANNOTATION_WITHDRAWN_BEFORE: at.isoformat()} for at in (T1, T3))
    runs = [
        task(1, by=trigger(T0), cancel=True, annotations=first),
        task(2, by=trigger(T2), cancel=True, annotations=second, created=T2, Succeeded="False"),
    ]
    facts = latest_of(runs)
    assert facts is not None
    assert (facts.run, facts.terminal, facts.withdrawn_before) == (2, False, T3)
    assert isinstance(admit(trigger(T2, "again"), facts), Duplicate)


@pytest.mark.parametrize(
    ("known", "noted", "patched"),
    [
        (T1, "", {ANNOTATION_LABELED_AT: T2.isoformat(), ANNOTATION_LABEL_REMOVED_BY: "Bot"}),
        (T1, "Bot", {ANNOTATION_LABELED_AT: T2.isoformat()}),
        (T2, "", {ANNOTATION_LABEL_REMOVED_BY: "Bot"}),
        (T2, "Bot", None),
    ],
)
def test_before_we_take_a_label_off_the_task_says_what_it_answers_and_who_we_are(
    known: datetime, noted: str, patched: dict[str, str] | None
) -> None:
    annotations = {ANNOTATION_LABEL_REMOVED_BY: noted} if noted else {}
    patch = answered(task(by=trigger(known), annotations=annotations), T2, "Bot")
    assert patch == (None if patched is None else {"metadata": {"annotations": patched}})
    facts = latest_of([task(2), task(by=trigger(known), annotations=annotations | (patched or {}))])
    assert facts is not None
    assert facts.accounts == {"bot"}


def _note(
    of: AgentTask, event: Trigger, newer: datetime | None, *, looks_old: bool = False
) -> dict[str, Any] | None:
    facts = latest_of([of])
    assert facts is not None
    return note(of, event, Duplicate(of.name, "it is known", newer, looks_old), facts)


@pytest.mark.parametrize(
    ("looks_old", "reported", "after"),
    [
        (True, "true", AGAIN),
        (True, LOOK, AGAIN),
        (False, "true", None),
        (True, None, None),
        (True, AGAIN, None),
    ],
)
def test_a_label_that_looks_old_makes_the_reporter_read_the_item_of_an_ended_run_again(
    looks_old: bool, reported: str | None, after: str | None
) -> None:
    ended = task(by=trigger(T1, "a"), reported=reported, Succeeded="True")
    patch = _note(ended, trigger(T1, "b"), None, looks_old=looks_old)
    assert patch == (None if after is None else {"metadata": {"labels": {LABEL_REPORTED: after}}})


def test_a_newer_labeling_moves_the_annotation() -> None:
    assert _note(task(by=trigger(T1, "a")), trigger(T2, "b"), T2) == {
        "metadata": {"annotations": {ANNOTATION_LABELED_AT: T2.isoformat(), ANNOTATION_DELIVERIES: "b"}}
    }


@pytest.mark.parametrize(
    ("event", "newer", "written"),
    [
        (trigger(T1, "a"), None, False),  # the same delivery again
        (trigger(T1, "b"), None, False),  # known by its time
        (trigger(None, "b"), None, True),  # known by nothing but its id
        (trigger(None, None), None, False),  # a poll
        (trigger(T2, None), T2, True),
    ],
)
def test_only_what_is_news_is_written(event: Trigger, newer: datetime | None, written: bool) -> None:
    patch = _note(task(by=trigger(T1, "a")), event, newer)
    assert (patch is not None) == written


def test_the_newest_twenty_deliveries_are_kept() -> None:
    noted = [f"d{number}" for number in range(20)]
    patch = _note(task(annotations={ANNOTATION_DELIVERIES: ",".join(noted)}), trigger(None, "new"), None)
    assert patch is not None
    assert patch["metadata"]["annotations"][ANNOTATION_DELIVERIES].split(",") == [*noted[1:], "new"]


def test_a_cancel_says_before_when_labels_were_withdrawn() -> None:
    patch = cancellation("the issue lost the label", WithdrawalCause.UNLABELED, T2)
    facts = latest_of([task(by=trigger(T1), cancel=True, annotations=patch["metadata"]["annotations"])])
    assert facts is not None
    assert (facts.labeled_at, facts.withdrawn_before) == (T1, T2)
    assert facts.answered_until == T2 - timedelta(seconds=1)


def test_what_was_withdrawn_with_an_older_run_counts_as_answered() -> None:
    withdrawn = {ANNOTATION_WITHDRAWN_BEFORE: T3.isoformat()}
    facts = latest_of([task(1, by=trigger(T1), cancel=True, annotations=withdrawn), task(2, created=T1)])
    assert facts is not None
    assert facts.withdrawn_before is None
    assert facts.labeled_at == T3 - timedelta(seconds=1)


DUPLICATE = {ANNOTATION_DUPLICATE_OF: "another"}


@pytest.mark.parametrize(
    ("older", "newest"),
    [
        (task(1, Succeeded="True"), task(2)),
        (task(1, cancel=True), task(2)),
        (task(3, Succeeded="True"), task(1, created=T1)),  # run 1 was deleted by hand, and is there again
        (task(3, Succeeded="True"), task(1, created=T1, Succeeded="True")),
        (task(2, cancel=True, Succeeded="False"), task(1, cancel=True)),
        (
            task(1, created=T1, annotations=DUPLICATE, cancel=True, Succeeded="False"),
            task(3, Succeeded="True"),
        ),
    ],
)
def test_the_newest_run_works_or_was_created_last(older: AgentTask, newest: AgentTask) -> None:
    for runs in ([older, newest], [newest, older]):
        assert runs_of(item(), runs) == [older, newest]
        facts = latest_of(runs)
        assert facts is not None
        assert facts.name == newest.name
        assert facts.run == max(older.spec.run, newest.spec.run)


@pytest.mark.parametrize(
    ("origin", "cause", "age", "fresh"),
    [
        (Origin.WEBHOOK, Cause.LABEL, timedelta(0), True),
        (Origin.WEBHOOK, Cause.LABEL, -FRESH, True),  # the forge's clock is ahead
        (Origin.WEBHOOK, Cause.LABEL, -FRESH - timedelta(seconds=1), False),
        (Origin.WEBHOOK, Cause.LABEL, FRESH + timedelta(seconds=1), False),
        (Origin.WEBHOOK, Cause.LABEL, None, False),
        (Origin.WEBHOOK, Cause.COMMAND, timedelta(0), False),
        (Origin.POLL, Cause.LABEL, timedelta(0), False),
        (Origin.REDELIVERY, Cause.LABEL, timedelta(0), False),
        (Origin.LABELS, Cause.LABEL, timedelta(0), False),
    ],
)
def test_a_webhook_soon_after_its_label_is_fresh(
    origin: Origin, cause: Cause | None, age: timedelta | None, fresh: bool
) -> None:
    at = None if age is None else T0 - age
    assert is_fresh(Trigger(origin=origin, cause=cause, labeled_at=at, received_at=T0)) is fresh


@pytest.mark.parametrize(
    ("runs", "may"),
    [
        ([task(1)], True),
        ([task(1), task(2, Succeeded="True")], False),
        ([task(1), task(1, of=item(8))], True),
        ([task(1, annotations=announced(T0))], True),
        ([task(1, annotations=announced(T0 + timedelta(seconds=1)))], False),
        ([], False),
    ],
)
def test_run_1_may_go_as_the_only_run_if_no_other_is_about_to_come(runs: list[AgentTask], may: bool) -> None:
    assert may_delete_first(item(), runs, T0 + SUBMITTED_WITHIN) is may


A_ROUND = Trigger(
    origin=Origin.POLL,
    cause=Cause.CHECKS,
    received_at=T0,
    round=RoundTrigger(
        cause="[]", name_part="checks-0123456789", head="a" * 40, number=1, of=3, decided_at=T0
    ),
)


@pytest.mark.parametrize(("swapped", "shown"), [("True", True), ("False", False)])
def test_a_label_is_never_left_from_a_round(swapped: str, shown: bool) -> None:
    by_label = task(1, by=trigger(T1), LabelsShown=swapped)
    a_round = task(2, by=A_ROUND, created=T2)
    latest = latest_of([by_label, a_round])
    assert latest is not None
    assert (latest.name, latest.is_round, latest.run) == (a_round.name, True, 2)
    assert latest.labels_shown is shown
    assert latest.labeled_at == T1
    alone = latest_of([a_round])
    assert alone is not None
    assert alone.labels_shown
    before = latest_of([task(1, by=A_ROUND), task(2, by=trigger(T1), created=T2)])
    assert before is not None
    assert not before.is_round


def test_the_name_of_a_round_follows_from_its_cause_and_is_a_label() -> None:
    names = {task(run, by=A_ROUND).name for run in (1, 7)}
    assert len(names) == 1
    [name] = names
    assert name.endswith("-checks-0123456789")
    far = item(9_999_999_999).model_copy(update={"kind": ItemKind.CHANGE, "repository": f"o/{'r' * 90}"})
    assert len(task(1, of=far, by=A_ROUND).name) <= 58


CHANGE = item(8).model_copy(update={"kind": ItemKind.CHANGE})
REVIEWED, CHECKED = ([CHANGE, item()], "eve"), ([CHANGE, item()], "")


@pytest.mark.parametrize(
    ("events", "change", "author"),
    [
        ([REVIEWED], 8, "eve"),
        ([CHECKED], 8, ""),
        ([REVIEWED, ([CHANGE, item()], "mallory")], 8, "mallory"),
        ([REVIEWED, CHECKED], 8, ""),
        ([CHECKED, REVIEWED], 8, ""),
        ([([item()], "")], None, ""),
        ([CHECKED, ([item()], "")], None, ""),
        ([([item()], ""), CHECKED], None, ""),
        ([CHECKED, ([CHANGE.model_copy(update={"number": 9})], "")], None, ""),
    ],
)
def test_a_stored_look_asks_for_what_all_its_events_ask_for(
    events: list[tuple[list[Item], str]], change: int | None, author: str
) -> None:
    annotations: dict[str, str] = {}
    for items, by in events:
        annotations |= must_look(task(annotations=annotations), T1, items, by)["metadata"]["annotations"]
    assert stored_look(task(annotations=annotations)) == StoredLook(at=T1, change=change, author=author)


@pytest.mark.parametrize(
    ("annotation", "found"),
    [(None, None), (T1.isoformat(), StoredLook()), ('{"change":8,"later":1}', StoredLook())],
)
def test_a_stored_look_of_another_version_asks_for_all_changes(
    annotation: str | None, found: StoredLook | None
) -> None:
    annotations = {} if annotation is None else {ANNOTATION_LOOK: annotation}
    assert stored_look(task(annotations=annotations)) == found
