"""Finds labeled items on GitLab, and when and by whom the label was put on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from coding_agent_core.errors import ForgeNotFoundError
from coding_agent_core.forge import gitlab_answers as answers
from coding_agent_core.forge.calls import Call, Calls
from coding_agent_core.forge.gitlab_paths import item_path, list_params, list_path, project_of
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.settings.forges import GitLab
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

_LIST_PAGES = 50
"""Pages of labeled items in one poll."""
_EVENT_PAGES = 100


@dataclass(frozen=True)
class LabelSearch:
    """The search of one poll."""

    settings: GitLab
    calls: Calls

    async def find(self, label: str) -> AsyncIterator[TaskRequest]:
        """Open issues, then merge requests, of the configured project, group or instance."""
        for kind in ItemKind:
            call = Call(
                "GET",
                list_path(kind, self.settings),
                f"looking for items labeled {label!r}",
                list_params(label, self.settings),
            )
            async for page, _ in self.calls.pages(list[answers.Labeled], call, limit=_LIST_PAGES):
                for found in page:
                    if found.state == "opened" and label in found.labels:
                        request = await self._request(found, kind, label)
                        if request is not None:
                            yield request

    async def _request(self, found: answers.Labeled, kind: ItemKind, label: str) -> TaskRequest | None:
        item = Item(
            platform=Platform.GITLAB,
            host=self.settings.host,
            repository=project_of(found.references.full) if found.references else "",
            kind=kind,
            number=found.iid,
            project_id=found.project_id,
        )
        try:
            event = await self.labeled(item, label)
        except ForgeNotFoundError:  # gone since it was listed
            return None
        return TaskRequest(
            item=item,
            user=event.user.username if event and event.user else found.author.username,
            title=found.title[:1024],
            url=found.web_url[:2048],
            trigger=Trigger(
                origin=Origin.POLL,
                labeled_at=event.created_at if event else None,
                received_at=self.calls.clock.now(),
            ),
        )

    async def labeled(self, item: Item, label: str) -> answers.LabelEvent | None:
        """The newest event that put the label on."""
        call = Call(
            "GET", item_path(item, "resource_label_events"), f"reading the label events of {item.display}"
        )
        async for page in self.calls.newest_first(list[answers.LabelEvent], call, limit=_EVENT_PAGES):
            for event in reversed(page):
                if event.action == "add" and event.label and event.label.name == label:
                    return event
        return None
