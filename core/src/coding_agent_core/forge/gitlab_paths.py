"""Where things are in GitLab's API: pure."""

from __future__ import annotations

from coding_agent_core.forge.calls import path
from coding_agent_core.platforms import ItemKind
from coding_agent_core.settings.forges import GitLab
from coding_agent_core.tasks import Item


def list_path(kind: ItemKind, settings: GitLab) -> str:
    """The list of the configured project, else of the group with its subgroups, else of the instance."""
    name = "issues" if kind is ItemKind.ISSUE else "merge_requests"
    if settings.project_id:
        return path("projects", settings.project_id, name)
    if settings.group_id:
        return path("groups", settings.group_id, name)
    return path(name)


def list_params(label: str, settings: GitLab) -> dict[str, str | int]:
    """Its parameters. `scope=all`, since the instance-wide lists otherwise show what we wrote ourselves."""
    params: dict[str, str | int] = {
        "labels": label,
        "state": "opened",
        "scope": "all",
        "order_by": "updated_at",
        "sort": "desc",
    }
    if settings.assignee:
        params["assignee_username"] = settings.assignee
    if settings.query.strip():
        params["search"] = settings.query.strip()
    return params


def project_of(reference: str) -> str:
    """`group/project` from a full reference such as `group/project#7` or `group/project!7`."""
    for mark in ("#", "!"):
        place, found, number = reference.rpartition(mark)
        if found and number.isdigit():
            return place
    return ""


def project(item: Item) -> int | str:
    """The project of an item, as a path of the API takes it: its id where we know it, else its full path."""
    return item.repository if item.project_id is None else item.project_id


def item_path(item: Item, *rest: str | int) -> str:
    """An issue or merge request, or what is below it."""
    kind = "issues" if item.kind is ItemKind.ISSUE else "merge_requests"
    return path("projects", project(item), kind, item.number, *rest)
