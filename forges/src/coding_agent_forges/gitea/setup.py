"""The set-up of a repository on Gitea and Forgejo, as the API's swagger document describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from coding_agent_core.errors import ForgeNotFoundError, ForgeRefusedError

from coding_agent_forges.gitea.labels import create_label
from coding_agent_forges.rest.calls import Call, path
from coding_agent_forges.rest.responses import Label
from coding_agent_forges.rest.setup import (
    LIST_PAGES,
    DeliveryResponse,
    ForgeSetup,
    NewLabel,
    OwnedRepository,
    RepositoryFacts,
    RepositoryWebhook,
    TokenRights,
)

_EVENTS = ("issues", "issue_comment", "pull_request", "pull_request_sync", "pull_request_review", "status")
"""`issues` and `pull_request` include the events of labels."""


class GiteaSetup(ForgeSetup):
    """The set-up of repositories on one installation of Gitea."""

    LABEL_MARK: ClassVar[str] = "#"

    def _webhook_body(self, url: str, secret: str) -> dict[str, object]:
        config = {"url": url, "content_type": "json", "secret": secret}
        return {"type": "gitea", "active": True, "events": list(_EVENTS), "config": config}

    def poll_scope(self, repositories: Sequence[str]) -> dict[str, object]:
        """Return the settings to poll these repositories, which must have one owner for Gitea's search."""
        owners = {repository.partition("/")[0] for repository in repositories}
        if len(owners) != 1:
            raise ValueError(
                f"a poll of Gitea searches one owner, and these are {', '.join(sorted(owners))}: install a "
                "release for each of them, in a namespace of its own"
            )
        return {"owner": owners.pop()}

    def owner_scope(self, owner: str) -> dict[str, object]:
        return {"owner": owner}

    async def repositories_of(self, owner: str, topic: str) -> tuple[str, ...]:
        try:
            return await self._owned(path("orgs", owner, "repos"), owner, topic)
        except ForgeNotFoundError:  # the owner is a person
            return await self._owned(path("users", owner, "repos"), owner, topic)

    async def _token_rights(self, headers: Mapping[str, str]) -> TokenRights:
        """Return the rights of our token, which never expires. Gitea names a missing scope in its refusal."""
        return TokenRights()

    async def repository(self, repository: str) -> RepositoryFacts:
        """Return our rights in a repository. Only administrators can read the permissions of other people."""
        call = Call("GET", self._repository_path(repository), f"reading the repository {repository}")
        owned = await self.forge.client.get(OwnedRepository, call)
        lacks = []
        if not owned.push:
            lacks.append("the account may not push")
        if not owned.admin:
            lacks.append(
                "the account is no administrator, so it cannot read what other people may do: make it one "
                "(Settings > Collaborators)"
            )
        if owned.archived:
            lacks.append("the repository is archived: choose another one, or unarchive it")
        if not owned.has_issues:
            lacks.append("issues are turned off: turn them on (Settings > Units)")
        return RepositoryFacts(owned.full_name, tuple(lacks), owned.admin)

    async def labels(self, repository: str) -> frozenset[str]:
        """Return the names of the labels, including the organization's, which apply to its repositories."""
        owner = repository.partition("/")[0]
        call = Call("GET", path("orgs", owner, "labels"), f"reading the labels of {owner}")
        try:
            found = await self.forge.client.entries(list[Label], call, limit=LIST_PAGES)
            shared = self.forge.settings.all_spelled(label.name for label in found.values)
        except (ForgeNotFoundError, ForgeRefusedError):
            shared = frozenset()  # the owner is a person, or the token may not read organizations
        return shared | await super().labels(repository)

    async def create_label(self, repository: str, label: NewLabel) -> None:
        """Create a label. Gitea allows two labels of one name, so callers must read `labels` before."""
        await create_label(self.forge.client, repository, self._label_body(label))

    async def deliveries(self, repository: str, webhook: RepositoryWebhook) -> Sequence[DeliveryResponse]:
        """Return no deliveries, because Gitea shows them only on its web pages."""
        return []


SETUP = GiteaSetup
