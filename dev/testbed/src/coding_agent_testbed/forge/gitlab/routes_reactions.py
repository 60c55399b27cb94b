"""Reactions to notes.

https://docs.gitlab.com/api/emoji_reactions/
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.gitlab.access import Actor, AnItem, Parameters, Render, SandboxOf, paged
from coding_agent_testbed.forge.gitlab.render import Renderer
from coding_agent_testbed.forge.gitlab.routes_items import ITEM
from coding_agent_testbed.forge.model import Comment, Reaction
from coding_agent_testbed.forge.timestamps import gitlab_time

router = APIRouter(prefix=ITEM + "/notes/{note_id:int}/award_emoji")


def note_of(note_id: int, item: AnItem) -> Comment:
    """The note of the path."""
    for note in item.comments:
        if note.id == note_id:
            return note
    raise HttpError(404, "404 Note Not Found")


ANote = Annotated[Comment, Depends(note_of)]


def _shown(render: Renderer, note: Comment, reaction: Reaction) -> dict[str, Any]:
    return {
        "id": reaction.id,
        "name": reaction.name,
        "user": render.user(reaction.user),
        "created_at": gitlab_time(reaction.created_at),
        "updated_at": gitlab_time(reaction.created_at),
        "awardable_id": note.id,
        "awardable_type": "Note",
        "url": None,
    }


@router.get("")
async def reactions(
    request: Request, response: Response, note: ANote, render: Render
) -> list[dict[str, Any]]:
    """All reactions to a note."""
    return [_shown(render, note, entry) for entry in paged(note.reactions, request, response)]


@router.post("", status_code=201)
async def react(
    note: ANote, render: Render, sandbox: SandboxOf, user: Actor, params: Parameters
) -> dict[str, Any]:
    """React; a second time is answered 404 (GitLab's `lib/api/award_emoji.rb`)."""
    reaction, created = sandbox.store.react(note, user, params.needed("name"))
    if not created:
        raise HttpError(404, "404 Award Emoji Name has already been taken Not Found")
    note.updated_at = reaction.created_at  # `AwardEmoji#expire_cache` calls `Note#bump_updated_at`
    return _shown(render, note, reaction)
