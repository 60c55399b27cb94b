"""The sandbox GitLab's API: every answer in the shape that GitLab documents, refusals included."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from coding_agent_forge import ForgeServer
from coding_agent_forge.git import set_branch
from coding_agent_forge.model import Role

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
from tests.fixtures.gitlab_schema import validate_answer

PROJECT = "/projects/acme%2Fpricing"


class Checked:
    """Asks the forge and checks each answer."""

    def __init__(self, forge: ForgeServer) -> None:
        self._forge = forge

    def full(
        self, method: str, path: str, status: int, body: Any = None, *, token: str | None = BOT_TOKEN
    ) -> httpx.Response:
        with client(self._forge, token) as api:
            answer = api.request(method, path, json=body)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        validate_answer(method, urlsplit(path).path, status, answer.json())
        return answer

    def __call__(
        self, method: str, path: str, status: int, body: Any = None, *, token: str | None = BOT_TOKEN
    ) -> Any:
        return self.full(method, path, status, body, token=token).json()


@pytest.fixture
def ask(gitlab_forge: ForgeServer) -> Checked:
    return Checked(gitlab_forge)


def test_people_and_projects(ask: Checked) -> None:
    assert ask("GET", "/user", 200)["username"] == "coding-agent-bot"
    ask("GET", "/user", 401, token=None)
    ask("GET", "/user", 401, token="wrong")
    project = ask("GET", PROJECT, 200)
    assert ask("GET", f"/projects/{project['id']}", 200) == project
    ask("GET", "/projects/acme/pricing", 404)  # a path must be URL-encoded
    reader = ask("GET", "/users?username=reader", 200)[0]
    assert ask("GET", f"{PROJECT}/members/all/{reader['id']}", 200)["access_level"] == 10
    ask("GET", f"{PROJECT}/members/all/1", 404)
    assert ask("GET", f"{PROJECT}/labels", 200)
    ask("POST", f"{PROJECT}/labels", 201, {"name": "new", "color": "#00ff00"})
    ask("POST", f"{PROJECT}/labels", 409, {"name": "new", "color": "#00ff00"})


def test_a_token_is_taken_in_gitlabs_own_header(gitlab_forge: ForgeServer) -> None:
    answer = httpx.get(f"{gitlab_forge.api_url}/user", headers={"PRIVATE-TOKEN": BOT_TOKEN}, timeout=60)

    assert answer.json()["username"] == "coding-agent-bot"


def test_issues(ask: Checked) -> None:
    assert ask("POST", f"{PROJECT}/issues", 201, {"title": "Second", "labels": "bug,urgent"})["iid"] == 2
    ask("POST", f"{PROJECT}/issues", 400, {})
    ask("GET", f"{PROJECT}/issues/99", 404)
    assert [one["iid"] for one in ask("GET", f"{PROJECT}/issues?labels=bug&state=opened", 200)] == [2, 1]
    assert [one["iid"] for one in ask("GET", "/issues", 200)] == [2]  # by default one's own
    assert [one["iid"] for one in ask("GET", "/issues?scope=all&labels=bug,urgent", 200)] == [2]
    assert len(ask("GET", "/groups/acme/issues?author_username=alice", 200)) == 1
    changed = ask("PUT", f"{PROJECT}/issues/1", 200, {"add_labels": "coding agent", "remove_labels": "bug"})
    assert changed["labels"] == ["coding agent"]
    # Taking off what is not there is no mistake for GitLab.
    ask("PUT", f"{PROJECT}/issues/1", 200, {"remove_labels": "bug"})
    actions = [one["action"] for one in ask("GET", f"{PROJECT}/issues/1/resource_label_events", 200)]
    assert actions == ["add", "add", "remove"]
    assert ask("PUT", f"{PROJECT}/issues/1", 200, {"state_event": "close"})["state"] == "closed"


def test_notes(ask: Checked) -> None:
    note = ask("POST", f"{PROJECT}/issues/1/notes", 201, {"body": "At work"})
    ask("PUT", f"{PROJECT}/issues/1", 200, {"title": "Renamed"})
    ask("PUT", f"{PROJECT}/issues/1/notes/{note['id']}", 200, {"body": "Done"})
    ask("PUT", f"{PROJECT}/issues/1/notes/{note['id']}", 403, {"body": "Not mine"}, token=READER_TOKEN)

    reactions = f"{PROJECT}/issues/1/notes/{note['id']}/award_emoji"
    seen = ask("POST", reactions, 201, {"name": "eyes"})
    ask("POST", reactions, 404, {"name": "eyes"})  # a second time
    assert ask("GET", reactions, 200) == [seen]
    ask("GET", f"{PROJECT}/issues/1/notes/1/award_emoji", 404)
    notes = ask("GET", f"{PROJECT}/issues/1/notes?sort=asc&order_by=created_at", 200)

    assert (notes[0]["body"], notes[0]["system"]) == ("Done", False)
    assert notes[1]["system"]
    assert "changed title" in notes[1]["body"]


def test_lists_have_pages(ask: Checked) -> None:
    for number in range(3):
        ask("POST", f"{PROJECT}/issues/1/notes", 201, {"body": f"note {number}"})

    first = ask.full("GET", f"{PROJECT}/issues/1/notes?per_page=2&sort=asc", 200)
    second = ask.full("GET", f"{PROJECT}/issues/1/notes?per_page=2&page=2&sort=asc", 200)

    assert (first.headers["x-next-page"], first.headers["x-total"]) == ("2", "3")
    assert first.links["next"]["url"].endswith("page=2")
    assert (second.headers["x-next-page"], len(second.json())) == ("", 1)


def test_merge_requests(ask: Checked, gitlab_forge: ForgeServer, tmp_path: Path) -> None:
    new = {"title": "Fix", "source_branch": "fix", "target_branch": "main", "description": "Closes #1"}
    ask("POST", f"{PROJECT}/merge_requests", 400, new)
    head = push_fix(gitlab_forge, tmp_path)
    ask("POST", f"{PROJECT}/merge_requests", 403, new, token=READER_TOKEN)
    opened = ask("POST", f"{PROJECT}/merge_requests", 201, new)
    assert (opened["iid"], opened["sha"]) == (1, head)
    assert "!1" in ask("POST", f"{PROJECT}/merge_requests", 409, new)["message"][0]
    assert len(ask("GET", f"{PROJECT}/merge_requests?source_branch=fix&state=opened", 200)) == 1
    assert ask("GET", "/merge_requests?scope=all&labels=bug", 200) == []
    ask("PUT", f"{PROJECT}/merge_requests/1", 200, {"add_labels": "bug"})
    assert len(ask("GET", "/groups/acme/merge_requests?labels=bug", 200)) == 1
    ask("GET", f"{PROJECT}/merge_requests/1", 200)
    ask("POST", f"{PROJECT}/merge_requests/1/notes", 201, {"body": "Seen"})
    assert len(ask("GET", f"{PROJECT}/merge_requests/1/resource_label_events", 200)) == 1
    assert ask("PUT", f"{PROJECT}/merge_requests/1", 200, {"state_event": "close"})["state"] == "closed"
    assert ask("POST", f"{PROJECT}/merge_requests", 201, new, token=PERSON_TOKEN)["iid"] == 2


def test_edits_and_pushes_leave_system_notes(ask: Checked, gitlab_forge: ForgeServer, tmp_path: Path) -> None:
    first = push_fix(gitlab_forge, tmp_path)
    new = {"title": "Fix", "source_branch": "fix", "target_branch": "main", "description": "- [ ] tests"}
    ask("POST", f"{PROJECT}/merge_requests", 201, new)
    change = f"{PROJECT}/merge_requests/1"
    gitlab_forge.set_clock(3600)
    git("commit", "--quiet", "--allow-empty", "--message", "More", cwd=tmp_path / "tree-fix")
    git("push", "--quiet", "origin", "fix", cwd=tmp_path / "tree-fix")
    ask("PUT", change, 200, {"description": "- [ ] tests\nMore."})
    ask("PUT", change, 200, {"description": "- [x] tests\nLess, which GitLab's history does not say."})
    ask("PUT", change, 200, {"title": "Fixed"})
    notes = ask("GET", f"{change}/notes?sort=asc", 200)
    assert [(note["system"], note["body"]) for note in notes] == [
        (True, "added 1 commit"),
        (True, "changed the description"),
        (True, "marked the checklist item **tests** as completed"),
        (True, "changed title from **Fix** to **Fixed**"),
    ]
    newest, oldest = ask("GET", f"{change}/versions", 200)
    assert (oldest["head_commit_sha"], newest["head_commit_sha"]) == (first, ask("GET", change, 200)["sha"])
    assert oldest["created_at"] < newest["created_at"] <= notes[0]["created_at"]


def test_branches_and_which_of_them_are_protected(ask: Checked, gitlab_forge: ForgeServer) -> None:
    branches = f"{PROJECT}/repository/branches"
    main = ask("GET", f"{branches}/main", 200)
    assert (main["default"], main["protected"], main["can_push"]) == (True, False, True)
    gitlab_forge.protect(REPOSITORY, "main", "release/*")
    set_branch(gitlab_forge.repository(REPOSITORY).path, "release/1", "main")
    release = ask("GET", f"{branches}/release%2F1", 200)
    assert (release["default"], release["protected"], release["can_push"]) == (False, True, False)
    assert ask("GET", f"{branches}/main", 200, token=PERSON_TOKEN)["can_push"] is True
    ask("GET", f"{branches}/none", 404)


def test_a_merge_request_from_a_fork_until_it_is_gone(ask: Checked, gitlab_forge: ForgeServer) -> None:
    fork = gitlab_forge.fork(REPOSITORY, "mallory", roles={"coding-agent-bot": Role.WRITE})
    commit(fork.path, "main")
    origin = gitlab_forge.repository(REPOSITORY)
    new = {"title": "Fix", "source_branch": "main", "target_branch": "main", "target_project_id": origin.id}
    opened = ask("POST", "/projects/mallory%2Fpricing/merge_requests", 201, new)
    assert (opened["source_project_id"], opened["target_project_id"]) == (fork.id, origin.id)
    assert ask("GET", f"/projects/{fork.id}", 200)["forked_from_project"]["id"] == origin.id
    ask("POST", f"{PROJECT}/merge_requests", 404, new | {"target_project_id": 4711})
    change = f"{PROJECT}/merge_requests/{opened['iid']}"
    fork.private, fork.roles = True, {}
    assert ask("GET", change, 200)["source_project_id"] == fork.id, "GitLab shows the id to everybody"
    ask("GET", f"/projects/{fork.id}", 404)
    gitlab_forge.delete("mallory/pricing")
    assert ask("GET", change, 200, token=PERSON_TOKEN)["source_project_id"] is None


def test_discussions_and_pipelines(ask: Checked, gitlab_forge: ForgeServer, tmp_path: Path) -> None:
    sha = push_fix(gitlab_forge, tmp_path)
    new = {"title": "Fix", "source_branch": "fix", "target_branch": "main", "description": ""}
    ask("POST", f"{PROJECT}/merge_requests", 201, new)
    change = f"{PROJECT}/merge_requests/1"
    ask("POST", f"{change}/notes", 201, {"body": "By itself"})
    place = {"path": "pricing/discount.py", "line": 3}
    gitlab_forge.start_thread(REPOSITORY, 1, "Why?", start_line=1, by="alice", **place)
    gitlab_forge.add_check(REPOSITORY, sha, "unit", "failure", log=b"It broke.")
    gitlab_forge.add_check(REPOSITORY, sha, "lint", "success", log=b"")

    single, thread = ask("GET", f"{change}/discussions", 200)
    assert (single["individual_note"], thread["individual_note"]) == (True, False)
    position = thread["notes"][0]["position"]
    assert (position["new_path"], position["new_line"]) == ("pricing/discount.py", 3)
    assert [note["type"] for note in ask("GET", f"{change}/notes", 200)] == ["DiffNote", None]
    [version] = ask("GET", f"{change}/versions", 200)
    [diff] = ask("GET", f"{change}/versions/{version['id']}", 200)["diffs"]
    assert diff["diff"].startswith("@@ ")
    pipeline = ask("GET", change, 200)["head_pipeline"]
    assert (pipeline["sha"], pipeline["status"]) == (sha, "failed")
    [job] = ask("GET", f"{PROJECT}/pipelines/{pipeline['id']}/jobs?scope[]=failed", 200)
    assert (job["name"], job["status"]) == ("unit", "failed")
    with client(gitlab_forge) as api:
        assert api.get(f"{PROJECT}/jobs/{job['id']}/trace").text == "It broke."
