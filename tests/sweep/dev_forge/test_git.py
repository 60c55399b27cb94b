"""Real git over HTTP: who may clone and push, and what a push means for open changes."""

from pathlib import Path

import pytest
from coding_agent_forge import ForgeServer, Kind

from tests.fixtures.forge import PERSON_TOKEN, REPOSITORY, git, git_url, push_fix


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
