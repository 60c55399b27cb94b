"""What the egress proxy has denied to this attempt, as the proxy tells its agent."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
from coding_agent_core.egress import DENIALS_HOST, VARIABLES, job_of
from coding_agent_core.outcome import MAX_DENIALS, Denial
from pydantic import TypeAdapter, ValidationError

_logger = logging.getLogger("coding_agent.egress")
_LIMIT_S = 3.0
_COUNTS = TypeAdapter(dict[str, int])


def egress_proxy(environment: Mapping[str, str]) -> str | None:
    """The URL of the egress proxy, with this container's identity; `None`: there is none."""
    proxy = environment.get("HTTP_PROXY", "")
    return proxy if job_of(urlsplit(proxy).username or "") else None


def proxy_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child process needs to reach the egress proxy; empty without one."""
    if egress_proxy(environment) is None:
        return {}
    return {name: environment[name] for name in VARIABLES if name in environment}


async def denials(environment: Mapping[str, str]) -> tuple[Denial, ...]:
    """The hosts that were denied most often to agent and workspace together, and how often.

    Empty without an egress proxy, and with a warning in the log if it does not answer within 3 s.
    """
    proxy = egress_proxy(environment)
    if proxy is None:
        return ()
    try:
        async with httpx.AsyncClient(proxy=proxy, timeout=_LIMIT_S, trust_env=False) as client:
            answer = await client.get(f"http://{DENIALS_HOST}/")
            counts = _COUNTS.validate_json(answer.raise_for_status().content)
    except (httpx.HTTPError, ValidationError) as error:
        _logger.warning("The egress proxy does not say what it has denied: %s", type(error).__name__)
        return ()
    found = []
    for host, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        try:
            found.append(Denial(host=host, count=count))
        except ValidationError:
            continue  # not a name that anybody could allow
    return tuple(found[:MAX_DENIALS])
