"""GitHub's issue search, as far as this project asks: qualifiers and words. Pure.

https://docs.github.com/search-github/searching-on-github/searching-issues-and-pull-requests
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from coding_agent_testbed.forge.model import Item, Kind, Repository

_TERM = re.compile(
    r'(?P<negated>-?)(?:(?P<name>[a-z][a-z-]*):)?(?P<value>(?:"[^"]*"|[^\s"])+)', re.IGNORECASE
)


@dataclass(frozen=True)
class Term:
    """One part of a query; `name` is empty for plain words."""

    name: str
    value: str
    negated: bool = False


def parse(query: str) -> list[Term]:
    """The terms of a query; quotes keep words together."""
    return [
        Term((found["name"] or "").lower(), found["value"].strip('"'), bool(found["negated"]))
        for found in _TERM.finditer(query)
    ]


Check = Callable[[Repository, Item, str], bool]


def _is(repository: Repository, item: Item, value: str) -> bool:
    return {
        "issue": item.kind is Kind.ISSUE,
        "pr": item.kind is Kind.CHANGE,
        "pull-request": item.kind is Kind.CHANGE,
        "open": item.open,
        "closed": not item.open,
        "merged": item.merged_at is not None,
        "public": not repository.private,
        "private": repository.private,
    }.get(value.lower(), False)


def _author(value: str) -> str:
    """The login that `author:` names; an App's account is `app/NAME` there."""
    name = value.casefold()
    return f"{name.removeprefix('app/')}[bot]" if name.startswith("app/") else name


_CHECKS: Mapping[str, Check] = {
    "is": _is,
    "type": _is,
    "state": _is,
    "label": lambda _, item, value: any(
        label.name.casefold() in [name.strip('"').casefold() for name in value.split(",")]
        for label in item.labels
    ),
    "user": lambda repository, _, value: repository.owner.casefold() == value.casefold(),
    "org": lambda repository, _, value: repository.owner.casefold() == value.casefold(),
    "repo": lambda repository, _, value: repository.full_name.casefold() == value.casefold(),
    "author": lambda _, item, value: item.author.login.casefold() == _author(value),
    "assignee": lambda _, item, value: any(
        user.login.casefold() == value.casefold() for user in item.assignees
    ),
    "archived": lambda repository, _, value: repository.archived == (value.lower() == "true"),
    "": lambda _, item, value: value.casefold() in f"{item.title}\n{item.body}".casefold(),
}
_PLACES = ("user", "org", "repo")


def found(
    repositories: Iterable[Repository], query: str, *, me: str = "@me"
) -> list[tuple[Repository, Item]]:
    """Everything that a query finds, newest first unless `sort:` says otherwise; `@me` stands for `me`.

    Several places (`user:`, `org:`, `repo:`) widen a search, all other terms narrow it.
    """
    terms = [replace(term, value=me) if term.value == "@me" else term for term in parse(query)]
    places = [term for term in terms if term.name in _PLACES and not term.negated]
    others = [term for term in terms if term not in places and term.name != "sort"]
    hits = [
        (repository, item)
        for repository in repositories
        if not places or any(_CHECKS[term.name](repository, _NOTHING, term.value) for term in places)
        for item in repository.items
        if all(_holds(term, repository, item) for term in others)
    ]
    order = next((term.value for term in terms if term.name == "sort"), "created-desc")
    field, _, direction = order.partition("-")
    hits.sort(key=lambda hit: _sort_key(hit[1], field), reverse=direction != "asc")
    return hits


_NOTHING: Item = None  # type: ignore[assignment]  # the checks of places look at the repository alone


def _holds(term: Term, repository: Repository, item: Item) -> bool:
    check = _CHECKS.get(term.name)
    if check is None:  # GitHub takes what it does not know for words
        check, term = _CHECKS[""], Term("", f"{term.name}:{term.value}", term.negated)
    return check(repository, item, term.value) != term.negated


def _sort_key(item: Item, field: str) -> tuple[float, int]:
    at = item.updated_at if field == "updated" else item.created_at
    value = float(len(item.comments)) if field == "comments" else at.timestamp()
    return (value, item.id)


def by_query(items: Iterable[Item], query: Mapping[str, str]) -> Sequence[Item]:
    """Items as the lists of a repository filter and sort them."""
    state = query.get("state", "open")
    wanted = [name for name in query.get("labels", "").split(",") if name]
    chosen = [
        item
        for item in items
        if state == "all" or item.open == (state == "open")
        if all(any(label.name.casefold() == name.casefold() for label in item.labels) for name in wanted)
        if query.get("assignee", "*") in ("*", *(user.login for user in item.assignees))
        if query.get("creator", item.author.login) == item.author.login
    ]
    chosen.sort(
        key=lambda item: _sort_key(item, query.get("sort", "created")),
        reverse=query.get("direction", "desc") != "asc",
    )
    return chosen
