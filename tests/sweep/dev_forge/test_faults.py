"""Faults on demand, and the log of requests that tests assert on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from coding_agent_forge import ForgeServer

from tests.fixtures.forge import BOT_TOKEN, REPOSITORY, admin, client, git, git_url, plant_fault

USER = "/api/v3/user"


@pytest.mark.parametrize(
    ("fault", "status", "headers"),
    [
        ({"status": 503}, 503, {}),
        ({"status": 429, "retry_after": 7}, 429, {"retry-after": "7"}),
        ({"secondary_rate_limit": True, "retry_after": 60}, 403, {"retry-after": "60"}),
        ({"status": 502, "headers": {"content-type": "text/html"}, "body": "<h1>Bad"}, 502, {}),
    ],
    ids=["503", "429", "secondary rate limit", "not JSON"],
)
def test_the_next_requests_are_refused_and_then_no_more(
    github_forge: ForgeServer, fault: dict[str, Any], status: int, headers: dict[str, str]
) -> None:
    plant_fault(github_forge, method="GET", path=USER, times=2, **fault)
    with client(github_forge) as api:
        fine = [api.get(f"/repos/{REPOSITORY}")]
        refused = [api.get("/user"), api.get("/user")]
        fine.append(api.get("/user"))

    assert [entry.status_code for entry in refused] == [status, status]
    assert headers.items() <= dict(refused[0].headers).items()
    assert [found.status_code for found in fine] == [200, 200]


@pytest.mark.parametrize(("when", "kept"), [("before", []), ("after", ["x"])])
def test_the_connection_is_cut_before_or_after_the_work(
    github_forge: ForgeServer, when: str, kept: list[str]
) -> None:
    plant_fault(github_forge, method="POST", path=".*/comments", close=when)
    with client(github_forge) as api, pytest.raises(httpx.RemoteProtocolError):
        api.post(f"/repos/{REPOSITORY}/issues/1/comments", json={"body": "x"})

    assert [comment.body for comment in github_forge.item(REPOSITORY, 1).comments] == kept


def test_a_cut_connection_is_closed_and_not_reset_however_large_the_request(
    github_forge: ForgeServer,
) -> None:
    """Otherwise a client now and then sees a broken connection, which not every test expects."""
    plant_fault(github_forge, method="POST", path=".*/comments", close="before", times=20)
    for _ in range(20):
        with client(github_forge) as api, pytest.raises(httpx.RemoteProtocolError):
            api.post(f"/repos/{REPOSITORY}/issues/1/comments", content=b"x" * 600_000)


def test_an_answer_is_late_and_faults_hit_git_too(github_forge: ForgeServer, tmp_path: Path) -> None:
    plant_fault(github_forge, path=USER, delay_ms=300)
    plant_fault(github_forge, path=".*/info/refs", status=503)
    began = time.monotonic()
    with client(github_forge) as api:
        assert api.get("/user").status_code == 200
    assert time.monotonic() - began >= 0.3
    assert "503" in git("clone", git_url(github_forge), "tree", cwd=tmp_path).stderr


def test_a_fault_with_an_id_hits_every_request_until_it_is_ended(github_forge: ForgeServer) -> None:
    down = plant_fault(github_forge, id="down", path=USER, status=503, times=None)
    with admin(github_forge) as sandbox, client(github_forge) as api:
        assert [api.get("/user").status_code for _ in range(3)] == [503] * 3
        assert sandbox.post("/faults", json={"id": "down", "path": USER}).status_code == 409
        planted = sandbox.get(f"/faults/{down}").json()
        assert (planted["hits"], planted["ended"]) == (3, False)
        sandbox.delete(f"/faults/{down}").raise_for_status()
        assert api.get("/user").status_code == 200
        ended = sandbox.get(f"/faults/{down}").json()
        assert (ended["hits"], ended["ended"]) == (3, True)
        assert sandbox.get("/faults").json() == []
        assert sandbox.get("/faults/other").status_code == 404


def test_of_two_forges_one_is_down(github_forge: ForgeServer, gitlab_forge: ForgeServer) -> None:
    with client(github_forge) as github, client(gitlab_forge) as gitlab:
        with github_forge.down() as fault:
            assert (github.get("/user").status_code, gitlab.get("/user").status_code) == (503, 200)
            assert github_forge.labels(REPOSITORY, 1) == {"bug"}, "people still work on it"
        assert fault.hits == 1
        assert github.get("/user").status_code == 200


def test_a_fault_with_an_unknown_field_is_refused(github_forge: ForgeServer) -> None:
    with admin(github_forge) as sandbox:
        assert sandbox.post("/faults", json={"path": USER, "until": 5}).status_code == 422


def test_the_log_of_requests_has_what_was_asked_and_answered_but_no_token(
    github_forge: ForgeServer,
) -> None:
    plant_fault(github_forge, path=USER, close="before")
    with client(github_forge) as api:
        api.post(f"/repos/{REPOSITORY}/issues/1/labels", json={"labels": ["a b"]})
        api.delete(f"/repos/{REPOSITORY}/issues/1/labels/a%20b")
        api.get(f"/repos/{REPOSITORY}/issues", params={"state": "all"})
        with pytest.raises(httpx.RemoteProtocolError):
            api.get("/user")
    with admin(github_forge) as sandbox:
        answer = sandbox.get("/requests")

    root = f"/api/v3/repos/{REPOSITORY}/issues"
    logged = [(one["method"], one["path"], one["query"], one["body"], one["status"]) for one in answer.json()]
    assert logged == [
        ("POST", f"{root}/1/labels", {}, {"labels": ["a b"]}, 200),
        ("DELETE", f"{root}/1/labels/a%20b", {}, None, 200),
        ("GET", root, {"state": "all"}, None, 200),
        ("GET", USER, {}, None, 0),
    ]
    assert BOT_TOKEN not in answer.text
