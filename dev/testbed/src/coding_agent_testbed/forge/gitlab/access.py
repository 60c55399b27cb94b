"""What every GitLab route asks first: who is it, which project, which item, with what parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

from fastapi import Depends, Request, Response
from starlette.convertors import StringConvertor, register_url_convertor

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.gitlab.items import ItemRenderer
from coding_agent_testbed.forge.gitlab.merge_status import merge_status
from coding_agent_testbed.forge.identity import authenticate
from coding_agent_testbed.forge.model import Item, Kind, Repository, User
from coding_agent_testbed.forge.pages import paginate
from coding_agent_testbed.forge.sandbox import Sandbox

T = TypeVar("T")
NOUNS = {"issues": Kind.ISSUE, "merge_requests": Kind.CHANGE}


class NounConvertor(StringConvertor):
    """`{noun:noun}` in a path: what items are called, and nothing else."""

    regex = "|".join(NOUNS)


register_url_convertor("noun", NounConvertor())


def sandbox_of(request: Request) -> Sandbox:
    """The forge that serves this request."""
    sandbox = request.app.state.sandbox
    assert isinstance(sandbox, Sandbox)
    return sandbox


SandboxOf = Annotated[Sandbox, Depends(sandbox_of)]


def item_renderer(sandbox: Sandbox) -> ItemRenderer:
    """Renders for a forge's address, with what it knows of merge requests."""
    return ItemRenderer(
        sandbox.base_url,
        lambda repository, item, alone: merge_status(sandbox, repository, item, counts=alone),
    )


def renderer_of(sandbox: SandboxOf) -> ItemRenderer:
    """Renders for this forge's address."""
    return item_renderer(sandbox)


Render = Annotated[ItemRenderer, Depends(renderer_of)]


def actor(request: Request, sandbox: SandboxOf) -> User:
    """Who is asking."""
    user = authenticate(request.headers, sandbox.store.users, sandbox.clock())
    if user is None:
        raise HttpError(401, "401 Unauthorized")
    return user


Actor = Annotated[User, Depends(actor)]


def project_of(project: str, request: Request, sandbox: SandboxOf, user: Actor) -> Repository:
    """The project of the path, by id or by its URL-encoded path: with bare slashes GitLab finds nothing."""
    raw = request.scope["raw_path"].partition(b"?")[0].decode("latin-1")
    segment = raw.partition("/projects/")[2].partition("/")[0]
    repository = None
    if unquote(segment) == project:
        repository = _by_id(sandbox, project) if project.isdigit() else sandbox.store.repository(project)
    if repository is None and unquote(segment) == project:
        _refuse_old_path(project, segment, request, sandbox, user)
    if repository is None or repository.role(user) is None:
        raise HttpError(404, "404 Project Not Found")
    return repository


def _refuse_old_path(project: str, segment: str, request: Request, sandbox: Sandbox, user: User) -> None:
    """Redirect reads by a project's old path to its id, and refuse the rest, as `find_project!` of GitLab."""
    moved = sandbox.store.by_old_name(project)
    if moved is None or moved.role(user) is None:
        return
    if request.method != "GET":
        raise HttpError(405, "405 Method Not Allowed - Non GET methods are not allowed for moved projects")
    raw = request.scope["raw_path"].partition(b"?")[0].decode("latin-1")
    where = raw.replace(f"/projects/{segment}", f"/projects/{moved.id}", 1)
    target = f"{sandbox.base_url}{where}?{request.url.query}"
    raise HttpError(302, "This resource has been moved temporarily", headers={"location": target})


def _by_id(sandbox: Sandbox, text: str) -> Repository | None:
    return next((one for one in sandbox.store.repositories if str(one.id) == text), None)


InProject = Annotated[Repository, Depends(project_of)]


def item_of(noun: str, iid: int, repository: InProject) -> Item:
    """The issue or merge request of the path."""
    item = repository.item(iid, NOUNS[noun])
    if item is None:
        raise HttpError(404, "404 Not found")
    return item


AnItem = Annotated[Item, Depends(item_of)]


@dataclass(frozen=True)
class Params:
    """A request's parameters: GitLab takes them from the query, a form or JSON alike."""

    values: Mapping[str, Any]

    def text(self, name: str) -> str | None:
        """A text, `None` if not given.

        Raises:
            HttpError: 400, it is something else.
        """
        value = self.values.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise HttpError(400, f"{name} is invalid")

    def needed(self, name: str) -> str:
        """A text that must be there.

        Raises:
            HttpError: 400, it is not.
        """
        value = self.text(name)
        if value is None or not value.strip():
            raise HttpError(400, f"{name} is missing")
        return value

    def names(self, name: str) -> list[str] | None:
        """Names with commas between, or a list; `None` if not given."""
        value = self.values.get(name)
        if value is None:
            return None
        parts = value if isinstance(value, list) else str(value).split(",")
        return [str(part).strip() for part in parts if str(part).strip()]

    def flag(self, name: str) -> bool:
        """A yes or no, no if not given."""
        return str(self.values.get(name, "")).lower() in ("true", "1", "yes")


async def params_of(request: Request) -> Params:
    """The parameters of a request.

    Raises:
        HttpError: 400, the body is not a JSON object.
    """
    values: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        key = name.removesuffix("[]")
        values[key] = [*values.get(key, []), value] if name.endswith("[]") else value
    kind = request.headers.get("content-type", "")
    if kind.startswith("application/json") and await request.body():
        try:
            body = await request.json()
        except ValueError:
            raise HttpError(400, "body is not JSON") from None
        if not isinstance(body, dict):
            raise HttpError(400, "body is not a JSON object")
        values |= body
    elif "form" in kind:
        values |= dict(await request.form())
    return Params(values)


Parameters = Annotated[Params, Depends(params_of)]


def needs_developer(repository: Repository, user: User) -> None:
    """Refuse who may not push."""
    role = repository.role(user)
    if role is None or not role.may_write:
        raise HttpError(403, "403 Forbidden")


def paged(everything: Sequence[T], request: Request, response: Response) -> Sequence[T]:
    """The page that the query asks for, with GitLab's headers."""
    page = paginate(everything, dict(request.query_params), size=20)
    response.headers.update(
        {
            "x-page": str(page.number),
            "x-per-page": str(page.size),
            "x-next-page": str(page.number + 1) if page.number < page.last else "",
            "x-prev-page": str(page.number - 1) if page.number > 1 else "",
            "x-total": str(page.total),
            "x-total-pages": str(page.last),
            "link": page.links(str(request.url)),
        }
    )
    return page.items


def validation_failed(errors: Sequence[Any]) -> HttpError:
    """A 400 for a path or parameter of the wrong type."""
    fields = ", ".join(str(error["loc"][-1]) for error in errors)
    return HttpError(400, f"{fields} is invalid")
