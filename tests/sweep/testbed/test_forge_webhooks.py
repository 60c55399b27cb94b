"""The sandbox forges' webhooks: proven as the vendor does, in its shapes, logged, and sent again."""

from collections import Counter
from pathlib import Path

import pytest
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.github import webhooks as github
from coding_agent_testbed.forge.gitlab import webhooks as gitlab

from tests.fixtures.forge import PERSON_TOKEN, REPOSITORY, client, commit, git, push_fix
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
    items(forge, forge.open_issue(REPOSITORY, "Another"), "issue")
    sha = push_fix(forge, folder)
    number = forge.open_change(REPOSITORY, "fix", "main")
    items(forge, number, "change")
    reviews_and_checks(forge, number, sha)
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
    if forge.flavour == "gitlab":
        for result in ("cancelled", "action_required"):
            head = commit(forge.repository(REPOSITORY).path, "odd", {"odd.md": result})
            forge.add_check(REPOSITORY, head, "unit", result, log=b"")
        number = forge.open_issue(REPOSITORY, "Secret", confidential=True)
        items(forge, number, "issue")
    with client(forge, PERSON_TOKEN) as api:
        if forge.flavour == "github":
            [hook] = forge.sandbox.store.hooks
            assert api.post(f"/repos/{REPOSITORY}/hooks/{hook.id}/pings").status_code == 204


def items(forge: ForgeServer, number: int, kind: str) -> None:
    """All that happens to an issue and a change alike; in the end the label is deleted."""
    forge.edit(REPOSITORY, number, title="New", body="Text", kind=kind)
    forge.close(REPOSITORY, number, kind=kind)
    forge.reopen(REPOSITORY, number, kind=kind)
    forge.comment(REPOSITORY, number, "Please hurry", kind=kind)
    forge.add_label(REPOSITORY, number, "coding agent", kind=kind)
    forge.remove_label(REPOSITORY, number, "coding agent", kind=kind)
    forge.add_label(REPOSITORY, number, "of no use", kind=kind)
    forge.delete_label(REPOSITORY, "of no use")


def reviews_and_checks(forge: ForgeServer, number: int, sha: str) -> None:
    """All that people and other programs say of a change."""
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


def test_every_payload_fits_what_the_vendor_publishes(
    forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    forge.add_hook(REPOSITORY, hook_receiver.url)
    everything(forge, tmp_path)
    forge.wait_for(forge.sandbox.deliveries.all_ended)
    received = hook_receiver.deliveries
    header = f"x-{forge.flavour.value}-event"
    told = Counter((entry.headers[header], action_of(entry)) for entry in received)
    if forge.flavour == "github":
        applied = [entry.payload["label"]["name"] for entry in received if action_of(entry) == "labeled"]
        assert applied.count("coding agent") == 3, "a label that is there already is not told"
    listed = github.EVENTS if forge.flavour == "github" else gitlab.EVENTS
    assert set(told) == {(event, action) for event, actions in listed.items() for action in actions}
    for entry in received:
        if forge.flavour == "github":
            validate_payload(entry.headers[header], entry.payload)
        else:
            validate_event(entry.headers[header], entry.payload)
    actors = {
        "github": lambda payload: payload.get("sender", {}).get("login"),
        "gitlab": lambda payload: payload["user"]["username"],
    }
    people = {actors[forge.flavour.value](entry.payload) for entry in received} - {None}
    assert people == {"alice", "coding-agent-bot", "reader"}


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


def action_of(received: Received) -> str | None:
    """The event's action; a pipeline's status."""
    payload = received.payload
    if "x-github-event" in received.headers:
        return payload.get("action")
    return str(payload["object_attributes"].get("action") or payload["object_attributes"]["status"])


def name_of(received: Received) -> str:
    """The event with its action."""
    if "x-github-event" in received.headers:
        return ".".join(filter(None, (received.headers["x-github-event"], action_of(received))))
    return f"{received.headers['x-gitlab-event']} {action_of(received)}"


def test_reviews_and_checks_are_told_as_the_vendor_does(
    forge: ForgeServer, hook_receiver: HookReceiver, tmp_path: Path
) -> None:
    sha = push_fix(forge, tmp_path)
    number = forge.open_change(REPOSITORY, "fix", "main")
    forge.add_hook(REPOSITORY, hook_receiver.url)
    reviews_and_checks(forge, number, sha)
    expected = REVIEWED[forge.flavour.value]
    hook_receiver.wait_for_count(len(expected))
    forge.wait_for(forge.sandbox.deliveries.all_ended)
    assert Counter(map(name_of, hook_receiver.deliveries)) == Counter(expected)


def test_gitlab_makes_no_note_of_quick_actions_alone(gitlab_forge: ForgeServer) -> None:
    with client(gitlab_forge, PERSON_TOKEN) as api:
        where = f"/projects/{REPOSITORY.replace('/', '%2F')}/issues/1/notes"
        answer = api.post(where, json={"body": '/label ~"coding agent"'})
    assert answer.status_code == 202
    assert "coding agent" in [label.name for label in gitlab_forge.item(REPOSITORY, 1).labels]
    assert gitlab_forge.item(REPOSITORY, 1).comments == []


def test_github_reads_a_body_as_json_whatever_its_type(github_forge: ForgeServer) -> None:
    with client(github_forge, PERSON_TOKEN) as api:
        form = {"content-type": "application/x-www-form-urlencoded"}
        where = f"/repos/{REPOSITORY}/issues/1/labels"
        answer = api.post(where, content=b'{"labels": ["coding agent"]}', headers=form)
    assert answer.status_code == 200, answer.text
