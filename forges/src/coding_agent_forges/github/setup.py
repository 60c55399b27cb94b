"""The set-up of a repository on GitHub.

https://docs.github.com/rest/repos/webhooks, https://docs.github.com/rest/issues/labels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from coding_agent_forges.github.facts import token_expiry_of
from coding_agent_forges.github.settings import GitHub
from coding_agent_forges.rest.calls import Call, ResponseModel
from coding_agent_forges.rest.setup import (
    DeliveryResponse,
    ForgeSetup,
    OwnedRepository,
    RepositoryFacts,
    RepositoryWebhook,
    TokenRights,
)

EVENTS = ("issues", "pull_request", "issue_comment", "pull_request_review", "check_suite", "status")
"""Labels, commands, and the events for rounds (docs/github.md)."""
_SCOPES = frozenset({"repo", "public_repo"})
"""The scopes of classic tokens of which the agent needs one. The second opens only public repositories."""


class _Delivery(ResponseModel):
    event: str
    status_code: int


class GitHubSetup(ForgeSetup):
    """The set-up of repositories on one installation of GitHub."""

    LABEL_MARK: ClassVar[str] = ""

    def _webhook_body(self, url: str, secret: str) -> dict[str, object]:
        config = {"url": url, "content_type": "json", "secret": secret, "insecure_ssl": "0"}
        return {"name": "web", "active": True, "events": list(EVENTS), "config": config}

    def poll_scope(self, repositories: Sequence[str]) -> dict[str, object]:
        """Return the settings to poll these repositories, with one qualifier `repo` for each in one query."""
        chosen = " ".join(f"repo:{repository}" for repository in repositories)
        return {"query": f"{GitHub().query} {chosen}", "owner": None}

    def owner_scope(self, owner: str) -> dict[str, object]:
        return {"owner": owner, "query": None}

    async def repositories_of(self, owner: str, topic: str) -> tuple[str, ...]:
        """Return the owner's repositories. Other lists leave out the private ones of a person."""
        return await self._owned("/user/repos", owner, topic)

    async def _token_rights(self, headers: Mapping[str, str]) -> TokenRights:
        """Return the rights of our token.

        Only classic tokens have scopes: GitHub lists them in `x-oauth-scopes` (documentation, *Scopes for
        OAuth apps*).
        """
        expires_at = token_expiry_of(headers)
        listed = headers.get("x-oauth-scopes")
        if listed is None:
            return TokenRights(expires_at=expires_at)
        scopes = frozenset(filter(None, (scope.strip() for scope in listed.split(","))))
        return TokenRights(scopes, () if scopes & _SCOPES else ("repo",), expires_at)

    async def repository(self, repository: str) -> RepositoryFacts:
        call = Call("GET", self._repository_path(repository), f"reading the repository {repository}")
        owned = await self.forge.client.get(OwnedRepository, call)
        lacks = []
        if not owned.push:
            lacks.append("the account may not push: give it the role Write (Settings > Collaborators)")
        if owned.archived:
            lacks.append("the repository is archived: choose another one, or unarchive it")
        if not owned.has_issues:
            lacks.append("issues are turned off: turn them on (Settings > General > Features)")
        return RepositoryFacts(owned.full_name, tuple(lacks), owned.admin)

    async def deliveries(self, repository: str, webhook: RepositoryWebhook) -> Sequence[DeliveryResponse]:
        where = self._repository_path(repository, "hooks", webhook.id, "deliveries")
        call = Call("GET", where, f"reading the deliveries of the webhook of {repository}")
        found = await self.forge.client.get(list[_Delivery], call)
        return [DeliveryResponse(one.event, one.status_code) for one in found]


SETUP = GitHubSetup
