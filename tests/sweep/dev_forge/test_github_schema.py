"""Every answer of the sandbox GitHub fits GitHub's own OpenAPI description, refusals included."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from coding_agent_forge import ForgeServer
from coding_agent_forge.git import set_branch
from coding_agent_forge.model import Role

from tests.fixtures.forge import BOT_TOKEN, PERSON_TOKEN, REPOSITORY, client, commit, git, push_fix
from tests.fixtures.github_openapi import CLOUD, ENTERPRISE, validate_request, validate_response
from tests.fixtures.hook_receiver import HookReceiver

REPO = f"/repos/{REPOSITORY}"


class Checked:
    """Asks the forge, and checks each request and answer."""

    def __init__(self, forge: ForgeServer, product: str) -> None:
        self._forge, self._product = forge, product

    def __call__(
        self,
        method: str,
        path: str,
        status: int,
        body: Any = None,
        *,
        token: str | None = BOT_TOKEN,
        gone: bool = False,
    ) -> Any:
        """`gone`: a fork is missing in the answer, which the description does not foresee: it requires
        `head.repo` (https://github.com/github/rest-api-description/issues/161)."""
        parts = urlsplit(path)
        if status != 422:
            query = dict(parse_qsl(parts.query))
            validate_request(method, parts.path, query, body, product=self._product)
        with client(self._forge, token) as api:
            answer = api.request(method, path, json=body)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        shown = answer.json() if answer.content else None
        described = shown
        if gone:
            assert shown["head"]["repo"] is None
            described = shown | {"head": shown["head"] | {"repo": shown["base"]["repo"]}}
        validate_response(method, parts.path, status, described, product=self._product)
        return shown


@pytest.fixture(params=[ENTERPRISE, CLOUD])
def ask(request: pytest.FixtureRequest, github_forge: ForgeServer) -> Checked:
    return Checked(github_forge, request.param)


def test_repository_and_people(ask: Checked) -> None:
    assert ask("GET", "/user", 200)["login"] == "coding-agent-bot"
    ask("GET", "/user", 401, token="wrong")
    assert ask("GET", "/users/alice", 200)["login"] == "alice"
    ask("GET", "/users/nobody", 404)
    ask("GET", "/meta", 200, token=None)
    assert ask("GET", REPO, 200)["default_branch"] == "main"
    ask("GET", "/repos/acme/nothing", 404)
    assert ask("GET", f"{REPO}/collaborators/coding-agent-bot/permission", 200)["permission"] == "write"
    assert ask("GET", f"{REPO}/collaborators/reader/permission", 200)["permission"] == "read"
    ask("GET", f"{REPO}/collaborators/nobody/permission", 404)


def test_issues_with_labels_and_comments(ask: Checked) -> None:
    assert ask("POST", f"{REPO}/issues", 201, {"title": "Second", "labels": ["bug"]})["number"] == 2
    ask("POST", f"{REPO}/issues", 422, {"title": " "})
    assert len(ask("GET", f"{REPO}/issues?state=all&labels=bug", 200)) == 2
    assert ask("GET", f"{REPO}/issues/2", 200)["title"] == "Second"
    ask("GET", f"{REPO}/issues/99", 404)
    assert ask("PATCH", f"{REPO}/issues/2", 200, {"state": "closed"})["state"] == "closed"
    labels = ask("POST", f"{REPO}/issues/1/labels", 200, {"labels": ["coding agent"]})
    assert [label["name"] for label in labels] == ["bug", "coding agent"]
    ask("GET", f"{REPO}/issues/1/labels", 200)
    ask("DELETE", f"{REPO}/issues/1/labels/coding%20agent", 200)
    ask("DELETE", f"{REPO}/issues/1/labels/coding%20agent", 404)
    comment = ask("POST", f"{REPO}/issues/1/comments", 201, {"body": "At work"})
    ask("PATCH", f"{REPO}/issues/comments/{comment['id']}", 200, {"body": "Done"})
    assert [entry["body"] for entry in ask("GET", f"{REPO}/issues/1/comments", 200)] == ["Done"]
    assert [found["event"] for found in ask("GET", f"{REPO}/issues/1/events", 200)][-2:] == [
        "labeled",
        "unlabeled",
    ]
    reactions = f"{REPO}/issues/comments/{comment['id']}/reactions"
    seen = ask("POST", reactions, 201, {"content": "eyes"})
    assert ask("POST", reactions, 200, {"content": "eyes"}) == seen
    assert ask("GET", f"{reactions}?content=eyes", 200) == [seen]
    assert ask("GET", f"{reactions}?content=heart", 200) == []
    assert ask("GET", f"{REPO}/issues/1/comments", 200)[0]["reactions"]["eyes"] == 1
    ask("GET", f"{REPO}/issues/comments/1/reactions", 404)
    ask("GET", f"{REPO}/labels", 200)
    ask("POST", f"{REPO}/labels", 201, {"name": "new", "color": "00ff00"})
    ask("POST", f"{REPO}/labels", 422, {"name": "new", "color": "00ff00"})


def test_pull_requests(ask: Checked, github_forge: ForgeServer, tmp_path: Path) -> None:
    new = {"title": "Fix", "head": "fix", "base": "main", "body": "Closes #1"}
    ask("POST", f"{REPO}/pulls", 422, new)
    push_fix(github_forge, tmp_path)
    pull = ask("POST", f"{REPO}/pulls", 201, new)
    assert (pull["number"], pull["commits"], pull["additions"], pull["deletions"]) == (2, 1, 1, 1)
    refused = ask("POST", f"{REPO}/pulls", 422, new)
    assert refused["errors"][0]["message"] == "A pull request already exists for acme:fix."
    refused = ask("POST", f"{REPO}/pulls", 422, new | {"head": "main"})
    assert refused["errors"][0]["message"] == "No commits between main and main"
    ask("GET", f"{REPO}/pulls/2", 200)
    assert len(ask("GET", f"{REPO}/pulls?head=acme:fix&state=open&base=main", 200)) == 1
    assert ask("GET", f"{REPO}/pulls?head=acme:other", 200) == []
    ask("POST", f"{REPO}/issues/2/labels", 200, {"labels": ["bug"]})
    assert "pull_request" in ask("GET", f"{REPO}/issues/2", 200)
    assert ask("PATCH", f"{REPO}/pulls/2", 200, {"state": "closed"})["merged"] is False


def test_edits_of_an_issue(ask: Checked, github_forge: ForgeServer) -> None:
    github_forge.edit(REPOSITORY, 1, title="Renamed", body="Edited", by="alice")
    [renamed] = [one for one in ask("GET", f"{REPO}/issues/1/events", 200) if one["event"] == "renamed"]
    assert (renamed["rename"]["to"], renamed["actor"]["login"]) == ("Renamed", "alice")


def test_who_pushed_to_a_branch(ask: Checked, github_forge: ForgeServer, tmp_path: Path) -> None:
    assert ask("GET", f"{REPO}/activity", 200) == []
    first = push_fix(github_forge, tmp_path)
    tree = tmp_path / "tree-fix"
    git("commit", "--quiet", "--amend", "--message", "Again", cwd=tree)
    git("push", "--quiet", "--force", "origin", "fix", cwd=tree)
    git("push", "--quiet", "origin", "fix:other", cwd=tree)
    newest, oldest = ask("GET", f"{REPO}/activity?ref=refs/heads/fix&per_page=100", 200)
    assert (oldest["activity_type"], oldest["after"]) == ("branch_creation", first)
    assert (newest["activity_type"], newest["before"]) == ("force_push", first)
    assert newest["actor"]["login"] == "coding-agent-bot"
    assert len(ask("GET", f"{REPO}/activity?ref=other", 200)) == 1
    with client(github_forge) as api:
        page = api.get(f"{REPO}/activity?ref=fix&per_page=1")
        assert page.json() == [newest]
        assert api.get(page.links["next"]["url"]).json() == [oldest]


def test_branches_and_which_of_them_are_protected(ask: Checked, github_forge: ForgeServer) -> None:
    assert ask("GET", f"{REPO}/branches/main", 200)["protected"] is False
    github_forge.protect(REPOSITORY, "main", "release/*")
    assert ask("GET", f"{REPO}/branches/main", 200)["protected"] is True
    path = github_forge.repository(REPOSITORY).path
    set_branch(path, "release/1", "main")
    assert ask("GET", f"{REPO}/branches/release%2F1", 200)["protected"] is True
    ask("GET", f"{REPO}/branches/none", 404)


def test_a_pull_request_from_a_fork_until_it_is_gone(ask: Checked, github_forge: ForgeServer) -> None:
    fork = github_forge.fork(REPOSITORY, "mallory", roles={"coding-agent-bot": Role.WRITE})
    commit(fork.path, "main")
    new = {"title": "Fix", "head": "mallory:main", "base": "main"}
    ask("POST", f"{REPO}/pulls", 422, new | {"head": "nobody:main"})
    pull = ask("POST", f"{REPO}/pulls", 201, new)
    assert (pull["head"]["label"], pull["head"]["repo"]["full_name"]) == ("mallory:main", "mallory/pricing")
    assert (pull["commits"], pull["base"]["repo"]["full_name"]) == (1, REPOSITORY)
    assert ask("GET", "/repos/mallory/pricing", 200)["parent"]["full_name"] == REPOSITORY
    assert len(ask("GET", f"{REPO}/pulls?head=mallory:main", 200)) == 1
    assert ask("GET", f"{REPO}/pulls?head=acme:main", 200) == []
    where = f"{REPO}/pulls/{pull['number']}"
    fork.private, fork.roles = True, {}
    ask("GET", "/repos/mallory/pricing", 404)
    assert ask("GET", where, 200, gone=True)["head"]["label"] == "mallory:main"
    assert ask("GET", where, 200, token=PERSON_TOKEN)["head"]["repo"], "who sees the fork"
    github_forge.delete("mallory/pricing")
    assert ask("GET", where, 200, token=PERSON_TOKEN, gone=True)["head"]["ref"] == "main"


def test_reviews_and_checks(ask: Checked, github_forge: ForgeServer, tmp_path: Path) -> None:
    sha = push_fix(github_forge, tmp_path)
    ask("POST", f"{REPO}/pulls", 201, {"title": "Fix", "head": "fix", "base": "main", "body": ""})
    github_forge.review(REPOSITORY, 2, "APPROVED", "Good.", by="alice")
    place = {"path": "pricing/discount.py", "line": 3}
    thread = github_forge.start_thread(REPOSITORY, 2, "Why?", start_line=1, by="alice", **place)
    github_forge.run(lambda: github_forge.sandbox.reviews.reply(thread, github_forge.user("reader"), "So."))
    github_forge.add_check(REPOSITORY, sha, "unit", "failure", summary="1 failed", log=b"It broke.")
    github_forge.add_check(REPOSITORY, sha, "jenkins", "error", summary="Build 7")

    states = [review["state"] for review in ask("GET", f"{REPO}/pulls/2/reviews", 200)]
    assert states == ["APPROVED", "COMMENTED"]
    newest, first = ask("GET", f"{REPO}/pulls/2/comments?sort=created&direction=desc", 200)
    assert (newest["in_reply_to_id"], first["line"], first["start_line"]) == (first["id"], 3, 1)
    [file] = ask("GET", f"{REPO}/pulls/2/files", 200)
    assert (file["filename"], file["status"]) == ("pricing/discount.py", "modified")
    [run] = ask("GET", f"{REPO}/commits/{sha}/check-runs", 200)["check_runs"]
    assert (run["name"], run["conclusion"]) == ("unit", "failure")
    [workflow] = ask("GET", f"{REPO}/actions/runs?head_sha={sha}", 200)["workflow_runs"]
    [job] = ask("GET", f"{REPO}/actions/runs/{workflow['id']}/jobs?filter=latest", 200)["jobs"]
    assert job["id"] == run["id"]
    ask("GET", f"{REPO}/actions/jobs/{job['id']}/logs", 302)
    assert ask("GET", f"{REPO}/commits/{sha}/status", 200)["statuses"][0]["context"] == "jenkins"


def test_search(ask: Checked) -> None:
    found = ask("GET", '/search/issues?q=label:"bug"+is:issue+state:open+repo:acme/pricing&per_page=5', 200)
    assert found["total_count"] == 1
    assert ask("GET", "/search/issues?q=is:pr+user:acme", 200)["items"] == []
    ask("GET", "/search/issues?q=repo:acme/unknown", 422)


def test_hooks_and_deliveries(ask: Checked, github_forge: ForgeServer, hook_receiver: HookReceiver) -> None:
    new = {
        "name": "web",
        "events": ["issues"],
        "config": {"url": hook_receiver.url, "content_type": "json", "secret": "x"},
    }
    ask("POST", f"{REPO}/hooks", 404, new)  # only who owns the repository
    hook = ask("POST", f"{REPO}/hooks", 201, new, token=PERSON_TOKEN)
    hook_receiver.wait_for_count(1)
    assert ask("GET", f"{REPO}/hooks", 200, token=PERSON_TOKEN)[0]["id"] == hook["id"]
    deliveries = f"{REPO}/hooks/{hook['id']}/deliveries"
    github_forge.wait_for(lambda: github_forge.sandbox.deliveries.log[0].status == "OK")
    ping = ask("GET", deliveries, 200, token=PERSON_TOKEN)[0]
    ask("GET", f"{deliveries}/{ping['id']}", 200, token=PERSON_TOKEN)
    ask("POST", f"{deliveries}/{ping['id']}/attempts", 202, token=PERSON_TOKEN)
