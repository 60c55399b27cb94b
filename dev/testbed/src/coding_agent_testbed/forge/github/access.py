"""What every GitHub route asks first: who is it, which repository, which item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response

from coding_agent_testbed.forge.apps import check_permission
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github.items import ItemRenderer
from coding_agent_testbed.forge.identity import authenticate, token_of
from coding_agent_testbed.forge.model import Item, Kind, Repository, Role, User
from coding_agent_testbed.forge.pages import paginate
from coding_agent_testbed.forge.sandbox import Sandbox

T = TypeVar("T")


def sandbox_of(request: Request) -> Sandbox:
    """The forge that serves this request."""
    sandbox = request.app.state.sandbox
    assert isinstance(sandbox, Sandbox)
    return sandbox


SandboxOf = Annotated[Sandbox, Depends(sandbox_of)]


def renderer_of(sandbox: SandboxOf) -> ItemRenderer:
    """Renders for this forge's address."""
    return ItemRenderer(sandbox.base_url, sandbox.mergeable)


Render = Annotated[ItemRenderer, Depends(renderer_of)]


def actor(request: Request, sandbox: SandboxOf) -> User:
    """Who is asking."""
    user = authenticate(request.headers, sandbox.store.accounts(), sandbox.clock())
    if user is None:
        given = token_of(request.headers) is not None
        raise HttpError(401, "Bad credentials" if given else "Requires authentication")
    check_permission(user, request.method, request.url.path.removeprefix("/api/v3"))
    request.state.user = user
    return user


Actor = Annotated[User, Depends(actor)]


def repository_of(owner: str, repo: str, sandbox: SandboxOf, user: Actor) -> Repository:
    """The repository of the path; one that somebody may not see is not there."""
    repository = sandbox.store.repository(f"{owner}/{repo}")
    if repository is None or repository.role(user) is None:
        raise HttpError(404, "Not Found")
    return repository


InRepository = Annotated[Repository, Depends(repository_of)]


def item_of(number: int, repository: InRepository) -> Item:
    """The issue or pull request of the path: for GitHub a pull request is an issue."""
    item = repository.item(number)
    if item is None:
        raise HttpError(404, "Not Found")
    return item


AnyItem = Annotated[Item, Depends(item_of)]


def pull_of(number: int, repository: InRepository) -> Item:
    """The pull request of the path."""
    item = repository.item(number, Kind.CHANGE)
    if item is None:
        raise HttpError(404, "Not Found")
    return item


Pull = Annotated[Item, Depends(pull_of)]


def needs_write(repository: Repository, user: User) -> None:
    """Refuse who may only read."""
    role = repository.role(user)
    if role is None or not role.may_write:
        raise HttpError(403, "Must have push access to Repository.")
    if repository.archived:
        raise HttpError(403, "Repository was archived so is read-only.")


def needs_triage(repository: Repository, user: User) -> None:
    """Refuse who may not label."""
    role = repository.role(user)
    if role is None or not role.may_label:
        raise HttpError(403, "Must have triage access to Repository.")
    if repository.archived:
        raise HttpError(403, "Repository was archived so is read-only.")


def needs_admin(repository: Repository, user: User) -> None:
    """Refuse who does not own the repository; GitHub hides such resources."""
    if repository.role(user) is not Role.ADMIN:
        raise HttpError(404, "Not Found")


def paged(everything: Sequence[T], request: Request, response: Response) -> Sequence[T]:
    """The page that the query asks for, with its `Link` header."""
    page = paginate(everything, dict(request.query_params), size=30)
    links = page.links(str(request.url))
    if links:
        response.headers["link"] = links
    return page.items


def invalid(resource: str, field: str, code: str = "missing_field") -> HttpError:
    """A 422 for one field."""
    return HttpError(422, "Validation Failed", [{"resource": resource, "field": field, "code": code}])


def validation_failed(errors: Sequence[Any]) -> HttpError:
    """A 422 for a body of the wrong shape."""
    fields = [str(error["loc"][-1]) for error in errors] or ["body"]
    details = [{"resource": "Request", "field": field, "code": "invalid"} for field in fields]
    return HttpError(422, "Validation Failed", details)
