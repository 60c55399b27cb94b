"""Sends the smallest possible request to the model, to see whether address, key and name are right."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
from coding_agent_core.platforms.text import printable
from coding_agent_core.runtime.tls import client_context
from coding_agent_core.settings.llm import LLM, VENDORS, Provider

from kubectl_agenttask.findings import Finding, ok, unknown, wrong

_TIMEOUT = 60.0
"""Maximum number of seconds for the answer: a local server may have to load the model first."""
_SHOWN = 300
"""Maximum number of characters of an error that are shown."""
_TEXT = "Answer with one word: are you there?"
_LEAST = 16
"""The smallest limit of tokens in an answer that OpenAI's Responses API accepts."""


@dataclass(frozen=True)
class Question:
    """A request to a model's service. The headers contain the key."""

    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(repr=False)


def price_currency(llm: LLM, prices: Mapping[str, Any]) -> str:
    """Return the currency of the model's price; empty if its price is not known.

    Args:
        prices: the `llm.prices` of an earlier values file. Without one there, the public list price counts.
    """
    own = prices.get(llm.model_name)
    if isinstance(own, Mapping):
        return str(own.get("currency", "USD"))
    # The list takes a tenth of a second to load, and only `init` needs it.
    from genai_prices import Usage, calc_price  # noqa: PLC0415

    try:
        calc_price(Usage(input_tokens=1, output_tokens=1), llm.model_name, provider_api_url=llm.address)
    except LookupError:
        return ""
    return "USD"


def question(llm: LLM, key: str) -> Question:
    """Return the smallest request in the format of the provider in use.

    https://platform.openai.com/docs/api-reference, https://docs.anthropic.com/en/api/messages,
    https://ai.google.dev/api/generate-content
    """
    base, model = llm.address.rstrip("/"), llm.model_name
    messages = [{"role": "user", "content": _TEXT}]
    match llm.provider:
        case Provider.ANTHROPIC:
            headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
            body = {"model": model, "max_tokens": 1, "messages": messages}
            return Question(f"{base}/v1/messages", body, headers)
        case Provider.GOOGLE:
            body = {
                "contents": [{"role": "user", "parts": [{"text": _TEXT}]}],
                "generationConfig": {"maxOutputTokens": 1},
            }
            url = f"{base}/v1beta/models/{model}:generateContent"
            return Question(url, body, {"x-goog-api-key": key})
        case Provider.OLLAMA:
            base = f"{base}/v1"
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if _has_responses(llm):
        body = {"model": model, "input": _TEXT, "max_output_tokens": _LEAST, "store": False}
        return Question(f"{base}/responses", body, headers)
    body = {"model": model, "messages": messages, "max_tokens": _LEAST}
    return Question(f"{base}/chat/completions", body, headers)


def _has_responses(llm: LLM) -> bool:
    """Whether the service speaks OpenAI's Responses API, by the rule of the setting `llm.openai.api`."""
    if llm.provider is not Provider.OPENAI:
        return False
    itself = urlsplit(llm.openai.base_url).hostname == VENDORS[Provider.OPENAI]
    return llm.openai.api == "responses" or (llm.openai.api == "auto" and itself)


def ask_model(llm: LLM, key: str, place: str) -> Finding:
    """Send the request, and return whether the model answers.

    Args:
        key: the key of the service; empty if it needs none.
        place: where a person sets the key.
    """
    asked = question(llm, key)
    host, model = urlsplit(asked.url).netloc, llm.model_name
    try:
        answer = httpx2.post(
            asked.url,
            json=dict(asked.body),
            headers=dict(asked.headers),
            timeout=_TIMEOUT,
            verify=client_context(),
        )
    except httpx2.HTTPError as error:
        if isinstance(error, httpx2.ConnectError) and not _known(urlsplit(asked.url).hostname or ""):
            return unknown(
                "model",
                f"this machine does not know {host}, so neither address nor key was tried. Within the "
                "cluster, the name may be known",
            )
        why = str(error) or type(error).__name__
        return wrong("model", f"{host} cannot be reached ({why}): check the address of the model")
    if answer.is_success:
        return ok("model", f"{model} at {host} answers")
    message = _message(answer)
    if key:  # services may repeat it
        message = message.replace(key, "…")
    message = printable(message)[:_SHOWN]
    # Google answers 400 to a wrong key. Services repeat a part of it in this message, so that is not shown.
    if answer.status_code in (401, 403) or (answer.status_code == 400 and "api key" in message.lower()):
        return wrong("model", f"{host} does not accept the key ({answer.status_code}). Set {place}")
    if answer.status_code == 404:
        return wrong(
            "model",
            f"{host} knows no model {model!r}, or the address is wrong (404: {message}). Check "
            f"config.llm.{llm.provider}",
        )
    if answer.status_code == 429:
        return wrong(
            "model", f"{host} accepts the key but not more requests (429: {message}): check the quota"
        )
    return wrong("model", f"{host} answers {answer.status_code}: {message}")


def _known(host: str) -> bool:
    """Whether this machine can resolve the name of a host."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _message(answer: httpx2.Response) -> str:
    """Return the message in an error of any of the services, or the beginning of its text."""
    try:
        error = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return answer.text
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
