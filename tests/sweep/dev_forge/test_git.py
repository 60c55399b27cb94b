"""Real git over HTTP: who may clone and push, and what a push means for open changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from coding_agent_forge import ForgeServer, Kind
from coding_agent_forge.git import branch_sha
from coding_agent_forge.model import Role

from tests.fixtures.forge import (
    PERSON_TOKEN,
    READER_TOKEN,
    REPOSITORY,
    client,
    commit,
    git,
    git_url,
    push_fix,
)


def test_clone_and_push_with_a_token(github_forge: ForgeServer, tmp_path: Path) -> None:
    pushed = push_fix(github_forge, tmp_path)

    assert git("clone", git_url(github_forge), "again", cwd=tmp_path).returncode == 0
    assert (tmp_path / "again" / "pricing" / "discount.py").exists()
    seen = git("ls-remote", git_url(github_forge), "refs/heads/fix", cwd=tmp_path).stdout.split()
    assert seen[0] == pushed


@pytest.mark.parametrize(
    ("token", "complaint"),
    [(None, "could not read Username"), ("wrong", "Authentication failed")],
    ids=["no token", "wrong token"],
)
def test_no_clone_without_the_right_token(
    github_forge: ForgeServer, tmp_path: Path, token: str | None, complaint: str
) -> None:
    done = git("clone", git_url(github_forge, token), "tree", cwd=tmp_path)

    assert done.returncode == 128
    assert complaint in done.stderr


def test_who_may_only_read_clones_but_does_not_push(github_forge: ForgeServer, tmp_path: Path) -> None:
    assert git("clone", git_url(github_forge, READER_TOKEN), "tree", cwd=tmp_path).returncode == 0
    tree = tmp_path / "tree"
    git("commit", "--allow-empty", "-m", "mine", cwd=tree)

    done = git("push", "origin", "HEAD:mine", cwd=tree)

    assert done.returncode != 0
    assert "403" in done.stderr


def test_gitlab_serves_git_too(gitlab_forge: ForgeServer, tmp_path: Path) -> None:
    assert push_fix(gitlab_forge, tmp_path)


def test_a_push_moves_an_open_pull_request(github_forge: ForgeServer, tmp_path: Path) -> None:
    push_fix(github_forge, tmp_path)
    with client(github_forge) as api:
        body = {"title": "Fix", "head": "fix", "base": "main"}
        api.post(f"/repos/{REPOSITORY}/pulls", json=body).raise_for_status()
        tree = tmp_path / "tree-fix"
        git("commit", "--allow-empty", "-m", "more", cwd=tree)

        git("push", "origin", "fix", cwd=tree)

        pull = api.get(f"/repos/{REPOSITORY}/pulls/2").json()
    assert pull["head"]["sha"] == git("rev-parse", "HEAD", cwd=tree).stdout.strip()
    assert pull["commits"] == 2


def test_a_push_to_the_base_merges(github_forge: ForgeServer, tmp_path: Path) -> None:
    push_fix(github_forge, tmp_path)
    with client(github_forge, PERSON_TOKEN) as api:
        body = {"title": "Fix", "head": "fix", "base": "main"}
        api.post(f"/repos/{REPOSITORY}/pulls", json=body).raise_for_status()

    assert git("push", "origin", "fix:main", cwd=tmp_path / "tree-fix").returncode == 0

    merged = github_forge.item(REPOSITORY, 2, Kind.CHANGE)
    assert merged.merged_at is not None
    assert not merged.open


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


def test_a_push_to_a_fork_moves_its_pull_request_and_nothing_else(
    github_forge: ForgeServer, tmp_path: Path
) -> None:
    fork = github_forge.fork(REPOSITORY, "mallory", roles={"coding-agent-bot": Role.WRITE})
    commit(fork.path, "main")
    number = github_forge.open_change(REPOSITORY, "main", "main", source=fork)
    before = branch_sha(github_forge.repository(REPOSITORY).path, "main")
    assert (
        git("clone", git_url(github_forge, repository="mallory/pricing"), "fork", cwd=tmp_path).returncode
        == 0
    )
    git("commit", "--allow-empty", "-m", "more", cwd=tmp_path / "fork")
    assert git("push", "origin", "main", cwd=tmp_path / "fork").returncode == 0
    change = github_forge.item(REPOSITORY, number, Kind.CHANGE)
    assert (change.tips.commits, change.open) == (2, True)
    assert branch_sha(github_forge.repository(REPOSITORY).path, "main") == before


def test_a_hostile_path_finds_no_repository(github_forge: ForgeServer) -> None:
    with client(github_forge) as api:
        for path in ("/../../../etc.git/info/refs", "/%2e%2e/%2e%2e/etc.git/info/refs"):
            answer = api.get(f"{github_forge.base_url}{path}?service=git-upload-pack")
            assert answer.status_code in (401, 404)
