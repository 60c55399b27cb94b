"""The requests about AgentTasks that the store makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coding_agent_core.agenttask import GROUP, LABEL_ITEM, PLURAL, VERSION, labels_for
from coding_agent_core.kubernetes.transport import Access, ApiError, ApiServer, Body
from coding_agent_core.tasks import Item

FIELD_MANAGER = "coding-agent-receiver"


class AgentTasks:
    """The AgentTasks of one namespace. Every method raises `ApiError`."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"

    @staticmethod
    async def connect(access: Access, namespace: str | None, timeout: float) -> AgentTasks:
        """Read the credentials; nothing is sent yet. The namespace is that of the credentials by default.

        Args:
            timeout: seconds for one request.

        Raises:
            SettingsError: the credentials cannot be read.
        """
        server = await ApiServer.connect(access, timeout, role="receiver/deploy/role.yaml")
        return AgentTasks(server, namespace or server.namespace or "default")

    async def renew(self) -> None:
        """Read the credentials again: they were replaced, or have run out."""
        await self._server.renew()

    async def of_item(self, item: Item) -> list[Body]:
        """All runs of the item (and of others whose hash is the same), as new as this request."""
        # No resourceVersion: "Most Recent", a consistent read; 0 could be answered from a stale cache.
        selector = f"{LABEL_ITEM}={labels_for(item)[LABEL_ITEM]}"
        found = await self._server.request("GET", self._path, query=[("labelSelector", selector)])
        return list(found["items"])

    async def get(self, name: str) -> Body | None:
        """The task of that name, as new as this request."""
        return await self._server.get(f"{self._path}/{name}")

    async def create(self, manifest: Mapping[str, Any]) -> bool:
        """Create the task; `False` if its name is taken."""
        try:
            query = [("fieldManager", FIELD_MANAGER)]
            await self._server.request("POST", self._path, body=dict(manifest), query=query)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def patch(self, name: str, patch: Mapping[str, Any]) -> bool:
        """Apply a merge patch; `False` if the task is not the one that was read any more."""
        return await self._server.merge(f"{self._path}/{name}", dict(patch)) is not None

    async def probe(self) -> None:
        """Find out whether tasks can be read now: connection, credentials, schema and storage."""
        await self._server.request("GET", self._path, query=[("limit", "1")])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._server.aclose()
