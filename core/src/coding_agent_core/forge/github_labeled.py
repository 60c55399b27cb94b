"""Finds labeled items on GitHub, and when and by whom the label was put on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from coding_agent_core.errors import ForgeNotFoundError
from coding_agent_core.forge import github_answers as answers
from coding_agent_core.forge.calls import Call, Calls, path
from coding_agent_core.forge.github_search import repository_of, search_query
from coding_agent_core.platforms import ItemKind, Platform
from coding_agent_core.settings.forges import GitHub
from coding_agent_core.tasks import Item, Origin, TaskRequest, Trigger

_logger = logging.getLogger("coding_agent.forge")
_SEARCH_PAGES = 10
"""GitHub's search gives the first 1,000 results at most."""
_EVENT_PAGES = 100


@dataclass(frozen=True)
class LabelSearch:
    """The search of one poll."""

    settings: GitHub
    calls: Calls

    async def find(self, label: str) -> AsyncIterator[TaskRequest]:
        """Open issues, then pull requests, that carry the label now; the search index may lag behind."""
        for kind in ItemKind:
            call = Call(
                "GET",
                "/search/issues",
                f"searching for items labeled {label!r}",
                {"q": search_query(label, kind, self.settings)},
            )
            async for page, _ in self.calls.pages(answers.Found, call, limit=_SEARCH_PAGES):
                if page.incomplete_results:
                    _logger.warning(
                        "%s ran out of time and gave incomplete search results", self.settings.host
                    )
                for found in page.items:
                    if found.state == "open" and answers.has(found.labels, label):
                        request = await self._request(found, label)
                        if request is not None:
                            yield request

    async def _request(self, found: answers.Issue, label: str) -> TaskRequest | None:
        repository = repository_of(found.repository_url)
        if not repository:
            _logger.warning(
                "%s: a search result without its repository: %s", self.settings.host, found.html_url
            )
            return None
        item = Item(
            platform=Platform.GITHUB,
            host=self.settings.host,
            repository=repository,
            kind=ItemKind.CHANGE if found.pull_request is not None else ItemKind.ISSUE,
            number=found.number,
        )
        try:
            event = await self.labeled(item, label)
        except ForgeNotFoundError:  # gone since the search
            return None
        return TaskRequest(
            item=item,
            user=event.actor.login if event and event.actor else found.user.login,
            title=found.title[:1024],
            url=found.html_url[:2048],
            trigger=Trigger(
                origin=Origin.POLL,
                labeled_at=event.created_at if event else None,
                received_at=self.calls.clock.now(),
            ),
        )

    async def labeled(self, item: Item, label: str) -> answers.Event | None:
        """The newest event that put the label on."""
        call = Call(
            "GET",
            path("repos", *item.repository.split("/"), "issues", item.number, "events"),
            f"reading the events of {item.display}",
        )
        async for page in self.calls.newest_first(list[answers.Event], call, limit=_EVENT_PAGES):
            for event in reversed(page):
                if event.event == "labeled" and event.label and answers.has([event.label], label):
                    return event
        return None
