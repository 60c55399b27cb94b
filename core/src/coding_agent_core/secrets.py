"""Secrets from the configuration: values, or files that are read again when they change."""

from __future__ import annotations

import base64
import json
import logging
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

_logger = logging.getLogger("coding_agent.secrets")
_URL_SAFE = str.maketrans("+/", "-_")


class SecretSettings(BaseModel):
    """One or several valid values of a secret; during a rotation both the old and the new one.

    Attributes:
        values: usually `${VARIABLE}`; empty ones are ignored.
        files: one value in each, without surrounding white space. They are read again on change, so that a
            mounted Kubernetes Secret can be rotated without a restart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[SecretStr, ...] = ()
    files: tuple[Path, ...] = ()

    @field_validator("values")
    @classmethod
    def _drop_empty(cls, values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        return tuple(value for value in values if value.get_secret_value())

    @property
    def configured(self) -> bool:
        return bool(self.values or self.files)


def as_secret_settings(value: object) -> object:
    """Convert the short forms, a string or a list of strings, to the long form."""
    if value is None:
        return {}
    if isinstance(value, str | SecretStr):
        return {"values": [value]}
    if isinstance(value, list | tuple):
        return {"values": list(value)}
    return value


@dataclass
class Secrets:
    """The current values of a `SecretSettings`."""

    settings: SecretSettings
    _cache: dict[Path, tuple[tuple[int, int, int], str]] = field(default_factory=dict, repr=False)
    _missing: set[Path] = field(default_factory=set, repr=False)

    def current(self) -> list[str]:
        """All values that are valid now.

        A file that cannot be read keeps its last value (the kubelet swaps a mounted Secret by symlink, so it
        may be missing for a moment); a warning is logged once until it can be read again.
        """
        found = [value.get_secret_value() for value in self.settings.values]
        for path in self.settings.files:
            try:
                stat = path.stat()
                stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
                known = self._cache.get(path)
                if known is None or known[0] != stamp:
                    known = (stamp, path.read_text(encoding="utf-8").strip())
                    self._cache[path] = known
                self._missing.discard(path)
            except (OSError, UnicodeDecodeError) as error:
                if path not in self._missing:
                    self._missing.add(path)
                    _logger.warning("Cannot read the secret file %s: %s", path, type(error).__name__)
                known = self._cache.get(path)
            if known is not None and known[1]:
                found.append(known[1])
        return found

    def first(self) -> str | None:
        """The value to send where only one can be sent, e.g. a token."""
        values = self.current()
        return values[0] if values else None


def written_forms(value: str) -> set[str]:
    """How a secret may be written in a text: plain, quoted for JSON, a shell or a URL, or in base64.

    In base64 what surrounds the secret decides which characters it becomes, e.g. in `user:secret`: there is
    one form for each position, without the characters at both ends that it shares with its neighbors.
    """
    in_json = json.dumps(value)[1:-1]
    forms = {value, in_json, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(in_json)[1:-1]}
    forms |= {shlex.quote(value)[1:-1] if shlex.quote(value) != value else value}
    forms |= {quote(value, safe=""), quote(value), quote_plus(value)}
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + value.encode()).decode()
        first, end = (before * 8 + 5) // 6, (before + len(value.encode())) * 8 // 6
        forms |= {encoded[first:end], encoded[first:end].translate(_URL_SAFE)}
    return forms
