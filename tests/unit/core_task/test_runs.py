"""The runs of an item: their order, what they answer, and what is written on them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.agenttask import (
    ANNOTATION_ANSWERED,
    ANNOTATION_DUPLICATE_OF,
    ANNOTATION_RESCAN,
    LABEL_REPORTED,
    RESCAN,
    AgentTask,
    manifest,
)
from coding_agent_core.task.item_history import Position
from coding_agent_core.task.model import Cause, Item, Origin, RoundTrigger, TaskRequest, Trigger, task_name
from coding_agent_core.task.runs import (
    StoredRescan,
    answered_by,
    item_read,
    next_run,
    rescan_change,
    rescan_item,
    rescanned,
    runs_of,
    stored_rescan,
)

from tests.fixtures.deliveries import issue

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
T1, T2 = T0 + timedelta(minutes=1), T0 + timedelta(minutes=2)
WEBHOOK = Trigger(origin=Origin.WEBHOOK, received_at=T0)


def task(
    run: int = 1,
    *,
    of: Item | None = None,
    by: Trigger = WEBHOOK,
    cancel: bool = False,
    annotations: dict[str, str] | None = None,
    reported: str | None = None,
    created: datetime = T0,
    answers: str | None = None,
    **conditions: str,
) -> AgentTask:
    """Return a run.

    Args:
        answers: what its attempt has read last.
    """
    body = manifest(TaskRequest(item=of or issue(7), trigger=by), run=run, timeout_seconds=60, max_attempts=3)
    body["metadata"] |= {"creationTimestamp": created.isoformat(), "resourceVersion": f"{run}0"}
    body["metadata"].setdefault("annotations", {}).update(annotations or {})
    if reported is not None:
        body["metadata"]["labels"][LABEL_REPORTED] = reported
    body["spec"]["cancel"] = cancel
    attempt: dict[str, Any] = {"number": 1, "job": "j", "startTime": T0.isoformat(), "answered": answers}
    body["status"] = {
        "attempts": [] if answers is None else [attempt],
        "conditions": [
            {"type": name, "status": is_, "reason": "Because", "lastTransitionTime": created.isoformat()}
            for name, is_ in conditions.items()
        ],
    }
    return AgentTask.of(body)


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
        assert runs_of(issue(7), runs) == [older, newest]


def test_others_with_the_same_hash_are_not_the_items() -> None:
    assert runs_of(issue(7), [task(of=issue(8))]) == []


@pytest.mark.parametrize(
    ("runs", "taken", "free"), [([], [], 1), ([], [1], 2), ([1], [1], 2), ([1], [1, 2, 3], 4)]
)
def test_the_next_run_has_the_first_number_whose_name_is_free(
    runs: list[int], taken: list[int], free: int
) -> None:
    stored = [AgentTask.of({"metadata": {"name": task_name(issue(7), number)}}) for number in taken]
    assert next_run(issue(7), [task(number) for number in runs], stored) == free


NOTED = {ANNOTATION_ANSWERED: "5"}


@pytest.mark.parametrize(
    ("of", "answered"),
    [
        (task(), None),
        (task(annotations=NOTED), 5),
        (task(annotations=NOTED, answers="3"), 5),  # another attempt follows
        (
            task(annotations=NOTED, answers="3", Succeeded="True"),
            3,
        ),  # a label that came after the work is new
        (task(annotations=NOTED, answers="3", cancel=True, Succeeded="False"), 5),
        (task(annotations={ANNOTATION_ANSWERED: "edited"}), None),
    ],
)
def test_a_run_answers_what_its_last_attempt_has_read(of: AgentTask, answered: int | None) -> None:
    assert answered_by(of) == (None if answered is None else Position((answered,)))


A_ROUND = Trigger(
    origin=Origin.POLL,
    cause=Cause.CHECKS,
    received_at=T0,
    round=RoundTrigger(
        cause="[]", name_part="checks-0123456789", head="a" * 40, number=1, of=3, decided_at=T0
    ),
)


def test_the_name_of_a_round_follows_from_its_cause_and_is_a_label() -> None:
    names = {task(run, by=A_ROUND).name for run in (1, 7)}
    assert len(names) == 1
    [name] = names
    assert name.endswith("-checks-0123456789")
    far = issue(9_999_999_999).model_copy(update={"kind": ItemKind.CHANGE, "repository": f"o/{'r' * 90}"})
    assert len(task(1, of=far, by=A_ROUND).name) <= 58


CHANGE = issue(8).model_copy(update={"kind": ItemKind.CHANGE})
REVIEWED, CHECKED = ([CHANGE, issue(7)], "eve"), ([CHANGE, issue(7)], "")


@pytest.mark.parametrize(
    ("events", "change", "author"),
    [
        ([REVIEWED], 8, "eve"),
        ([CHECKED], 8, ""),
        ([REVIEWED, ([CHANGE, issue(7)], "mallory")], 8, "mallory"),
        ([REVIEWED, CHECKED], 8, ""),
        ([CHECKED, REVIEWED], 8, ""),
        ([([issue(7)], "")], None, ""),
        ([CHECKED, ([issue(7)], "")], None, ""),
        ([([issue(7)], ""), CHECKED], None, ""),
        ([CHECKED, ([CHANGE.model_copy(update={"number": 9})], "")], None, ""),
    ],
)
def test_a_request_asks_for_what_all_its_events_ask_for(
    events: list[tuple[list[Item], str]], change: int | None, author: str
) -> None:
    annotations: dict[str, str] = {}
    for items, by in events:
        annotations |= rescan_change(task(annotations=annotations), T1, items, by)["metadata"]["annotations"]
    wanted = StoredRescan(at=T1, changes=True, change=change, author=author)
    assert stored_rescan(task(annotations=annotations)) == wanted


def test_a_label_and_a_change_are_asked_for_in_one_request_and_answered_by_themselves() -> None:
    both = dict(rescan_item(task(), T1, T0)["metadata"]["annotations"])
    both |= rescan_change(task(annotations=both), T2, [CHANGE], "eve")["metadata"]["annotations"]
    wanted = StoredRescan(at=T2, labels=True, event_at=T0, changes=True, change=8, author="eve")
    assert stored_rescan(task(annotations=both)) == wanted
    done = rescanned(task(annotations=both), item=True)
    assert done is not None
    left = stored_rescan(task(annotations=done["metadata"]["annotations"]))
    assert left == StoredRescan(at=T2, changes=True, change=8, author="eve")
    assert rescanned(task(), item=True) is None


def test_a_run_whose_end_is_shown_is_watched_again_until_its_item_was_read() -> None:
    asked = rescan_item(task(reported="true"), T1, None)["metadata"]
    assert asked["labels"] == {LABEL_REPORTED: RESCAN}
    assert "labels" not in rescan_item(task(), T1, None)["metadata"]
    done = rescanned(task(reported=RESCAN, annotations=asked["annotations"]), item=True)
    assert done is not None
    assert done["metadata"]["annotations"] == {ANNOTATION_RESCAN: None}


def test_a_request_that_somebody_edited_asks_for_everything() -> None:
    assert stored_rescan(task(annotations={ANNOTATION_RESCAN: "?"})) == StoredRescan(
        labels=True, changes=True
    )


def test_what_a_run_answers_and_that_its_item_was_read_is_one_patch() -> None:
    asked = task(annotations=dict(rescan_item(task(), T1, None)["metadata"]["annotations"]))
    five = Position((5,))

    def annotations(of: AgentTask, answers: Position | None, *, done: bool) -> dict[str, str | None]:
        patch = item_read(of, answers, done=done)
        return {} if patch is None else patch["metadata"]["annotations"]

    assert annotations(asked, five, done=True) == {ANNOTATION_ANSWERED: "5", ANNOTATION_RESCAN: None}
    assert annotations(asked, five, done=False) == {ANNOTATION_ANSWERED: "5"}
    assert annotations(asked, None, done=True) == {ANNOTATION_RESCAN: None}
    assert annotations(task(annotations=NOTED), five, done=True) == {}
