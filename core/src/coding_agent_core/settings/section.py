"""The base of all sections of the settings, and the forms of values that several of them have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from coding_agent_core.secrets import SecretSettings, as_secret_settings

SecretField = Annotated[SecretSettings, BeforeValidator(as_secret_settings)]
_Value = TypeVar("_Value")


def _without_user(value: str) -> str:
    """Refuse a part before an `@` in the authority: a URL is logged and shown on items.

    Raises:
        ValueError: it has user information.
    """
    rest = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:/*", "", value.strip())
    if "@" in re.split(r"[/?#\\]", rest, maxsplit=1)[0]:
        raise ValueError(
            "the URL has user information, and URLs are shown and logged. Remove the part before the `@`, "
            "and set the credential where it stays secret: `api_key`, `headers` or `personal_access_token`"
        )
    return value


def _http(value: str) -> str:
    """
    Raises:
        ValueError: it has another scheme, or no host.
    """
    try:
        parts = urlsplit(value)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"{value!r} is not an http(s) URL; write for example https://forge.example.com")
    return value


Url = Annotated[str, AfterValidator(_without_user), AfterValidator(_http)]
"""An http(s) URL without user information."""
OptionalUrl = Annotated[str, AfterValidator(lambda value: value and _http(_without_user(value)))]
"""The same, or empty."""


class Section(BaseModel):
    """Base of all sections: immutable, so that one task's settings cannot leak into another's."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def for_repository(values: Mapping[str, _Value], host: str, repository: str) -> _Value | None:
    """The value for a repository: under `host/owner/repo`, else `owner/repo`; letter case is ignored."""
    known = {name.lower(): value for name, value in values.items()}
    path = repository.lower()
    return known.get(f"{host.lower()}/{path}", known.get(path))
