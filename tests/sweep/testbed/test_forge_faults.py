"""Faults on demand, and the log of requests that tests assert on."""

from pathlib import Path

import httpx2
import pytest
from coding_agent_testbed.forge import ForgeServer, Kind
from coding_agent_testbed.until import until

from tests.fixtures.forge import PERSON_TOKEN, REPOSITORY, admin, client, git, git_url, plant_fault, push_fix

USER = "/api/v3/user"


@pytest.mark.parametrize(("when", "kept"), [("before", []), ("after", ["x"])])
def test_the_connection_is_cut_before_or_after_the_work(
    github_forge: ForgeServer, when: str, kept: list[str]
) -> None:
    plant_fault(github_forge, method="POST", path=".*/comments", close=when)
    with client(github_forge) as api, pytest.raises(httpx2.RemoteProtocolError):
        api.post(f"/repos/{REPOSITORY}/issues/1/comments", json={"body": "x"})

    assert [comment.body for comment in github_forge.item(REPOSITORY, 1).comments] == kept


def test_a_slow_forge_does_what_a_client_asked_for_that_has_gone(github_forge: ForgeServer) -> None:
    plant_fault(github_forge, method="POST", path=".*/comments", delay_ms=1000)
    comments = f"/repos/{REPOSITORY}/issues/1/comments"
    with client(github_forge) as api, pytest.raises(httpx2.ReadTimeout):
        api.post(comments, json={"body": "x"}, timeout=0.1)  # meant to expire
    issue = github_forge.item(REPOSITORY, 1)
    assert not issue.comments
    until("the comment is stored", lambda: issue.comments)


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


def test_a_push_moves_an_open_change_and_one_to_its_base_merges_it(
    github_forge: ForgeServer, tmp_path: Path
) -> None:
    push_fix(github_forge, tmp_path)
    number = github_forge.open_change(REPOSITORY, "fix", "main")
    tree = tmp_path / "tree-fix"
    git("commit", "--allow-empty", "-m", "more", cwd=tree)
    git("push", "origin", "fix", cwd=tree)
    change = github_forge.item(REPOSITORY, number, Kind.CHANGE)
    assert change.tips.head_sha == git("rev-parse", "HEAD", cwd=tree).stdout.strip()
    assert change.tips.commits == 2

    assert git("push", git_url(github_forge, PERSON_TOKEN), "fix:main", cwd=tree).returncode == 0

    assert change.merged_at is not None
    assert not change.open


@pytest.mark.parametrize(
    ("flavour", "words"),
    [("github", "GH006: Protected branch update failed for refs/heads/"), ("gitlab", "GitLab: You are not")],
)
def test_a_push_to_a_protected_branch_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, flavour: str, words: str
) -> None:
    forge: ForgeServer = request.getfixturevalue(f"{flavour}_forge")
    push_fix(forge, tmp_path)
    forge.protect(REPOSITORY, "main", "release/*")
    tree = tmp_path / "tree-fix"
    for branch in ("main", "release/1"):
        done = git("push", "origin", f"fix:{branch}", cwd=tree)
        assert done.returncode != 0
        assert words in done.stderr
    assert git("push", git_url(forge, PERSON_TOKEN), "fix:release/1", cwd=tree).returncode == 0, "an admin"
    assert git("push", "origin", "fix:other", cwd=tree).returncode == 0
