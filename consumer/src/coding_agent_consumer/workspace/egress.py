"""An attempt's use of the egress proxy: its identity there, and the hosts that the proxy denied to it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2
from coding_agent_core.errors import SettingsError
from coding_agent_core.runtime.retry import Clock, RetryPolicy, retry
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.egress import (
    DENIALS_HOST,
    MAX_DENIALS,
    VARIABLES,
    Denial,
    Role,
    job_of,
    user_name,
    variables,
)
from coding_agent_core.task.model import Item
from pydantic import TypeAdapter, ValidationError

_logger = logging.getLogger("coding_agent.egress")
_LIMIT_S, _HURRIED_LIMIT_S = 3.0, 1.0
_COUNTS = TypeAdapter(dict[str, int])


def egress_proxy(environment: Mapping[str, str]) -> str | None:
    """Return the egress proxy's URL with this container's identity; `None`: there is no proxy."""
    proxy = environment.get("HTTP_PROXY", "")
    return proxy if job_of(urlsplit(proxy).username or "") else None


def proxy_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a child process needs to reach the egress proxy; empty without a proxy."""
    if egress_proxy(environment) is None:
        return {}
    return {name: environment[name] for name in VARIABLES if name in environment}


@dataclass(frozen=True)
class Identities:
    """Makes the identities of a consumer's attempts, as the operator does on Kubernetes.

    Attributes:
        address: host and port of the proxy.
    """

    settings: Settings
    address: str
    key: str = field(repr=False)

    @staticmethod
    def of(settings: Settings) -> Identities | None:
        """Return the identities for an installation; `None`: it has no proxy.

        Raises:
            SettingsError: there is a proxy, but its key is missing.
        """
        egress = settings.egress
        if egress.proxy is None:
            return None
        key = Secrets(egress.key).first()
        if key is None:
            raise SettingsError("egress.key is not set; it must be the same key as the egress proxy's")
        return Identities(settings, urlsplit(egress.proxy).netloc, key)

    def agent(self, job: str) -> dict[str, str]:
        """Return the variables of an agent.

        Args:
            job: the attempt's name.
        """
        return self._variables(user_name(job, Role.AGENT))

    def workspace(self, job: str, item: Item) -> dict[str, str]:
        """Return the variables of the commands in an attempt's workspace."""
        profile = self.settings.egress.profile(item.host, item.repository)
        return self._variables(user_name(job, Role.WORKSPACE, profile))

    def _variables(self, user: str) -> dict[str, str]:
        return variables(self.address, user, self.key, direct=[self.settings.gateway.host])


async def denials(environment: Mapping[str, str], *, hurry: bool = False) -> tuple[Denial, ...]:
    """Return the hosts that were denied most often to agent and workspace together, and how often.

    The result is empty without an egress proxy. It is also empty, and this is logged, if the proxy is asked
    twice and does not answer within 3 s each time.

    Args:
        hurry: whether to ask only once, for 1 s: a pod is killed when its grace period or its time is over.
    """
    proxy = egress_proxy(environment)
    if proxy is None:
        return ()
    limit = _HURRIED_LIMIT_S if hurry else _LIMIT_S

    async def ask() -> httpx2.Response:
        async with (
            asyncio.timeout(limit),
            httpx2.AsyncClient(proxy=proxy, timeout=None, trust_env=False) as client,
        ):
            return await client.get(f"http://{DENIALS_HOST}/")

    def log(error: BaseException, seconds: float, _: int) -> None:
        name = type(error).__name__
        _logger.info("The egress proxy did not report what it denied (%s), retrying in %.1f s", name, seconds)

    try:
        answer = await retry(
            ask,
            RetryPolicy(tries=1 if hurry else 2),
            Clock(),
            retryable=lambda error: isinstance(error, httpx2.TransportError | TimeoutError),
            before_wait=log,
        )
        counts = _COUNTS.validate_json(answer.raise_for_status().content)
    except (httpx2.HTTPError, TimeoutError, ValidationError) as error:
        _logger.warning("The egress proxy did not report what it denied: %s", type(error).__name__)
        return ()
    denied = []
    for host, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        try:
            denied.append(Denial(host=host, count=count))
        except ValidationError:
            continue  # not a name that a person could allow
    return tuple(denied[:MAX_DENIALS])
