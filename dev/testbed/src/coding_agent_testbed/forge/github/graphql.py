"""GitHub's GraphQL API, as far as changes, edits and commits need it.

Queries have fields and inline fragments, and no aliases. A field that the sandbox does not know is an error,
as with GitHub. Schema: https://docs.github.com/graphql
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from subprocess import CalledProcessError
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.apps import includes
from coding_agent_testbed.forge.github.access import Actor, SandboxOf
from coding_agent_testbed.forge.github.render import node_id
from coding_agent_testbed.forge.github.render_graphql import FORBIDDEN, TIMELINE, GraphqlRenderer, thread_id
from coding_agent_testbed.forge.github.search import found
from coding_agent_testbed.forge.model import Item, Kind, Repository, Role, User
from coding_agent_testbed.forge.sandbox import Sandbox

router = APIRouter()
_TOKEN = re.compile(r"[A-Za-z_]\w*|\$[A-Za-z_]\w*|\d+|\.\.\.|[{}():,!\[\]]|\S")


class Query(BaseModel):
    """Body of `POST graphql`."""

    query: str
    variables: dict[str, Any] = {}


_FRAGMENT = "..."


class _QueryError(Exception):
    """The query is wrong: there is no data."""

    def __init__(self, message: str, kind: str = "undefinedField") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class _Field:
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    below: list[_Field] = field(default_factory=list)


@router.post("/api/graphql")
async def graphql(query: Query, sandbox: SandboxOf, user: Actor) -> dict[str, Any]:
    """Answer a query or a mutation; errors come with status 200."""
    tokens = iter(_TOKEN.findall(query.query))
    for token in tokens:
        if token == "{":
            break
    root = _Root(sandbox, user)
    answer = _Answer()
    try:
        data = {
            asked.name: answer.value(asked, root.field(asked), (asked.name,))
            for asked in _fields(tokens, query.variables)
        }
    except _QueryError as error:
        return {"errors": [{"message": str(error), "type": error.kind}]}
    if root.pushed is not None:
        await sandbox.push(*root.pushed)
    return {"data": data} | ({"errors": answer.errors} if answer.errors else {})


class _Root:
    """The fields of `Query` and `Mutation`."""

    def __init__(self, sandbox: Sandbox, user: User) -> None:
        self._sandbox = sandbox
        self._user = user
        self._render = GraphqlRenderer(sandbox, user)
        self.pushed: tuple[Repository, User, str, str, str] | None = None
        """Who moved which branch of what, from which commit to which."""

    def field(self, asked: _Field) -> Any:
        """What one of them shows."""
        match asked.name:
            case "repository":
                return self._repository(asked)
            case "node":
                return self._node(asked)
            case "search":
                return self._search(asked)
            case "resolveReviewThread" | "unresolveReviewThread":
                return self._resolve(asked)
            case "markPullRequestReadyForReview":
                return self._mark_ready(asked)
            case "createCommitOnBranch":
                return self._commit(asked.arguments["input"])
        raise _QueryError(f"Field '{asked.name}' doesn't exist on type 'Query'")

    def _repository(self, asked: _Field) -> Any:
        name, store = f"{asked.arguments['owner']}/{asked.arguments['name']}", self._sandbox.store
        found = store.repository(name) or store.by_old_name(name)  # `followRenames` is true by default
        if found is None or found.role(self._user) is None:
            return None

        def item(kind: Kind) -> Callable[[_Field], Any]:
            def one(asked: _Field) -> Any:
                item = found.item(int(asked.arguments["number"]), kind)
                return None if item is None else self._item(found, item)

            return one

        return {"issue": item(Kind.ISSUE), "pullRequest": item(Kind.CHANGE)}

    def _search(self, asked: _Field) -> Any:
        assert asked.arguments["type"] == "ISSUE"
        visible = [place for place in self._sandbox.store.repositories if place.role(self._user) is not None]
        hits = found(visible, asked.arguments["query"], me=self._user.login)
        return [self._item(*hit) for hit in hits]

    def _node(self, asked: _Field) -> Any:
        """Return a thread, of the nodes that can be asked for."""
        for repository in self._sandbox.store.repositories:
            for item in repository.items if repository.role(self._user) is not None else ():
                for thread in self._sandbox.reviews.threads(item):
                    if thread_id(thread) == asked.arguments["id"]:
                        return self._render.thread(repository, item, thread)
        return None

    def _resolve(self, asked: _Field) -> Any:
        wanted = asked.arguments["input"]["threadId"]
        for repository in self._sandbox.store.repositories:
            for item in repository.items:
                for thread in self._sandbox.reviews.threads(item):
                    if thread_id(thread) == wanted:
                        role = repository.role(self._user)
                        if role is None or not role.may_write:
                            raise _QueryError("Resource not accessible by personal access token", "FORBIDDEN")
                        resolved = asked.name == "resolveReviewThread"
                        self._sandbox.reviews.resolve(thread, self._user, resolved=resolved)
                        return {"thread": {"id": wanted, "isResolved": resolved}}
        raise _QueryError(f"Could not resolve to a node with the global id of '{wanted}'.", "NOT_FOUND")

    def _mark_ready(self, asked: _Field) -> Any:
        wanted = asked.arguments["input"]["pullRequestId"]
        for repository in self._sandbox.store.repositories:
            for item in repository.items:
                if item.kind is Kind.CHANGE and node_id("PullRequest", item.id) == wanted:
                    role = repository.role(self._user)
                    if role is None or not (role.may_write or item.author is self._user):
                        raise _QueryError("Resource not accessible by personal access token", "FORBIDDEN")
                    if item.draft:
                        self._sandbox.store.set_draft(repository, item, self._user, draft=False)
                    return {"pullRequest": self._item(repository, item)}
        raise _QueryError(f"Could not resolve to a node with the global id of '{wanted}'.", "NOT_FOUND")

    def _commit(self, given: dict[str, Any]) -> Any:
        """Make a commit of ordinary files, if the branch is where the caller expects it."""
        name, branch = given["branch"]["repositoryNameWithOwner"], given["branch"]["branchName"]
        repository = self._sandbox.store.repository(name)
        role = repository.role(self._user) if repository is not None else None
        tip = git.branch_sha(repository.path, branch) if repository is not None else None
        if repository is None or role is None or tip is None:
            raise _QueryError(f"Could not resolve to a Ref with the name '{branch}'.", "NOT_FOUND")
        grant = self._user.grant
        granted = grant is None or includes(grant.permissions, "contents", "write")
        if not role.may_write or not granted or repository.archived:
            raise _QueryError("Resource not accessible by integration", "FORBIDDEN")
        if repository.protects(branch) and role is not Role.ADMIN:
            raise _QueryError("Protected branch update failed", "UNPROCESSABLE")
        if tip != given["expectedHeadOid"]:
            expected = f'Expected branch to point to "{given["expectedHeadOid"]}" but it points to "{tip}".'
            raise _QueryError(f"{expected} Pull and try again.", "STALE_DATA")
        files, message, user = given.get("fileChanges") or {}, given["message"], self._user
        try:
            additions = {
                one["path"]: b64decode(one["contents"], validate=True) for one in files.get("additions", ())
            }
            made = git.append_commit(
                repository.path,
                branch,
                tip,
                additions,
                [one["path"] for one in files.get("deletions", ())],
                f"{message['headline']}\n\n{message.get('body') or ''}".strip(),
                (user.name or user.login, f"{user.id}+{user.login}@users.noreply.github.com"),
            )
        except (ValueError, CalledProcessError):
            raise _QueryError("The file changes cannot be made.", "UNPROCESSABLE") from None
        repository.signed.add(made)
        self.pushed = repository, user, branch, tip, made
        signature = {"isValid": True, "wasSignedByGitHub": True}
        return {"commit": {"oid": made, "signature": signature}, "ref": {"name": branch}}

    def _item(self, repository: Repository, item: Item) -> Any:
        def timeline(asked: _Field) -> Any:
            types = asked.arguments.get("itemTypes", [])
            if not types or not set(types) <= set(TIMELINE):
                raise _QueryError(f"The sandbox lists the items {', '.join(TIMELINE)} only")
            return self._render.timeline(repository, item, [TIMELINE[name] for name in types])

        return self._render.item(repository, item) | {"timelineItems": timeline}


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
        if token in (")", "}"):
            break
        if token == "[":
            words.append([word for word in iter(lambda: next(tokens), "]") if word != ","])
        elif token == "{":
            words.append(_arguments(tokens, variables))
        elif token not in (":", ","):
            words.append(variables.get(token[1:]) if token.startswith("$") else token)
    return dict(zip(words[::2], words[1::2], strict=True))


def _counted(contexts: list[Any], kind: str) -> tuple[dict[str, Any], ...]:
    """Count the checks of a kind by their states, as GitHub does."""
    of_kind = [one for one in contexts if isinstance(one, dict) and one.get("__typename") == kind]
    states = Counter(one.get("conclusion") or one.get("status") or one.get("state") for one in of_kind)
    return tuple({"state": state, "count": count} for state, count in sorted(states.items()))


@dataclass
class _Answer:
    """The data of an answer, with the errors of single fields."""

    errors: list[dict[str, Any]] = field(default_factory=list)

    def value(self, asked: _Field, value: Any, path: tuple[str | int, ...]) -> Any:
        """What is asked for of a value."""
        if callable(value):
            value = value(asked)
        if value is FORBIDDEN:
            message = "Resource not accessible by personal access token"
            self.errors.append({"type": "FORBIDDEN", "path": list(path), "message": message})
            return None
        if isinstance(value, list):
            return self._connection(asked, value, path)
        if isinstance(value, tuple):
            return [self.value(asked, entry, (*path, index)) for index, entry in enumerate(value)]
        return self._object(asked, value, path) if isinstance(value, dict) else value

    def _object(self, asked: _Field, known: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for below in asked.below:
            if below.name == _FRAGMENT:
                if below.arguments["on"] == known["__typename"]:
                    shown |= self._object(below, known, path)
                continue
            if below.name not in known:
                raise _QueryError(f"Field '{below.name}' doesn't exist on type '{asked.name}'")
            shown[below.name] = self.value(below, known[below.name], (*path, below.name))
        return shown

    def _connection(
        self, asked: _Field, everything: list[Any], path: tuple[str | int, ...]
    ) -> dict[str, Any]:
        """A page of a list: `first` after the cursor `after`, or `last` before `before`; a cursor is a
        position."""
        arguments = asked.arguments
        if "last" in arguments:
            end = int(arguments["before"]) if arguments.get("before") else len(everything)
            start = max(0, end - int(arguments["last"]))
        else:
            start = int(arguments["after"]) if arguments.get("after") else 0
            end = min(len(everything), start + int(arguments["first"]))
        page = {
            "pageInfo": {
                "hasPreviousPage": start > 0,
                "hasNextPage": end < len(everything),
                "startCursor": str(start) if everything else None,
                "endCursor": str(end) if everything else None,
            },
            "nodes": tuple(everything[start:end]),
            "totalCount": len(everything),
            "issueCount": len(everything),
            "checkRunCountsByState": _counted(everything, "CheckRun"),
            "statusContextCountsByState": _counted(everything, "StatusContext"),
        }
        return self._object(asked, page, path)
