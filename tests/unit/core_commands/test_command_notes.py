"""Commands as they are kept on an AgentTask."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.agenttask import LABEL_ACTIVE, LABEL_ITEM, LABEL_REPORTED, manifest, parse_spec
from coding_agent_core.command_notes import (
    ANNOTATION_COMMANDS,
    LABEL_COMMANDS,
    LIMIT,
    TooManyCommandsError,
    added,
    is_mailbox,
    knows,
    last_status,
    mailbox,
    noted_on,
    settled,
)
from coding_agent_core.commands import CommandName, IssueCommand
from coding_agent_core.kubernetes.runs import latest_of, mailbox_of, runs_of
from coding_agent_core.tasks import GitHubIssueKey, Item

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def item(number: int = 7) -> Item:
    key = GitHubIssueKey(owner="octo", repo="demo", number=number)
    return Item(host="github.com", repository="octo/demo", key=key)


def command(
    comment: str = "1", name: CommandName = CommandName.RUN, *, of: Item | None = None
) -> IssueCommand:
    return IssueCommand(
        item=of or item(),
        name=name,
        comment=comment,
        user="alice",
        at=T0,
        delivery_id=f"d-{comment}",
        received_at=T0,
        title="It is broken",
        url="https://github.com/octo/demo/issues/7",
    )


def task(annotation: str | None = None) -> dict[str, Any]:
    body = manifest(command("0").request(), run=1, uuid="u", timeout_seconds=60, max_attempts=3)
    body["metadata"] |= {"resourceVersion": "10"}
    if annotation is not None:
        body["metadata"]["annotations"] = {ANNOTATION_COMMANDS: annotation}
    return body


def patched(body: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    meta = patch["metadata"]
    assert meta["resourceVersion"] == body["metadata"]["resourceVersion"]
    labels = {**body["metadata"]["labels"], **meta.get("labels", {})}
    return {
        **body,
        "metadata": {
            **body["metadata"],
            "labels": {name: value for name, value in labels.items() if value is not None},
            "annotations": {**body["metadata"].get("annotations", {}), **meta["annotations"]},
        },
    }


def test_a_command_is_noted_and_comes_back_as_it_was() -> None:
    body = patched(task(), added(task(), command()))
    assert body["metadata"]["labels"][LABEL_COMMANDS] == "pending"
    (noted,) = noted_on(body)
    assert noted.of(parse_spec(body)) == command()
    assert knows(body, command())
    assert not knows(body, command("2"))


def test_the_annotation_is_the_documented_list() -> None:
    text = added(task(), command())["metadata"]["annotations"][ANNOTATION_COMMANDS]
    assert json.loads(text) == [
        {
            "id": "d-1",
            "command": "run",
            "user": "alice",
            "at": "2026-11-25T12:00:00Z",
            "comment": "1",
            "received": "2026-11-25T12:00:00Z",
        }
    ]


def test_a_task_whose_end_was_shown_is_watched_again() -> None:
    shown = task()
    shown["metadata"]["labels"][LABEL_REPORTED] = "true"
    body = patched(shown, added(shown, command()))
    assert LABEL_REPORTED not in body["metadata"]["labels"]
    body["metadata"]["labels"][LABEL_REPORTED] = "true"
    assert LABEL_REPORTED in patched(body, settled(body, "1", "done"))["metadata"]["labels"]


def test_the_newest_answered_status_is_known() -> None:
    body = task()
    assert last_status(body) is None
    for comment, name, result in (
        ("1", CommandName.STATUS, "done"),
        ("2", CommandName.STATUS, "done"),
        ("3", CommandName.STATUS, "refused"),
        ("4", CommandName.RUN, "done"),
    ):
        body = patched(body, added(body, command(comment, name)))
        body = patched(body, settled(body, comment, result))
    body = patched(body, added(body, command("5", CommandName.STATUS)))
    assert last_status(body) == ("alice", T0)


def test_what_was_carried_out_stays_known_and_waits_no_more() -> None:
    body = patched(task(), added(task(), command()))
    body = patched(body, added(body, command("2")))
    body = patched(body, settled(body, "1", "done"))
    assert [each.pending for each in noted_on(body)] == [False, True]
    assert body["metadata"]["labels"][LABEL_COMMANDS] == "pending"
    body = patched(body, settled(body, "2", "nothing"))
    assert [each.result for each in noted_on(body)] == ["done", "nothing"]
    assert LABEL_COMMANDS not in body["metadata"]["labels"]
    assert knows(body, command("1"))
    assert knows(body, command("2"))


def test_those_carried_out_make_room_and_those_that_wait_never_do() -> None:
    body = task()
    for number in range(LIMIT):
        body = patched(body, added(body, command(str(number))))
    with pytest.raises(TooManyCommandsError, match="is the reporter running"):
        added(body, command("99"))
    body = patched(body, settled(body, "5", "done"))
    body = patched(body, added(body, command("99")))
    kept = [each.comment for each in noted_on(body)]
    assert (len(kept), "5" in kept, kept[-1]) == (LIMIT, False, "99")


@pytest.mark.parametrize(
    "text", ["", "edited by hand", "{}", "7", "null", '[{"command": "walk"}, 7]', "[" * 99999]
)
def test_what_was_edited_by_hand_is_left_out(text: str) -> None:
    assert noted_on(task(text)) == []


def test_a_mailbox_is_no_run_unless_a_person_resumes_it() -> None:
    box = mailbox(command(), uuid="u")
    box["metadata"] |= {"resourceVersion": "1", "creationTimestamp": "2026-11-25T12:00:00Z"}
    assert box["spec"]["suspend"] is True
    assert LABEL_ACTIVE not in box["metadata"]["labels"]
    assert box["metadata"]["labels"][LABEL_ITEM] == task()["metadata"]["labels"][LABEL_ITEM]
    assert [each.comment for each in noted_on(box)] == ["1"]
    listed = [box, mailbox(command(of=item(8)), uuid="v")]
    assert is_mailbox(box)
    assert mailbox_of(item(), listed) is box
    assert latest_of(runs_of(item(), listed)) is None
    box["spec"]["suspend"] = False
    assert mailbox_of(item(), listed) is None
    assert [each["metadata"]["name"] for each in runs_of(item(), listed)] == [box["metadata"]["name"]]


def test_a_mailbox_has_room_for_an_attempts_number_in_its_name() -> None:
    long = item(999_999).model_copy(
        update={"key": GitHubIssueKey(owner="o" * 39, repo="r" * 100, number=999_999)}
    )
    assert len(mailbox(command(of=long), uuid="u")["metadata"]["name"]) <= 63 - len("-20")
