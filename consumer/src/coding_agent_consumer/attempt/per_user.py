"""The settings that a person may have for their tasks.

A person's settings are a list of plain keys and not a part of the settings tree: they name no file, no
environment variable, and nothing that decides where a secret of the installation is sent. A person's own
service gets the key that they give as text, or no key.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import httpx2
from coding_agent_core.errors import SettingsError
from coding_agent_core.platforms.registry import Platform
from coding_agent_core.platforms.text import one_line, printable, problem_of
from coding_agent_core.runtime.retry import Clock, RetryPolicy, retry
from coding_agent_core.settings.llm import LLM, Anthropic, Google, OpenAI, Provider
from coding_agent_core.settings.model import Settings
from coding_agent_core.settings.predecessor import Translation
from coding_agent_core.settings.section import Secrets, SecretSettings, Section
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

_logger = logging.getLogger("coding_agent.attempt")

_RETRIES = RetryPolicy(tries=5, total=20.0, first_wait=0.5, longest_wait=4.0)
"""A new pod's first connections can fail: a lost DNS packet costs 5 s, and network policies apply late."""
_ANSWER_S = 5.0
"""Seconds to wait for one answer of the service, which reads a file."""
_URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)
_SHOWN_PROBLEMS = 3
_SHOWN_KEY = 80
"""The most characters of a key's name that are shown: the name is the person's text."""
_SectionT = TypeVar("_SectionT", bound=Section)
_KeyedT = TypeVar("_KeyedT", OpenAI, Anthropic, Google)


def _address(value: str) -> str:
    url = _parsed(value)
    if url is None:
        raise ValueError("is not an http(s) URL such as https://models.example.com/v1")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("must have no user name, password, query or fragment; give the key as `api_key`")
    return str(url).rstrip("/")


def _key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be one line of printable ASCII characters without spaces")
    return value


_Address = Annotated[str, Field(max_length=2000), AfterValidator(_address)]
_Key = Annotated[SecretStr, Field(min_length=1, max_length=4096), AfterValidator(_key)]
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Tokens = Annotated[int, Field(gt=0, le=100_000_000)]
_Text = Annotated[str, Field(max_length=50_000)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class _Service(_Keys):
    model: _Name | None = None
    max_token: _Tokens | None = None
    context_length: _Tokens | None = None


class _Keyed(_Service):
    base_url: _Address | None = None
    api_key: _Key | None = None


class _OpenAI(_Keyed):
    api: Literal["auto", "responses", "chat"] | None = None


class _Ollama(_Service):
    endpoint: _Address | None = None


class _LMStudio(_Service):
    base_url: _Address | None = None


class _LLM(_Keys):
    provider: Annotated[Provider, Field(strict=False)] | None = None
    openai: _OpenAI = _OpenAI()
    anthropic: _Keyed = _Keyed()
    google: _Keyed = _Keyed()
    ollama: _Ollama = _Ollama()
    lmstudio: _LMStudio = _LMStudio()

    @property
    def names_a_service(self) -> bool:
        """Whether the person gives an address or a key."""
        keyed = (self.openai, self.anthropic, self.google)
        addresses = [self.ollama.endpoint, self.lmstudio.base_url, *(one.base_url for one in keyed)]
        return any((*addresses, *(one.api_key for one in keyed)))


class PersonalSettings(_Keys):
    """The settings that a person may have; each key has the meaning of the setting of the same name."""

    llm: _LLM = _LLM()
    system_prompt: _Text | None = None
    instructions: _Text | None = None
    """Added to the installation's instructions."""
    max_llm_process_num: Annotated[int, Field(gt=0)] | None = None
    """Counts only if it is lower than the installation's value."""


async def settings_for(
    settings: Settings,
    platform: Platform,
    user: str,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    clock: Clock = Clock(),  # noqa: B008 - it has no state
) -> Settings:
    """Return the settings for a person; if theirs cannot be read, log a warning and return `settings`.

    A service that cannot be reached or answers 429 or 5xx is asked up to five times, for 20 seconds.

    Raises:
        SettingsError: people may not set one of the keys, or its value is wrong; the message names the key
            but no values.
    """
    api = settings.user_config_api
    if not api.enabled or not user:
        return settings
    key = Secrets(api.api_key).first()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx2.AsyncClient(timeout=_ANSWER_S, transport=transport) as client:

            async def ask() -> httpx2.Response:
                url = f"{api.url.rstrip('/')}/config/{platform}/{quote(user, safe='')}"
                answer = await client.get(url, headers=headers)
                return answer if answer.status_code == 404 else answer.raise_for_status()

            answer = await retry(ask, _RETRIES, clock, retryable=_temporary, before_wait=_log_retry)
        if answer.status_code == 404:
            return settings
        body = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError) as error:
        problem = f"they cannot be read ({type(error).__name__})"
    else:
        if isinstance(body, dict) and isinstance(body.get("data"), dict):
            try:
                return with_personal(settings, body["data"])
            except SettingsError as error:
                raise SettingsError(f"The settings of {user} cannot be used: {error}") from error
        problem = "the answer has no `data` object"
    _logger.warning("Per-user settings of %s: %s; using the defaults", user, problem)
    return settings


def _temporary(error: BaseException) -> bool:
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError)


def _log_retry(error: BaseException, seconds: float, _: int) -> None:
    name = type(error).__name__
    _logger.info("Per-user settings cannot be read (%s), retrying in %.1f s", name, seconds)


def with_personal(settings: Settings, data: Mapping[str, Any]) -> Settings:
    """Return a copy of the settings in which a person's own override the installation's.

    Args:
        data: what is stored for the person, as JSON or YAML gives it; a value `None` counts as absent.

    Raises:
        SettingsError: people may not set one of the keys, or its value is wrong.
    """
    plain = _without_none(data)
    # Our environment is left out, because people must not be able to name its variables.
    Translation({"llm": plain.get("llm")}, {})
    try:
        own = PersonalSettings.model_validate(plain)
    except ValidationError as error:
        raise SettingsError(_problems(error)) from error
    changes: dict[str, Any] = {"llm": _llm(settings.llm, own.llm)}
    if own.llm.names_a_service:
        # Requests to a person's own service go to no other service, and cost the installation nothing.
        changes["gateway"] = settings.gateway.model_copy(update={"fallbacks": (), "identity": None})
    elif own.llm.provider not in (None, settings.llm.provider):
        changes["gateway"] = settings.gateway.model_copy(update={"identity": None})
    if own.system_prompt is not None:
        changes["system_prompt"] = own.system_prompt
    if own.instructions is not None:
        changes["instructions"] = "\n\n".join(filter(None, (settings.instructions, own.instructions)))
    if own.max_llm_process_num is not None:
        changes["max_llm_process_num"] = min(settings.max_llm_process_num, own.max_llm_process_num)
    return settings.model_copy(update=changes)


def _llm(ours: LLM, own: _LLM) -> LLM:
    return ours.model_copy(
        update={
            "provider": own.provider or ours.provider,
            "openai": _keyed(ours.openai, own.openai),
            "anthropic": _keyed(ours.anthropic, own.anthropic),
            "google": _keyed(ours.google, own.google),
            "ollama": _over(ours.ollama, _given(own.ollama)),
            "lmstudio": _over(ours.lmstudio, _given(own.lmstudio)),
        }
    )


def _keyed(ours: _KeyedT, own: _Keyed) -> _KeyedT:
    """Return a service that has a key. Our own key is sent only to our own address."""
    changes = _given(own)
    if own.base_url is not None:
        if _same_address(own.base_url, ours.base_url):
            del changes["base_url"]  # keep our own spelling: a client may read theirs differently
        else:
            changes["api_key"] = SecretSettings()
    if own.api_key is not None:
        changes["api_key"] = SecretSettings(values=(own.api_key,))
    return _over(ours, changes)


def _same_address(one: str, other: str) -> bool:
    """Whether two URLs are the same address in different spellings.

    Paths are compared as they are. A wrongly found difference does no harm: the person only needs a key of
    their own.
    """
    first, second = _parsed(one), _parsed(other)
    return first is not None and second is not None and _parts(first) == _parts(second)


def _parts(url: HttpUrl) -> tuple[object, ...]:
    """Return the parts that count: scheme and host in lower case, the host in ASCII, and always a port."""
    path = (url.path or "").rstrip("/")
    return (url.scheme, (url.host or "").rstrip("."), url.port, path, url.username, url.password, url.query)


def _parsed(url: str) -> HttpUrl | None:
    try:
        return _URL.validate_python(url, strict=True)
    except ValidationError:
        return None


def _given(keys: _Keys) -> dict[str, Any]:
    return {name: value for name, value in keys if value is not None}


def _over(section: _SectionT, changes: Mapping[str, Any]) -> _SectionT:
    return type(section).model_validate({**dict(section), **changes})


def _without_none(value: Any, depth: int = 3) -> Any:
    """Leave out keys that have YAML's empty value: for these, the installation's settings apply."""
    if not isinstance(value, Mapping) or depth == 0:
        return value
    return {key: _without_none(entry, depth - 1) for key, entry in value.items() if entry is not None}


def _problems(error: ValidationError) -> str:
    found = error.errors(include_input=False, include_url=False)
    shown = [_problem(str(".".join(map(str, entry["loc"]))), entry) for entry in found[:_SHOWN_PROBLEMS]]
    more = [f"and {len(found) - len(shown)} more"] if len(found) > len(shown) else []
    return "; ".join([*shown, *more])


def _problem(where: str, entry: Mapping[str, Any]) -> str:
    foreign = entry["type"] == "extra_forbidden"
    message = "this cannot be set for one person" if foreign else problem_of(entry)
    return f"{one_line(printable(where), _SHOWN_KEY)}: {message}"
