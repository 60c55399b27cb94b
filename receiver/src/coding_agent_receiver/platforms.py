"""The two forges as the receiver sees them: how to verify, and how to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from coding_agent_core.platforms import Platform
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings import Settings

from coding_agent_receiver import github, gitlab, verify
from coding_agent_receiver.events import Delivery, Meaning

Headers = Mapping[str, str]
Interpret = Callable[[Delivery, Mapping[str, Any], Settings, datetime], Meaning]


@dataclass(frozen=True)
class Webhooks:
    """One forge's webhooks.

    Attributes:
        title: the forge's name in logs.
        proof: what its requests are verified by, in logs and answers.
        event_header: name of the header that names the event.
        secrets: the values that are valid now.
        plausible: whether the headers can pass at all: asked before the body is read.
        verified: whether headers and raw body are from the forge.
    """

    platform: Platform
    title: str
    proof: str
    event_header: str
    secrets: Secrets
    plausible: Callable[[Headers], bool]
    verified: Callable[[Headers, bytes], bool]
    delivery: Callable[[Headers], Delivery]
    action_of: Callable[[Mapping[str, Any]], str]
    interpret: Interpret


def github_webhooks(settings: Settings) -> Webhooks:
    """GitHub's, with the configured secrets."""
    secrets = Secrets(settings.webhook.github.secret)
    header = "x-hub-signature-256"
    return Webhooks(
        platform=Platform.GITHUB,
        title="GitHub",
        proof="signature",
        event_header="X-GitHub-Event",
        secrets=secrets,
        plausible=lambda headers: verify.github_signature(headers.get(header)) is not None,
        verified=lambda headers, body: verify.github_verified(body, headers.get(header), secrets.current()),
        delivery=github.delivery,
        action_of=github.action_of,
        interpret=github.interpret,
    )


def gitlab_webhooks(settings: Settings) -> Webhooks:
    """GitLab's, with the configured tokens."""
    tokens = Secrets(settings.webhook.gitlab.token)

    def verified(headers: Headers, _body: bytes = b"") -> bool:
        return verify.gitlab_verified(headers.get("x-gitlab-token"), tokens.current())

    return Webhooks(
        platform=Platform.GITLAB,
        title="GitLab",
        proof="token",
        event_header="X-Gitlab-Event",
        secrets=tokens,
        plausible=verified,
        verified=verified,
        delivery=gitlab.delivery,
        action_of=gitlab.action_of,
        interpret=gitlab.interpret,
    )
