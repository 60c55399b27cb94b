"""Finds out from GitHub who changed an item's title and text, and who pushed to its branch.

Only GraphQL says who edited a text: https://docs.github.com/graphql/reference/objects#usercontentedit. A
repository's activity lists the pushes: https://docs.github.com/rest/repos/repos#list-repository-activities
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from coding_agent_core.errors import ForgeError, ForgeUnavailableError
from coding_agent_core.forge.changes import Actor, ActorKind, ChangeEvent, ChangeEventKind
from coding_agent_core.forge.values import ItemDetails, Revised, Revision
from coding_agent_core.platforms.facts import ItemKind
from coding_agent_core.task.model import whole_second
from pydantic import AliasChoices, AliasPath, BeforeValidator, Field

from coding_agent_forges.github.discussion import GraphqlError, graphql_error, graphql_url
from coding_agent_forges.rest.calls import PAGE_SIZE, Call, ResponseModel, User, path
from coding_agent_forges.rest.client import ForgeClient

_logger = logging.getLogger("coding_agent.forge")
_EDITS = """
query($owner: String!, $name: String!, $number: Int!) {
  repository(owner: $owner, name: $name) {
    KIND(number: $number) {
      lastEditedAt
      editor { __typename login }
      userContentEdits(first: 100) { nodes { editedAt editor { __typename login } } }
      timelineItems(last: 100, itemTypes: [RENAMED_TITLE_EVENT]) {
        nodes { __typename ... on RenamedTitleEvent { createdAt actor { __typename login } } }
      }
    }
  }
}
"""
"""The query asks for the last edit separately, because a long list of edits may not include it."""


class _Actor(ResponseModel):
    """The account of an actor. Only users and apps have logins that the REST API knows too."""

    kind: str = Field(validation_alias="__typename")
    name: str = Field(validation_alias="login")

    @property
    def login(self) -> str:
        return {"User": self.name, "Bot": f"{self.name}[bot]"}.get(self.kind, "")


class _Edit(ResponseModel):
    """An edit of the text or the title. The account is null if it was deleted."""

    at: datetime = Field(validation_alias=AliasChoices("editedAt", "createdAt"))
    actor: _Actor | None = Field(default=None, validation_alias=AliasChoices("editor", "actor"))


_Edits = Annotated[list[_Edit | None], BeforeValidator(lambda value: [] if value is None else value)]


class _Item(ResponseModel):
    last_edited_at: datetime | None = Field(default=None, validation_alias="lastEditedAt")
    editor: _Actor | None = None
    edits: _Edits = Field(default=[], validation_alias=AliasPath("userContentEdits", "nodes"))
    renames: _Edits = Field(default=[], validation_alias=AliasPath("timelineItems", "nodes"))

    def revisions(self) -> list[Revision]:
        found = [(Revised.TITLE, edit.at, edit.actor) for edit in self.renames if edit is not None]
        found += [(Revised.TEXT, edit.at, edit.actor) for edit in self.edits if edit is not None]
        if self.last_edited_at is not None:
            found.append((Revised.TEXT, self.last_edited_at, self.editor))
        return [Revision(what, actor.login if actor else "", whole_second(at)) for what, at, actor in found]

    def hidden(self, since: datetime) -> list[Revision]:
        """Return a revision without a user for each list whose window may hide newer entries."""
        return [
            Revision(what, "", None)
            for what, edits in ((Revised.TITLE, self.renames), (Revised.TEXT, self.edits))
            if len(edits) >= PAGE_SIZE and all(edit is None or edit.at > since for edit in edits)
        ]


class _ItemResponse(ResponseModel):
    item: _Item | None = Field(
        default=None,
        validation_alias=AliasChoices(
            AliasPath("data", "repository", "issue"), AliasPath("data", "repository", "pullRequest")
        ),
    )
    errors: tuple[GraphqlError, ...] = ()


class _Pusher(User):
    kind: str = Field(default="User", validation_alias="type")

    @property
    def account(self) -> Actor:
        kind = ActorKind.BOT if self.kind == "Bot" else ActorKind.PERSON
        return Actor(str(self.id), self.login, kind)


class Push(ResponseModel):
    """A push to a branch. The account is null if it was deleted."""

    after: str
    timestamp: datetime
    actor: _Pusher | None = None

    @property
    def event(self) -> ChangeEvent:
        actor = self.actor.account if self.actor else None
        return ChangeEvent(ChangeEventKind.PUSHED, actor, self.timestamp, self.after)


async def pushes_of(client: ForgeClient, repository: str, branch: str, what: str) -> list[Push]:
    """Return the last pushes to a branch, the newest first.

    Args:
        what: a description of the request, for errors.

    Raises:
        ForgeError: e.g. because the token may not read them.
    """
    where = path("repos", *repository.split("/", 1), "activity")
    call = Call("GET", where, what, {"ref": f"refs/heads/{branch}", "per_page": PAGE_SIZE})
    return await client.get(list[Push], call)


@dataclass(frozen=True)
class GitHubRevisions:
    """The reader of one item's revisions."""

    client: ForgeClient
    details: ItemDetails

    async def since(self, since: datetime) -> tuple[Revision, ...]:
        """Return the changes to the item's title, text and branch after a time.

        A revision without a user and a time stands for what GitHub may hide.

        Args:
            since: a time by GitHub's clock, which shows whole seconds.

        Raises:
            ForgeError: GitHub refuses a request or does not answer.
        """
        edited = await self._edits()
        newer = [revision for revision in edited.revisions() if revision.at and revision.at > since]
        found = [*newer, *edited.hidden(since)]
        if self.details.item.kind is ItemKind.CHANGE:
            found += await self._pushes(since)
        return tuple(found)

    async def _edits(self) -> _Item:
        item = self.details.item
        owner, name = item.repository.split("/", 1)
        kind = "issue" if item.kind is ItemKind.ISSUE else "pullRequest"
        call = Call(
            "POST",
            graphql_url(self.client.api_url),
            f"reading who edited {item.display}",
            json={
                "query": _EDITS.replace("KIND", kind),
                "variables": {"owner": owner, "name": name, "number": item.number},
            },
            repository=item.repository,
        )
        answer = await self.client.get(_ItemResponse, call)
        if answer.item is None:
            raise graphql_error(answer.errors, f"{self.client.host} refused {call.what}")
        return answer.item

    async def _pushes(self, since: datetime) -> list[Revision]:
        """Return the branch's newer pushes, and a revision without a user if some are not known.

        Pushes are not known if the token may not read them, or if they do not include the newest commit. A
        branch without any listed push is older than the list or came with the fork.
        """
        details, unknown = self.details, Revision(Revised.BRANCH, "", None)
        if details.head_repository is None or details.head_branch is None:
            return [unknown]
        what = f"reading who pushed to the branch of {details.item.display}"
        try:
            listed = await pushes_of(self.client, details.head_repository, details.head_branch, what)
        except ForgeUnavailableError:
            raise
        except ForgeError as error:
            _logger.warning("It is not known who pushed: %s", error)
            return [unknown]
        newer = [push for push in listed if whole_second(push.timestamp) > since]
        found = [
            Revision(Revised.BRANCH, push.actor.login if push.actor else "", whole_second(push.timestamp))
            for push in newer
        ]
        shown = not listed or details.head_sha in [push.after for push in listed]
        return found if shown and len(newer) < PAGE_SIZE else [*found, unknown]
