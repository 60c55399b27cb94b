"""Commands as an AgentTask stores them until the reporter executes them."""

import json
from typing import Any

import pytest
from coding_agent_core.task.agenttask import LABEL_REPORTED, RESCAN, AgentTask, manifest
from coding_agent_core.task.commands import (
    ANNOTATION_COMMANDS,
    LABEL_COMMANDS,
    LIMIT_PER_NAME,
    CommandIgnored,
    IssueCommand,
    executed,
    next_command,
    store,
    stored_commands,
)
from coding_agent_core.task.model import CommandName

from tests.unit.core_task.test_commands import command as of
from tests.unit.core_task.test_commands import minutes

CANCEL, RETRY, RUN = CommandName.CANCEL, CommandName.RETRY, CommandName.RUN


def command(name: CommandName = RUN, comment: int = 1, user: str = "alice", minute: int = 0) -> IssueCommand:
    more = {"comment": str(comment), "user": user, "delivery_id": f"d-{comment}", "url": "https://h/7"}
    return of(name, minutes(minute), **more, trusted=True)


def task(
    *commands: IssueCommand, annotation: str | None = None, labels: dict[str, str] | None = None
) -> AgentTask:
    body = manifest(command().request(None), run=1, timeout_seconds=60, max_attempts=3)
    body["metadata"]["labels"] |= labels or {}
    if annotation is not None:
        body["metadata"]["annotations"] = {ANNOTATION_COMMANDS: annotation}
    stored_on = AgentTask.of(body)
    for entry in commands:
        patch = store(stored_on, entry)
        assert not isinstance(patch, CommandIgnored), patch.why
        stored_on = patched(stored_on, patch)
    return stored_on


def patched(known: AgentTask, patch: dict[str, Any]) -> AgentTask:
    def merged(part: str) -> dict[str, str]:
        values = {**getattr(known.metadata, part), **patch["metadata"][part]}
        return {name: value for name, value in values.items() if value is not None}

    metadata = known.metadata._replace(labels=merged("labels"), annotations=merged("annotations"))
    return AgentTask(metadata, {"spec": known.spec.to_wire()})


def waiting(on: AgentTask) -> list[str]:
    return [entry.comment for entry in stored_commands(on)]


def run_next(on: AgentTask, *, stopped: bool = False) -> AgentTask:
    following = next_command(on)
    assert following is not None
    return patched(on, executed(on, following, stopped=stopped))


def test_a_command_is_stored_and_comes_back_as_it_was() -> None:
    body = task(command())
    assert body.metadata.labels[LABEL_COMMANDS] == "pending"
    (stored,) = stored_commands(body)
    assert stored.on(body.spec) == command()
    assert set(json.loads(body.metadata.annotations[ANNOTATION_COMMANDS])[0]) == {
        *("delivery_id", "name", "user", "at", "comment", "received_at")
    }, "the documented list"
    body = run_next(body)
    assert next_command(body) is None
    assert LABEL_COMMANDS not in body.metadata.labels
    assert ANNOTATION_COMMANDS not in body.metadata.annotations


def test_a_task_whose_end_was_shown_is_watched_again() -> None:
    for label, after in (("true", RESCAN), (RESCAN, RESCAN), (None, None)):
        before = task(labels={LABEL_REPORTED: label} if label else {})
        patch = store(before, command())
        assert not isinstance(patch, CommandIgnored)
        assert patched(before, patch).metadata.labels.get(LABEL_REPORTED) == after
    ended = patched(task(command()), {"metadata": {"labels": {LABEL_REPORTED: "true"}, "annotations": {}}})
    assert LABEL_REPORTED in run_next(ended).metadata.labels


def test_an_author_has_one_command_of_each_name_the_newest() -> None:
    body = task(command(RUN, 1), command(CANCEL, 2), command(RUN, 3, "ALICE", minute=1))
    assert waiting(body) == ["2", "3"]
    assert isinstance(store(body, command(RUN, 3, minute=1)), CommandIgnored), "delivered again"
    assert isinstance(store(body, command(RUN, 1)), CommandIgnored), "delivered late"


def test_strangers_neither_push_out_a_command_nor_keep_a_cancel_from_being_stored() -> None:
    body = task(command(RUN, 1))
    for number in range(60):
        patch = store(body, command(RUN, 100 + number, f"stranger-{number}"))
        body = body if isinstance(patch, CommandIgnored) else patched(body, patch)
        patch = store(body, command(RUN, 500 + number, "one-stranger", minute=number))
        body = body if isinstance(patch, CommandIgnored) else patched(body, patch)
    assert len(waiting(body)) == LIMIT_PER_NAME
    assert waiting(body)[0] == "1"
    refused = store(body, command(RUN, 2, "bob"))
    assert isinstance(refused, CommandIgnored)
    assert "is the reporter running?" in refused.why
    patch = store(body, command(CANCEL, 3, "bob"))
    assert not isinstance(patch, CommandIgnored)
    following = next_command(patched(body, patch))
    assert following is not None
    assert following.comment == "3", "a cancel does not wait behind anything"


def test_a_cancel_that_overtakes_older_requests_for_a_run_ends_them() -> None:
    body = task(
        command(RUN, 1), command(RETRY, 2), command(CANCEL, 3, minute=1), command(RUN, 4, "bob", minute=2)
    )
    assert waiting(run_next(body, stopped=True)) == ["4"]
    assert waiting(run_next(body, stopped=False)) == ["1", "2", "4"], "its author may not give it"


ZONELESS = {"comment": "1", "user": "a", "received_at": "2026-11-25T12:00:00"}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"name": "cancel", **ZONELESS}]),
        "",
        "edited by hand",
        "{}",
        "7",
        "null",
        '[{"name": "walk"}, 7]',
        "[" * 99999,
    ],
)
def test_what_was_edited_by_hand_is_left_out(text: str) -> None:
    assert stored_commands(task(annotation=text)) == []
