"""The settings of one attempt: ours, with those of the person who applied the label, and of the task."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
from coding_agent_core.platforms import Platform
from coding_agent_core.secrets import Secrets
from coding_agent_core.settings import Settings
from coding_agent_core.text import first_problem
from pydantic import ValidationError

_logger = logging.getLogger("coding_agent.per_user")
_OVERRIDABLE = ("llm", "system_prompt", "max_llm_process_num", "instructions")


def merge(settings: Settings, data: Mapping[str, Any]) -> Settings:
    """A copy of the settings with the person's own over it; their `instructions` are added to ours.

    People can only set the model, the instructions and the number of requests. Who names another server must
    bring a key for it: ours is never sent to an address that is not ours.

    Raises:
        pydantic.ValidationError: a value is wrong or unknown.
    """
    own = {key: data[key] for key in _OVERRIDABLE if data.get(key) is not None}
    merged = _over(settings.model_dump(), own)
    if isinstance(own.get("instructions"), str):
        merged["instructions"] = _joined(settings.instructions, own["instructions"])
    openai = own.get("llm", {}).get("openai", {}) if isinstance(own.get("llm"), Mapping) else {}
    if isinstance(openai, Mapping) and "api_key" not in openai:
        ours = settings.llm.openai.base_url.rstrip("/")
        if str(openai.get("base_url", ours)).rstrip("/") != ours:
            merged["llm"]["openai"]["api_key"] = {}
    return Settings.model_validate(merged)


def with_task_options(settings: Settings, *, model: str | None, instructions: str | None) -> Settings:
    """A copy with a task's own model at the same service, and its instructions after the others."""
    if model is not None:
        provider = settings.llm.provider
        section = getattr(settings.llm, provider).model_copy(update={"model": model})
        settings = settings.model_copy(update={"llm": settings.llm.model_copy(update={provider: section})})
    if instructions is not None:
        joined = _joined(settings.instructions, instructions)
        settings = settings.model_copy(update={"instructions": joined})
    return settings


async def settings_for(
    settings: Settings, platform: Platform, user: str, *, transport: httpx.AsyncBaseTransport | None = None
) -> Settings:
    """The settings for a person; ours, with a warning in the log, if theirs cannot be read."""
    api = settings.user_config_api
    if not api.enabled or not user:
        return settings
    url = f"{api.url.rstrip('/')}/config/{platform}/{quote(user, safe='')}"
    key = Secrets(api.api_key).first()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx.AsyncClient(timeout=api.timeout, transport=transport, trust_env=False) as client:
            answer = await client.get(url, headers=headers)
        if answer.status_code == 404:
            return settings
        answer.raise_for_status()
        body = answer.json()
        if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
            _logger.warning(
                "Per-user settings of %s: the answer has no `data` object; using the defaults", user
            )
            return settings
        return merge(settings, body["data"])
    except ValidationError as error:
        _logger.warning("Per-user settings of %s: %s; using the defaults", user, first_problem(error))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        _logger.warning(
            "Per-user settings of %s cannot be read (%s); using the defaults", user, type(error).__name__
        )
    return settings


def _joined(ours: str | None, more: str) -> str:
    return f"{ours}\n\n{more}" if ours else more


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        result[key] = _over(below, value) if both else value  # type: ignore[arg-type]
    return result
