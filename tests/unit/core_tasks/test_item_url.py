"""The item behind a web address."""

import pytest
from coding_agent_core.registry import Platform
from coding_agent_core.tasks import item_of


@pytest.mark.parametrize(
    ("url", "project_id", "item"),
    [
        ("https://github.com/octo/demo/issues/7", None, "github|github.com|octo/demo|issue|7"),
        ("https://github.com/octo/demo/pull/8/files?w=1", None, "github|github.com|octo/demo|change|8"),
        (" https://GHE.example.com:8443/Octo/demo.js/issues/7/ ", None,
         "github|ghe.example.com:8443|octo/demo.js|issue|7"),
        ("https://gitlab.com/group/project/-/issues/7", 4242, "gitlab|gitlab.com|4242|issue|7"),
        ("https://g.example.com/a/b/c/-/work_items/7#note_1", 4242, "gitlab|g.example.com|4242|issue|7"),
        ("https://gitlab.com/group/sub/-/merge_requests/9/diffs", 4242, "gitlab|gitlab.com|4242|change|9"),
    ],
)  # fmt: skip
def test_the_item_of_an_address(url: str, project_id: int | None, item: str) -> None:
    assert item_of(url, project_id).identity == item


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
