"""How an attempt gets to the egress proxy: by its address and two passwords, and without a name server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from coding_agent_core.egress import Role, user_name, variables
from coding_agent_core.environment import SERVICE_PREFIX
from coding_agent_core.kubernetes.transport import ApiError
from coding_agent_core.settings.attempts import Egress
from coding_agent_core.settings.section import Secrets
from coding_agent_core.tasks import Item

_LIMIT_S = 5.0
_NO_NAME_SERVER = "127.0.0.1"
"""Kubernetes wants an address where `dnsPolicy` is `None`. In a pod nothing answers at this one."""


def with_egress(
    manifest: Mapping[str, Any],
    item: Item,
    egress: Egress,
    *,
    address: str,
    key: str,
    presets: Sequence[str] = (),
) -> dict[str, Any]:
    """The manifest of an attempt's Job, whose pod has no name server and the proxy in its environment. Pure.

    Args:
        address: host and port of the proxy.
        key: of the passwords.
        presets: that the workspace may reach too. Services of the repository get no identity at all.
    """
    job = manifest["metadata"]["name"]
    profile = egress.profile(item.host, item.repository)
    agent = variables(address, user_name(job, Role.AGENT), key)
    workspace = variables(address, user_name(job, Role.WORKSPACE, profile, presets), key)
    template = manifest["spec"]["template"]
    pod = template["spec"]
    pod = {
        **pod,
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": [_NO_NAME_SERVER]},
        "initContainers": [
            container if container["name"].startswith(SERVICE_PREFIX) else _with(container, workspace)
            for container in pod["initContainers"]
        ],
        "containers": [_with(container, agent) for container in pod["containers"]],
    }
    return {**manifest, "spec": {**manifest["spec"], "template": {**template, "spec": pod}}}


def _with(container: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The container with these variables, whatever `pod_template` says of them."""
    others = [entry for entry in container.get("env", ()) if entry["name"] not in values]
    return {
        **container,
        "env": [*others, *({"name": name, "value": value} for name, value in values.items())],
    }


class EgressProxy:
    """The proxy as the settings name it."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._key = Secrets(egress.key)

    async def given_to(
        self, manifest: Mapping[str, Any], item: Item, presets: Sequence[str] = ()
    ) -> Mapping[str, Any]:
        """The manifest of an attempt's Job with the proxy, if there is one.

        Raises:
            ApiError: the proxy's name cannot be resolved, or its key is missing: retry later. An attempt
                never starts without the proxy.
        """
        if self._egress.proxy is None:
            return manifest
        key = self._key.first()
        if key is None:
            raise ApiError("egress.key is not set, and attempts need it for the egress proxy", None)
        address = await address_of(self._egress.proxy)
        return with_egress(manifest, item, self._egress, address=address, key=key, presets=presets)


async def address_of(url: str) -> str:
    """The address and port behind a URL, as a URL has them.

    Raises:
        ApiError: the name cannot be resolved within 5 seconds.
    """
    parts = urlsplit(url)
    port = parts.port or 80
    try:
        async with asyncio.timeout(_LIMIT_S):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError) as error:
        problem = str(error) or f"no answer within {_LIMIT_S:g} s"
        text = f"egress.proxy: the address of {parts.hostname} cannot be found: {problem}"
        raise ApiError(text, None) from error
    address = str(found[0][4][0])
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
