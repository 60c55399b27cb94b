"""The set-up of a project on GitLab.

https://docs.gitlab.com/api/project_webhooks/, https://docs.gitlab.com/api/labels/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from coding_agent_core.errors import ForgeNotFoundError
from pydantic import AliasPath, Field

from coding_agent_forges.rest.calls import PAGE_SIZE, Call, ResponseModel, path
from coding_agent_forges.rest.setup import (
    LIST_PAGES,
    DeliveryResponse,
    ForgeSetup,
    RepositoryFacts,
    RepositoryWebhook,
    TokenRights,
    require_all,
)

_DEVELOPER, _MAINTAINER = 30, 40
"""The lowest access levels for pushing and for webhooks (*Members API* and *Permissions* in the docs)."""
_EVENTS = (
    "issues_events",
    "confidential_issues_events",
    "merge_requests_events",
    "note_events",
    "confidential_note_events",
    "pipeline_events",
)


class _OwnToken(ResponseModel):
    scopes: list[str]


class _Project(ResponseModel):
    """A project. An account without an own or an inherited role has neither access."""

    path_with_namespace: str
    archived: bool = False
    own: int | None = Field(
        default=None, validation_alias=AliasPath("permissions", "project_access", "access_level")
    )
    of_group: int | None = Field(
        default=None, validation_alias=AliasPath("permissions", "group_access", "access_level")
    )

    @property
    def level(self) -> int:
        return max(self.own or 0, self.of_group or 0)


class _Event(ResponseModel):
    """A delivery. Without an answer, `response_status` is `internal error`."""

    trigger: str
    response_status: str


class GitLabSetup(ForgeSetup):
    """The set-up of projects on one installation of GitLab."""

    LABEL_MARK: ClassVar[str] = "#"

    def _repository_path(self, repository: str, *rest: str | int) -> str:
        return path("projects", repository, *rest)

    def _webhook_body(self, url: str, secret: str) -> dict[str, object]:
        events = dict.fromkeys(_EVENTS, True)
        return {"url": url, "token": secret, "push_events": False, "enable_ssl_verification": True, **events}

    def poll_scope(self, repositories: Sequence[str]) -> dict[str, object]:
        return {"project_id": list(repositories)}

    def owner_scope(self, owner: str) -> dict[str, object]:
        return {"group_id": owner, "project_id": None}

    async def repositories_of(self, owner: str, topic: str) -> tuple[str, ...]:
        """Return the projects of a group and its subgroups."""
        params: dict[str, str | int] = {"include_subgroups": "true", "archived": "false"}
        if topic:
            params["topic"] = topic
        where = path("groups", owner, "projects")
        call = Call("GET", where, f"reading the projects of {owner}", params=params)
        found = await self.forge.client.entries(list[_Project], call, limit=LIST_PAGES)
        require_all(found, "projects", owner)
        return tuple(sorted(project.path_with_namespace for project in found.values))

    def _folder_call(self, repository: str, folder: str) -> Call:
        where = self._repository_path(repository, "repository", "tree")
        params: dict[str, str | int] = {"path": folder, "per_page": PAGE_SIZE}
        return Call("GET", where, f"reading the files of {repository}", params=params)

    async def text(self, repository: str, file: str) -> str:
        where = self._repository_path(repository, "repository", "files", file, "raw")
        call = Call("GET", where, f"reading {file} of {repository}", params={"ref": "HEAD"})
        return (await self.forge.client.send(call)).text

    async def _token_rights(self, headers: Mapping[str, str]) -> TokenRights:
        """Return the rights of our token. GitLab before 15.5 does not have this path."""
        call = Call("GET", "/personal_access_tokens/self", "asking for the scopes of our token")
        try:
            scopes = frozenset((await self.forge.client.get(_OwnToken, call)).scopes)
        except ForgeNotFoundError:
            return TokenRights()
        return TokenRights(scopes, () if "api" in scopes else ("api",), await self.forge.token_expiry())

    async def repository(self, repository: str) -> RepositoryFacts:
        call = Call("GET", self._repository_path(repository), f"reading the project {repository}")
        project = await self.forge.client.get(_Project, call)
        lacks = []
        if project.level < _DEVELOPER:
            lacks.append("the account may not push: give it the role Developer (Manage > Members)")
        if project.archived:
            lacks.append("the project is archived: choose another one, or unarchive it")
        return RepositoryFacts(project.path_with_namespace, tuple(lacks), project.level >= _MAINTAINER)

    async def deliveries(self, repository: str, webhook: RepositoryWebhook) -> Sequence[DeliveryResponse]:
        """Return the last deliveries; empty for GitLab before 17.3, which does not show them."""
        where = self._repository_path(repository, "hooks", webhook.id, "events")
        call = Call("GET", where, f"reading the deliveries of the webhook of {repository}")
        try:
            found = await self.forge.client.get(list[_Event], call)
        except ForgeNotFoundError:
            return []
        return [
            DeliveryResponse(one.trigger, int(one.response_status) if one.response_status.isdigit() else 0)
            for one in found
        ]


SETUP = GitLabSetup
