"""Reactions to comments.

https://docs.github.com/rest/reactions/reactions
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from coding_agent_testbed.forge.github.access import Actor, InRepository, Render, SandboxOf, paged
from coding_agent_testbed.forge.github.render import Renderer, node_id
from coding_agent_testbed.forge.github.routes_issues import find_comment
from coding_agent_testbed.forge.model import Reaction
from coding_agent_testbed.forge.timestamps import github_time

router = APIRouter(prefix="/repos/{owner}/{repo}/issues/comments/{comment_id}/reactions")


class NewReaction(BaseModel):
    """Body of `POST reactions`."""

    content: Literal["+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes"]


def _shown(render: Renderer, reaction: Reaction) -> dict[str, Any]:
    return {
        "id": reaction.id,
        "node_id": node_id("Reaction", reaction.id),
        "user": render.user(reaction.user),
        "content": reaction.name,
        "created_at": github_time(reaction.created_at),
    }


@router.get("")
async def reactions(
    comment_id: int, request: Request, response: Response, repository: InRepository, render: Render
) -> list[dict[str, Any]]:
    """All reactions to a comment, or those of one kind."""
    _, comment = find_comment(repository, comment_id)
    wanted = request.query_params.get("content")
    found = [reaction for reaction in comment.reactions if wanted in (None, reaction.name)]
    return [_shown(render, entry) for entry in paged(found, request, response)]


@router.post("")
async def react(
    comment_id: int,
    new: NewReaction,
    response: Response,
    repository: InRepository,
    render: Render,
    sandbox: SandboxOf,
    user: Actor,
) -> dict[str, Any]:
    """React: everybody who can read may; a second time is answered 200 with the first."""
    _, comment = find_comment(repository, comment_id)
    reaction, created = sandbox.store.react(comment, user, new.content)
    response.status_code = 201 if created else 200
    return _shown(render, reaction)
