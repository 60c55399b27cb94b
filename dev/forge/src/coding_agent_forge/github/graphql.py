"""GitHub's GraphQL API, as far as review threads need it: queries of named fields, no fragments or aliases.

A field that the sandbox does not know is an error, as with GitHub. Schema: https://docs.github.com/graphql
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from coding_agent_forge.github.access import Actor, SandboxOf
from coding_agent_forge.github.render_reviews import thread_node
from coding_agent_forge.model import Kind

router = APIRouter()
_TOKEN = re.compile(r"[A-Za-z_]\w*|\$[A-Za-z_]\w*|\d+|[{}():,!]|\S")


class Query(BaseModel):
    """Body of `POST graphql`."""

    query: str
    variables: dict[str, Any] = {}


class _UnknownFieldError(Exception):
    pass


@dataclass
class _Field:
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    below: list[_Field] = field(default_factory=list)


@router.post("/api/graphql")
async def graphql(query: Query, sandbox: SandboxOf, user: Actor) -> dict[str, Any]:
    """Answer a query; errors come with status 200."""
    tokens = iter(_TOKEN.findall(query.query))
    for token in tokens:
        if token == "{":
            break
    fields = list(_fields(tokens, query.variables))

    def repository(asked: _Field) -> Any:
        found = sandbox.store.repository(f"{asked.arguments['owner']}/{asked.arguments['name']}")
        if found is None or found.role(user) is None:
            return None

        def pull(asked: _Field) -> Any:
            item = found.item(int(asked.arguments["number"]), Kind.CHANGE)
            if item is None:
                return None
            threads = [thread_node(found, item, thread) for thread in sandbox.reviews.threads(item)]
            return _object(asked, {"number": item.number, "reviewThreads": threads})

        return _object(asked, {"pullRequest": pull})

    try:
        return {"data": {asked.name: repository(asked) for asked in fields}}
    except _UnknownFieldError as error:
        return {"errors": [{"message": str(error), "type": "undefinedField"}]}


def _fields(tokens: Iterator[str], variables: dict[str, Any]) -> Iterator[_Field]:
    """The fields up to the closing brace."""
    last: _Field | None = None
    for token in tokens:
        if token == "}":
            break
        if token == "(" and last:
            last.arguments = _arguments(tokens, variables)
        elif token == "{" and last:
            last.below = list(_fields(tokens, variables))
        else:
            if last:
                yield last
            last = _Field(token)
    if last:
        yield last


def _arguments(tokens: Iterator[str], variables: dict[str, Any]) -> dict[str, Any]:
    words = []
    for token in tokens:
        if token == ")":
            break
        if token not in (":", ","):
            words.append(token)
    values = (variables.get(word[1:]) if word.startswith("$") else word for word in words[1::2])
    return dict(zip(words[::2], values, strict=True))


def _object(asked: _Field, known: dict[str, Any]) -> dict[str, Any]:
    """The asked fields of an object; functions are called, lists are connections."""
    shown: dict[str, Any] = {}
    for below in asked.below:
        if below.name not in known:
            raise _UnknownFieldError(f"Field '{below.name}' doesn't exist on type '{asked.name}'")
        value = known[below.name]
        shown[below.name] = (
            value(below)
            if callable(value)
            else _connection(below, value)
            if isinstance(value, list)
            else value
        )
    return shown


def _connection(asked: _Field, everything: list[dict[str, Any]]) -> dict[str, Any]:
    """A page of a list: `first` from the start, or `last` before the cursor `before`, its position."""
    arguments = asked.arguments
    if "last" in arguments:
        end = int(arguments["before"]) if arguments.get("before") else len(everything)
        start = max(0, end - int(arguments["last"]))
    else:
        start, end = 0, min(len(everything), int(arguments["first"]))
    info = {
        "hasPreviousPage": start > 0,
        "hasNextPage": end < len(everything),
        "startCursor": str(start) if everything else None,
        "endCursor": str(end) if everything else None,
    }
    shown: dict[str, Any] = {}
    for below in asked.below:
        if below.name == "pageInfo":
            shown["pageInfo"] = _object(below, info)
        elif below.name == "nodes":
            shown["nodes"] = [_object(below, node) for node in everything[start:end]]
        elif below.name == "totalCount":
            shown["totalCount"] = len(everything)
        else:
            raise _UnknownFieldError(f"Field '{below.name}' doesn't exist on a connection")
    return shown
