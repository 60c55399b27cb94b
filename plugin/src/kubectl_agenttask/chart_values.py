"""The chart's values for an installation that `init` has prepared. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml
from coding_agent_core.platforms.registry import Platform

from kubectl_agenttask import UsageError
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


@dataclass(frozen=True)
class Gateway:
    """A Gateway of the Gateway API."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def chosen_gateway(
    flag: str, webhook_url: str, earlier: Mapping[str, Any], found: Sequence[Gateway]
) -> Gateway | None:
    """Return the Gateway through which webhooks come; `None` for an Ingress, or without webhooks.

    Args:
        flag: what `--gateway` says.
        earlier: the values of an earlier file, whose Ingress stays.
        found: the Gateways of the cluster.

    Raises:
        UsageError: a person must choose, or the flag is wrong.
    """
    if not webhook_url:
        return None
    if flag:
        namespace, _, name = flag.partition("/")
        if flag == "none":
            return None
        if not namespace or not name:
            raise UsageError(f"--gateway {flag}: write NAMESPACE/NAME, or none")
        return Gateway(namespace, name)
    if (earlier.get("ingress") or {}).get("enabled"):
        return None
    parents = (earlier.get("httpRoute") or {}).get("parentRefs") or ()
    for parent in parents:
        return Gateway(parent.get("namespace", ""), parent["name"])
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise UsageError(f"--gateway is missing: the cluster has {names}. Choose one, or none for an Ingress")
    return found[0] if found else None


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
    gateway: Gateway | None = None,
) -> dict[str, Any]:
    """Return the values for `merged`, which removes those that are `None` from an earlier file.

    Args:
        account: the login of the agent's account.
        scope: the settings that narrow the poll (`ForgeSetup.poll_scope`).
        destinations: the APIs of `forge` and `model`, as the values call them.
        app_id: the GitHub App that gives the tokens, instead of a personal token.
        earlier: the values of an earlier file.
        gateway: the Gateway through which webhooks come; `None` for an Ingress.
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
        values |= {"receiver": {"enabled": True}} | _outside(answers.webhook_url, gateway)
        values["polling"] = {"enabled": True}
    else:
        values |= {"receiver": {"enabled": False}, "ingress": {"enabled": False}}
        values["httpRoute"] = {"enabled": None}
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
    provider = answers.llm.provider.value
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


def _outside(webhook_url: str, gateway: Gateway | None) -> dict[str, Any]:
    """Return the values of the one object that leads webhooks to the receiver."""
    parts = urlsplit(webhook_url)
    if gateway is not None:
        parent = {"name": gateway.name, "namespace": gateway.namespace}
        route = {"enabled": True, "parentRefs": [parent], "hostnames": [parts.hostname]}
        return {"httpRoute": route, "ingress": {"enabled": False}}
    tls = {"enabled": True, "secretName": TLS_SECRET} if parts.scheme == "https" else {"enabled": False}
    ingress = {"enabled": True, "host": parts.hostname, "tls": tls}
    return {"ingress": ingress, "httpRoute": {"enabled": None}}


def deep_merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over` in it; `None` stays, because `merged` needs it."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = deep_merged(below, value)
        else:
            result[key] = value
    return result


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `base` with `over` merged into it at every depth.

    `None` removes a key, and so does a mapping that `over` leaves empty.
    """
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
