"""Only the address of a change in the item's own repository is linked, and only a branch of ours is named."""

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


HERE = "https://github.com/acme/pricing"


@pytest.mark.parametrize(
    "url",
    [
        *("", "javascript:alert(1)", "//github.com/acme/pricing/pull/9", "https://[github.com/a/b/pull/9"),
        *(
            f"https://{host}/acme/pricing/pull/9"
            for host in ("github.com.evil.example", "evil.example", "github.com@evil.example")
        ),
        *(f"https://{host}/acme/pricing/pull/9" for host in ("me:secret@github.com", "github.com:8443")),
        *("https://github.com:x/acme/pricing/pull/9", "https://github.com/acme/other/pull/9"),
        *("https://github.com/evil/acme/pricing/pull/9", f"{HERE}/../other/pull/9", f"{HERE}/issues/9"),
        *(f"{HERE}/pull/{end}" for end in ("09", "9/files", "9?x=1", "9#x", "9\n/merge", "9 @all", "\u0669")),
        *(f"{HERE}/pull/9) [x](https://evil.example", f"{HERE}/pu\tll/9"),
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
