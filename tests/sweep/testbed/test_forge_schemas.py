"""Every answer of a sandbox forge fits what its vendor publishes, refusals included.

What the answers mean is tested with the product's own clients, in tests/integration/forges.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import jwt
import pytest
from coding_agent_forges.github.auth.app import claims
from coding_agent_testbed.forge import ForgeServer
from coding_agent_testbed.forge.apps import Manifest
from coding_agent_testbed.forge.flavours import FLAVOURS
from coding_agent_testbed.forge.git import branch_sha, set_branch
from coding_agent_testbed.forge.github.render_graphql import thread_id
from coding_agent_testbed.forge.gitlab.access import NOUNS
from coding_agent_testbed.forge.gitlab.render import discussion_id
from coding_agent_testbed.forge.model import Role
from fastapi import FastAPI

from tests.fixtures.forge import (
    BOT_TOKEN,
    PERSON_TOKEN,
    READER_TOKEN,
    REPOSITORY,
    client,
    commit,
    git,
    push_fix,
)
from tests.fixtures.github_app import create_app, install, key_pair
from tests.fixtures.github_graphql import validate_exchange
from tests.fixtures.github_openapi import CLOUD, ENTERPRISE, validate_request, validate_response
from tests.fixtures.gitlab_schema import validate_answer
from tests.fixtures.hook_receiver import HookReceiver

EYES = {"content": "eyes"}
COLOR = {"name": "new", "color": "00ff00"}
NARROW = {"repositories": ["pricing"], "permissions": {"contents": "read"}}
JWT = "{jwt}"
INSTALLATIONS = "/app/installations"
"""GitHub's description of this list asks for an account that is a user and an enterprise at once (`allOf`).
So the entries are checked as single installations, whose description is right."""
HOOK = {"url": "{hook}", "content_type": "json", "secret": "x"}


@dataclass(frozen=True)
class Ask:
    """A request with the status of its answer.

    Attributes:
        request: method and path with query; `{words}` stand for ids of the forge and of earlier answers.
        token: may contain `{words}`, too.
        keep: the word for the answer's `id` in later requests.
    """

    request: str
    status: int = 200
    body: dict[str, Any] | None = None
    token: str | None = BOT_TOKEN
    keep: str = ""


GITHUB = (
    Ask("GET /user"),
    Ask("GET /user", 401, token="wrong"),
    Ask("GET /meta", token=None),
    Ask("GET /users/alice"),
    Ask("GET /users/nobody", 404),
    Ask("GET /repos/acme/nothing", 404),
    Ask("GET {repo}"),
    Ask("GET {repo}/labels/bug"),
    Ask("GET /user/repos"),
    Ask("GET {repo}/contents/pricing"),
    Ask("GET {repo}/contents/README.md"),
    Ask("GET {repo}/contents/none", 404),
    Ask("GET {repo}/collaborators/coding-agent-bot/permission"),
    Ask("GET {repo}/collaborators/nobody/permission", 404),
    Ask("GET {repo}/labels"),
    Ask("POST {repo}/labels", 201, COLOR),
    Ask("POST {repo}/labels", 422, COLOR),
    Ask("POST {repo}/issues", 201, {"title": "Second", "body": "Text", "labels": ["bug"]}),
    Ask("POST {repo}/issues", 422, {"title": " "}),
    Ask("GET {repo}/issues?state=all&labels=bug"),
    Ask("GET {repo}/issues/99", 404),
    Ask("PATCH {repo}/issues/1", 200, {"title": "Renamed", "state": "closed"}),
    Ask("POST {repo}/issues/1/labels", 200, {"labels": ["coding agent"]}),
    Ask("GET {repo}/issues/1/labels"),
    Ask("DELETE {repo}/issues/1/labels/coding%20agent"),
    Ask("DELETE {repo}/issues/1/labels/coding%20agent", 404),
    Ask("DELETE {repo}/labels/new", 204),
    Ask("GET {repo}/issues/1/events"),
    Ask("GET {repo}/issues/1/timeline"),
    Ask("POST {repo}/issues/1/comments", 201, {"body": "At work"}, keep="comment"),
    Ask("GET {repo}/issues/comments/{comment}"),
    Ask("PATCH {repo}/issues/comments/{comment}", 200, {"body": "Done"}),
    Ask("POST {repo}/issues/comments/{comment}/reactions", 201, EYES),
    Ask("POST {repo}/issues/comments/{comment}/reactions", 200, EYES),
    Ask("GET {repo}/issues/comments/{comment}/reactions?content=eyes"),
    Ask("GET {repo}/issues/comments/1/reactions", 404),
    Ask("GET {repo}/issues/1/comments"),
    Ask('GET /search/issues?q=label:"bug"+is:issue+state:open+repo:acme/pricing&per_page=5'),
    Ask("GET /search/issues?q=repo:acme/unknown", 422),
    Ask("POST {repo}/pulls", 201, {"title": "Fix", "head": "fix", "base": "main", "body": ""}),
    Ask("POST {repo}/pulls", 422, {"title": "Fix", "head": "fix", "base": "main"}),
    Ask("POST {repo}/pulls", 422, {"title": "Fix", "head": "main", "base": "main"}),
    Ask("POST {repo}/pulls", 422, {"title": "Fix", "head": "nobody:main", "base": "main"}),
    Ask("POST {repo}/pulls", 201, {"title": "Fix", "head": "mallory:main", "base": "main"}),
    Ask("GET /repos/mallory/pricing"),
    Ask("GET {repo}/issues?state=open"),
    Ask("GET {repo}/pulls?head=mallory:main&state=open&base=main"),
    Ask("GET {repo}/issues/{change}"),
    Ask("PATCH {repo}/pulls/{change}", 200, {"state": "closed"}),
    Ask("GET {repo}/pulls/{change}"),
    Ask("GET {repo}/pulls/{change}/reviews"),
    Ask("GET {repo}/pulls/{change}/comments?sort=created&direction=desc"),
    Ask("GET {repo}/pulls/{change}/files"),
    Ask("POST {repo}/pulls/{change}/comments/{first}/replies", 201, {"body": "So be it."}),
    Ask("POST {repo}/pulls/{change}/comments/1/replies", 404, {"body": "To nobody"}),
    Ask("POST {repo}/pulls/{change}/requested_reviewers", 201, {"reviewers": ["reader"]}),
    Ask("GET {repo}/pulls/{change}/requested_reviewers"),
    Ask("POST {repo}/statuses/{sha}", 201, {"state": "pending", "context": "deploy"}),
    Ask("POST {repo}/statuses/{sha}", 201, {"state": "success", "context": "deploy", "target_url": "{hook}"}),
    Ask("POST {repo}/statuses/{sha}", 403, {"state": "success"}, READER_TOKEN),
    Ask("GET {repo}/commits/{sha}/check-runs"),
    Ask("GET {repo}/commits/{sha}/status"),
    Ask("GET {repo}/actions/runs?head_sha={sha}"),
    Ask("GET {repo}/actions/runs/{run}/jobs?filter=latest"),
    Ask("GET {repo}/actions/jobs/{job}/logs", 302),
    Ask("POST {repo}/actions/jobs/{job}/rerun", 201),
    Ask("POST {repo}/actions/runs/{run}/rerun-failed-jobs", 403),  # it runs already
    Ask("POST {repo}/actions/runs/{other_run}/rerun-failed-jobs", 201),
    Ask("GET {repo}/commits/{sha}/check-runs?filter=all"),
    Ask("GET {repo}/actions/runs/{run}/jobs?filter=all"),
    Ask("GET {repo}/activity?ref=refs/heads/fix&per_page=100"),
    Ask("GET {repo}/branches/main"),
    Ask("GET {repo}/branches/release%2F1"),
    Ask("GET {repo}/branches/none", 404),
    Ask("POST {repo}/git/refs", 201, {"ref": "refs/heads/made", "sha": "{sha}"}),
    Ask("POST {repo}/git/refs", 422, {"ref": "refs/heads/made", "sha": "{sha}"}),
    Ask("POST {repo}/git/refs", 403, {"ref": "refs/heads/mine", "sha": "{sha}"}, READER_TOKEN),
    Ask("POST {repo}/hooks", 404, {"name": "web", "events": ["issues"], "config": HOOK}),
    Ask("POST {repo}/hooks", 201, {"name": "web", "events": ["issues"], "config": HOOK}, PERSON_TOKEN),
    Ask("GET {repo}/hooks", token=PERSON_TOKEN),
    Ask("GET {repo}/hooks/{told}/deliveries", token=PERSON_TOKEN),
    Ask("GET {repo}/hooks/{told}/deliveries/{delivery}", token=PERSON_TOKEN),
    Ask("POST {repo}/hooks/{told}/deliveries/{delivery}/attempts", 202, token=PERSON_TOKEN),
    Ask("POST {repo}/hooks/{told}/pings", 204, token=PERSON_TOKEN),
    Ask("POST /app-manifests/{code}/conversions", 201, token=None),
    Ask("POST /app-manifests/{code}/conversions", 404, token=None),
    Ask("GET /app", token=JWT),
    Ask("GET /app", 401),
    Ask("GET /app/installations", token=JWT),
    Ask("GET /app/installations/{installation}", token=JWT),
    Ask("GET /app/installations/1", 404, token=JWT),
    Ask("GET {repo}/installation", token=JWT),
    Ask("GET /repos/mallory/pricing/installation", 404, token=JWT),
    Ask("POST /app/installations/{installation}/access_tokens", 201, token=JWT),
    Ask("POST /app/installations/{installation}/access_tokens", 201, NARROW, JWT),
    Ask("POST /app/installations/{installation}/access_tokens", 422, {"repositories": ["none"]}, JWT),
    Ask("POST /app/installations/{installation}/access_tokens", 422, {"permissions": {"pages": "read"}}, JWT),
    Ask("POST /app/installations/{suspended}/access_tokens", 403, token=JWT),
    Ask("GET /app/installations/{suspended}", token=JWT),
    Ask("DELETE /installation/token", 204, token="{installed}"),
)
MERGE = {"title": "Fix", "source_branch": "fix", "target_branch": "main", "description": "- [ ] tests"}
FROM_A_FORK = {"title": "Fix", "source_branch": "main", "target_branch": "main"}
GITLAB = (
    Ask("GET /version"),
    Ask("GET /personal_access_tokens/self"),
    Ask("GET /personal_access_tokens/self", 401, token="wrong"),
    Ask("GET /user"),
    Ask("GET /user", 401, token=None),
    Ask("GET /users?username=reader"),
    Ask("GET {repo}"),
    Ask("GET /projects/acme/pricing", 404),  # a path must be URL-encoded
    Ask("GET {repo}/members/all/{reader}"),
    Ask("GET {repo}/members/{reader}"),
    Ask("GET {repo}/members/all/1", 404),
    Ask("GET {repo}/labels"),
    Ask("POST {repo}/labels", 201, COLOR | {"color": "#00ff00"}),
    Ask("POST {repo}/labels", 409, COLOR | {"color": "#00ff00"}),
    Ask("DELETE {repo}/labels/new", 204),
    Ask("DELETE {repo}/labels/new", 404),
    Ask("POST {repo}/issues", 201, {"title": "Second", "labels": "bug,urgent"}),
    Ask("POST {repo}/issues", 400, {}),
    Ask("GET {repo}/issues/99", 404),
    Ask("GET {repo}/issues/1"),
    Ask("GET {repo}/issues?labels=bug&state=opened"),
    Ask("GET /issues?scope=all&labels=bug,urgent"),
    Ask("GET /groups/acme/issues?author_username=alice"),
    Ask("GET /groups/acme/projects"),
    Ask("GET {repo}/repository/tree"),
    Ask("GET {repo}/repository/files/none/raw", 404),
    Ask("PUT {repo}/issues/1", 200, {"add_labels": "coding agent", "remove_labels": "bug"}),
    Ask("PUT {repo}/issues/1", 200, {"remove_labels": "bug"}),  # which is not there any more
    Ask("PUT {repo}/issues/1", 200, {"title": "Renamed", "state_event": "close"}),
    Ask("GET {repo}/issues/1/resource_label_events"),
    Ask("GET {repo}/issues/1/resource_state_events"),
    Ask("POST {repo}/issues/1/notes", 201, {"body": "At work"}, keep="comment"),
    Ask("PUT {repo}/issues/1/notes/{comment}", 200, {"body": "Done"}),
    Ask("PUT {repo}/issues/1/notes/{comment}", 403, {"body": "Not mine"}, READER_TOKEN),
    Ask("GET {repo}/issues/1/notes/{comment}"),
    Ask("POST {repo}/issues/1/notes/{comment}/award_emoji", 201, {"name": "eyes"}),
    Ask("POST {repo}/issues/1/notes/{comment}/award_emoji", 404, {"name": "eyes"}),  # a second time
    Ask("GET {repo}/issues/1/notes/{comment}/award_emoji"),
    Ask("GET {repo}/issues/1/notes/1/award_emoji", 404),
    Ask("GET {repo}/issues/1/notes?sort=asc&order_by=created_at"),
    Ask("GET {repo}/issues/1/discussions", keep="talk"),
    Ask("POST {repo}/issues/1/discussions/{talk}/notes", 404, {"body": "Yes."}),
    Ask("POST {repo}/merge_requests", 403, MERGE, READER_TOKEN),
    Ask("POST {repo}/merge_requests", 201, MERGE),
    Ask("POST {repo}/merge_requests", 409, MERGE),
    Ask("POST {repo}/merge_requests", 400, MERGE | {"source_branch": "none"}),
    Ask("POST {repo}/merge_requests", 404, FROM_A_FORK | {"target_project_id": 4711}),
    Ask("POST {fork}/merge_requests", 201, FROM_A_FORK | {"target_project_id": "{origin}"}),
    Ask("GET {fork}"),
    Ask("GET {repo}/merge_requests?source_branch=fix&state=opened"),
    Ask("GET /merge_requests?scope=all&labels=bug"),
    Ask("PUT {repo}/merge_requests/1", 200, {"add_labels": "bug", "description": "- [x] tests"}),
    Ask("PUT {repo}/merge_requests/1", 200, {"state_event": "close"}),
    Ask("GET /groups/acme/merge_requests?labels=bug"),
    Ask("GET {repo}/merge_requests/1"),
    Ask("POST {repo}/merge_requests/1/notes", 201, {"body": "Seen"}, keep="seen"),
    Ask("GET {repo}/merge_requests/1/notes/{seen}"),
    Ask("PUT {repo}/merge_requests/1/notes/{seen}", 200, {"body": "Read"}),
    Ask("POST {repo}/merge_requests/1/notes/{seen}/award_emoji", 201, {"name": "eyes"}),
    Ask("GET {repo}/merge_requests/1/notes/{seen}/award_emoji"),
    Ask("GET {repo}/merge_requests/1/resource_label_events"),
    Ask("GET {repo}/merge_requests/1/resource_state_events"),
    Ask("GET {repo}/merge_requests/1/notes?sort=asc"),
    Ask("GET {repo}/merge_requests/1/discussions"),
    Ask("GET {repo}/merge_requests/1/versions", keep="version"),
    Ask("GET {repo}/merge_requests/1/versions/{version}"),
    Ask("POST {repo}/merge_requests/{change}/discussions/{discussion}/notes", 201, {"body": "So be it."}),
    Ask("POST {repo}/merge_requests/{change}/discussions/abc/notes", 404, {"body": "To nobody"}),
    Ask("PUT {repo}/merge_requests/{change}/discussions/{discussion}?resolved=true"),
    Ask(
        "PUT {repo}/merge_requests/{change}/discussions/{discussion}", 403, {"resolved": False}, READER_TOKEN
    ),
    Ask("GET {repo}/merge_requests/{change}/reviewers"),
    Ask("GET {repo}/merge_requests/{change}"),
    Ask("PUT {repo}/merge_requests/{change}", 200, {"reviewer_ids": ["{reader}"]}),
    Ask("POST {repo}/statuses/{sha}", 201, {"state": "pending", "name": "deploy"}),
    Ask("POST {repo}/statuses/{sha}", 201, {"state": "success", "name": "deploy", "target_url": "{hook}"}),
    Ask("POST {repo}/statuses/" + "0" * 40, 404, {"state": "success"}),
    Ask("GET {repo}/repository/commits/{sha}/statuses"),
    Ask("GET {repo}/pipelines?sha={sha}&ref=reviewed"),
    Ask("GET {repo}/pipelines/{run}"),
    Ask("GET {repo}/pipelines/{run}/jobs?scope[]=failed"),
    Ask("POST {repo}/jobs/{job}/retry", 201),
    Ask("POST {repo}/jobs/{job}/retry", 404),  # a newer one replaces it
    Ask("POST {repo}/pipelines/{run}/retry", 201),
    Ask("GET {repo}/pipelines/{run}/jobs?include_retried=true"),
    Ask("GET {repo}/repository/branches/main"),
    Ask("GET {repo}/repository/branches/release%2F1"),
    Ask("GET {repo}/repository/branches/none", 404),
    Ask("POST {repo}/hooks", 201, {"url": "{hook}", "issues_events": True}, PERSON_TOKEN),
    Ask("GET {repo}/hooks", token=PERSON_TOKEN),
    Ask("GET {repo}/hooks/{told}/events", token=PERSON_TOKEN),
    Ask("POST {repo}/hooks/{told}/events/{delivery}/resend", 201, token=PERSON_TOKEN),
    Ask("POST /personal_access_tokens/self/rotate", 400, {"expires_at": "2020-01-01"}),
    Ask("POST /personal_access_tokens/self/rotate", 200),
    Ask("GET /user", 401),  # the old token is void
)
UNCHECKED = {
    ("POST", "/api/graphql"): "its answers are checked against GitHub's GraphQL schema",
    ("POST", "/settings/apps/new"): "a page, and no part of the API",
    ("POST", "/organizations/{organization}/settings/apps/new"): "a page, and no part of the API",
    ("GET", "/_storage/logs/{job}"): "a file, and no part of the API",
    ("GET", "/user-attachments/assets/{name}"): "a file, and no part of the API",
    ("GET", "/api/v3/repos/{owner}/{repo}/contents"): "described below a path alone, where it is checked",
    ("GET", "/api/v4/projects/{project}/jobs/{job}/trace"): "a text, and no JSON",
    ("GET", "/api/v4/projects/{project}/repository/files/{file}/raw"): "a text, and no JSON",
    ("GET", "/api/v4/projects/{project}/uploads/{secret}/{name}"): "a file, and no JSON",
    (
        "POST",
        "/api/v4/projects/{project}/issues/{iid}/discussions/{discussion}/notes",
    ): "the sandbox has no threads on issues, so it only ever refuses this",
}
"""Routes of the sandbox whose answers have no schema here, and why."""


@pytest.fixture(params=["github", "gitlab"])
def forge(request: pytest.FixtureRequest, tmp_path: Path, hook_receiver: HookReceiver) -> ForgeServer:
    """A forge with a fork, a protected branch, a delivery, a change with a review, a thread and checks."""
    forge: ForgeServer = request.getfixturevalue(f"{request.param}_forge")
    forge.add_check(REPOSITORY, push_fix(forge, tmp_path), "unit", "failure", log=b"It broke.")
    sha = push_fix(forge, tmp_path, "reviewed")
    number = forge.open_change(REPOSITORY, "reviewed", "main")
    git("commit", "--quiet", "--allow-empty", "--message", "More", cwd=tmp_path / "tree-fix")
    git("push", "--quiet", "origin", "fix:reviewed", "--force", cwd=tmp_path / "tree-fix")
    forge.review(REPOSITORY, number, "APPROVED", "Good.", by="alice")
    place = {"path": "pricing/discount.py", "line": 3, "start_line": 1}
    thread = forge.start_thread(REPOSITORY, number, "Why?", by="alice", **place)
    forge.run(lambda: forge.sandbox.reviews.reply(thread, forge.user("reader"), "So."))
    forge.comment(REPOSITORY, number, "By itself", kind="change")
    head = forge.item(REPOSITORY, number, "change").tips.head_sha
    assert head != sha
    forge.add_check(REPOSITORY, head, "unit", "failure", summary="1 failed", log=b"It broke.")
    if request.param == "github":
        forge.add_check(REPOSITORY, head, "jenkins", "error", summary="Build 7")  # a status of a commit
    fork = forge.fork(REPOSITORY, "mallory", roles={"coding-agent-bot": Role.WRITE})
    commit(fork.path, "main")
    forge.protect(REPOSITORY, "release/*")
    set_branch(forge.repository(REPOSITORY).path, "release/1", "main")
    forge.add_hook(REPOSITORY, hook_receiver.url)
    forge.add_label(REPOSITORY, 1, "coding agent processing")
    forge.wait_for(forge.sandbox.deliveries.all_ended)
    return forge


def words_of(forge: ForgeServer, hook: str) -> dict[str, Any]:
    """What stands for `{words}` in requests."""
    store, repository = forge.sandbox.store, forge.repository(REPOSITORY)
    [change] = [item for item in repository.items if item.head == "reviewed"]
    [check, *_] = forge.sandbox.reviews.checks(repository, change.tips.head_sha)
    [other] = forge.sandbox.reviews.checks(repository, branch_sha(repository.path, "fix") or "")
    [thread] = forge.sandbox.reviews.threads(change)
    delivery = forge.sandbox.deliveries.log[0]
    return {
        "repo": f"/repos/{REPOSITORY}" if forge.flavour == "github" else "/projects/acme%2Fpricing",
        "fork": "/projects/mallory%2Fpricing",
        "origin": repository.id,
        "reader": forge.user("reader").id,
        "change": change.number,
        "sha": change.tips.head_sha,
        "run": check.run,
        "other_run": other.run,
        "job": check.id,
        "first": thread.comments[0].id,
        "discussion": discussion_id(thread.id),
        "hook": hook,
        "told": store.hooks[0].id,
        "delivery": delivery.id,
        **(words_of_app(forge) if forge.flavour == "github" else {}),
    }


def words_of_app(forge: ForgeServer) -> dict[str, Any]:
    """Create an App with two installations, one of them suspended, and a token of the other."""
    app = create_app(forge)
    installation, suspended = install(forge, app), install(forge, app)
    installed = forge.sandbox.store.apps.exchange(installation, [], None).actor.token
    suspended.suspended_at = now = datetime.now(UTC)
    jwt_of_app = jwt.encode(dict(claims(app.id, now)), key_pair()[0], algorithm="RS256")
    manifest = Manifest("My agent", forge.user("alice"), {"metadata": "read"})
    return {
        "installation": installation.id,
        "suspended": suspended.id,
        "jwt": jwt_of_app,
        "installed": installed,
        "code": forge.sandbox.store.apps.plan(manifest),
    }


def filled(value: Any, words: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: filled(entry, words) for key, entry in value.items()}
    return value.format(**words) if isinstance(value, str) else value


def mismatches(forge: ForgeServer, asks: tuple[Ask, ...], words: dict[str, Any]) -> Iterator[str]:
    """Ask in this order; what does not fit, or is answered with another status."""
    for ask in asks:
        method, _, path = ask.request.format(**words).partition(" ")
        body, where = filled(ask.body, words), urlsplit(path)
        with client(forge, filled(ask.token, words)) as api:
            answer = api.request(method, path, json=body)
        if answer.status_code != ask.status:
            yield f"{method} {path}: {answer.status_code} {answer.text[:500]}"
            continue
        shown: Any = answer.json() if answer.content else None
        if ask.keep:
            words[ask.keep] = shown["id"] if isinstance(shown, dict) else shown[0]["id"]
        try:
            if forge.flavour == "gitlab":
                validate_answer(method, where.path, ask.status, shown)
                continue
            for product in (ENTERPRISE, CLOUD):
                if ask.status != 422:
                    query = dict(parse_qsl(where.query))
                    validate_request(method, where.path, query, body, product=product)
                if where.path == INSTALLATIONS and ask.status == 200:
                    for one in shown:
                        path = f"{INSTALLATIONS}/{one['id']}"
                        validate_response(method, path, ask.status, one, product=product)
                    continue
                validate_response(method, where.path, ask.status, shown, product=product)
        except AssertionError as error:
            yield str(error)


def test_every_answer_fits_what_the_vendor_publishes(forge: ForgeServer, hook_receiver: HookReceiver) -> None:
    asks = {"github": GITHUB, "gitlab": GITLAB}[forge.flavour.value]
    assert list(mismatches(forge, asks, words_of(forge, hook_receiver.url))) == []
    answered = [(entry.method, entry.path) for entry in forge.sandbox.requests if entry.status < 400]
    unchecked = [
        (method, route)
        for method, route in routes(forge)
        if (method, route) not in UNCHECKED
        and not any(asked == method and is_at(path, route) for asked, path in answered)
    ]
    assert unchecked == [], "routes of the sandbox with no answer that was checked"


def routes(forge: ForgeServer) -> Iterator[tuple[str, str]]:
    """Every method and path of the forge's API."""
    app = FastAPI()
    app.include_router(FLAVOURS[forge.flavour].router())
    for path, operations in app.openapi()["paths"].items():
        for noun in NOUNS if "{noun}" in path else [""]:
            yield from ((method.upper(), path.replace("{noun}", noun)) for method in operations)


def is_at(path: str, route: str) -> bool:
    """Whether a request's path is one of a route's."""
    pattern = re.sub(r"\\{\w+\\}", r"[^/]+", re.escape(route))
    return re.fullmatch(pattern, path) is not None


RESOLVE = """
mutation($thread: ID!) {
  resolveReviewThread(input: {threadId: $thread}) { thread { id isResolved } }
}
"""


def test_a_thread_is_resolved_as_github_does(github_forge: ForgeServer, tmp_path: Path) -> None:
    push_fix(github_forge, tmp_path)
    number = github_forge.open_change(REPOSITORY, "fix", "main")
    thread = github_forge.start_thread(REPOSITORY, number, "Why?", path="pricing/discount.py", line=3)
    body = {"query": RESOLVE, "variables": {"thread": thread_id(thread)}}
    shown: dict[str, Any]
    for token, resolved in ((READER_TOKEN, False), (BOT_TOKEN, True)):
        with client(github_forge, token) as api:
            shown = api.post(f"{github_forge.base_url}/api/graphql", json=body).json()
        assert (thread.resolved_by is not None) is resolved
        assert ("errors" in shown) is not resolved
    assert shown["data"]["resolveReviewThread"]["thread"]["isResolved"]
    validate_exchange(body, shown)
