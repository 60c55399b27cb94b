"""The sandbox forges' webhooks: proven as the vendor does, in its shapes, logged, and sent again."""

from collections import Counter
from pathlib import Path

import pytest
from coding_agent_forge import ForgeServer

from tests.fixtures.forge import REPOSITORY, commit, git, push_fix
from tests.fixtures.github_webhook_schema import validate_payload
from tests.fixtures.gitlab_webhook_schema import validate_event
from tests.fixtures.hook_receiver import HookReceiver, Received


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest) -> ForgeServer:
    """Both forges."""
    forge: ForgeServer = request.getfixturevalue(f"{request.param}_forge")
    return forge


def everything(forge: ForgeServer, folder: Path) -> None:
    """All that is told, once at least; one change is merged, the other one loses its fork."""
    forge.add_label(REPOSITORY, 1, "coding agent")
    forge.add_label(REPOSITORY, 1, "coding agent")  # it is there already: nothing is told
    forge.remove_label(REPOSITORY, 1, "coding agent", by="coding-agent-bot")
    forge.open_issue(REPOSITORY, "Another")
    forge.edit(REPOSITORY, 1, title="New", body="Text")
    forge.close(REPOSITORY, 1)
    forge.reopen(REPOSITORY, 1)
    forge.comment(REPOSITORY, 1, "Please hurry")
    push_fix(forge, folder)
    number = forge.open_change(REPOSITORY, "fix", "main")
    forge.comment(REPOSITORY, number, "Seen", kind="change")
    forge.add_label(REPOSITORY, number, "coding agent", kind="change")
    forge.remove_label(REPOSITORY, number, "coding agent", kind="change")
    git("commit", "--allow-empty", "-m", "more", cwd=folder / "tree-fix")
    git("push", "origin", "fix", cwd=folder / "tree-fix")
    fork = forge.fork(REPOSITORY, "mallory")
    commit(fork.path, "main")
    number = forge.open_change(REPOSITORY, "main", "main", source=fork)
    forge.run(
        lambda: forge.item(REPOSITORY, number, "change").labels.append(forge.item(REPOSITORY, 1).labels[0])
    )
    forge.delete("mallory/pricing")
    forge.remove_label(REPOSITORY, number, "bug", kind="change")
    git("push", "origin", "fix:main", cwd=folder / "tree-fix")


def event_of(forge: ForgeServer, received: Received) -> str:
    if forge.flavour == "github":
        return f"{received.headers['x-github-event']}.{received.payload['action']}"
    return f"{received.headers['x-gitlab-event']}.{received.payload['object_attributes']['action']}"


def test_every_payload_fits_what_the_vendor_publishes(
    forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    forge.add_hook(REPOSITORY, hook_receiver.url)
    everything(forge, tmp_path)
    received = hook_receiver.wait_for_count(15)
    told = Counter(event_of(forge, entry) for entry in received)
    labeled = "issues.labeled" if forge.flavour == "github" else "Issue Hook.update"
    assert told[labeled] == (1 if forge.flavour == "github" else 3), "a label that is there is told once"
    for entry in received:
        if forge.flavour == "github":
            validate_payload(entry.headers["x-github-event"], entry.payload)
    actors = {
        "github": lambda payload: payload["sender"]["login"],
        "gitlab": lambda payload: payload["user"]["username"],
    }
    assert {actors[forge.flavour.value](entry.payload) for entry in received} == {"alice", "coding-agent-bot"}


REVIEWED = {
    "github": [
        "check_run.created",
        "check_run.completed",
        "check_suite.completed",
        "check_run.created",
        "check_run.completed",
        "check_suite.completed",
        "status",
        "status",
        "pull_request_review.submitted",
        "pull_request_review.submitted",
        "pull_request_review_comment.created",
        "pull_request_review_comment.created",
        "pull_request.review_requested",
        "pull_request_review.submitted",
    ],
    "gitlab": [
        "Pipeline Hook running",
        "Pipeline Hook failed",
        "Pipeline Hook pending",
        "Pipeline Hook success",
        "Pipeline Hook running",
        "Pipeline Hook success",
        "Note Hook create",  # the text of "request changes", which tells nothing else
        "Note Hook create",
        "Note Hook create",
        "Merge Request Hook update",
        "Merge Request Hook approved",
    ],
}


def name_of(received: Received) -> str:
    """The event, its action, and a pipeline's status."""
    headers, payload = received.headers, received.payload
    if "x-github-event" in headers:
        return ".".join(filter(None, (headers["x-github-event"], payload.get("action"))))
    attributes = payload["object_attributes"]
    return f"{headers['x-gitlab-event']} {attributes.get('action') or attributes['status']}"


def test_reviews_and_checks_are_told_as_the_vendor_does(
    forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    sha = push_fix(forge, tmp_path)
    number = forge.open_change(REPOSITORY, "fix", "main")
    forge.add_hook(REPOSITORY, hook_receiver.url)
    forge.add_check(REPOSITORY, sha, "unit", log=b"")
    failed = forge.add_check(REPOSITORY, sha, "unit", "failure", log=b"It broke.")
    forge.rerun(REPOSITORY, failed)
    forge.add_check(REPOSITORY, sha, "unit", "success", log=b"Fine.")
    forge.add_check(REPOSITORY, sha, "deploy")
    forge.add_check(REPOSITORY, sha, "deploy", "success", url="https://deploy.example/7")
    forge.review(REPOSITORY, number, "CHANGES_REQUESTED", "Not yet.")
    thread = forge.start_thread(REPOSITORY, number, "Why?", path="pricing/discount.py", line=3)
    forge.reply(thread, "Because.", by="coding-agent-bot")
    forge.resolve(thread)
    forge.request_review(REPOSITORY, number, "reader", by="coding-agent-bot")
    forge.review(REPOSITORY, number, "APPROVED", by="reader")
    expected = REVIEWED[forge.flavour.value]
    received = hook_receiver.wait_for_count(len(expected))
    forge.wait_for(forge.sandbox.deliveries.all_ended)
    assert Counter(map(name_of, received)) == Counter(expected)
    for entry in received:
        if forge.flavour == "github":
            validate_payload(entry.headers["x-github-event"], entry.payload)
        else:
            validate_event(entry.payload)
