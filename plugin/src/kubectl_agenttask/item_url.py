"""The item behind a web address. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.tasks import Item, host_of

from kubectl_agenttask.errors import UsageError

_GITHUB = re.compile(
    r"/(?P<owner>[^/]+)/(?P<repo>[^/]+)/(?P<kind>issues|pull)/(?P<number>[1-9]\d{0,9})(/.*)?"
)
# GitLab shows issues as work items too; a group has at least one level.
_GITLAB = re.compile(
    r"/(?P<path>[^/]+(/[^/]+)+)/-/(?P<kind>issues|work_items|merge_requests)/(?P<number>[1-9]\d{0,9})(/.*)?"
)


def item_of(url: str, project_id: int | None = None) -> Item:
    """The issue, pull request or merge request that a browser shows at this address.

    Args:
        project_id: GitLab's numeric id of the project, which its addresses do not tell.

    Raises:
        UsageError: it is none, or the id is missing.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _no_item(url)
    host = host_of(url.strip()).removeprefix("www.")
    if found := _GITLAB.fullmatch(parts.path):
        return _gitlab(host, found, project_id)
    if found := _GITHUB.fullmatch(parts.path):
        if project_id is not None:
            raise UsageError("--project-id is for GitLab; this is an address of GitHub. Leave it out.")
        owner, repo, number = found["owner"], found["repo"], int(found["number"])
        return Item(
            platform=Platform.GITHUB,
            host=host,
            repository=f"{owner}/{repo}",
            kind=ItemKind.ISSUE if found["kind"] == "issues" else ItemKind.CHANGE,
            number=number,
        )
    raise _no_item(url)


def _gitlab(host: str, found: re.Match[str], project_id: int | None) -> Item:
    path, number = found["path"], int(found["number"])
    if project_id is None:
        raise UsageError(
            "GitLab's addresses do not tell the project's numeric id: add --project-id ID. It stands in the "
            f"menu at the top of https://{host}/{path} (Copy project ID), or as `id` in "
            f"https://{host}/api/v4/projects/{path.replace('/', '%2F')}."
        )
    return Item(
        platform=Platform.GITLAB,
        host=host,
        repository=path,
        kind=ItemKind.CHANGE if found["kind"] == "merge_requests" else ItemKind.ISSUE,
        number=number,
        project_id=project_id,
    )


def _no_item(url: str) -> UsageError:
    return UsageError(
        f"{url!r} is no address of an issue, pull request or merge request. Give it as in the browser, for "
        "example https://github.com/OWNER/REPO/issues/7 or https://gitlab.com/GROUP/PROJECT/-/merge_requests/7."
    )
