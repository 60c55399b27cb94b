"""Creates the forge clients from the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import httpx2
from coding_agent_core.errors import SettingsError, TokenMissingError
from coding_agent_core.platforms.registry import FACTS, Platform, forge_module
from coding_agent_core.runtime.retry import Clock, RetryPolicy
from coding_agent_core.settings.credentials import credential_place
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.section import Secrets
from coding_agent_core.task.model import Item

from coding_agent_forges.rest.client import ForgeClient, Token, TokenSource
from coding_agent_forges.rest.forge import Forge
from coding_agent_forges.rest.hidden_line import HiddenLines
from coding_agent_forges.rest.pacing import Paced

_logger = logging.getLogger("coding_agent.forge")


def connect_forge(
    settings: Settings,
    platform: Platform,
    *,
    only: str = "",
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
    clock: Clock = Clock(),  # noqa: B008 - immutable
    transport: httpx2.AsyncBaseTransport | None = None,
    pace: Paced | None = None,
    token: TokenSource | None = None,
) -> Forge:
    """Return the client of a platform's configured installation, without opening a connection.

    Args:
        only: the repository of an attempt; empty for a program that works on all repositories.
        transport: replaces the network in tests.
        token: the source of tokens; by default, the one that the settings describe.

    Raises:
        SettingsError: no token is configured; the message names the setting and the variable.
    """
    section = settings.forge(platform)
    kind: type[Forge] = forge_module(platform, "client").CLIENT
    token = token or kind.app_source(section, clock, only)
    if token is None:
        token = personal = Token(
            FACTS[platform].title, Secrets(section.personal_access_token), token_place(settings, platform)
        )
        personal.read()
    client = ForgeClient(
        section.host, section.api_url, token, section.headers, policy, clock, pace, transport
    )
    return kind(section, client, settings.consumer.branch_prefix, HiddenLines(Secrets(settings.comment_key)))


def connect_all(
    settings: Settings, connect_one: Callable[[Settings, Platform], Forge] = connect_forge
) -> dict[str, Forge]:
    """Return a client for each platform that has a token, by host.

    Tokens that the settings name but that are not mounted here are logged.

    Raises:
        SettingsError: no platform has a token, or two platforms are configured on the same host.
        TokenMissingError: every configured token is in a missing file.
    """
    forges: dict[str, Forge] = {}
    problems: list[SettingsError] = []
    for platform in Platform:
        if not settings.forge(platform).connectable:
            continue
        try:
            forge = connect_one(settings, platform)
        except SettingsError as error:
            problems.append(error)
            continue
        if forge.host in forges:
            raise SettingsError(
                f"`{forges[forge.host].platform}.api_url` and `{platform}.api_url` name the same host "
                f"{forge.host}; correct one of them"
            )
        forges[forge.host] = forge
    if not forges:
        if problems:
            missing = all(isinstance(problem, TokenMissingError) for problem in problems)
            raise (TokenMissingError if missing else SettingsError)("\n".join(map(str, problems)))
        names = " or ".join(token_place(settings, platform) for platform in Platform)
        raise SettingsError(f"No token for any forge: set {names}.")
    for problem in problems:
        _logger.warning("%s", problem)
    return forges


def token_place(settings: Settings, platform: Platform) -> str:
    """Return a phrase that says where a person sets the token of a platform."""
    return credential_place(settings, f"{platform}.personal_access_token")


def forge_of(forges: Mapping[str, Forge], item: Item) -> Forge:
    """Return the client of an item's host.

    Raises:
        SettingsError: the host is not configured or has no token.
    """
    forge = forges.get(item.host.lower())
    if forge is None or forge.platform is not item.platform:
        known = ", ".join(sorted(forges)) or "none"
        raise SettingsError(
            f"{item.display} is on {item.host}, which is not configured; configured with a token: {known}. "
            f"Set `{item.platform}.api_url`, and the token of that installation."
        )
    return forge
