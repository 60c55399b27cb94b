"""The clients of the configured forges, each with its pace."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.connect import connect
from coding_agent_core.forge.pacing import Paced, Rate
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.forge.retrying import Clock, RetryPolicy
from coding_agent_core.platforms import Platform
from coding_agent_core.settings import Settings
from coding_agent_core.settings.operator import Reporter

from coding_agent_operator.reporter.metrics import FORGE_REQUESTS

_logger = logging.getLogger("reporter.forges")

_POLICY = RetryPolicy(tries=2, total=10.0, first_wait=0.5, longest_wait=2.0)
"""A single lost answer is not worth a look; all else is repeated by later looks."""


class _Counted(Paced):
    """Counts the requests, too."""

    def answered(self, method: str, status: int | None, headers: Mapping[str, str], content: bytes) -> None:
        kind = "read" if method == "GET" else "write"
        FORGE_REQUESTS.labels(self.host, kind, str(status) if status else "none").inc()
        super().answered(method, status, headers, content)


def rate_of(settings: Reporter) -> Rate:
    """The configured limits."""
    return Rate(
        per_second=settings.requests_per_second,
        burst=settings.burst,
        writes_per_minute=settings.writes_per_minute,
        per_hour=settings.requests_per_hour,
        keep=settings.keep_remaining,
    )


def connect_paced(settings: Settings) -> dict[str, tuple[Forge, Paced]]:
    """The clients of every platform that has a token here, by host.

    The settings may name tokens of both platforms where only one's is mounted.

    Raises:
        SettingsError: there is no token at all, or both platforms are configured on the same host.
    """
    found: dict[str, tuple[Forge, Paced]] = {}
    problems: list[str] = []
    for platform in Platform:
        section = settings.forge(platform)
        if not section.personal_access_token.configured:
            continue
        pace = _Counted(section.host, rate_of(settings.reporter), Clock())
        try:
            forge = connect(settings, platform, policy=_POLICY, pace=pace)
        except SettingsError as error:
            problems.append(str(error))
            continue
        if forge.host in found:
            raise SettingsError(
                f"`github.api_url` and `gitlab.api_url` name the same host {forge.host}; "
                "an item could not be told from its host: correct one of them"
            )
        found[forge.host] = (forge, pace)
    for problem in problems:
        _logger.warning("%s", problem)
    if not found:
        raise SettingsError(
            "\n".join(problems)
            or "No token for any forge: set `github.personal_access_token` or `gitlab.personal_access_token`."
        )
    return found
