"""The set-up of a repository on Gitea and Forgejo, by the swagger document of an installation."""

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
    """The set-up of one Gitea."""

    LABEL_MARK: ClassVar[str] = "#"

    def _webhook_body(self, url: str, secret: str) -> dict[str, object]:
        config = {"url": url, "content_type": "json", "secret": secret}
        return {"type": "gitea", "active": True, "events": list(_EVENTS), "config": config}

    def poll_scope(self, repositories: Sequence[str]) -> dict[str, object]:
        """See `ForgeSetup`. Gitea's search takes one owner."""
        owners = {repository.partition("/")[0] for repository in repositories}
        if len(owners) != 1:
            raise ValueError(
                f"a poll of Gitea searches one owner, and these are {', '.join(sorted(owners))}: install a "
                "release for each of them, in a namespace of its own"
            )
        return {"owner": owners.pop()}

    async def _token_rights(self, headers: Mapping[str, str]) -> TokenRights:
        """See `ForgeSetup`. Gitea's tokens never expire, and Gitea names a missing scope when it refuses."""
        return TokenRights()

    async def repository(self, repository: str) -> RepositoryFacts:
        """See `ForgeSetup`. Gitea tells only administrators what other people may do."""
        call = Call("GET", self._repository_path(repository), f"reading the repository {repository}")
        found = await self.forge.client.get(OwnedRepository, call)
        lacks = []
        if not found.push:
            lacks.append("the account may not push")
        if not found.admin:
            lacks.append(
                "the account is no administrator, so it cannot read what other people may do: make it one "
                "(Settings > Collaborators)"
            )
        if found.archived:
            lacks.append("the repository is archived: choose another one, or unarchive it")
        if not found.has_issues:
            lacks.append("issues are turned off: turn them on (Settings > Units)")
        return RepositoryFacts(found.full_name, tuple(lacks), found.admin)

    async def labels(self, repository: str) -> frozenset[str]:
        """See `ForgeSetup`. An organization's labels can be applied in its repositories, too."""
        owner = repository.partition("/")[0]
        call = Call("GET", path("orgs", owner, "labels"), f"reading the labels of {owner}")
        try:
            found = await self.forge.client.entries(list[Label], call, limit=LIST_PAGES)
            shared = self.forge.settings.all_spelled(label.name for label in found.values)
        except (ForgeNotFoundError, ForgeRefusedError):
            shared = frozenset()  # the owner is a person, or the token may not read organizations
        return shared | await super().labels(repository)

    async def create_label(self, repository: str, label: NewLabel) -> None:
        """See `ForgeSetup`. Gitea refuses no second label of a name, so read `labels` before."""
        await create_label(self.forge.client, repository, self._label_body(label))

    async def deliveries(self, repository: str, webhook: RepositoryWebhook) -> Sequence[DeliveryResponse]:
        """See `ForgeSetup`. Gitea shows them only in its pages."""
        return []


SETUP = GiteaSetup
