"""Task keys are the specification's, names are valid in Kubernetes, messages cross unchanged (S13)."""

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from coding_agent_core.messages import QueuedTask
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import (
    Item,
    Origin,
    TaskRequest,
    Trigger,
    host_of,
    new_uuid,
    parse_time,
    task_name,
)
from hypothesis import given
from hypothesis import strategies as st

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


CHARACTERS = st.characters(codec="utf-8")
plain = st.text("abcXYZ019-._", min_size=1, max_size=100)  # what repositories are really called
names = plain | st.text(CHARACTERS, min_size=1, max_size=100)
owners = names.filter(lambda name: "/" not in name)
numbers = st.integers(1, 2**63)


def items_of(hosts: st.SearchStrategy[str], numbers: st.SearchStrategy[int]) -> st.SearchStrategy[Item]:
    kinds = st.sampled_from(ItemKind)
    paths = st.builds("{}/{}".format, owners, names)
    github = st.builds(
        Item,
        platform=st.just(Platform.GITHUB),
        host=hosts,
        repository=paths,
        kind=kinds,
        number=numbers,
        project_id=st.none(),
    )
    gitlab = st.builds(
        Item,
        platform=st.just(Platform.GITLAB),
        host=hosts,
        repository=names,
        kind=kinds,
        number=numbers,
        project_id=numbers,
    )
    return github | gitlab


hosts = st.sampled_from(["github.com", "gitlab.com", "git.example.com:8443"])
items = items_of(hosts, numbers)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
triggers = st.builds(
    Trigger,
    origin=st.sampled_from(Origin),
    delivery_id=st.none() | st.text(max_size=128),
    labeled_at=st.none() | times,
    received_at=times,
)
requests = st.builds(
    TaskRequest,
    item=items,
    user=names,
    title=st.text(CHARACTERS, max_size=1024),
    url=st.just("https://git.example.com/x"),
    trigger=triggers,
)
tasks = st.builds(
    QueuedTask,
    request=requests,
    uuid=st.uuids(version=4).map(str),
    run=st.integers(1, 1000),
    attempt=st.integers(1, 100),
)

real_numbers = st.integers(1, 10**9)  # nobody has a billion issues; a project's id on gitlab.com has 8 digits


@given(items_of(hosts, real_numbers))
def test_names_are_labels_with_room_for_run_and_attempt(item: Item) -> None:
    name = task_name(item)
    assert LABEL.fullmatch(name)
    assert len(f"{task_name(item, 999)}-99") <= 63
    assert len(name) <= 52


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


def test_repositories_that_shorten_to_one_slug_have_different_names() -> None:
    long = "x" * 60
    names = {
        task_name(issue(repo=repo)) for repo in (long + "a", long + "b", "a.b", "a-b", "日本語", "한국어")
    }
    assert len(names) == 6


def test_what_people_see_of_an_item() -> None:
    merge = Item(
        platform=Platform.GITLAB,
        host="gitlab.com",
        repository="g/s/p",
        kind=ItemKind.CHANGE,
        number=3,
        project_id=5,
    )
    bare = Item(
        platform=Platform.GITLAB,
        host="gitlab.com",
        repository="",
        kind=ItemKind.ISSUE,
        number=3,
        project_id=5,
    )
    assert (issue().display, change().display, merge.display, bare.display) == (
        "octo/demo#7",
        "octo/demo#7",
        "g/s/p!3",
        "5#3",
    )
    assert (merge.platform, merge.kind, merge.number) == (Platform.GITLAB, ItemKind.CHANGE, 3)
    assert (bare.platform, bare.kind, bare.number) == (Platform.GITLAB, ItemKind.ISSUE, 3)


@given(tasks)
def test_a_message_crosses_the_queue_unchanged(task: QueuedTask) -> None:
    wire = json.dumps(task.to_message(), ensure_ascii=False).encode()
    assert QueuedTask.from_message(json.loads(wire), now=NOW) == task


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
        ("text", "JSON object"),
        (None, "JSON object"),
        ({"uuid": "x"}, "type"),
        (FORMS["github_issue"] | {"user": 5}, "user"),
        (FORMS["github_issue"] | {"task": "x"}, "task"),
        (FORMS["github_issue"] | {"task": {"attempt": 0}}, "attempt"),
        (FORMS["github_issue"] | {"task": {"run": "many"}}, "run"),
        (FORMS["github_issue"] | {"task": {"title": 5}}, "title"),
        (FORMS["github_issue"] | {"task": {"trigger": {"origin": "dream"}}}, "origin"),
        (FORMS["github_issue"] | {"task": {"trigger": "yesterday"}}, "rigger"),
    ],
)
def test_what_is_no_task_is_refused_by_field(data: Any, named: str) -> None:
    with pytest.raises(ValueError, match="not a task") as error:
        QueuedTask.from_message(data, now=NOW)
    assert named in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(list(FORMS.values())),
    st.dictionaries(st.sampled_from(["type", "number", "uuid", "user", "task"]), json_values),
    st.dictionaries(st.sampled_from(["item", "title", "url", "trigger", "run", "attempt"]), json_values),
)
def test_any_message_is_a_task_or_a_value_error(
    form: dict[str, Any], changes: dict[str, Any], extra: dict[str, Any]
) -> None:
    for message in (form | changes, form | {"task": extra}):
        try:
            task = QueuedTask.from_message(message, now=NOW)
        except ValueError:
            continue
        json.dumps(task.to_message())


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://GitLab.example.com/api/v4", "gitlab.example.com"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("https://user:secret@git.example.com", "git.example.com"),
    ],
)
def test_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-15T10:30:45Z", datetime(2024, 1, 15, 10, 30, 45, tzinfo=UTC)),
        ("2024-01-15T12:30:45.000+02:00", datetime(2024, 1, 15, 10, 30, 45, tzinfo=UTC)),
        ("2024-01-15 10:30:45 UTC", datetime(2024, 1, 15, 10, 30, 45, tzinfo=UTC)),
        ("2024-01-15T10:30:45", datetime(2024, 1, 15, 10, 30, 45, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (1705314645, None),
    ],
)
def test_time_stamps_of_both_forges(text: object, expected: datetime | None) -> None:
    assert parse_time(text) == expected
