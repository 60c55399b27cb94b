"""The item behind a web address. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.tasks import Item, host_of

_GITHUB = re.compile(r"/(?P<path>[^/]+/[^/]+)/(?P<kind>issues|pull)/(?P<number>[1-9]\d{0,9})(/.*)?")
# GitLab shows issues as work items too; a group has at least one level.
_GITLAB = re.compile(
    r"/(?P<path>[^/]+(/[^/]+)+)/-/(?P<kind>issues|work_items|merge_requests)/(?P<number>[1-9]\d{0,9})(/.*)?"
)


def item_of(url: str, project_id: int | None = None) -> Item:
    """The issue, pull request or merge request that a browser shows at this address.

    Args:
        project_id: GitLab's numeric id of the project, if it is known. Without it the item is another one
            than in webhooks, because GitLab's addresses do not contain the id.

    Raises:
        ValueError: it is not the address of an item, or the platform has no such id.
    """
    parts = urlsplit(url.strip())
    if parts.scheme in ("http", "https") and parts.hostname:
        for platform, pattern in ((Platform.GITLAB, _GITLAB), (Platform.GITHUB, _GITHUB)):
            if found := pattern.fullmatch(parts.path):
                if project_id is not None and platform is Platform.GITHUB:
                    raise ValueError("A project id is for GitLab; this is an address of GitHub. Omit the id.")
                return Item(
                    platform=platform,
                    host=host_of(url.strip()).removeprefix("www."),
                    repository=found["path"],
                    kind=ItemKind.CHANGE if found["kind"] in ("pull", "merge_requests") else ItemKind.ISSUE,
                    number=int(found["number"]),
                    project_id=project_id,
                )
    raise ValueError(
        f"{url!r} is not the address of an issue, pull request or merge request. Copy it from the browser, "
        "for example https://github.com/OWNER/REPO/issues/7 or "
        "https://gitlab.com/GROUP/PROJECT/-/merge_requests/7."
    )
