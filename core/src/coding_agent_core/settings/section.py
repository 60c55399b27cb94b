"""The base of all sections of the settings, and types that several use: URLs, secrets, values by repository.

A secret is given by values, or by files that are read again when they change. Others stand in plain text, and
are found by the names beside them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

_logger = logging.getLogger("coding_agent.secrets")
_Value = TypeVar("_Value")
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth(?!ors?\b)|bearer", re.IGNORECASE)
"""Names of options and headers whose values are secrets."""
_SECRET_VARIABLE = re.compile(
    r"(key|token|secret|passw(or)?d|credentials?|auth|bearer|(^|_)pat)(_?id|_?[0-9]+)?$", re.IGNORECASE
)
"""Names of variables whose values are secrets. Only the end of a name counts: a process has many variables,
and `KEYCLOAK_REALM` or `TOKEN_FILE` are no secrets."""
_ANY_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"']+", re.IGNORECASE)


class Section(BaseModel):
    """The base of all sections. It is immutable, so that settings of one task cannot affect another task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def other_secrets(self) -> SecretSettings:
        """The secrets in fields of this section that are not of the type `SecretField`."""
        return SecretSettings()


def for_repository(values: Mapping[str, _Value], host: str, repository: str) -> _Value | None:
    """Return the value for `host/owner/repo`, or otherwise for `owner/repo`; letter case is ignored."""
    known = {name.lower(): value for name, value in values.items()}
    path = repository.lower()
    return known.get(f"{host.lower()}/{path}", known.get(path))


def _without_user(value: str) -> str:
    """Refuse a URL with user information before an `@`, because URLs are logged and shown on items.

    Raises:
        ValueError: the URL has user information.
    """
    rest = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:/*", "", value.strip())
    if "@" in re.split(r"[/?#\\]", rest, maxsplit=1)[0]:
        raise ValueError(
            "the URL has user information, and URLs are shown and logged. Remove the part before the `@`, "
            "and set the credential where it stays secret: `api_key`, `headers` or `personal_access_token`"
        )
    return value


_HTTP = r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#\\@\s]+([/?#].*)?$"
"""An http(s) URL with a host and without user information; also the pattern of the chart's schema."""


def _http(value: str) -> str:
    """Return the value if it is an http(s) URL.

    Raises:
        ValueError: the value has another scheme or no host.
    """
    try:
        known = re.search(_HTTP, value) is not None and bool(urlsplit(value).hostname)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"{value!r} is not an http(s) URL; write for example https://forge.example.com")
    return value


CompletedUrl = Annotated[str, AfterValidator(_without_user), AfterValidator(_http)]
"""A URL that the setting's own validator completes first, so that shorter values are right too."""
Url = Annotated[CompletedUrl, Field(json_schema_extra={"pattern": _HTTP})]
"""An http(s) URL without user information."""
OptionalUrl = Annotated[
    str,
    AfterValidator(lambda value: value and _http(_without_user(value))),
    Field(json_schema_extra={"pattern": f"^$|{_HTTP}"}),
]
"""An http(s) URL without user information, or an empty string."""


YEAR_S = 365 * 86_400
"""The longest duration, also of a task's `ttlSecondsAfterFinished`. With far longer ones, dates overflow."""
_MOST = 1_000_000
"""The largest count."""
Interval = Annotated[float, Field(gt=0, le=YEAR_S, allow_inf_nan=False)]
"""Seconds between two events, or until something is given up."""
Duration = Annotated[float, Field(ge=0, le=YEAR_S, allow_inf_nan=False)]
"""Seconds; 0 has a meaning."""
WholeSeconds = Annotated[int, Field(ge=0, le=YEAR_S)]
"""Seconds for an API that takes whole ones; 0 has a meaning."""
Days = Annotated[int, Field(ge=0, le=3650)]
Count = Annotated[int, Field(ge=0, le=_MOST)]
"""A number of things, or a limit for it; 0 has a meaning."""
PositiveCount = Annotated[int, Field(gt=0, le=_MOST)]
ModelTokens = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""A number of tokens in one request to a model."""
Port = Annotated[int, Field(gt=0, le=65_535)]
ForgeId = Annotated[int, Field(gt=0, le=2**53)]
"""The number by which a forge knows something, which is an exact one in JSON."""


class SecretSettings(Section):
    """One or several valid values of a secret, such as the old and the new one during a rotation.

    Attributes:
        values: the values, usually `${VARIABLE}`; empty values are ignored.
        files: files with one value each; surrounding white space is ignored. They are read again when they
            change, so that a mounted Kubernetes Secret can be rotated without a restart.
    """

    values: tuple[SecretStr, ...] = ()
    files: tuple[Path, ...] = ()

    @field_validator("values")
    @classmethod
    def _drop_empty(cls, values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(value for value in values if value.get_secret_value())

    @staticmethod
    def of(values: Iterable[str]) -> SecretSettings:
        return SecretSettings(values=tuple(map(SecretStr, values)))

    @property
    def configured(self) -> bool:
        return bool(self.values or self.files)


def secrets_in(value: object) -> Iterator[SecretSettings]:
    """Yield all secrets of a section, and of the sections below it."""
    if isinstance(value, SecretSettings):
        yield value
    elif isinstance(value, BaseModel):
        if isinstance(value, Section):
            yield value.other_secrets
        for _, below in value:
            yield from secrets_in(below)
    elif isinstance(value, Mapping):
        for below in value.values():
            yield from secrets_in(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from secrets_in(below)


def _long_form(value: object) -> object:
    """Convert the short forms, a string or a list of strings, to the long form."""
    if value is None:
        return {}
    if isinstance(value, str | SecretStr):
        return {"values": [value]}
    if isinstance(value, list | tuple):
        return {"values": list(value)}
    return value


SecretField = Annotated[SecretSettings, BeforeValidator(_long_form)]


@dataclass
class Secrets:
    """Reads the current values of a `SecretSettings`.

    Attributes:
        optional: whether a file that never existed causes no warning.
    """

    settings: SecretSettings
    optional: bool = False
    _cache: dict[Path, tuple[tuple[int, int, int], str]] = field(default_factory=dict, repr=False)
    _missing: set[Path] = field(default_factory=set, repr=False)

    def current(self) -> list[str]:
        """Return all values that are valid now.

        If a file cannot be read, its last value stays valid, because the kubelet replaces a mounted Secret by
        a symlink, so that a file may be missing for a moment. A warning is logged only once until the file
        can be read again.
        """
        values = [value.get_secret_value() for value in self.settings.values]
        for path in self.settings.files:
            try:
                stat = path.stat()
                stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                cached = self._cache.get(path)
                if cached is None or cached[0] != stamp:
                    cached = (stamp, path.read_text(encoding="utf-8").strip())
                    self._cache[path] = cached
                self._missing.discard(path)
            except (OSError, UnicodeDecodeError) as error:
                expected = not self.optional or path in self._cache
                if expected and path not in self._missing:
                    self._missing.add(path)
                    _logger.warning("Cannot read the secret file %s: %s", path, type(error).__name__)
                cached = self._cache.get(path)
            if cached is not None and cached[1]:
                values.append(cached[1])
        return values

    def first(self) -> str | None:
        """Return the value to send if only one can be sent, e.g. as a token."""
        values = self.current()
        return values[0] if values else None


def secrets_in_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets of an environment: values of variables whose names say that, and users of URLs."""
    for name, value in environment.items():
        if _SECRET_VARIABLE.search(name):
            yield value
        yield from secrets_in_urls(value)


def secrets_in_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of HTTP headers, also without the scheme with which they may start (`Bearer`)."""
    for value in headers.values():
        yield from (value, value.partition(" ")[2])


def secrets_in_command(command: Sequence[str]) -> Iterator[str]:
    """Yield the secrets on a command line: values of options and variables whose names say that.

    Examples are `--api-key K`, `--api-key=K`, `-e API_TOKEN=K`, `--header "Authorization: Bearer K"`, and
    users and queries of URLs. Other arguments, such as the program's name, stay readable in logs.
    """
    for before, argument in zip(("", *command), command, strict=False):
        name, equals, value = argument.partition("=")
        if equals and _SECRET_NAME.search(name):
            yield value
        elif _SECRET_NAME.search(before) and before.startswith("-") and "=" not in before:
            yield argument
        header, colon, content = argument.partition(":")
        if colon and _SECRET_NAME.search(header):
            yield from secrets_in_headers({header: content.strip()})
        yield from secrets_in_urls(argument)
        yield from secrets_in_queries(argument)


def secrets_in_urls(text: str) -> Iterator[str]:
    """Yield the password of each URL in a text, or with HTTP the user without one: some tokens are sent so.

    Each is given as it is in the URL, and without percent-encoding.
    """
    for url in _ANY_URL.findall(text):
        try:
            parts = urlsplit(url)
        except ValueError:
            continue
        if secret := parts.password or (parts.username if parts.scheme in ("http", "https") else None):
            yield from (secret, unquote(secret))


def secrets_in_queries(text: str) -> Iterator[str]:
    """Yield the values in the query of each URL in a text."""
    for url in _ANY_URL.findall(text):
        try:
            query = urlsplit(url).query
        except ValueError:
            continue
        yield from (value for _, value in parse_qsl(query))
