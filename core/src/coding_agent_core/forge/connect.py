"""Makes the forge clients from the settings."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from coding_agent_core.errors import SettingsError
from coding_agent_core.forge.calls import Calls, Sender
from coding_agent_core.forge.pacing import Pace, Unpaced
from coding_agent_core.forge.protocol import Forge
from coding_agent_core.forge.retrying import Clock, RetryPolicy
from coding_agent_core.forge.token import Token
from coding_agent_core.platforms import FACTS, Platform
from coding_agent_core.secrets import Secrets, SecretSettings
from coding_agent_core.settings import Settings
from coding_agent_core.tasks import Item


def connect(
    settings: Settings,
    platform: Platform,
    *,
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
    clock: Clock = Clock(),  # noqa: B008 - immutable
    transport: httpx.AsyncBaseTransport | None = None,
    pace: Pace = Unpaced(),  # noqa: B008 - holds nothing
) -> Forge:
    """The client of one platform's configured installation; opens no connection yet.

    Args:
        settings: where it is, and its token.
        platform: which.
        policy: limits of repeated requests.
        clock: time and chance, for tests.
        transport: instead of the network, for tests.
        pace: when requests may be sent; by default at any time.

    Raises:
        SettingsError: no token is configured; the message names the setting and the variable.
    """
    if platform is Platform.GITHUB:
        # Each platform's client is imported where it is used: githubkit costs 0.4 s of start and 15 MB.
        from coding_agent_core.forge.github import GitHubForge  # noqa: PLC0415
        from coding_agent_core.forge.github_transport import GitHubSender  # noqa: PLC0415

        token = _token(settings, platform)
        sender: Sender = GitHubSender(settings.github.api_url, token, now=clock.now, transport=transport)
        calls = Calls(sender, settings.github.host, settings.github.api_url, policy, clock, pace)
        return GitHubForge(settings.github, token, calls)
    from coding_agent_core.forge.gitlab import GitLabForge  # noqa: PLC0415
    from coding_agent_core.forge.gitlab_transport import GitLabSender  # noqa: PLC0415

    token = _token(settings, platform)
    sender = GitLabSender(settings.gitlab.api_url, token, transport=transport)
    calls = Calls(sender, settings.gitlab.host, settings.gitlab.api_url, policy, clock, pace)
    return GitLabForge(settings.gitlab, token, calls)


def connect_all(settings: Settings) -> dict[str, Forge]:
    """The clients of every platform that has a token, by host.

    Raises:
        SettingsError: none has one, or both platforms are configured on the same host.
    """
    found: dict[str, Forge] = {}
    for platform in Platform:
        if not _secret(settings, platform).configured:
            continue
        forge = connect(settings, platform)
        if forge.host in found:
            raise SettingsError(
                f"`github.api_url` and `gitlab.api_url` name the same host {forge.host}; "
                "an item could not be told from its host: correct one of them"
            )
        found[forge.host] = forge
    if not found:
        raise SettingsError(
            f"No token for any forge: set {' or '.join(_setting(platform) for platform in Platform)}."
        )
    return found


def forge_of(forges: Mapping[str, Forge], item: Item) -> Forge:
    """The client of an item's host.

    Raises:
        SettingsError: that host is not configured, or has no token.
    """
    forge = forges.get(item.host.lower())
    if forge is None or forge.platform is not item.platform:
        known = ", ".join(sorted(forges)) or "none"
        raise SettingsError(
            f"{item.display} is on {item.host}, which is not configured; configured with a token: {known}. "
            f"See `{item.platform}.api_url` and `{item.platform}.personal_access_token`."
        )
    return forge


def _setting(platform: Platform) -> str:
    return f"`{platform}.personal_access_token` ({FACTS[platform].credential_variable})"


def _secret(settings: Settings, platform: Platform) -> SecretSettings:
    section = settings.forge(platform)
    return section.personal_access_token


def _token(settings: Settings, platform: Platform) -> Token:
    token = Token(platform, Secrets(_secret(settings, platform)))
    token.current()
    return token
