"""Per-user settings in YAML files: `DIR/<platform>/<username>.yaml` over `DIR/default.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PLATFORMS = ("github", "gitlab")
_USERNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
"""GitHub and GitLab logins; nothing that could leave the folder."""


class UnreadableError(Exception):
    """A file of settings is no YAML mapping; the message names it."""


@dataclass(frozen=True)
class Store:
    """The files; they are read at each request, so an edit counts at once."""

    directory: Path

    def settings(self, platform: str, username: str) -> dict[str, Any] | None:
        """The person's settings over the defaults; `None` where there is neither.

        Raises:
            UnreadableError: a file cannot be used.
        """
        if platform not in PLATFORMS or not _USERNAME.fullmatch(username):
            return None
        found = [
            data
            for path in (
                self.directory / "default.yaml",
                self.directory / platform / f"{username.lower()}.yaml",
            )
            if (data := self._read(path)) is not None
        ]
        merged: dict[str, Any] = {}
        for data in found:
            merged = _over(merged, data)
        return merged if found else None

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UnreadableError(f"{path.relative_to(self.directory)}: {type(error).__name__}") from error
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise UnreadableError(f"{path.relative_to(self.directory)}: not a mapping of settings")
        return data


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        result[key] = _over(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result
