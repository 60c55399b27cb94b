"""What differs between the flavours, as functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from coding_agent_testbed.forge.deliveries import Seal
from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.github import access as github_access
from coding_agent_testbed.forge.github import flavour as github
from coding_agent_testbed.forge.github import webhooks as github_webhooks
from coding_agent_testbed.forge.gitlab import access as gitlab_access
from coding_agent_testbed.forge.gitlab import flavour as gitlab
from coding_agent_testbed.forge.gitlab import webhooks as gitlab_webhooks
from coding_agent_testbed.forge.model import CheckHappening, Flavour, Happening
from coding_agent_testbed.forge.sandbox import Sandbox

Next = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Wording:
    """One flavour.

    Attributes:
        router: all API routes.
        tell, tell_check: send what happened to the hooks that want it.
        seal: headers and body of a delivery.
        new_guid: a delivery's id.
        refused, validation_failed: refusals in the vendor's words.
        headers: middleware that adds the vendor's headers.
    """

    router: Callable[[], APIRouter]
    tell: Callable[[Sandbox, Happening], None]
    tell_check: Callable[[Sandbox, CheckHappening], None]
    seal: Seal
    new_guid: Callable[[], str]
    refused: Callable[[HttpError], Response]
    validation_failed: Callable[[Sequence[Any]], HttpError]
    headers: Callable[[Request, Next], Awaitable[Response]]


FLAVOURS: Mapping[Flavour, Wording] = {
    Flavour.GITHUB: Wording(
        router=github.router,
        tell=github.tell,
        tell_check=github.tell_check,
        seal=github_webhooks.seal,
        new_guid=github.new_guid,
        refused=github.refused,
        validation_failed=github_access.validation_failed,
        headers=github.limit_rate,
    ),
    Flavour.GITLAB: Wording(
        router=gitlab.router,
        tell=gitlab.tell,
        tell_check=gitlab.tell_check,
        seal=gitlab_webhooks.seal,
        new_guid=gitlab.new_guid,
        refused=gitlab.refused,
        validation_failed=gitlab_access.validation_failed,
        headers=gitlab.headers,
    ),
}
