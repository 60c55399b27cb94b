"""How GitLab's lists of issues and merge requests filter and sort. Pure.

https://docs.gitlab.com/api/issues/#list-issues
"""

from __future__ import annotations

from collections.abc import Iterable

from coding_agent_testbed.forge.gitlab.access import Params
from coding_agent_testbed.forge.gitlab.items import state
from coding_agent_testbed.forge.model import Item, Repository, User

Placed = tuple[Repository, Item]


def chosen(items: Iterable[Placed], params: Params, me: User, *, scope: str) -> list[Placed]:
    """The items that a list shows; `scope` is its default where the request names none."""
    scope = params.text("scope") or scope
    kept = [placed for placed in items if _in_scope(placed[1], scope, me) and _fits(placed[1], params)]
    by_update = params.text("order_by") == "updated_at"
    kept.sort(
        key=lambda placed: (placed[1].updated_at if by_update else placed[1].created_at, placed[1].id),
        reverse=params.text("sort") != "asc",
    )
    return kept


def _in_scope(item: Item, scope: str, me: User) -> bool:
    if scope in ("created_by_me", "created-by-me"):
        return item.author is me
    if scope in ("assigned_to_me", "assigned-to-me"):
        return me in item.assignees
    return True


def _fits(item: Item, params: Params) -> bool:
    wanted_state = params.text("state") or "all"
    names = {label.name for label in item.labels}
    people = {user.login for user in item.assignees}
    search = (params.text("search") or "").casefold()
    iids = params.names("iids")
    return (
        wanted_state in ("all", state(item))
        and _labels_fit(names, params.names("labels") or [])
        and _is(params.names("assignee_username"), people)
        and _is(params.names("author_username"), {item.author.login})
        and _is(params.names("source_branch"), {item.head})
        and _is(params.names("target_branch"), {item.base})
        and search in f"{item.title}\n{item.body}".casefold()
        and (iids is None or str(item.number) in iids)
    )


def _labels_fit(names: set[str], wanted: list[str]) -> bool:
    if wanted == ["None"]:
        return not names
    return bool(names) if wanted == ["Any"] else names.issuperset(wanted)


def _is(wanted: list[str] | None, there: set[str]) -> bool:
    return not wanted or bool(there.intersection(wanted))
