"""GitHub's GraphQL API, as far as reviews and edits need it: fields and inline fragments, no aliases.

A field that the sandbox does not know is an error, as with GitHub. Schema: https://docs.github.com/graphql
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from coding_agent_forge.github.access import Actor, SandboxOf
from coding_agent_forge.github.render_reviews import edit_node, item_node
from coding_agent_forge.model import Item, Kind

router = APIRouter()
_TOKEN = re.compile(r"[A-Za-z_]\w*|\$[A-Za-z_]\w*|\d+|\.\.\.|[{}():,!\[\]]|\S")


class Query(BaseModel):
    """Body of `POST graphql`."""

    query: str
    variables: dict[str, Any] = {}


_FRAGMENT = "..."


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

        def item(kind: Kind) -> Callable[[_Field], Any]:
            def one(asked: _Field) -> Any:
                item = found.item(int(asked.arguments["number"]), kind)
                if item is None:
                    return None
                known = item_node(found, item, sandbox.reviews)
                return _object(asked, known | {"timelineItems": history(item)})

            return one

        def history(item: Item) -> Callable[[_Field], Any]:
            def timeline(asked: _Field) -> Any:
                if asked.arguments.get("itemTypes") != ["RENAMED_TITLE_EVENT"]:
                    raise _UnknownFieldError("The sandbox lists the items RENAMED_TITLE_EVENT only")
                return _connection(asked, [edit_node(event) for event in item.events if event.renamed])

            return timeline

        return _object(asked, {"issue": item(Kind.ISSUE), "pullRequest": item(Kind.CHANGE)})

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
        elif token == _FRAGMENT:
            if last:
                yield last
            assert next(tokens) == "on"
            last = _Field(_FRAGMENT, {"on": next(tokens)})
        else:
            if last:
                yield last
            last = _Field(token)
    if last:
        yield last


def _arguments(tokens: Iterator[str], variables: dict[str, Any]) -> dict[str, Any]:
    words: list[Any] = []
    for token in tokens:
        if token == ")":
            break
        if token == "[":
            words.append([word for word in iter(lambda: next(tokens), "]") if word != ","])
        elif token not in (":", ","):
            words.append(variables.get(token[1:]) if token.startswith("$") else token)
    return dict(zip(words[::2], words[1::2], strict=True))


def _object(asked: _Field, known: dict[str, Any]) -> dict[str, Any]:
    """The asked fields of an object; functions are called, lists are connections."""
    shown: dict[str, Any] = {}
    for below in asked.below:
        if below.name == _FRAGMENT:
            if below.arguments["on"] == known["__typename"]:
                shown |= _object(below, known)
            continue
        if below.name not in known:
            raise _UnknownFieldError(f"Field '{below.name}' doesn't exist on type '{asked.name}'")
        value = known[below.name]
        shown[below.name] = (
            value(below)
            if callable(value)
            else _connection(below, value)
            if isinstance(value, list)
            else _object(below, value)
            if isinstance(value, dict)
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
