"""Settings of the receiver: where it listens, which senders it accepts, and its limits."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, create_model, field_validator

from coding_agent_core.platforms.registry import FACTS, Platform
from coding_agent_core.settings.forges import forge_sections
from coding_agent_core.settings.section import SecretSettings, Section
from coding_agent_core.task.model import CommandName


class WebhookServer(Section):
    """The address at which the receiver listens."""

    host: str = "0.0.0.0"  # noqa: S104 - a container must listen on all addresses
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 chooses a free port."""


class Commands(Section):
    """Commands that people with write access write as comments: `/cancel`, `/retry`, `/run`.

    The webhook must send comments too: GitHub's event `issue_comment`, GitLab's *Comments*.
    """

    enabled: bool = False
    """Whether comments are read."""
    allowed: tuple[CommandName, ...] = tuple(CommandName)
    """Commands that are accepted; any other text is an ordinary comment."""

    @property
    def accepted(self) -> tuple[CommandName, ...]:
        """The commands that count in a comment: none unless comments are read."""
        return self.allowed if self.enabled else ()


_SECONDS = {
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "month": 30 * 86_400,
    "year": 360 * 86_400,
}
_RATE = re.compile(
    rf"\s*([1-9]\d{{0,8}})\s*(?:/|per)\s*([1-9]\d{{0,3}})?\s*({'|'.join(_SECONDS)})s?\s*", re.IGNORECASE
)


class Rate(NamedTuple):
    """At most `amount` requests in a window of some seconds, which begins with the first of them."""

    amount: int
    seconds: int


def rates_of(text: str) -> tuple[Rate, ...]:
    """Return the rates of a text such as `10/second; 100 per 2 minutes`.

    The notation is that of slowapi. Its library `limits` is not used: while strangers fill all counters, its
    store in memory takes 60 % of a CPU for 2,000 requests a second, and our windows take 2 %.

    Raises:
        ValueError: the text is not in this notation.
    """
    found = [_RATE.fullmatch(part) for part in re.split(r"[,;|]", text)]
    if not all(found):
        raise ValueError(f"{text!r} is not a rate limit; write for example 100/minute")
    return tuple(Rate(int(part[1]), int(part[2] or 1) * _SECONDS[part[3].lower()]) for part in found if part)


def _rates(value: str) -> str:
    rates_of(value)
    return value


Rates = Annotated[str, AfterValidator(_rates)]
"""One or several limits, for example `10/second; 100/minute`."""


class RateLimit(Section):
    """The highest rates of requests from a client's address: `100/minute` or `10/second; 200/hour`."""

    failed: Rates = "100/minute"
    """Limit for requests that fail verification; above it they are answered 429."""
    verified: Rates | None = None
    """Limit for authentic requests. It is off by default, because GitHub does not send a request again that
    was answered 429."""


if TYPE_CHECKING:
    WebhookSections = Section
else:
    WebhookSections = create_model("WebhookSections", __base__=Section, **forge_sections("WEBHOOK_SECTION"))


class Webhook(WebhookSections):
    """The receiver. Each forge has a section below this one, for example `webhook.github`."""

    enabled: bool = True
    """If false, `--mode webhook` refuses to start."""
    server: WebhookServer = WebhookServer()
    commands: Commands = Commands()
    rate_limit: RateLimit = RateLimit()
    trusted_proxies: tuple[str, ...] = ()
    """Networks of proxies whose X-Forwarded-For header is trusted."""
    allowed_networks: tuple[str, ...] = ()
    """If not empty, only these networks may send webhooks; `github` stands for GitHub's published hook
    addresses."""
    max_body_bytes: int = Field(default=25 * 1024 * 1024, gt=0, le=1024**3)
    """Size of the largest body; larger ones are answered 413. GitHub caps its payloads at 25 MB."""

    def of(self, platform: Platform) -> Any:
        """Return the section of a platform, which is its `WEBHOOK_SECTION`."""
        return getattr(self, platform)

    def secret(self, platform: Platform) -> SecretSettings:
        """Return the secret that verifies a platform's webhooks."""
        secret: SecretSettings = getattr(self.of(platform), FACTS[platform].webhook_setting)
        return secret

    @field_validator("trusted_proxies", "allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for entry in value:
            if entry == "github" and info.field_name == "allowed_networks":
                continue
            try:
                ip_network(entry, strict=False)
            except ValueError as error:
                raise ValueError(f"{entry!r} is not a network; write for example 10.0.0.0/8") from error
        return value


def networks(entries: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    """Return the parsed networks of the entries, without keywords."""
    return [ip_network(entry, strict=False) for entry in entries if entry != "github"]
