"""The chart's values for an installation that `init` has prepared. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml
from coding_agent_core.platforms.registry import Platform

from kubectl_agenttask.answers import InitInput
from kubectl_agenttask.destinations import Destination, network_values

MODEL_SECRET, MODEL_KEY = "model-key", "api-key"
WEBHOOK_SECRET = "webhook-secret"  # noqa: S105
APP_SECRET, APP_KEY = "github-app", "private-key.pem"
TOKEN_KEY = "token"  # noqa: S105
TLS_SECRET = "coding-agent-tls"  # noqa: S105
"""Names and keys of Secrets; the keys are those that the chart's values document."""
NOTE_REPOSITORIES = "coding-agent.dev/repositories"
"""The annotation, at the Secret with the token, of the repositories that `doctor` checks."""
NOTE_HOST = "coding-agent.dev/host"
"""The annotation, at a Secret with a token or key, of the host that it is for."""
EVERY_MINUTE = "* * * * *"
_HEAD = (
    "# Values of the coding agent's chart. `kubectl agenttask init` sets the keys below; add others freely.\n"
)


def token_secret(platform: Platform) -> str:
    """Return the name of the Secret with the forge's token."""
    return f"{platform}-token"


def chart_values(
    answers: InitInput,
    account: str,
    scope: Mapping[str, object],
    destinations: Mapping[str, Destination],
    app_id: int | None,
    *,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the values for `merged`, which removes those that are `None` from an earlier file.

    Args:
        account: the login of the agent's account.
        scope: the settings that narrow the poll (`ForgeSetup.poll_scope`).
        destinations: the APIs of `forge` and `model`, as the values call them.
        app_id: the GitHub App that gives the tokens, instead of a personal token.
        earlier: the values of an earlier file.
    """
    platform = answers.platform
    secrets: dict[str, Any] = {}
    if app_id is None:
        secrets[platform.value] = {"existingSecret": token_secret(platform)}
        if platform is Platform.GITHUB:
            secrets["githubApp"] = {"existingSecret": None}
    else:
        secrets["githubApp"] = {"existingSecret": APP_SECRET}
        # An earlier values file may name a token, and the chart refuses both.
        secrets[platform.value] = {"existingSecret": "", "token": ""}
    # A key of another service must not stay, because attempts would send it to this one.
    secrets["model"] = {"existingSecret": MODEL_SECRET if answers.model_key else None}
    values: dict[str, Any] = {"image": {"registry": answers.registry}} if answers.registry else {}
    values["secrets"] = secrets
    if answers.webhook_url:
        secrets["webhook"] = {"existingSecret": WEBHOOK_SECRET}
        values |= {"receiver": {"enabled": True}, "ingress": _ingress(answers.webhook_url)}
        values["polling"] = {"enabled": True}
    else:
        values |= {"receiver": {"enabled": False}, "ingress": {"enabled": False}}
        values["polling"] = {"enabled": True, "schedule": EVERY_MINUTE}
    forge: dict[str, Any] = {"api_url": answers.settings.forge(platform).api_url, "account": account}
    if platform is Platform.GITHUB:
        forge["app"] = None if app_id is None else {"app_id": app_id}
    values["config"] = {platform.value: forge | dict(scope), "llm": _llm(answers)}
    policies = earlier.get("networkPolicy")
    sections = policies if isinstance(policies, Mapping) else {}
    values["networkPolicy"] = {
        name: network_values(sections.get(name), destination) for name, destination in destinations.items()
    }
    return values


def _llm(answers: InitInput) -> dict[str, Any]:
    """Return the section `llm`. The chart adds the file with the key."""
    provider = answers.llm.provider
    section = getattr(answers.llm, provider).model_dump(include={"base_url", "endpoint", "model"})
    # With an address, the chart expects no key unless the values name its Secret.
    default = type(getattr(answers.llm, provider))()
    return {
        "provider": provider,
        provider: {
            name: value if name == "model" or value != getattr(default, name) else None
            for name, value in section.items()
        },
    }


def _ingress(webhook_url: str) -> dict[str, Any]:
    parts = urlsplit(webhook_url)
    tls = {"enabled": True, "secretName": TLS_SECRET} if parts.scheme == "https" else {"enabled": False}
    return {"enabled": True, "host": parts.hostname, "tls": tls}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` in it. `None` removes a value, and no mapping is left empty."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping):
            new: Any = merged(below if isinstance(below, Mapping) else {}, value) or None
        else:
            new = value
        if new is None:
            result.pop(key, None)
        else:
            result[key] = new
    return result


def values_text(values: Mapping[str, Any]) -> str:
    """Return the text of a values file."""
    return _HEAD + yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
