"""Which namespaces of the cluster have AgentTasks."""

from __future__ import annotations

from coding_agent_core.agenttask import GROUP, PLURAL, VERSION
from coding_agent_core.kubernetes.transport import ApiServer

_API = f"/apis/{GROUP}/{VERSION}"
_PAGE = 200


async def namespaces(server: ApiServer, labels: str = "", page: int = _PAGE) -> set[str]:
    """Those with tasks that have the labels, as of one moment; `page` at a time, so that memory stays small.

    Raises:
        ApiError: the API server did not answer, or not for the whole cluster.
    """
    found: set[str] = set()
    token = ""
    while True:
        query = [("limit", str(page))]
        query += [("labelSelector", labels)] if labels else []
        query += [("continue", token)] if token else []
        part = await server.request("GET", f"{_API}/{PLURAL}", query=query)
        found.update(each["metadata"]["namespace"] for each in part["items"])
        token = part["metadata"].get("continue") or ""
        if not token:
            return found


async def has_tasks(server: ApiServer, namespace: str) -> bool:
    """Whether it has any, ended or not.

    Raises:
        ApiError: the API server did not answer.
    """
    path = f"{_API}/namespaces/{namespace}/{PLURAL}"
    return bool((await server.request("GET", path, query=[("limit", "1")]))["items"])
