"""The query that finds labeled items on GitHub: pure."""

from __future__ import annotations

from coding_agent_core.platforms import ItemKind
from coding_agent_core.settings.forges import GitHub


def search_query(label: str, kind: ItemKind, settings: GitHub) -> str:
    """The `q` of the issue search.

    GitHub wants `is:issue` or `is:pull-request` in each search, so issues and pull requests are searched one
    after the other. `user:` names organisations as well.
    """
    parts = [f"label:{quoted(label)}", "is:issue" if kind is ItemKind.ISSUE else "is:pull-request"]
    if settings.owner:
        parts.append(f"user:{settings.owner}")
    if settings.assignee:
        parts.append(f"assignee:{settings.assignee}")
    if settings.query.strip():
        parts.append(settings.query.strip())
    if "is:open" not in settings.query and "state:open" not in settings.query:
        parts.append("state:open")
    return " ".join(parts)


def quoted(text: str) -> str:
    r"""A value of a qualifier in quotes; quotes and backslashes in it are escaped with a backslash."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def repository_of(repository_url: str) -> str:
    """`owner/repo` from a search result's `repository_url`, empty where it is no such URL."""
    parts = repository_url.rstrip("/").split("/")
    return "/".join(parts[-2:]) if len(parts) > 3 and parts[-3] == "repos" and all(parts[-2:]) else ""
