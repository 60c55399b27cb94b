"""GitHub's log of webhook deliveries, kept for 3 days, and their redelivery.

https://docs.github.com/rest/repos/webhooks and https://docs.github.com/rest/orgs/webhooks: the same below a
repository and below an organization. The token needs the permission *Webhooks*, write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coding_agent_core.forge.client import PAGE_SIZE, Answer, Call, ForgeClient, Repeat, path
from coding_agent_core.forge.protocol import Hook, HookDelivery

_HOOK_PAGES = 10
_LOG_PAGES = 30
"""Pages of a webhook's log that are read: the newest 3,000 deliveries."""


class _HookConfig(Answer):
    url: str = ""


class _Hook(Answer):
    id: int
    active: bool
    config: _HookConfig


class _HookDelivery(Answer):
    id: int
    guid: str
    delivered_at: datetime
    status_code: int
    event: str


class _HookRequest(Answer):
    payload: dict[str, Any] | None = None


class _HookDeliveryDetail(Answer):
    request: _HookRequest


@dataclass(frozen=True)
class GitHubHooks:
    """The webhooks that one token may see."""

    client: ForgeClient

    async def of_repository(self, repository: str) -> list[Hook]:
        return await self._hooks(path("repos", *repository.split("/", 1), "hooks"), repository)

    async def of_organization(self, organization: str) -> list[Hook]:
        return await self._hooks(path("orgs", organization, "hooks"), organization)

    async def deliveries(
        self, hook: Hook, since: datetime, *, failed_only: bool = False
    ) -> AsyncIterator[HookDelivery]:
        params: dict[str, str | int] = {"per_page": PAGE_SIZE}
        if failed_only:
            params["status"] = "failure"
        call = Call("GET", f"{hook.path}/deliveries", f"reading the deliveries of {hook.name}", params)
        for _ in range(_LOG_PAGES):
            response = await self.client.send(call)
            for each in self.client.parse(list[_HookDelivery], response, call):
                if each.delivered_at < since:
                    return
                delivery = HookDelivery(
                    id=each.id,
                    guid=each.guid,
                    at=each.delivered_at,
                    status=each.status_code,
                    event=each.event,
                )
                if not (failed_only and delivery.succeeded):  # an older Enterprise may not know `status`
                    yield delivery
            following = response.links.get("next", {}).get("url")
            if following is None:
                return
            call = Call("GET", following, call.what)

    async def payload(self, hook: Hook, delivery: HookDelivery) -> dict[str, Any]:
        call = Call(
            "GET", f"{hook.path}/deliveries/{delivery.id}", f"reading delivery {delivery.guid} of {hook.name}"
        )
        return (await self.client.get(_HookDeliveryDetail, call)).request.payload or {}

    async def redeliver(self, hook: Hook, delivery: HookDelivery) -> None:
        """See `Hooks`. The redelivery has the same `X-GitHub-Delivery`."""
        await self.client.send(
            Call(
                "POST",
                f"{hook.path}/deliveries/{delivery.id}/attempts",
                f"having delivery {delivery.guid} of {hook.name} sent again",
                repeat=Repeat.UNLESS_PROCESSED,
            )
        )

    async def _hooks(self, where: str, owner: str) -> list[Hook]:
        found: list[Hook] = []
        call = Call("GET", where, f"reading the webhooks of {owner}")
        async for page, _ in self.client.pages(list[_Hook], call, limit=_HOOK_PAGES):
            found += [
                Hook(path=f"{where}/{each.id}", url=each.config.url, name=f"the webhook {each.id} of {owner}")
                for each in page
                if each.active
            ]
        return found
