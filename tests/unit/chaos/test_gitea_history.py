"""What Gitea remembers decides what happened, and the recorded requests decide when."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from coding_agent_testbed.forge import git
from coding_agent_testbed.gitea import Api

from tests.chaos.gitea_history import read_events
from tests.chaos.proxies import events_of
from tests.chaos.recorder import Write, token_of

BOT, PLACE = "coding-agent-bot", "acme/pricing"
SECOND = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
LABEL = {"id": 7, "name": "coding agent"}


class Memory(Api):
    """A Gitea that answers from a table; every other list, and every second page, is empty."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers

    def call(self, method: str, path: str, json: Any = None, **query: Any) -> Any:
        if query.get("page", 1) > 1:
            return None
        return self._answers.get(path.removeprefix(f"/repos/{PLACE}/"), [])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "pricing.git"
    files = tmp_path / "files"
    files.mkdir()
    (files / "README.md").write_text("Prices\n")
    git.create(folder, branch="main", files=files)
    return folder


def write(
    method: str, path: str, sent: Any, answer: Any, after: float, *, login: str = BOT, status: int = 201
) -> Write:
    """A request that began so many seconds after `SECOND`, and was answered 0.2 seconds later."""
    began = SECOND + timedelta(seconds=after)
    ended = began + timedelta(seconds=0.2)
    whole = f"/api/v1/repos/{PLACE}/{path}"
    body, content = json.dumps(sent).encode(), json.dumps(answer).encode() if status else b""
    return Write(login, method, whole, body, began, ended, status, content)


def happened(
    repository: Path, timeline: Sequence[Mapping[str, Any]], writes: Sequence[Write]
) -> list[tuple[str, float, str]]:
    """Event, seconds after `SECOND`, and the label or the text; without the opening of the issue."""
    issue = {"number": 1, "user": {"login": "ada"}, "created_at": "2026-11-30T11:00:00Z"}
    issue |= {"title": "Prices", "body": "Round them."}
    api = Memory({"issues": [issue], "issues/1/timeline": timeline})
    events = read_events(api, {PLACE: repository}, writes, BOT)
    assert (events[0].event, events[0].title, events[0].body) == ("opened", "Prices", "Round them.")
    return [(one.event, (one.at - SECOND).total_seconds(), one.label or one.body or "") for one in events[1:]]


def entry(kind: str, body: str, second: int = 0, *, login: str = BOT, **more: Any) -> dict[str, Any]:
    at = (SECOND + timedelta(seconds=second)).isoformat()
    return {"type": kind, "body": body, "user": {"login": login}, "created_at": at, "updated_at": at, **more}


def test_labels_of_one_second_have_the_times_of_their_requests(repository: Path) -> None:
    timeline = [
        entry("label", "1", label=LABEL, login="ada"),
        entry("label", "", label=LABEL, login="ada"),
        entry("label", "1", label=LABEL, login="ada"),
    ]
    writes = [
        write("POST", "issues/1/labels", {"labels": [7]}, {}, 0.1, login="ada"),
        write("DELETE", "issues/1/labels/7", None, None, 0.4, login="ada", status=204),
        write("POST", "issues/1/labels", {"labels": [9]}, {}, 0.5, login="ada"),
        write("POST", "issues/1/labels", {"labels": [7]}, {}, 0.7, login="ada"),
    ]
    assert happened(repository, timeline, writes) == [
        ("labeled", 0.1, "coding agent"),
        ("unlabeled", 0.4, "coding agent"),
        ("labeled", 0.7, "coding agent"),
    ]


def test_a_request_that_changed_nothing_is_no_event(repository: Path) -> None:
    refused = write("POST", "issues/1/labels", {"labels": [7]}, {}, 0.1, status=403)
    on_already = write("POST", "issues/1/labels", {"labels": [7]}, {}, 0.2)
    assert happened(repository, [], [refused, on_already]) == []


def test_the_time_is_that_of_the_request_that_succeeded_within_giteas_second(repository: Path) -> None:
    sent = {"labels": ["coding agent"]}
    writes = [
        write("POST", "issues/1/labels", sent, {}, 0.8, status=500),
        write("POST", "issues/1/labels", sent, {}, 0.9),
    ]
    assert happened(repository, [entry("label", "1", label=LABEL)], writes) == [
        ("labeled", 0.9, "coding agent")
    ]
    assert happened(repository, [entry("label", "1", 1, label=LABEL)], writes) == [
        ("labeled", 1.0, "coding agent")
    ]


def test_what_no_answered_request_explains_has_giteas_time(repository: Path) -> None:
    """Gitea stored both, and was killed before it answered; the second request was never recorded."""
    timeline = [
        entry("label", "1", 3, label=LABEL),
        entry("close", "", 5),
        entry("comment", "done", 9, id=4),
    ]
    writes = [write("POST", "issues/1/labels", {"labels": ["coding agent"]}, None, 3.5, status=0)]
    assert happened(repository, timeline, writes) == [
        ("labeled", 3.5, "coding agent"),
        ("closed", 5.0, ""),
        ("commented", 9.0, "done"),
    ]


def test_the_last_version_of_a_comment_is_the_one_that_gitea_has(repository: Path) -> None:
    created = write("POST", "issues/1/comments", {"body": "waiting"}, {"id": 4}, 0.5)
    edits = [
        write("PATCH", "issues/comments/4", {"body": "working"}, {}, 2.0, status=200),
        write("PATCH", "issues/comments/4", {"body": "done"}, None, 6.0, status=0),
    ]
    comment = entry("comment", "working", id=4)
    assert happened(repository, [comment], [created, *edits]) == [
        ("commented", 0.5, "waiting"),
        ("comment_edited", 2.2, "working"),
    ]
    comment |= {"body": "done", "updated_at": (SECOND + timedelta(seconds=7)).isoformat()}
    assert happened(repository, [comment], [created, *edits])[2:] == [("comment_edited", 7.0, "done")]


def test_a_push_without_an_answer_is_seen_at_the_tip_of_its_branch(repository: Path) -> None:
    commit = git.commit_files(repository, "main", {"a.txt": "1\n"}, "Work")
    [event] = read_events(Memory({}), {PLACE: repository}, [], BOT)
    assert (event.event, event.branch, event.after) == ("pushed", "main", commit)
    assert event.before == git.git(repository, "rev-parse", f"{commit}^").strip()


def test_an_event_of_gitea_says_which_labels_it_shows_unless_the_bot_caused_it() -> None:
    payload = {
        "action": "label_updated",
        "issue": {"number": 3, "pull_request": None, "labels": [{"name": "bug"}, LABEL]},
        "repository": {"full_name": PLACE},
        "sender": {"login": "ada"},
    }
    common = {"repository": PLACE, "kind": "issue", "number": 3}
    assert list(events_of(payload, BOT)) == [
        {**common, "event": "labeled", "label": "bug"},
        {**common, "event": "labeled", "label": "coding agent"},
    ]
    by_bot = {**payload, "sender": {"login": BOT}}
    assert list(events_of(by_bot, BOT)) == [{**common, "event": "label_updated", "label": ""}]


def test_a_token_is_found_in_every_form_in_which_it_is_sent() -> None:
    assert token_of("token abc") == token_of("Bearer abc") == token_of("Basic b2F1dGgyOmFiYw==") == "abc"
    assert token_of("Basic not base64") == token_of("") == ""
