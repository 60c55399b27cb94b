"""The item behind a web address."""

from __future__ import annotations

import pytest
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import item_of


@pytest.mark.parametrize(
    ("url", "project_id", "host", "repository", "key"),
    [
        (
            "https://github.com/octo/demo/issues/7",
            None,
            "github.com",
            "octo/demo",
            {"type": "github_issue", "owner": "octo", "repo": "demo", "number": 7},
        ),
        (
            "https://github.com/octo/demo/pull/8/files?w=1#diff-1",
            None,
            "github.com",
            "octo/demo",
            {"type": "github_pull_request", "owner": "octo", "repo": "demo", "number": 8},
        ),
        (
            " https://GHE.example.com:8443/Octo/demo.js/issues/7/ ",
            None,
            "ghe.example.com:8443",
            "Octo/demo.js",
            {"type": "github_issue", "owner": "Octo", "repo": "demo.js", "number": 7},
        ),
        (
            "https://gitlab.com/group/project/-/issues/7",
            4242,
            "gitlab.com",
            "group/project",
            {"type": "gitlab_issue", "project_id": 4242, "issue_iid": 7},
        ),
        (
            "https://gitlab.example.com/a/b/c/-/work_items/7#note_1",
            4242,
            "gitlab.example.com",
            "a/b/c",
            {"type": "gitlab_issue", "project_id": 4242, "issue_iid": 7},
        ),
    ],
)
def test_items(url: str, project_id: int | None, host: str, repository: str, key: dict[str, object]) -> None:
    item = item_of(url, project_id)
    assert (item.host, item.repository, item.key) == (host, repository, key)


@pytest.mark.parametrize(
    ("url", "project_id", "sentence"),
    [
        ("octo/demo#7", None, "not the address"),
        ("https://github.com/octo/demo", None, "not the address"),
        ("https://github.com/octo/demo/issues/seven", None, "not the address"),
        ("https://github.com/octo/demo/-/issues/7", None, "not the address"),
        ("https://github.com/octo/demo/issues/7", 4242, "for GitLab"),
    ],
)
def test_what_is_none_is_said_with_the_remedy(url: str, project_id: int | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        item_of(url, project_id)


def test_the_host_decides_where_platforms_have_the_same_addresses() -> None:
    url = "https://code.example.com/octo/demo/issues/7"
    assert item_of(url, hosts={"code.example.com": Platform.GITHUB}).platform is Platform.GITHUB
    with pytest.raises(ValueError, match="not the address"):
        item_of(url, hosts={"code.example.com": Platform.GITLAB})


def test_gitlab_without_the_id_is_known_by_its_path() -> None:
    item = item_of("https://gitlab.com/Group/Project/-/issues/7")
    assert item.identity == "gitlab|gitlab.com|group/project|issue|7"
