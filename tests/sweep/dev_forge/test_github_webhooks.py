"""The sandbox GitHub's webhooks: signed, in GitHub's shapes, logged, and sent again under the same guid."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

from coding_agent_forge import ForgeServer, Kind

from tests.fixtures.forge import BOT_TOKEN, PERSON_TOKEN, REPOSITORY, client, commit, git, push_fix
from tests.fixtures.github_webhook_schema import validate_payload
from tests.fixtures.hook_receiver import HookReceiver, Received

REPO = f"/repos/{REPOSITORY}"
SECRET = "a secret of the test"


def is_event(event: str, action: str) -> Any:
    def fits(received: Received) -> bool:
        return received.headers["x-github-event"] == event and received.payload.get("action") == action

    return fits


def test_a_label_is_told_signed(github_forge: ForgeServer, hook_receiver: HookReceiver) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url, SECRET, ("issues",))

    github_forge.add_label(REPOSITORY, 1, "coding agent")

    received = hook_receiver.wait_for(is_event("issues", "labeled"))
    digest = hmac.new(SECRET.encode(), received.body, hashlib.sha256).hexdigest()
    assert received.headers["x-hub-signature-256"] == f"sha256={digest}"
    legacy = hmac.new(SECRET.encode(), received.body, hashlib.sha1).hexdigest()
    assert received.headers["x-hub-signature"] == f"sha1={legacy}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"].startswith("GitHub-Hookshot/")
    assert received.payload["label"]["name"] == "coding agent"
    assert received.payload["sender"]["login"] == "alice"


def test_every_payload_fits_githubs_schemas(
    github_forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url)
    github_forge.add_label(REPOSITORY, 1, "coding agent")
    github_forge.remove_label(REPOSITORY, 1, "coding agent")
    github_forge.open_issue(REPOSITORY, "Another")
    github_forge.comment(REPOSITORY, 1, "Please hurry")
    with client(github_forge) as api:
        for change in ({"title": "New", "body": "Text"}, {"state": "closed"}, {"state": "open"}):
            api.patch(f"{REPO}/issues/2", json=change)
        push_fix(github_forge, tmp_path)
        body = {"title": "Fix", "head": "fix", "base": "main"}
        api.post(f"{REPO}/pulls", json=body).raise_for_status()
        api.post(f"{REPO}/issues/3/labels", json={"labels": ["coding agent"]}).raise_for_status()
        api.delete(f"{REPO}/issues/3/labels/coding agent").raise_for_status()
        git("commit", "--allow-empty", "-m", "more", cwd=tmp_path / "tree-fix")
        git("push", "origin", "fix", cwd=tmp_path / "tree-fix")
        for state in ("closed", "open"):
            api.patch(f"{REPO}/pulls/3", json={"state": state}).raise_for_status()
    hook = {"events": ["issues"], "config": {"url": hook_receiver.url, "content_type": "json"}}
    with client(github_forge, PERSON_TOKEN) as api:
        api.post(f"{REPO}/hooks", json=hook).raise_for_status()

    received = hook_receiver.wait_for_count(14)

    for entry in received:
        validate_payload(entry.headers["x-github-event"], entry.payload)
    told = {f"{entry.headers['x-github-event']}.{entry.payload.get('action', '')}" for entry in received}
    issue_actions = ("labeled", "unlabeled", "opened", "edited", "closed", "reopened")
    pull_actions = ("opened", "labeled", "unlabeled", "synchronize", "closed", "reopened")
    assert told == {
        *(f"issues.{action}" for action in issue_actions),
        *(f"pull_request.{action}" for action in pull_actions),
        "issue_comment.created",
        "ping.",
    }


def test_a_pull_request_from_a_fork_that_is_deleted(
    github_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    fork = github_forge.fork(REPOSITORY, "mallory")
    commit(fork.path, "main")
    number = github_forge.open_change(REPOSITORY, "main", "main", source=fork)
    github_forge.add_hook(REPOSITORY, hook_receiver.url)
    for gone in (False, True):
        if gone:
            github_forge.delete("mallory/pricing")
        github_forge.add_label(REPOSITORY, number, f"gone {gone}", kind="change")
        received = hook_receiver.wait_for_count(1 + gone)[-1]
        validate_payload("pull_request", received.payload)
        head = received.payload["pull_request"]["head"]
        assert (head["label"], head["repo"] is None) == ("mallory:main", gone)


def test_who_acted_is_the_sender(github_forge: ForgeServer, hook_receiver: HookReceiver) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url)
    with client(github_forge, BOT_TOKEN) as api:
        api.post(f"{REPO}/issues/1/comments", json={"body": "At work"}).raise_for_status()

    received = hook_receiver.wait_for(is_event("issue_comment", "created"))

    assert received.payload["sender"]["login"] == "coding-agent-bot"


def test_events_that_the_hook_does_not_want_are_not_sent(
    github_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url, events=("issues",))

    github_forge.comment(REPOSITORY, 1, "not for this hook")
    github_forge.add_label(REPOSITORY, 1, "coding agent")

    hook_receiver.wait_for(is_event("issues", "labeled"))
    assert len(github_forge.sandbox.deliveries.log) == 1


def test_nothing_is_told_when_nothing_changed(github_forge: ForgeServer, hook_receiver: HookReceiver) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url)

    github_forge.add_label(REPOSITORY, 1, "bug")  # it is there already

    assert github_forge.sandbox.deliveries.log == []


def test_a_failed_delivery_is_logged_and_sent_again_under_the_same_guid(
    github_forge: ForgeServer, hook_receiver: HookReceiver
) -> None:
    hook = github_forge.add_hook(REPOSITORY, hook_receiver.url, SECRET)
    hook_receiver.status = 503
    github_forge.add_label(REPOSITORY, 1, "coding agent")
    first = hook_receiver.wait_for_count(1)[0]
    hook_receiver.status = 200

    deliveries = f"{REPO}/hooks/{hook}/deliveries"
    with client(github_forge, PERSON_TOKEN) as api:
        _wait_until_ended(github_forge)
        failed = api.get(deliveries).json()[0]
        assert (failed["status_code"], failed["redelivery"]) == (503, False)
        assert [one["id"] for one in api.get(f"{deliveries}?status=failure").json()] == [failed["id"]]
        assert api.post(f"{deliveries}/{failed['id']}/attempts").status_code == 202
        second = hook_receiver.wait_for_count(2)[1]
        _wait_until_ended(github_forge)
        again = api.get(deliveries).json()[0]

    assert second.headers["x-github-delivery"] == first.headers["x-github-delivery"] == again["guid"]
    assert second.body == first.body
    assert again["redelivery"]
    assert again["id"] != failed["id"]


def _wait_until_ended(forge: ForgeServer) -> None:
    log = forge.sandbox.deliveries.log
    forge.wait_for(lambda: all(delivery.status != "pending" for delivery in log))


def test_a_receiver_that_is_not_there_is_a_failed_delivery(github_forge: ForgeServer) -> None:
    github_forge.add_hook(REPOSITORY, "http://127.0.0.1:1/hook")

    github_forge.add_label(REPOSITORY, 1, "coding agent")

    delivery = github_forge.sandbox.deliveries.log[0]
    _wait_until_ended(github_forge)
    assert (delivery.status, delivery.status_code) == ("failed to connect to host", 502)


def test_labels_of_pull_requests_are_told_as_pull_request_events(
    github_forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    github_forge.add_hook(REPOSITORY, hook_receiver.url)
    push_fix(github_forge, tmp_path)
    with client(github_forge) as api:
        body = {"title": "Fix", "head": "fix", "base": "main"}
        api.post(f"{REPO}/pulls", json=body).raise_for_status()

    github_forge.add_label(REPOSITORY, 2, "coding agent", kind=Kind.CHANGE)

    assert hook_receiver.wait_for(is_event("pull_request", "labeled")).payload["number"] == 2
