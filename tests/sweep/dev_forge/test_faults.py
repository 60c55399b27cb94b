"""Faults on demand, and the log of requests that tests assert on."""

from __future__ import annotations

import concurrent.futures
import time
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
        refused = [api.get("/user"), api.get("/user")]
        fine = [api.get(f"/repos/{REPOSITORY}"), api.get("/user")]

    assert [entry.status_code for entry in refused] == [status, status]
    assert headers.items() <= dict(refused[0].headers).items()
    assert [found.status_code for found in fine] == [200, 200]


def test_the_connection_is_cut_before_the_work(github_forge: ForgeServer) -> None:
    plant_fault(github_forge, method="POST", path=".*/comments", close="before")
    with client(github_forge) as api, pytest.raises(httpx.RemoteProtocolError):
        api.post(f"/repos/{REPOSITORY}/issues/1/comments", json={"body": "lost"})

    assert github_forge.item(REPOSITORY, 1).comments == []


def test_a_cut_connection_is_closed_and_not_reset_however_large_the_request(
    github_forge: ForgeServer,
) -> None:
    """Else a client is now and then told of a broken connection, which not every test expects."""
    plant_fault(github_forge, method="POST", path=".*/comments", close="before", times=20)
    for _ in range(20):
        with client(github_forge) as api, pytest.raises(httpx.RemoteProtocolError):
            api.post(f"/repos/{REPOSITORY}/issues/1/comments", content=b"x" * 600_000)


def test_the_connection_is_cut_after_the_work(github_forge: ForgeServer) -> None:
    plant_fault(github_forge, method="POST", path=".*/comments", close="after")
    with client(github_forge) as api, pytest.raises(httpx.RemoteProtocolError):
        api.post(f"/repos/{REPOSITORY}/issues/1/comments", json={"body": "kept"})

    assert [comment.body for comment in github_forge.item(REPOSITORY, 1).comments] == ["kept"]


def test_an_answer_is_late(github_forge: ForgeServer) -> None:
    plant_fault(github_forge, path=USER, delay_ms=300)
    began = time.monotonic()
    with client(github_forge) as api:
        assert api.get("/user").status_code == 200

    assert time.monotonic() - began >= 0.3


def test_faults_hit_git_too(github_forge: ForgeServer, tmp_path: Any) -> None:
    plant_fault(github_forge, path=".*/info/refs", status=503)

    assert "503" in git("clone", git_url(github_forge), "tree", cwd=tmp_path).stderr
    assert git("clone", git_url(github_forge), "tree", cwd=tmp_path).returncode == 0


def test_faults_can_be_taken_back(github_forge: ForgeServer) -> None:
    plant_fault(github_forge, path=USER, status=500, times=100)
    with admin(github_forge) as sandbox, client(github_forge) as api:
        assert len(sandbox.get("/faults").json()) == 1
        sandbox.delete("/faults").raise_for_status()
        assert api.get("/user").status_code == 200


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


def test_a_fault_with_a_start_and_an_end_hits_only_between_them(github_forge: ForgeServer) -> None:
    plant_fault(github_forge, path=USER, status=503, start_after=3600)
    passed = github_forge.fault(path=USER, status=502, end_after=0)
    plant_fault(github_forge, path=USER, status=500, end_after=3600)
    with client(github_forge) as api:
        assert [api.get("/user").status_code for _ in range(3)] == [500] * 3
    assert (passed.ended, passed.hits) == (True, 0)


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


def test_concurrent_requests_take_a_label_off_exactly_once(github_forge: ForgeServer) -> None:
    """What makes a claim on GitHub atomic: of many who remove a label, one finds it."""

    def remove(_: int) -> int:
        with client(github_forge) as api:
            return api.delete(f"/repos/{REPOSITORY}/issues/1/labels/bug").status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(remove, range(8)))

    assert statuses == [200] + [404] * 7
