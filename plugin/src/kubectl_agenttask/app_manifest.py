"""Registers a GitHub App from a manifest, so that nobody has to fill in GitHub's form.

A page on this machine sends the manifest to GitHub. The person confirms it there, and the address of GitHub's
next page contains a code. The code is exchanged once for the App's id and its secrets:
https://docs.github.com/apps/sharing-github-apps/registering-a-github-app-from-a-manifest
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx2
from coding_agent_core.platforms.facts import web_base
from coding_agent_core.runtime.tls import client_context
from coding_agent_forges.github.app_settings import Purpose
from coding_agent_forges.github.auth.app import permissions_for
from coding_agent_forges.github.setup import EVENTS
from coding_agent_forges.rest.calls import ResponseModel, path
from pydantic import Field, ValidationError

from kubectl_agenttask import PluginError, UsageError

_LEVELS = ("read", "write")
_EARLY = {"checks": "write"}
"""No token gets this yet. Every owner has to accept what an App asks for later, so the manifest asks before
the first release; a later one can then report the verification as a check run."""
_TIMEOUT = 30.0
_CODE = re.compile(r"[0-9A-Za-z_-]{8,128}")
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Register the coding agent at GitHub</title>
<p>This sends the settings of the GitHub App <b>{name}</b> to {host}. You confirm them there.</p>
<form action="{action}" method="post">
<input type="hidden" name="manifest" value="{manifest}">
<button>Continue to {host}</button>
</form>
"""


class RegisteredApp(ResponseModel):
    """The App that GitHub created. GitHub shows its secrets only in this answer."""

    id: int
    slug: str
    html_url: str
    pem: str = Field(repr=False)
    webhook_secret: str | None = Field(default=None, repr=False)

    @property
    def account(self) -> str:
        return f"{self.slug}[bot]"

    @property
    def install_url(self) -> str:
        """The page on which an owner chooses the repositories of the App."""
        return f"{self.html_url}/installations/new"


@dataclass(frozen=True)
class Registration:
    """An App to register.

    Attributes:
        organization: the organization that will own it; empty for the person's own account.
        webhook_url: the receiver's address; empty if the App sends no webhooks.
    """

    api_url: str
    name: str
    organization: str = ""
    webhook_url: str = ""

    @property
    def web(self) -> str:
        return web_base(self.api_url)

    def manifest(self) -> dict[str, object]:
        """Return the manifest, with the permissions that the programs need and will need."""
        fields: dict[str, object] = {
            "name": self.name,
            "url": self.web,
            # GitHub adds the code to this address. The page exists, so the browser shows no error.
            "redirect_url": f"{self.web}/settings/apps",
            "public": False,
            "default_permissions": asked_permissions(),
        }
        if self.webhook_url:
            fields["hook_attributes"] = {"url": self.webhook_url, "active": True}
            fields["default_events"] = list(EVENTS)
        return fields

    def page(self) -> str:
        """Return the page that sends the manifest, because GitHub takes it only from a form."""
        place = path("organizations", self.organization) if self.organization else ""
        return _PAGE.format(
            name=html.escape(self.name),
            host=html.escape(urlsplit(self.web).netloc),
            action=html.escape(f"{self.web}{place}/settings/apps/new"),
            manifest=html.escape(json.dumps(self.manifest())),
        )

    def convert(self, code: str) -> RegisteredApp:
        """Exchange the code for the App and its secrets. This works once, within an hour.

        Raises:
            PluginError: GitHub cannot be reached, or does not accept the code.
        """
        address = f"{self.api_url.rstrip('/')}{path('app-manifests', code, 'conversions')}"
        headers = {"accept": "application/vnd.github+json"}
        try:
            answer = httpx2.post(address, headers=headers, timeout=_TIMEOUT, verify=client_context())
        except httpx2.HTTPError as error:
            raise PluginError(f"{self.web} cannot be reached ({error}): check --api-url.") from error
        if answer.status_code == 404:
            raise PluginError(
                f"{self.web} does not accept the code: a code works once and for an hour. Run the command "
                "again without --code."
            )
        try:
            return RegisteredApp.model_validate_json(answer.content)
        except ValidationError:
            # The validation error would quote the answer, which contains the private key.
            raise PluginError(
                f"{self.web} answered {answer.status_code} to the code, and not with an App: check --api-url."
            ) from None


def asked_permissions() -> dict[str, str]:
    """Return the higher level of each permission of all purposes, and what is asked for early."""
    found = dict(_EARLY)
    for purpose in Purpose:
        for name, level in permissions_for(purpose, "owner/name").required.items():
            known = found.get(name, level)
            found[name] = max(known, level, key=_LEVELS.index)
    return dict(sorted(found.items()))


def code_of(given: str) -> str:
    """Return the code from what a person pastes: the code, or the address that contains it.

    Raises:
        UsageError: it contains no code.
    """
    text = given.strip()
    if "code=" in text:
        text = parse_qs(urlsplit(text).query).get("code", [""])[0]
    if not _CODE.fullmatch(text):
        raise UsageError("--code: paste the whole address of GitHub's page, which contains code=…")
    return text
