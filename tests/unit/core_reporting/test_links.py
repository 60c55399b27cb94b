"""Only the address of a change in the item's own repository is linked, and only a branch of ours is named."""

from __future__ import annotations

import pytest
from coding_agent_core.platforms import ItemKind
from coding_agent_core.registry import Platform
from coding_agent_core.reporting import Links
from coding_agent_core.tasks import Item

GITHUB = Links("https://github.com", "coding-agent/")
GITLAB = Links("https://example.com/gitlab", "coding-agent/")


def item(platform: Platform, kind: ItemKind = ItemKind.ISSUE) -> Item:
    host, repository = {"github": ("github.com", "acme/pricing"), "gitlab": ("example.com", "a/b/pricing")}[
        platform
    ]
    return Item(platform=platform, host=host, repository=repository, kind=kind, number=7)


@pytest.mark.parametrize(
    ("links", "platform", "url"),
    [
        (GITHUB, Platform.GITHUB, "https://github.com/acme/pricing/pull/9"),
        (GITHUB, Platform.GITHUB, "https://github.com:443/Acme/pricing/pull/9"),
        (GITLAB, Platform.GITLAB, "https://example.com/gitlab/a/b/pricing/-/merge_requests/9"),
        (GITLAB, Platform.GITLAB, "http://example.com/gitlab/a/b/pricing/-/merge_requests/9"),
    ],
)
def test_addresses_of_changes(links: Links, platform: Platform, url: str) -> None:
    assert links.change_problem(url, item(platform)) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "javascript:alert(1)",
        "//github.com/acme/pricing/pull/9",
        "https://github.com.evil.example/acme/pricing/pull/9",
        "https://evil.example/acme/pricing/pull/9",
        "https://github.com@evil.example/acme/pricing/pull/9",
        "https://me:secret@github.com/acme/pricing/pull/9",
        "https://github.com:8443/acme/pricing/pull/9",
        "https://github.com:x/acme/pricing/pull/9",
        "https://[github.com/acme/pricing/pull/9",
        "https://github.com/acme/other/pull/9",
        "https://github.com/evil/acme/pricing/pull/9",
        "https://github.com/acme/pricing/../other/pull/9",
        "https://github.com/acme/pricing/issues/9",
        "https://github.com/acme/pricing/pull/09",
        "https://github.com/acme/pricing/pull/9/files",
        "https://github.com/acme/pricing/pull/9?x=1",
        "https://github.com/acme/pricing/pull/9#x",
        "https://github.com/acme/pricing/pull/9) [x](https://evil.example",
        "https://github.com/acme/pricing/pull/9\n/merge",
        "https://github.com/acme/pricing/pu\tll/9",
        "https://github.com/acme/pricing/pull/9 @all",
        "https://github.com/acme/pricing/pull/\u0669",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    assert "is not the address of a pull request" in str(GITHUB.change_problem(url, item(Platform.GITHUB)))


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("coding-agent/issue-7", ItemKind.ISSUE, None),
        ("coding-agent/issue-7-r2", ItemKind.ISSUE, None),
        ("main", ItemKind.ISSUE, "does not start with 'coding-agent/'"),
        ("feature/of-a-person", ItemKind.CHANGE, None),
        ("coding-agent/x\n/merge", ItemKind.ISSUE, "is not a branch name"),
        ("coding-agent/x y", ItemKind.CHANGE, "is not a branch name"),
        ("--upload-pack=x", ItemKind.CHANGE, "is not a branch name"),
    ],
)
def test_branches(name: str, kind: ItemKind, problem: str | None) -> None:
    found = GITHUB.branch_problem(name, item(Platform.GITHUB, kind))
    assert found == problem if problem is None else problem in str(found)
