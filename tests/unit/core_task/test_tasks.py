"""Task keys are the specification's, names are valid in Kubernetes, messages cross unchanged (S13)."""

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.settings.forges import Labels
from coding_agent_core.task.agenttask import AgentTask, manifest
from coding_agent_core.task.attempts import AttemptInput
from coding_agent_core.task.model import (
    Item,
    Origin,
    TaskRequest,
    Trigger,
    item_of,
    new_uuid,
    parse_time,
    task_name,
)
from coding_agent_core.task.queued_task import QueuedTask
from coding_agent_core.task.runners import RunnerName

from tests.fixtures.deliveries import asked

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")  # RFC 1123

FORMS: dict[str, dict[str, Any]] = {
    "github_issue": {"type": "github_issue", "owner": "o", "repo": "r", "number": 1},
    "github_pull_request": {"type": "github_pull_request", "owner": "o", "repo": "r", "number": 2},
    "gitlab_issue": {"type": "gitlab_issue", "project_id": 3, "issue_iid": 4},
    "gitlab_merge_request": {"type": "gitlab_merge_request", "project_id": 5, "mr_iid": 6},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_keys_are_exactly_the_specifications(form: dict[str, Any]) -> None:
    assert Item.from_key(form, repository="g/p").key == form


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, "type"),
        ({"type": "svn_issue"}, "svn_issue"),
        (FORMS["github_issue"] | {"number": 0}, "number"),
        (FORMS["github_issue"] | {"owner": ""}, "owner"),
        (FORMS["github_issue"] | {"project_id": 1}, "project_id"),
        ({"type": "gitlab_issue", "project_id": 3, "mr_iid": 4}, "iid"),
        (FORMS["gitlab_issue"] | {"project_id": None}, "project_id"),
    ],
)
def test_what_is_no_key_is_refused_by_field(data: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match="not a task key") as error:
        Item.from_key(data)
    assert named in str(error.value)


def whole(form: dict[str, Any]) -> QueuedTask:
    """A task with every field set."""
    item = Item.from_key(form, host="git.example.com:8443", repository="o/r" if "owner" in form else "g/s/p")
    trigger = Trigger(origin=Origin.POLL, delivery_id="d\u2028", labeled_at=NOW, received_at=NOW)
    request = TaskRequest(
        item=item, user="älice", title="日本 `x`", url="https://git.example.com/x", trigger=trigger
    )
    return QueuedTask(request=request, uuid=new_uuid(), run=3, attempt=2)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_a_message_crosses_the_queue_unchanged_and_is_the_specifications_key(form: dict[str, Any]) -> None:
    task = whole(form)
    message = task.to_message()
    wire = json.dumps(message, ensure_ascii=False).encode()
    assert QueuedTask.from_message(json.loads(wire), now=NOW) == task
    message.pop("task")
    assert message == form | {"uuid": task.uuid, "user": "älice"}


@pytest.mark.parametrize("repo", ["a", "x" * 100, "-._", "日本語", "A.b-"])
def test_names_are_labels_with_room_for_run_and_attempt(repo: str) -> None:
    name = task_name(issue(repo=repo, number=10**9))
    assert LABEL.fullmatch(name)
    assert len(f"{name}-r999-99") <= 63
    assert len(name) <= 52
    assert task_name(issue(repo=repo, number=10**9), 2) == f"{name}-r2"


def test_a_name_has_64_bits_of_the_items_hash() -> None:
    # The documents use this name: other code would make them untrue.
    assert task_name(issue("acme", "pricing", 9)) == "pricing-issue-9-5061740b0eaf74b8"


def issue(owner: str = "octo", repo: str = "demo", number: int = 7, host: str = "github.com") -> Item:
    return Item(
        platform=Platform.GITHUB, host=host, repository=f"{owner}/{repo}", kind=ItemKind.ISSUE, number=number
    )


def change() -> Item:
    return Item(
        platform=Platform.GITHUB, host="github.com", repository="octo/demo", kind=ItemKind.CHANGE, number=7
    )


def test_the_letter_case_of_a_repository_makes_no_other_item() -> None:
    shouted = issue("OCTO", "Demo", host="GitHub.com")
    assert issue().identity == shouted.identity
    assert task_name(issue()) == task_name(shouted)


@pytest.mark.parametrize(
    "other",
    [issue(owner="octa"), issue(repo="demo-2"), issue(number=8), issue(host="ghe.example.com"), change()],
)
def test_different_items_have_different_names(other: Item) -> None:
    assert issue().identity != other.identity
    assert task_name(issue()) != task_name(other)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_existing_producers_bare_message_is_read(form: dict[str, Any]) -> None:
    configured = {Platform.GITHUB: "ghe.example.com", Platform.GITLAB: "git.example.com"}
    task_uuid = new_uuid()
    task = QueuedTask.from_message(form | {"uuid": task_uuid, "user": "alice"}, now=NOW, hosts=configured)
    assert task.request.item.key == form
    assert task.request.item.host == configured[task.request.item.platform]
    assert (task.uuid, task.request.user, task.run, task.attempt) == (task_uuid, "alice", 1, 1)
    assert task.request.trigger.received_at == NOW
    assert task.request.item.repository == ("o/r" if "owner" in form else "")


def test_a_key_alone_is_a_task_with_a_uuid_of_its_own() -> None:
    first = QueuedTask.from_message(FORMS["github_issue"], now=NOW)
    second = QueuedTask.from_message(FORMS["github_issue"], now=NOW)
    assert uuid.UUID(first.uuid).version == 4
    assert first.uuid != second.uuid
    assert (first.request.user, first.request.item.host) == ("", "github.com")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ([1, 2], "JSON object"),
        ({"uuid": "x"}, "type"),
        (FORMS["github_issue"] | {"user": 5}, "user"),
        (FORMS["github_issue"] | {"task": "x"}, "task"),
        (FORMS["github_issue"] | {"task": {"attempt": 0}}, "attempt"),
        (FORMS["github_issue"] | {"task": {"trigger": {"origin": "dream"}}}, "origin"),
        (FORMS["github_issue"] | {"task": {"trigger": "yesterday"}}, "rigger"),
    ],
)
def test_what_is_no_task_is_refused_by_field(data: Any, named: str) -> None:
    with pytest.raises(ValueError, match="not a task") as error:
        QueuedTask.from_message(data, now=NOW)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-15T10:30:45Z", datetime(2024, 1, 15, 10, 30, 45, tzinfo=UTC)),
        ("2024-01-15T12:30:45.000+02:00", datetime(2024, 1, 15, 10, 30, 45, tzinfo=UTC)),
        ("2024-01-15 10:30:45 UTC", datetime(2024, 1, 15, 10, 30, 45, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        (None, None),
        (1705314645, None),
    ],
)
def test_time_stamps_of_both_forges(text: object, expected: datetime | None) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    ("url", "project_id", "item"),
    [
        ("https://github.com/octo/demo/issues/7", None, "github|github.com|octo/demo|issue|7"),
        ("https://github.com/octo/demo/pull/8/files?w=1", None, "github|github.com|octo/demo|change|8"),
        (" https://GHE.example.com:8443/Octo/demo.js/pull/7/ ", None,
         "github|ghe.example.com:8443|octo/demo.js|change|7"),
        ("https://gitea.com/octo/demo/issues/7", None, "gitea|gitea.com|octo/demo|issue|7"),
        ("https://code.example.com/octo/demo/pulls/7", None, "gitea|code.example.com|octo/demo|change|7"),
        ("https://gitlab.com/group/project/-/issues/7", 4242, "gitlab|gitlab.com|4242|issue|7"),
        ("https://g.example.com/a/b/c/-/work_items/7#note_1", 4242, "gitlab|g.example.com|4242|issue|7"),
        ("https://gitlab.com/group/sub/-/merge_requests/9/diffs", 4242, "gitlab|gitlab.com|4242|change|9"),
    ],
)  # fmt: skip
def test_the_item_of_an_address(url: str, project_id: int | None, item: str) -> None:
    assert item_of(url, project_id).identity == item


@pytest.mark.parametrize(
    ("url", "project_id", "sentence"),
    [
        ("octo/demo#7", None, "not the address"),
        ("https://github.com/octo/demo", None, "not the address"),
        ("https://github.com/octo/demo/issues/seven", None, "not the address"),
        ("https://github.com/octo/demo/-/issues/7", None, "not the address"),
        ("https://github.com/octo/demo/issues/7", 4242, "for GitLab"),
        ("https://code.example.com/octo/demo/issues/7", None, "GitHub and Gitea have addresses like"),
    ],
)
def test_what_is_none_is_said_with_the_remedy(url: str, project_id: int | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        item_of(url, project_id)


def test_the_host_decides_where_platforms_have_the_same_addresses() -> None:
    url = "https://code.example.com/octo/demo/issues/7"
    assert item_of(url, hosts={"code.example.com": Platform.GITHUB}).platform is Platform.GITHUB
    for address in (url, url.replace("code.", "www.")):
        assert item_of(address, platform=Platform.GITEA).platform is Platform.GITEA
    with pytest.raises(ValueError, match="not the address"):
        item_of(url, hosts={"code.example.com": Platform.GITLAB})


def test_gitlab_without_the_id_is_known_by_its_path() -> None:
    item = item_of("https://gitlab.com/Group/Project/-/issues/7")
    assert item.identity == "gitlab|gitlab.com|group/project|issue|7"


@pytest.mark.parametrize(
    ("labels", "runner"),
    [
        ((), None),
        (("coding agent", "bug"), None),
        (("coding agent: codex", "bug"), RunnerName.CODEX),
        (("coding agent: other",), None),
        (("another bot: codex",), None),
        (("coding agent: opencode", "coding agent: codex"), RunnerName.CODEX),
    ],
)
def test_a_label_after_our_own_names_the_coding_agent(
    labels: tuple[str, ...], runner: RunnerName | None
) -> None:
    assert Labels().runner(labels) is runner


def test_every_coding_agent_has_a_label_that_asks_for_it() -> None:
    labels = Labels(bot_label="robot")
    assert labels.triggers == {"robot", *(f"robot: {name}" for name in RunnerName)}
    assert [labels.trigger(labels.runner({label})) for label in sorted(labels.triggers)] == sorted(
        labels.triggers
    )


@pytest.mark.parametrize("runner", [None, RunnerName.CODEX])
def test_the_choice_is_kept_from_the_label_to_the_attempt(runner: RunnerName | None) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    request = asked().model_copy(update={"runner": runner})
    assert AgentTask.of(manifest(request, run=1)).spec.runner is runner
    queued = QueuedTask(request=request, uuid="u")
    given = AttemptInput(task=queued, max_attempts=1, timeout_seconds=1).to_json()
    assert AttemptInput.from_json(given, now=now).task == queued
