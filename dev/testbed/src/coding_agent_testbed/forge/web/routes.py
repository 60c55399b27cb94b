"""Pages for a person in a browser: lists, an item, its labels to click, a new issue.

All of it acts as the seed's person; there is no sign-in, for the server listens on loopback alone.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, Depends, Form, Request
from markupsafe import Markup
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import HTMLResponse, RedirectResponse, Response

from coding_agent_testbed.forge import git
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.model import Flavour, Item, Kind, Repository, Thread
from coding_agent_testbed.forge.reviews import hunk, place
from coding_agent_testbed.forge.sandbox import Sandbox
from coding_agent_testbed.forge.web.markdown import rendered
from coding_agent_testbed.forge.web.view import (
    VERDICTS,
    ThreadView,
    check_views,
    chip_style,
    diff_lines,
    emoji,
    linked,
    reviewers,
    thread_view,
    timeline,
    visible,
)

router = APIRouter(default_response_class=HTMLResponse)
_HERE = Path(__file__).parent
_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_CSS = (_HERE / "style.css").read_text(encoding="utf-8")

_PATHS = {
    Flavour.GITHUB: {"issues": "/issues", "changes": "/pulls"},
    Flavour.GITLAB: {"issues": "/-/issues", "changes": "/-/merge_requests"},
}
_WORDS: dict[Flavour, dict[str, Any]] = {
    Flavour.GITHUB: {
        "changes": "Pull requests",
        "linked": {"issue": "Linked pull requests", "change": "Linked issues"},
    },
    Flavour.GITLAB: {
        "changes": "Merge requests",
        "linked": {"issue": "Related merge requests", "change": "Related issues"},
    },
}


class PageConvertor(StringConvertor):
    """What the path of a page speaks of, in the words of both flavours."""

    regex = "issues|merge_requests|pulls?"


register_url_convertor("pages", PageConvertor())
ITEM = "/{full_name:path}/{noun:pages}/{number:int}"


def sandbox_of(request: Request) -> Sandbox:
    """The forge that serves this request."""
    sandbox = request.app.state.sandbox
    assert isinstance(sandbox, Sandbox)
    return sandbox


SandboxOf = Annotated[Sandbox, Depends(sandbox_of)]


def repository_of(full_name: str, sandbox: SandboxOf) -> Repository:
    """The repository of the path; GitLab's pages have a `/-` behind it."""
    repository = sandbox.store.repository(full_name.removesuffix("/-"))
    if repository is None:
        raise HttpError(404, "Not Found")
    return repository


InRepository = Annotated[Repository, Depends(repository_of)]


def kind_of(noun: str) -> Kind:
    """The kind of item that a path names."""
    return Kind.ISSUE if noun.endswith("issues") else Kind.CHANGE


def item_of(noun: str, number: int, repository: InRepository) -> Item:
    """The item of the path."""
    item = repository.item(number, kind_of(noun))
    if item is None:
        raise HttpError(404, "Not Found")
    return item


AnItem = Annotated[Item, Depends(item_of)]


def same_origin(request: Request, sandbox: SandboxOf) -> None:
    """Refuse forms that another site's page sends: the pages know no sign-in."""
    origin = request.headers.get("origin")
    if origin not in (None, sandbox.base_url):
        raise HttpError(403, "forms are taken from this site's own pages alone")


SameOrigin = Depends(same_origin)


def page(sandbox: Sandbox, template: str, repository: Repository | None = None, **more: object) -> str:
    """A page."""
    flavour = sandbox.store.flavour
    path_of: Callable[[Item], str] | None = None
    if repository is not None:
        place = repository
        path_of = lambda item: sandbox.path_of(place, item)  # noqa: E731
    return _templates.get_template(template).render(
        brand={"github": "GitHub", "gitlab": "GitLab"}[flavour],
        flavour=flavour.value,
        css=Markup(_CSS),
        person=sandbox.person,
        paths=_PATHS[flavour],
        words=_WORDS[flavour],
        repository=repository,
        root=f"/{repository.full_name}" if repository else "",
        path_of=path_of,
        chip_style=chip_style,
        emoji=emoji,
        visible=visible,
        rendered=rendered,
        **more,
    )


@router.get("/")
async def home(sandbox: SandboxOf) -> str:
    """All repositories."""
    return page(sandbox, "home.html", repositories=sandbox.store.repositories)


@router.get("/{full_name:path}/{noun:pages}/new")
async def new_issue(repository: InRepository, sandbox: SandboxOf) -> str:
    """A form."""
    return page(sandbox, "new.html", repository)


@router.get("/{full_name:path}/{noun:pages}")
async def items(noun: str, repository: InRepository, sandbox: SandboxOf) -> str:
    """All issues or all changes, newest first."""
    kind = kind_of(noun)
    chosen = [item for item in reversed(repository.items) if item.kind is kind]
    heading = "Issues" if kind is Kind.ISSUE else _WORDS[sandbox.store.flavour]["changes"]
    return page(
        sandbox, "list.html", repository, items=chosen, kind=kind, heading=heading, mark=_mark(sandbox, kind)
    )


@router.get(ITEM)
async def item_page(repository: InRepository, item: AnItem, sandbox: SandboxOf) -> str:
    """One item with all that is known of it."""
    diff, threads, checks, reviews = None, [], [], []
    flavour = sandbox.store.flavour
    if item.kind is Kind.CHANGE:
        diff = diff_lines(await _diff(repository, item))
        threads = await asyncio.to_thread(_threads, sandbox, repository, item)
        reviews = sandbox.reviews.reviews(item)
        checks = sandbox.reviews.checks(repository, item.tips.head_sha, latest=True)
    return page(
        sandbox,
        "item.html",
        repository,
        item=item,
        here=sandbox.path_of(repository, item),
        mark=_mark(sandbox, item.kind),
        state="merged" if item.merged_at else "open" if item.open else "closed",
        diff=diff,
        timeline=timeline(flavour, item, reviews, threads),
        verdicts=VERDICTS,
        checks=check_views(f"/{repository.full_name}", flavour, checks),
        reviewers=reviewers(flavour, item, reviews, lambda user: sandbox.reviews.verdict(item, user)),
        linked=linked(repository, item, change_mark=_mark(sandbox, Kind.CHANGE)),
    )


@router.get("/{full_name:path}/pull/{number:int}.diff")
async def raw_diff(number: int, repository: InRepository) -> Response:
    """A pull request's diff as text."""
    item = repository.item(number, Kind.CHANGE)
    if item is None:
        raise HttpError(404, "Not Found")
    return Response(await _diff(repository, item), media_type="text/plain; charset=utf-8")


def _threads(sandbox: Sandbox, repository: Repository, item: Item) -> list[ThreadView]:
    views = []
    for thread in sandbox.reviews.threads(item):
        at = place(repository, item, thread, follow_renames=sandbox.store.flavour is Flavour.GITLAB)
        files = git.changes(repository.path, f"{thread.base}...{thread.commit}")
        diff = next((one.diff for one in files if thread.path in (one.old, one.new)), "")
        shown = hunk(diff, thread.line, removed=thread.removed) if thread.line is not None else ""
        views.append(thread_view(thread, at, shown))
    return views


async def _diff(repository: Repository, item: Item) -> str:
    tips = item.tips
    try:
        return await asyncio.to_thread(git.diff, repository.path, tips.base_sha, tips.head_sha)
    except subprocess.CalledProcessError:  # its commits are gone
        return ""


def _mark(sandbox: Sandbox, kind: Kind) -> str:
    return "!" if sandbox.store.flavour is Flavour.GITLAB and kind is Kind.CHANGE else "#"


def _back(path: str) -> Response:
    return RedirectResponse(path, status_code=303)


@router.post("/{full_name:path}/{noun:pages}", dependencies=[SameOrigin])
async def create_issue(
    repository: InRepository,
    sandbox: SandboxOf,
    title: Annotated[str, Form(min_length=1, max_length=255)],
    body: Annotated[str, Form()] = "",
) -> Response:
    """Open an issue as the person."""
    item = sandbox.store.open_item(repository, sandbox.person, title=title, body=_lines(body))
    return _back(sandbox.path_of(repository, item))


@router.post(ITEM + "/labels", dependencies=[SameOrigin])
async def click_label(
    repository: InRepository,
    item: AnItem,
    sandbox: SandboxOf,
    label: Annotated[str, Form(min_length=1, max_length=50)],
    action: Annotated[str, Form(pattern="add|remove")],
) -> Response:
    """Put a label on or take it off as the person."""
    add, remove = ([label], []) if action == "add" else ([], [label])
    sandbox.store.update(repository, item, sandbox.person, add=add, remove=remove)
    return _back(sandbox.path_of(repository, item))


@router.post(ITEM + "/comments", dependencies=[SameOrigin])
async def comment(
    repository: InRepository, item: AnItem, sandbox: SandboxOf, body: Annotated[str, Form(min_length=1)]
) -> Response:
    """Write a comment as the person. On GitLab, a text of quick actions alone makes no comment."""
    if not sandbox.store.kept(_lines(body)).strip():
        sandbox.store.execute(repository, item, sandbox.person, _lines(body))
        return _back(sandbox.path_of(repository, item))
    written = sandbox.store.comment(repository, item, sandbox.person, _lines(body))
    return _back(f"{sandbox.path_of(repository, item)}#comment-{written.id}")


@router.post(ITEM + "/state", dependencies=[SameOrigin])
async def change_state(
    repository: InRepository,
    item: AnItem,
    sandbox: SandboxOf,
    state: Annotated[str, Form(pattern="open|closed")],
) -> Response:
    """Close or reopen as the person."""
    sandbox.store.update(repository, item, sandbox.person, opened=state == "open")
    return _back(sandbox.path_of(repository, item))


def change_of(item: AnItem) -> Item:
    """The change of the path."""
    if item.kind is not Kind.CHANGE:
        raise HttpError(404, "Not Found")
    return item


AChange = Annotated[Item, Depends(change_of)]


@router.post(ITEM + "/threads", dependencies=[SameOrigin])
async def start_thread(
    repository: InRepository,
    item: AChange,
    sandbox: SandboxOf,
    path: Annotated[str, Form(min_length=1, max_length=1024)],
    line: Annotated[int, Form(ge=1)],
    body: Annotated[str, Form(min_length=1)],
) -> Response:
    """Comment on a line of the newest commit as the person."""
    files = await asyncio.to_thread(
        git.changes, repository.path, f"{item.tips.base_sha}...{item.tips.head_sha}"
    )
    if not any(hunk(one.diff, line, removed=False) for one in files if one.new == path):
        raise HttpError(422, f"line {line} of {path} is not part of the change")
    thread = sandbox.reviews.start_thread(item, sandbox.person, _lines(body), path=path, line=line)
    return _back(f"{sandbox.path_of(repository, item)}#thread-{thread.id}")


def thread_of(thread: int, item: AChange, sandbox: SandboxOf) -> Thread:
    """The thread of the path."""
    for one in sandbox.reviews.threads(item):
        if one.id == thread:
            return one
    raise HttpError(404, "Not Found")


AThread = Annotated[Thread, Depends(thread_of)]


@router.post(ITEM + "/threads/{thread:int}/replies", dependencies=[SameOrigin])
async def reply(
    repository: InRepository,
    item: AChange,
    thread: AThread,
    sandbox: SandboxOf,
    body: Annotated[str, Form(min_length=1)],
) -> Response:
    """Answer in a thread as the person."""
    sandbox.reviews.reply(thread, sandbox.person, _lines(body))
    return _back(f"{sandbox.path_of(repository, item)}#thread-{thread.id}")


@router.post(ITEM + "/threads/{thread:int}/state", dependencies=[SameOrigin])
async def resolve(
    repository: InRepository,
    item: AChange,
    thread: AThread,
    sandbox: SandboxOf,
    state: Annotated[str, Form(pattern="resolved|open")],
) -> Response:
    """Resolve a thread, or open it again, as the person."""
    sandbox.reviews.resolve(thread, sandbox.person, resolved=state == "resolved")
    return _back(f"{sandbox.path_of(repository, item)}#thread-{thread.id}")


@router.post(ITEM + "/reviews", dependencies=[SameOrigin])
async def review(
    repository: InRepository,
    item: AChange,
    sandbox: SandboxOf,
    state: Annotated[str, Form(pattern="APPROVED|CHANGES_REQUESTED")],
    body: Annotated[str, Form()] = "",
) -> Response:
    """Review a change as the person."""
    sandbox.reviews.review(item, sandbox.person, state, _lines(body))
    return _back(sandbox.path_of(repository, item))


@router.post(ITEM + "/merge", dependencies=[SameOrigin])
async def merge(repository: InRepository, item: AChange, sandbox: SandboxOf) -> Response:
    """Merge a change as the person."""
    await sandbox.merge(repository, item, sandbox.person)
    return _back(sandbox.path_of(repository, item))


@router.get("/{full_name:path}/actions/runs/{run:int}/job/{check_id:int}")
@router.get("/{full_name:path}/-/jobs/{check_id:int}")
async def log_page(check_id: int, repository: InRepository, sandbox: SandboxOf) -> str:
    """The log of a check."""
    for check in sandbox.reviews.checks(repository):
        if check.id == check_id and check.log is not None:
            return page(
                sandbox, "log.html", repository, check=check, log=check.log.decode("utf-8", "replace")
            )
    raise HttpError(404, "Not Found")


def _lines(text: str) -> str:
    """Browsers send line ends as CRLF."""
    return text.replace("\r\n", "\n")


@router.get("/{full_name:path}")
async def repository_page(repository: InRepository, sandbox: SandboxOf) -> str:
    """A repository: its issues. Its path takes all that is left, so this route comes last."""
    return await items("issues", repository, sandbox)
