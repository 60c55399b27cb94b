"""The sandbox GitLab's webhooks: token, GitLab's shapes, label changes in one event, and sending again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coding_agent_forge import ForgeServer

from tests.fixtures.forge import PERSON_TOKEN, REPOSITORY, client, commit, git, push_fix
from tests.fixtures.gitlab_schema import validate_answer
from tests.fixtures.gitlab_webhook_schema import validate_event
from tests.fixtures.hook_receiver import HookReceiver, Received

PROJECT = "/projects/acme%2Fpricing"
TOKEN = "a token of the test"


def titles(labels: list[dict[str, Any]]) -> list[str]:
    return [label["title"] for label in labels]


def test_a_label_change_tells_before_and_after(
    gitlab_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    gitlab_forge.add_hook(REPOSITORY, hook_receiver.url, TOKEN, ("issues",))
    with client(gitlab_forge) as api:
        swap = {"add_labels": "coding agent processing", "remove_labels": "bug"}
        api.put(f"{PROJECT}/issues/1", json=swap).raise_for_status()

    received = hook_receiver.wait_for_count(1)[0]

    assert received.headers["x-gitlab-event"] == "Issue Hook"
    assert received.headers["x-gitlab-token"] == TOKEN
    assert received.headers["x-gitlab-instance"] == gitlab_forge.base_url
    for header in ("x-gitlab-event-uuid", "x-gitlab-webhook-uuid", "idempotency-key"):
        assert len(received.headers[header]) == 36
    payload = received.payload
    assert payload["object_attributes"]["action"] == "update"
    assert titles(payload["changes"]["labels"]["previous"]) == ["bug"]
    assert titles(payload["changes"]["labels"]["current"]) == ["coding agent processing"]
    assert titles(payload["labels"]) == ["coding agent processing"]
    assert payload["user"]["username"] == "coding-agent-bot"


def test_an_edit_tells_no_label_change(gitlab_forge: ForgeServer, hook_receiver: HookReceiver) -> None:
    gitlab_forge.add_hook(REPOSITORY, hook_receiver.url)
    with client(gitlab_forge) as api:
        api.put(f"{PROJECT}/issues/1", json={"title": "Renamed"}).raise_for_status()

    payload = hook_receiver.wait_for_count(1)[0].payload

    assert "labels" not in payload["changes"]
    assert payload["changes"]["title"]["current"] == "Renamed"


def test_every_payload_is_in_the_documented_shape(
    gitlab_forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    gitlab_forge.add_hook(REPOSITORY, hook_receiver.url)
    with client(gitlab_forge) as api:
        for change in ({"add_labels": "coding agent"}, {"state_event": "close"}, {"state_event": "reopen"}):
            api.put(f"{PROJECT}/issues/1", json=change).raise_for_status()
        secret = {"title": "Secret", "confidential": True}
        api.post(f"{PROJECT}/issues", json=secret).raise_for_status()
        api.post(f"{PROJECT}/issues/1/notes", json={"body": "Seen"}).raise_for_status()
        api.post(f"{PROJECT}/issues/2/notes", json={"body": "Seen"}).raise_for_status()
        push_fix(gitlab_forge, tmp_path)
        new = {"title": "Fix", "source_branch": "fix", "target_branch": "main", "labels": "bug"}
        api.post(f"{PROJECT}/merge_requests", json=new).raise_for_status()
        api.put(f"{PROJECT}/merge_requests/1", json={"add_labels": "coding agent"}).raise_for_status()
        api.post(f"{PROJECT}/merge_requests/1/notes", json={"body": "Seen"}).raise_for_status()
        assert git("push", "origin", "fix:main", cwd=tmp_path / "tree-fix").returncode == 0

    received = hook_receiver.wait_for_count(10)

    for entry in received:
        validate_event(entry.payload)
    told = sorted(
        (entry.headers["x-gitlab-event"], entry.payload["object_attributes"]["action"]) for entry in received
    )
    assert told == [
        ("Confidential Issue Hook", "open"),
        ("Confidential Note Hook", "create"),
        ("Issue Hook", "close"),
        ("Issue Hook", "reopen"),
        ("Issue Hook", "update"),
        ("Merge Request Hook", "merge"),
        ("Merge Request Hook", "open"),
        ("Merge Request Hook", "update"),
        ("Note Hook", "create"),
        ("Note Hook", "create"),
    ]


def test_a_merge_request_from_a_fork_that_is_deleted(
    gitlab_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    fork = gitlab_forge.fork(REPOSITORY, "mallory")
    commit(fork.path, "main")
    number = gitlab_forge.open_change(REPOSITORY, "main", "main", source=fork)
    gitlab_forge.add_hook(REPOSITORY, hook_receiver.url)
    gitlab_forge.add_label(REPOSITORY, number, "coding agent", kind="change")
    gitlab_forge.delete("mallory/pricing")
    gitlab_forge.remove_label(REPOSITORY, number, "coding agent", kind="change")
    received = hook_receiver.wait_for_count(2)
    for entry in received:
        validate_event(entry.payload)
    sources = {entry.payload["object_attributes"]["source_project_id"] for entry in received}
    assert sources == {fork.id, None}


def test_a_hook_of_the_instance_sends_system_hooks(
    gitlab_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    gitlab_forge.add_hook(None, hook_receiver.url, TOKEN)

    gitlab_forge.add_label(REPOSITORY, 1, "coding agent")

    received = hook_receiver.wait_for_count(1)[0]
    assert received.headers["x-gitlab-event"] == "System Hook"
    assert received.payload["object_kind"] == "issue"


def test_sending_again_keeps_the_idempotency_key(
    gitlab_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    with client(gitlab_forge, PERSON_TOKEN) as api:
        new = {"url": hook_receiver.url, "token": TOKEN, "issues_events": True}
        made = api.post(f"{PROJECT}/hooks", json=new)
        validate_answer("POST", f"{PROJECT}/hooks", made.status_code, made.json())
        events = f"{PROJECT}/hooks/{made.json()['id']}/events"
        hook_receiver.status = 500
        gitlab_forge.add_label(REPOSITORY, 1, "coding agent")
        first = hook_receiver.wait_for_count(1)[0]
        hook_receiver.status = 200
        log = gitlab_forge.sandbox.deliveries.log
        gitlab_forge.wait_for(lambda: log[-1].status != "pending")
        listed = api.get(events)
        validate_answer("GET", events, 200, listed.json())

        resend = f"{events}/{listed.json()[0]['id']}/resend"
        again = api.post(resend)

    validate_answer("POST", resend, again.status_code, again.json())
    assert again.json()["response_status"] == 200
    second: Received = hook_receiver.wait_for_count(2)[1]
    assert second.headers["idempotency-key"] == first.headers["idempotency-key"]
    assert second.headers["x-gitlab-token"] == TOKEN
    assert second.body == first.body
    assert TOKEN not in listed.text
