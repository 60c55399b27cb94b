"""The requests about AgentTasks: thin, each with a timeout, over one pool of connections.

It uses the transport of `kubernetes.aio` (TLS, credentials and their renewal) with plain data.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio import client

from coding_agent_core.agenttask import GROUP, LABEL_ITEM, PLURAL, VERSION, labels_for
from coding_agent_core.errors import CodingAgentError
from coding_agent_core.queues.kubernetes.access import Access, new_configuration
from coding_agent_core.tasks import Item

FIELD_MANAGER = "coding-agent-receiver"

Body = dict[str, Any]


class ApiError(CodingAgentError):
    """The API server refused a request, or did not answer.

    Attributes:
        status: HTTP status, `None` where there was no answer: then nobody knows whether it was done.
        retry_after: seconds after which it asks to try again, if it told.
    """

    def __init__(self, message: str, status: int | None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class AgentTasks:
    """The AgentTasks of one namespace. Every method raises `ApiError`.

    Args:
        timeout: seconds for one request.
    """

    def __init__(self, api: Any, access: Access, namespace: str, timeout: float) -> None:
        self._api = api
        self._access = access
        self._timeout = timeout
        self.namespace = namespace
        self._path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}"

    @staticmethod
    async def connect(access: Access, namespace: str | None, timeout: float) -> AgentTasks:
        """Read the credentials; nothing is sent yet. The namespace is that of the credentials by default.

        Raises:
            SettingsError: the credentials cannot be read.
        """
        settings = new_configuration()
        own = await access.load(settings)
        api = client.ApiClient(configuration=settings)
        return AgentTasks(api, access, namespace or own or "default", timeout)

    async def renew(self) -> None:
        """Read the credentials again: they were replaced, or have run out."""
        await self._access.load(self._api.configuration)

    async def of_item(self, item: Item) -> list[Body]:
        """All runs of the item (and of others whose hash is the same), as new as this request."""
        # No resourceVersion: "Most Recent", a consistent read; 0 could be answered from a stale cache.
        selector = f"{LABEL_ITEM}={labels_for(item)[LABEL_ITEM]}"
        found = await self._request("GET", self._path, query=[("labelSelector", selector)])
        return list(found["items"])

    async def get(self, name: str) -> Body | None:
        """The task of that name, as new as this request."""
        try:
            return await self._request("GET", f"{self._path}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def create(self, manifest: Mapping[str, Any]) -> bool:
        """Create the task; `False` if its name is taken."""
        try:
            query = [("fieldManager", FIELD_MANAGER)]
            await self._request("POST", self._path, body=dict(manifest), query=query)
        except ApiError as error:
            if error.status == 409:
                return False
            raise
        return True

    async def patch(self, name: str, patch: Mapping[str, Any]) -> bool:
        """Apply a merge patch; `False` if the task is not the one that was read any more."""
        kind = "application/merge-patch+json"
        try:
            await self._request("PATCH", f"{self._path}/{name}", body=dict(patch), kind=kind)
        except ApiError as error:
            if error.status in (404, 409):
                return False
            raise
        return True

    async def probe(self) -> None:
        """Find out whether tasks can be read now: connection, credentials, schema and storage."""
        await self._request("GET", self._path, query=[("limit", "1")])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Body | None = None,
        query: list[tuple[str, str]] | None = None,
        kind: str = "application/json",
    ) -> Body:
        try:
            call = await self._api.param_serialize(
                method,
                path,
                query_params=query,
                header_params={"Accept": "application/json", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = await self._api.call_api(*call, _request_timeout=self._timeout)
            data = await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            reason = str(error) or type(error).__name__
            raise ApiError(f"the Kubernetes API server does not answer: {reason}", None) from error
        if answer.status >= 300:
            seconds = answer.getheader("Retry-After") or ""
            raise ApiError(
                _sentence(answer.status, data), answer.status, float(seconds) if seconds.isdigit() else None
            )
        return _parsed(data)


def _parsed(data: bytes) -> Body:
    try:
        result = json.loads(data)
    except ValueError as error:
        raise ApiError("the Kubernetes API server's answer is not JSON: is it one?", None) from error
    if not isinstance(result, dict):
        raise ApiError("the Kubernetes API server's answer is no object: is it one?", None)
    return result


def _sentence(status: int, data: bytes) -> str:
    try:
        said = str(json.loads(data).get("message"))[:500]
    except (ValueError, AttributeError):
        said = data[:200].decode(errors="replace").strip()
    hint = {
        401: "; its credentials are not valid (any more)",
        403: "; its service account needs the rules of receiver/deploy/role.yaml in this namespace",
        404: "; is crds/agenttask.yaml applied, and does the namespace exist?",
    }.get(status, "")
    return f"the Kubernetes API server answers {status}: {said}{hint}"
